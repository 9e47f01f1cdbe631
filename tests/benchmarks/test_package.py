"""How benchmarks are started: as modules of the clone's root, which those who give a path are told."""

import re
import subprocess
import sys

import pytest

from support import ROOT

MODULES = sorted(file for file in (ROOT / "benchmarks").rglob("*.py") if file.name != "__init__.py")


def name_of(file):
    return str(file.relative_to(ROOT))


def test_a_benchmark_started_by_its_path_says_how_it_is_started():
    done = subprocess.run([sys.executable, "benchmarks/demo.py"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr == (
        "ubgen: error: run benchmarks as modules from the clone's root, such as `python -m benchmarks.demo`\n"
    )


@pytest.mark.parametrize("file", MODULES, ids=name_of)
def test_modules_are_imported_by_their_full_names_and_named_so_in_commands(file):
    text = file.read_text("utf-8")
    assert "sys.path" not in text and "import_module" not in text
    if file.stem != "benchmarks":
        assert not re.search(r"python benchmarks/", text)
    if '__name__ == "__main__"' in text:
        name = ".".join(file.relative_to(ROOT).with_suffix("").parts)
        assert f"python -m {name}" in text


# tested by the file of the command that they are part of
TESTED_WITH = {
    "stock_training": "test_training_speed.py",
    "random_models": "test_generation_speed.py",
    "live_memory": "test_training_memory.py",
    **dict.fromkeys(("real_size_families", "published_networks"), "test_operations.py"),
    **dict.fromkeys(("evidence/figures", "evidence/lanes", "evidence/page"), "evidence/test_command.py"),
    **dict.fromkeys(("evidence/plots", "evidence/stage_work", "evidence/stages"), "evidence/test_command.py"),
    "evidence/kept_figures": "test_variety_search.py",
    **dict.fromkeys(
        (f"loss_weightings/{name}" for name in ("fidelity", "jobs", "report", "training")),
        "loss_weightings/test_command.py",
    ),
}


@pytest.mark.parametrize(
    "file", [file for file in MODULES if file.stem not in ("__main__", "benchmarks")], ids=name_of
)
def test_every_benchmark_has_its_tests(file):
    module = file.relative_to(ROOT / "benchmarks").with_suffix("")
    own = TESTED_WITH.get(module.as_posix(), module.with_name(f"test_{module.name}.py").as_posix())
    tests = ROOT / "tests" / "benchmarks" / own
    assert tests.is_file()
    assert "benchmarks" in tests.read_text("utf-8")
