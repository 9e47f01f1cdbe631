"""``python -m ubgen_training.textual_inversion`` and ``accelerate launch -m ubgen_training.textual_inversion``."""

import sys

from .command import main

if __name__ == "__main__":
    sys.exit(main())
