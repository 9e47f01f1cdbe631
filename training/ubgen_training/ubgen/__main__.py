"""``python -m ubgen_training.ubgen`` and ``accelerate launch -m ubgen_training.ubgen``."""

import sys

from .command import main

if __name__ == "__main__":
    sys.exit(main())
