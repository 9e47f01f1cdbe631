"""What commands print: a process that waits says for whom, and only the console writes to stderr."""

import ast

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
    monkeypatch.setattr("ubgen_pipeline.generation.dataset_run.num_flagged", lambda file: 0)
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
    assert found == [ROOT / "ubgen_pipeline" / "commands" / "console.py"]
