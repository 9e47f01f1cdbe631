"""``python -m ubgen_training.backbone`` and ``accelerate launch -m ubgen_training.backbone``."""

import sys

from .command import main

if __name__ == "__main__":
    sys.exit(main())
