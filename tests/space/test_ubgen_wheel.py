"""A wheel that lies beside the Space's files is importable for as long as the process lives."""

import subprocess
import sys
import zipfile
from pathlib import Path

from ubgen_wheel import make_importable

from support import ROOT

PROGRAM = """
import sys
from pathlib import Path
from ubgen_wheel import make_importable
make_importable(Path(sys.argv[1]))
import only_in_the_wheel
print(only_in_the_wheel.__file__, only_in_the_wheel.NUMBER)
"""


def test_the_newest_wheel_is_unpacked_until_the_process_ends(tmp_path):
    for number in (1, 2):
        with zipfile.ZipFile(tmp_path / f"ubgen-0.{number}-py3-none-any.whl", "w") as wheel:
            wheel.writestr("only_in_the_wheel.py", f"NUMBER = {number}")
    command = [sys.executable, "-c", PROGRAM, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT / "space", capture_output=True, text=True, check=True)
    file, number = done.stdout.split()
    assert number == "2" and not Path(file).parent.exists()


def test_without_a_wheel_nothing_changes(tmp_path):
    before = list(sys.path)
    make_importable(tmp_path)
    assert sys.path == before
