"""``python -m benchmarks.loss_weightings``."""

import sys

from benchmarks.loss_weightings.command import main

sys.exit(main())
