"""What the README's commands leave in a clone changes nothing for the linter."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from support import ROOT

# made by `make demo`, `make evidence`, a build, and by the pages' commands with folders of a user's choice; some are
# named like packages that we import
MADE = ("demo", "evidence", "build", "dist", "OUT", "shapes", "scored", "datasets", "torch")


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """Our sources with such folders beside them."""
    folder = tmp_path_factory.mktemp("clone") / "ubgen"
    leave = shutil.ignore_patterns(
        ".git", ".venv*", ".*_cache", "__pycache__", "*.egg-info", "*.safetensors", "images"
    )
    shutil.copytree(ROOT, folder, ignore=lambda path, names: {*leave(path, names), *made_in(path, names)})
    for name in MADE:
        (folder / name).mkdir()
        (folder / name / "README.md").write_text("of a dataset\n")
    # a build holds copies of our sources, which need not be as the linter wants them
    for name in ("build/lib", ".venv-lowest/lib"):
        (folder / name).mkdir(parents=True)
        (folder / name / "module.py").write_text("import sys, os\n")
    return folder


def made_in(path: str, names: list[str]) -> set[str]:
    return set(MADE) & set(names) if Path(path) == ROOT else set()


def ruff(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "ruff", *command, "--no-cache"], cwd=folder, capture_output=True, text=True
    )


@pytest.mark.parametrize("command", [("check", "."), ("format", "--check", ".")], ids=" ".join)
def test_the_linter_is_content_beside_what_commands_made(clone, command):
    done = ruff(clone, *command)
    assert done.returncode == 0, done.stdout[-2000:]


def test_every_source_is_linted(clone):
    """No exclusion, by name or by what git ignores, takes one of ours along."""
    linted = {Path(line).relative_to(clone.resolve()) for line in ruff(clone, "check", "--show-files").stdout.split()}
    ours = {file.relative_to(clone) for file in clone.rglob("*.py")} - {
        Path("build/lib/module.py"),
        Path(".venv-lowest/lib/module.py"),
    }
    assert len(ours) > 300 and ours == {file for file in linted if file.suffix == ".py"}
