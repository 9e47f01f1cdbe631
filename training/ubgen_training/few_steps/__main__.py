"""``python -m ubgen_training.few_steps`` and ``accelerate launch -m ubgen_training.few_steps``."""

import sys

from .command import main

if __name__ == "__main__":
    sys.exit(main())
