"""What commands print: a process that waits says for whom, and only the console writes to stderr."""

import ast
import io
from collections import Counter

import pytest

from support import ROOT
from ubgen_pipeline.commands import console
from ubgen_pipeline.generation.dataset_run import DatasetRun
from ubgen_pipeline.generation.settings import GenerateSettings


@pytest.fixture()
def clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(console.time, "sleep", lambda seconds: now.__setitem__(0, now[0] + seconds))
    return now


def test_a_line_is_printed_after_ten_seconds_and_then_every_minute(clock, capsys):
    note = console.WaitingNote(lambda: f"somebody at {clock[0]:.0f}")
    for _ in range(2 * 140):
        note.wait(0.5)
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition(";")[0] for line in lines] == [
        f"ubgen: waiting for somebody at {at} ({at} s so far)" for at in (10, 70, 130)
    ]
    assert "run the same command again" in lines[0]


def test_rank_0_names_the_ranks_whose_shards_are_missing(tmp_path, clock, capsys, monkeypatch):
    settings = GenerateSettings(
        class_names=["a"], samples_per_class=10, samples_per_shard=2, output_dir=str(tmp_path / "d")
    )
    run = DatasetRun(settings, settings.samples(), rank=0, world_size=3)
    # shards 1, 2 and 4 of five are missing at first, 1 and 4 of rank 1 and 2 of rank 2
    shards = run.shards.shards
    missing = [*[[shards[1], shards[2], shards[4]]] * 45, *[[shards[4]]] * 120]
    monkeypatch.setattr(run.shards, "missing", lambda: missing.pop(0) if missing else [])
    monkeypatch.setattr(run, "_write_card", lambda: None)
    monkeypatch.setattr(run.card, "marks", lambda shards: Counter())
    run.finish()
    lines = [line for line in capsys.readouterr().err.splitlines() if "waiting" in line]
    assert "waiting for rank 1, 2: 3 of 5 shards are missing (10 s so far)" in lines[0]
    assert "waiting for rank 1: 1 of 5 shards are missing (70 s so far)" in lines[1]


def _writes_to_stderr(tree: ast.AST) -> list[int]:
    """Lines that hand ``sys.stderr`` to something that writes, or write to it."""
    return [
        node.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and node.attr == "stderr" and getattr(node.value, "id", None) == "sys"
    ]


def test_the_console_alone_prints_to_stderr():
    assert _writes_to_stderr(ast.parse("import sys\nprint(1, file=sys.stderr)\n")) == [2]
    folders = ("ubgen_pipeline", "training", "evaluation", "hub_cards", "benchmarks")
    files = [file for folder in folders for file in (ROOT / folder).rglob("*.py")]
    found = [file for file in files if _writes_to_stderr(ast.parse(file.read_text(encoding="utf-8")))]
    # the library log and a Ray worker's lines stand in stderr's place; what Ray prints to stdout is sent there
    assert sorted(file.name for file in found) == ["console.py", "library_log.py", "ray_engine.py", "ray_workers.py"]


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_progress_elsewhere_comes_less_and_less_often(clock, capsys):
    progress = console.Progress(100, "images")
    for _ in range(100):
        clock[0] += 0.5
        progress.advance()
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "ubgen: 2/100 images, 2.00 images/s, 00:00:49 left"
    assert [int(line.split("/")[0].removeprefix("ubgen: ")) for line in lines] == [2, 4, 8, 16, 32, 64, 100]
    assert lines[-1].endswith("00:00:00 left")


def test_no_time_is_told_where_nothing_is_done_yet(clock, capsys):
    progress = console.Progress(4, "captions")
    clock[0] += 2
    progress.advance(0)
    assert capsys.readouterr().err == "ubgen: 0/4 captions, 0 captions/s, unknown time left\n"


def test_progress_as_often_as_the_variable_says(clock, capsys, monkeypatch):
    monkeypatch.setenv(console.INTERVAL_VARIABLE, "5")
    progress = console.Progress(40, "updates", done=20)
    for _ in range(20):
        clock[0] += 1
        progress.advance(note="loss 0.5")
    lines = capsys.readouterr().err.splitlines()
    # what was done before does not count for the rate
    assert lines[0] == "ubgen: 25/40 updates, loss 0.5, 1.00 updates/s, 00:00:15 left" and len(lines) == 4


def test_progress_in_a_terminal_is_one_line_and_others_go_above_it(clock, monkeypatch):
    stream = Terminal()
    monkeypatch.setattr("sys.stderr", stream)
    progress = console.Progress(4, "images")
    for number in range(4):
        clock[0] += 1
        progress.advance()
        if number == 1:
            console.say("something else")
    text = stream.getvalue()
    first, *others = text.split(console._CLEAR_LINE)[1:]
    assert first == "ubgen: [#####               ] 1/4 images, 1.00 images/s, 00:00:03 left"
    assert others[1] == "ubgen: something else\n" and text.count("\n") == 2
    assert text.endswith("ubgen: 4/4 images, 1.00 images/s, 00:00:00 left\n")


def test_each_row_counts_when_the_next_is_asked_for(capsys):
    progress = console.Progress(3, "rows")
    rows = progress.counted("abc")
    next(rows)
    assert progress.done == 0
    assert list(rows) == ["b", "c"] and progress.done == 3
    assert capsys.readouterr().err.startswith("ubgen: 3/3 rows, ")


def test_progress_of_a_command_that_was_started_stays_one_line_in_a_terminal(monkeypatch):
    stream = Terminal()
    monkeypatch.setattr("sys.stderr", stream)
    for line in ("ubgen: 1/3 images, 1.00 images/s, 00:00:02 left", "ubgen: 2/3 images, 1 images/s, 00:00:01 left"):
        console.relay(line)
    assert "\n" not in stream.getvalue()
    console.relay("done")
    assert stream.getvalue().endswith(f"{console._CLEAR_LINE}done\n")


def test_a_table_aligns_names_left_and_numbers_right():
    assert console.table(("", "last"), [("loss", "0.5"), ("reward", "10.25")]) == (
        "         last\nloss      0.5\nreward  10.25"
    )


def test_times_go_beyond_a_day():
    assert console.clock_time(93_784.6) == "26:03:05"
