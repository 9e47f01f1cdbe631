"""A process that waits says for whom, soon and then now and again."""

import pytest

from ubgen_pipeline.commands import console as waiting_note
from ubgen_pipeline.generation.dataset_run import DatasetRun
from ubgen_pipeline.generation.settings import GenerateSettings


@pytest.fixture()
def clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(waiting_note.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(waiting_note.time, "sleep", lambda seconds: now.__setitem__(0, now[0] + seconds))
    return now


def test_a_line_is_printed_after_ten_seconds_and_then_every_minute(clock, capsys):
    note = waiting_note.WaitingNote(lambda: f"somebody at {clock[0]:.0f}")
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
    run = DatasetRun(settings, rank=0, world_size=3)
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
