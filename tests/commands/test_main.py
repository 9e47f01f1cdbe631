"""The ``ubgen`` command itself: finding subcommands, help, unknown names."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ubgen_pipeline.commands.main import main


def test_help_lists_the_subcommands_with_a_summary(capsys):
    assert main(["--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    (generate,) = [line for line in lines if line.split()[:1] == ["generate"]]
    assert len(generate.split()) > 3


def test_no_subcommand_prints_the_usage_and_fails(capsys):
    assert main([]) == 2
    assert "usage: ubgen" in capsys.readouterr().out


def test_unknown_subcommand_names_the_known_ones(capsys):
    assert main(["genarate"]) == 2
    assert "unknown command 'genarate'" in (error := capsys.readouterr().err) and "generate" in error


def test_version(capsys):
    assert main(["--version"]) == 0
    name, version = capsys.readouterr().out.split()
    assert name == "ubgen" and version[0].isdigit()


def test_help_is_quick_for_it_imports_no_large_library():
    program = """
import contextlib, sys
large = ("torch", "transformers", "datasets", "scipy", "matplotlib")
import ubgen_pipeline
from ubgen_pipeline.commands.main import main
main(["--help"])
# the list of commands needs nothing but the standard library, and of ours no more than what prints it
known = {*sys.stdlib_module_names, "sitecustomize", "usercustomize", "ubgen_pipeline"}
foreign = {name for name in sys.modules if not name.startswith("__") and name.partition(".")[0] not in known}
ours = {name for name in sys.modules if name.startswith("ubgen_")}
print(sorted(foreign - before), sorted(ours), file=sys.stderr)
from importlib.metadata import entry_points
for command in entry_points(group="ubgen.commands"):
    with contextlib.suppress(SystemExit):
        main([command.name, "--help"])
    print([name for name in large if name in sys.modules], file=sys.stderr)
"""
    # what the environment itself imports when Python starts, such as a coverage tool, is not the command's
    program = "import sys\nbefore = set(sys.modules)\n" + program
    printed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    first, *others = printed.stderr.splitlines()
    ours = ["ubgen_pipeline", "ubgen_pipeline.commands"]
    assert first == f"[] {[*ours, *(f'ubgen_pipeline.commands.{name}' for name in ('console', 'main', 'stopwatch'))]}"
    assert set(others) == {"[]"} and "--clip-model" in printed.stdout


@pytest.mark.parametrize("folder", ["/proc/ubgen", "/dev/null/ubgen"])
def test_unwritable_folder_names_the_setting(folder, capsys):
    flags = ["--model", "mini", "--class-names", "circle", "--num-inference-steps", "1", "--samples-per-class", "1"]
    assert main(["generate", *flags, "--output-dir", folder]) == 2
    assert f"output_dir is '{folder}'" in capsys.readouterr().err


def test_a_reader_that_stops_early_is_no_error():
    flags = ["generate", "--dry-run", "--classes", "voc", "--samples-per-class", "5000"]
    command = subprocess.Popen(
        [str(Path(sys.executable).with_name("ubgen")), *flags],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert json.loads(command.stdout.readline())["class_name"] == "aeroplane"
    command.stdout.close()
    assert command.stderr.read() == ""
    assert command.wait(60) == 141


def test_help_on_a_terminal_that_knows_ascii_alone():
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "LC_ALL": "C", "PYTHONUTF8": "0"}
    command = [sys.executable, "-m", "ubgen_pipeline", "generate", "--help"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and "--samples-per-class" in done.stdout and done.stderr == ""


def test_help_for_a_reader_that_has_gone_is_no_error():
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "ubgen_pipeline", "--help"]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert done.returncode == 141 and done.stderr == ""


def test_the_package_is_started_like_the_command():
    command = [sys.executable, "-m", "ubgen_pipeline", "show"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.startswith("ubgen: error: the dataset is missing")
