"""``python -m ubgen_training.ddpo`` and ``accelerate launch -m ubgen_training.ddpo``."""

import sys

from .command import main

if __name__ == "__main__":
    sys.exit(main())
