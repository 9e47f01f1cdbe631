"""``python -m ubgen_training.segmenter`` and ``accelerate launch -m ubgen_training.segmenter``."""

import sys

from .command import main

if __name__ == "__main__":
    sys.exit(main())
