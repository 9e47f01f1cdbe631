"""``python -m ubgen_training.denoising`` and ``accelerate launch -m ubgen_training.denoising``."""

import sys

from .command import main

if __name__ == "__main__":
    sys.exit(main())
