"""How benchmarks are started: as modules of the clone's root, which those who give a path are told."""

import re
import subprocess
import sys

import pytest

from support import ROOT

MODULES = sorted(file for file in (ROOT / "benchmarks").rglob("*.py") if file.name != "__init__.py")


def test_a_benchmark_started_by_its_path_says_how_it_is_started():
    done = subprocess.run([sys.executable, "benchmarks/demo.py"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr == (
        "ubgen: error: run benchmarks as modules from the clone's root, such as `python -m benchmarks.demo`\n"
    )


@pytest.mark.parametrize("file", MODULES, ids=lambda file: str(file.relative_to(ROOT)))
def test_modules_are_imported_by_their_full_names_and_named_so_in_commands(file):
    text = file.read_text("utf-8")
    assert "sys.path" not in text and "import_module" not in text
    if file.stem != "benchmarks":
        assert not re.search(r"python benchmarks/", text)
    if '__name__ == "__main__"' in text:
        name = ".".join(file.relative_to(ROOT).with_suffix("").parts)
        assert f"python -m {name}" in text
