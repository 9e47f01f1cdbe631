"""``python -m benchmarks.evidence``."""

import sys

from benchmarks.evidence.command import main

sys.exit(main())
