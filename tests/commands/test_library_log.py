"""While a command runs, libraries write to a log that is named; our own lines, warnings and errors are seen."""

import io
import logging
import subprocess
import sys
import warnings

import pytest
from tqdm import tqdm

from ubgen_pipeline.commands import library_log
from ubgen_pipeline.commands.console import say
from ubgen_pipeline.commands.settings_parser import run_command

NOISE = """
import logging, sys, warnings
from tqdm import tqdm
from ubgen_pipeline.commands.console import say
from ubgen_pipeline.commands.settings_parser import run_command

def body(argv):
    say("our line")
    logging.getLogger("library").addHandler(logging.StreamHandler())
    logging.getLogger("library").warning("keys of a text encoder")
    # of a file that is not there: Python 3.13 would show a second line, the source, also with -c
    warnings.warn_explicit("deprecated", FutureWarning, "library.py", 1)
    for _ in tqdm(range(3), desc="Loading weights"):
        pass
    print("to stderr", file=sys.stderr)
    print("a result")
    if argv:
        raise RuntimeError("a defect")

sys.exit(run_command(body, sys.argv[1:]))
"""


@pytest.fixture(autouse=True)
def logs_without_a_folder(tmp_path, monkeypatch):
    """Where a command's log goes that has no folder of its own."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))


def _run(*arguments):
    return subprocess.run([sys.executable, "-c", NOISE, *arguments], capture_output=True, text=True)


def _log_of(printed):
    (line,) = [line for line in printed.splitlines() if " lines of libraries are in " in line]
    return open(line.rpartition(" ")[2], encoding="utf-8").read()


def test_a_user_sees_our_lines_and_where_the_others_are():
    done = _run()
    assert done.returncode == 0 and done.stdout == "a result\n"
    first, second = done.stderr.splitlines()
    assert first == "ubgen: our line" and second.startswith("ubgen: 3 lines of libraries are in ")
    log = _log_of(done.stderr)
    assert "keys of a text encoder" in log and "FutureWarning: deprecated" in log and "to stderr" in log
    # no progress bar, and each line has its time
    assert "Loading weights" not in log and all(line[:2] == "20" for line in log.splitlines())


def test_a_defect_keeps_its_traceback_and_the_log_is_named():
    done = _run("fail")
    assert done.returncode == 1
    assert "Traceback" in done.stderr and done.stderr.rstrip().endswith("RuntimeError: a defect")
    assert "deprecated" in _log_of(done.stderr)


def test_a_command_of_which_libraries_say_nothing_makes_no_file(tmp_path, capsys):
    assert run_command(lambda argv: say("our line"), []) == 0
    assert capsys.readouterr().err == "ubgen: our line\n" and not list(tmp_path.iterdir())


def test_the_log_goes_on_in_the_folder_that_stays(tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("RANK", raising=False)

    def body(argv):
        print("early", file=sys.stderr)
        library_log.log_into(tmp_path / "state")
        print("late", file=sys.stderr)

    for _ in range(2):
        assert run_command(body, []) == 0
    file = tmp_path / "state" / "rank-0.log"
    assert [line.split()[-1] for line in file.read_text().splitlines()] == ["early", "late"] * 2
    assert capsys.readouterr().err == f"ubgen: 2 lines of libraries are in {file}\n" * 2
    library_log.log_into(tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_our_own_warnings_are_lines_of_the_command(capsys):
    from ubgen_pipeline import sample_seeds

    def body(argv):
        warnings.warn_explicit("look at this", UserWarning, sample_seeds.__file__, 1)

    assert run_command(body, []) == 0
    assert capsys.readouterr().err == "ubgen: warning: look at this\n"


def test_a_transfer_keeps_its_bar_where_somebody_watches(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    stream = Terminal()
    monkeypatch.setattr("sys.stderr", stream)

    def body(argv):
        for bar in (tqdm(total=10, desc="Fetching"), tqdm(total=10, unit="B", desc="model.safetensors")):
            bar.update(10)
            bar.close()
        say("loaded")

    assert run_command(body, []) == 0
    text = stream.getvalue()
    assert "model.safetensors: 100%" in text and "Fetching" not in text
    assert text.endswith("\x1b[Kubgen: loaded\n") and text.count("\n") == 1


def test_a_stream_that_a_library_keeps_writes_to_stderr_after_the_command(capsys):
    handlers = []

    def body(argv):
        handlers.append(logging.StreamHandler())

    run_command(body, [])
    handlers[0].emit(logging.makeLogRecord({"msg": "later"}))
    assert capsys.readouterr().err == "later\n"


def test_a_command_inside_another_has_no_log_of_its_own(capsys):
    def body(argv):
        print("noise", file=sys.stderr)
        return run_command(lambda argv: print("more noise", file=sys.stderr), [])

    assert run_command(body, []) == 0
    assert capsys.readouterr().err.startswith("ubgen: 2 lines of libraries are in ")


def test_a_hushed_logger_lets_errors_through_and_speaks_again(caplog):
    logger = logging.getLogger("library.loaders")
    with library_log.hushed("library"):
        logger.warning("hushed")
        logger.error("an error")
    logger.warning("spoken")
    assert [record.message for record in caplog.records] == ["an error", "spoken"]


@pytest.mark.parametrize("rank", ["0", "3"])
def test_each_rank_has_its_own_log(tmp_path, monkeypatch, capsys, rank):
    monkeypatch.setenv("RANK", rank)

    def body(argv):
        library_log.log_into(tmp_path)
        print("noise", file=sys.stderr)

    run_command(body, [])
    assert [file.name for file in tmp_path.iterdir()] == [f"rank-{rank}.log"]
