"""Makes ubgen importable from the wheel that lies beside, where it is not installed; app.py imports this first.

A Space installs its requirements before it has its other files, and a private Space has no address that they could be
fetched from without a token. So requirements.txt names what ubgen needs, and ubgen itself is unpacked here.
"""

import atexit
import os
import shutil
import sys
import tempfile
import zipfile
from importlib.util import find_spec
from pathlib import Path


def make_importable(folder: Path) -> None:
    """Unpack the wheel in ``folder``, if there is one, for as long as this process lives."""
    wheels = sorted(folder.glob("ubgen-*.whl"))
    if not wheels:
        return
    unpacked, owner = tempfile.mkdtemp(prefix="ubgen-"), os.getpid()
    # a forked process must not take the files away from the one that it came from
    atexit.register(lambda: os.getpid() == owner and shutil.rmtree(unpacked, ignore_errors=True))
    zipfile.ZipFile(wheels[-1]).extractall(unpacked)
    sys.path.append(unpacked)


if find_spec("ubgen_pipeline") is None:
    make_importable(Path(__file__).parent)
