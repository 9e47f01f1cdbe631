"""A forked program behaves as one that the usual interpreter starts: words, folder, output, status, signals."""

import os
import signal
import subprocess
import sys

import pytest

from support.warm_python import warm_programs

_WHAT_IT_SEES = """
import os, sys
print(__name__, sys.argv, sys.path[0] == "", os.getcwd(), os.environ.get("ASKED"), input(), "torch" in sys.modules)
print("to the other", file=sys.stderr)
sys.exit(3)
"""

_WAITS = """
import time
try:
    print("ready", flush=True)
    time.sleep(100)
except KeyboardInterrupt:
    print("interrupted")
"""


def _run(program, *words, **kwargs):
    return subprocess.run([str(program), *words], capture_output=True, text=True, timeout=100, **kwargs)


def _both(*words, **kwargs):
    """What the usual interpreter gives, and what a fork does."""
    return _run(sys.executable, *words, **kwargs), _run(warm_programs() / "python", *words, **kwargs)


def test_a_program_sees_what_it_is_given(tmp_path):
    usual, warm = _both(
        "-c", _WHAT_IT_SEES, "a", "-b", cwd=tmp_path, env={**os.environ, "ASKED": "yes"}, input="typed\n"
    )
    assert warm.stdout.endswith("True\n") and usual.stdout.endswith("False\n")
    assert warm.stdout.split()[:-1] == usual.stdout.split()[:-1]
    assert warm.stderr == usual.stderr == "to the other\n" and warm.returncode == usual.returncode == 3


def test_modules_scripts_and_the_command_run(tmp_path):
    script = tmp_path / "script.py"
    script.write_text("import sys\nprint(__name__, __file__, sys.argv, sys.path[0])\n")
    usual, warm = _both(str(script), "--flag", cwd=tmp_path)
    assert warm.stdout == usual.stdout and str(script) in warm.stdout
    usual, warm = _both("-m", "ubgen_pipeline", "--version")
    command = _run(warm_programs() / "ubgen", "--version")
    assert command.stdout == warm.stdout == usual.stdout and warm.stdout.startswith("ubgen ")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_how_a_program_ended_is_passed_on(number):
    assert (
        _run(warm_programs() / "python", "-c", f"import os; os.kill(os.getpid(), {int(number)})").returncode == -number
    )
    failed = _run(warm_programs() / "python", "-c", "raise ValueError('what it was')")
    assert failed.returncode == 1 and failed.stderr.endswith("ValueError: what it was\n")


def test_an_interrupt_reaches_the_program():
    command = [str(warm_programs() / "python"), "-c", _WAITS]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
        assert process.stdout.read() == "interrupted\n"
    assert process.returncode == 0


@pytest.mark.parametrize(
    "words, variables", [(["-X", "utf8", "-c"], {}), (["-c"], {"HF_HUB_ETAG_TIMEOUT": "3"}), (["-c"], {"LC_ALL": "C"})]
)
def test_what_a_fork_cannot_take_over_starts_the_usual_interpreter(words, variables):
    seen = _run(
        warm_programs() / "python",
        *words,
        "import sys; print('torch' in sys.modules)",
        env={**os.environ, **variables},
    )
    assert seen.stdout == "False\n"
