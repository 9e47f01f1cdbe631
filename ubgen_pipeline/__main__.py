"""``python -m ubgen_pipeline`` is ``ubgen``, for launchers that start a module, such as ``accelerate launch -m``."""

import sys

from .commands.main import main

if __name__ == "__main__":
    sys.exit(main())
