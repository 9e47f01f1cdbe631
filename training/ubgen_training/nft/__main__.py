"""``python -m ubgen_training.nft`` and ``accelerate launch -m ubgen_training.nft``."""

import sys

from .command import main

if __name__ == "__main__":
    sys.exit(main())
