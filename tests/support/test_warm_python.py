"""A forked program behaves as one that the usual interpreter starts: words, folder, output, status, signals."""

import os
import resource
import signal
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

import pytest

from support import SUPPORT
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


@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.parametrize(
    "variables", [{"PYTHONUNBUFFERED": "1"}, {"PYTHONUNBUFFERED": ""}, {"PYTHONIOENCODING": "latin-1:replace"}]
)
def test_outputs_are_those_of_an_interpreter_that_is_told_so(variables, number):
    """A program that says where it can be reached, and then waits, has to be heard where nothing is held back."""
    say = f"""
import os, sys
from support.warm_python import _output_like
stream = (sys.stdout, sys.stderr)[{number} - 1]
if sys.argv[1] == "new":
    stream = _output_like(stream, {number})
stream.write("\xe9\u20ac")
os._exit(0)
"""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    environment |= {"PYTHONPATH": str(SUPPORT.parent), **variables}
    outputs = [
        subprocess.run([sys.executable, "-c", say, which], capture_output=True, env=environment, timeout=100)
        for which in ("own", "new")
    ]
    assert (outputs[0].stdout, outputs[0].stderr) == (outputs[1].stdout, outputs[1].stderr)
    held_back = not variables.get("PYTHONUNBUFFERED")
    assert (outputs[1].stdout + outputs[1].stderr == b"") == held_back


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


_ENDS = """
import atexit, sys, threading, time
print("no line", end="")
atexit.register(print, "last")
threading.Thread(target=lambda: (time.sleep(0.2), print("thread"))).start()
"""


@pytest.mark.parametrize("end", ["sys.exit('why')", "sys.exit(-1)", "sys.exit()", "raise KeyboardInterrupt", ""])
def test_it_ends_as_the_usual_one_does(end):
    usual, warm = _both("-c", _ENDS + end)
    assert warm.stdout == usual.stdout == "no linethread\nlast\n"
    assert warm.returncode == usual.returncode and warm.stderr.splitlines()[-1:] == usual.stderr.splitlines()[-1:]


def test_an_interrupt_reaches_the_program():
    command = [str(warm_programs() / "python"), "-c", _WAITS]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
        assert process.stdout.read() == "interrupted\n"
    assert process.returncode == 0


@pytest.mark.parametrize("words, variables", [(["-X", "utf8", "-c"], {}), (["-c"], {"LC_ALL": "C"})])
def test_what_a_fork_cannot_take_over_starts_the_usual_interpreter(words, variables):
    seen = _run(
        warm_programs() / "python",
        *words,
        "import sys; print('torch' in sys.modules)",
        env={**os.environ, **variables},
    )
    assert seen.stdout == "False\n"


def test_what_a_library_sets_for_itself_is_no_other_variable():
    """A test's process has imported torch's compiler, which notes its folder of caches in the environment."""
    seen = _run(
        warm_programs() / "python",
        *("-c", "import sys; print('diffusers' in sys.modules)"),
        env={**os.environ, "TORCHINDUCTOR_CACHE_DIR": "/nowhere"},
    )
    assert seen.stdout == "True\n"


_READS_VARIABLES = """
import os, sys
print("torch" in sys.modules, "huggingface_hub" in sys.modules)
import huggingface_hub.constants
print(huggingface_hub.constants.HF_HUB_ETAG_TIMEOUT)
"""


def test_other_variables_of_hugging_face_are_read_by_its_libraries():
    usual, warm = _both("-c", _READS_VARIABLES, env={**os.environ, "HF_HUB_ETAG_TIMEOUT": "3"})
    assert usual.stdout == "False False\n3\n" and warm.stdout == "True False\n3\n"


_FINDS = """
import importlib.util, sys
print(importlib.util.find_spec("ubgen_pipeline") is not None, sys.path)
"""


@pytest.mark.parametrize("words", [[], ["-S"]])
def test_modules_are_looked_for_where_the_usual_interpreter_would(words, tmp_path):
    libraries = os.pathsep.join(sorted({sysconfig.get_path("purelib"), sysconfig.get_path("platlib"), str(tmp_path)}))
    usual, warm = _both(*words, "-c", _FINDS, cwd=tmp_path, env={**os.environ, "PYTHONPATH": libraries})
    assert warm.stdout == usual.stdout and warm.stdout.startswith("False" if words else "True"), warm.stderr


def test_limits_are_passed_on(tmp_path):
    def limit():
        os.umask(0o077)
        resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))

    code = "open('file', 'wb', buffering=0).write(bytes(9000)); open('more', 'w')"
    usual, warm = _both("-c", code, cwd=tmp_path, preexec_fn=limit)
    file = (tmp_path / "file").stat()
    assert warm.returncode == usual.returncode == 0 and (file.st_size, file.st_mode & 0o777) == (5000, 0o600)


_USES = """
import time
from support import warm_python
warm_python._LIBRARIES = ((), ())  # to start quickly
print(warm_python.warm_programs(), flush=True)
time.sleep(100)
"""


def test_workers_of_a_run_share_the_servers_which_end_with_the_last(tmp_path):
    path = os.pathsep.join([str(SUPPORT.parent), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path, "PYTEST_XDIST_TESTRUNUID": "shared", "TMPDIR": str(tmp_path)}
    command = [sys.executable, "-c", _USES]
    users = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    folders = [Path(user.stdout.readline().strip()) for user in users]
    assert folders[0] == folders[1] == tmp_path / f"warm-python-{os.getuid()}-shared"
    for user, seconds in zip(users, (0.3, 30)):
        user.kill()
        user.communicate()
        deadline = time.monotonic() + seconds
        while folders[0].exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        assert folders[0].exists() == (user is users[0])
