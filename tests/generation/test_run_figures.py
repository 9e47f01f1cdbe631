"""What a run counts, alone and of workers that drew for it, and what it says of marked images."""

from collections import Counter

import pytest

from ubgen_pipeline.commands.stopwatch import Stopwatch
from ubgen_pipeline.dataset.columns import BLACK, REDRAWN, SAFETY_COLUMN
from ubgen_pipeline.generation.run_figures import RunFigures, say_marked
from ubgen_pipeline.generation.throughput import Throughput


def test_loops_add_up_and_the_rate_is_that_of_the_last():
    figures = RunFigures()
    assert (figures.rate, figures.throughput(Stopwatch()).num_images) == (None, 0)
    figures.count(30, 2, loop_seconds=10.0)
    figures.count(8, 1, loop_seconds=2.0)
    assert (figures.num_shards, figures.rate) == (3, 4.0)
    said = figures.throughput(Stopwatch())
    assert (said.num_images, said.loop_seconds, said.operations, said.limit) == (38, 12.0, None, None)


def test_workers_are_counted_in_place_of_the_run():
    figures = RunFigures()
    workers = [Throughput(6, 9.0, 4.0, {"drawing": 3.5}), Throughput(10, 9.0, 5.0, {"drawing": 4.5})]
    figures.take(workers, Counter({SAFETY_COLUMN: 2}), num_shards=4, loop_seconds=8.0)
    assert (figures.num_shards, figures.rate, figures.marks[SAFETY_COLUMN]) == (4, 2.0, 2)
    said = figures.throughput(Stopwatch())
    assert (said.num_images, said.loop_seconds, said.stages["drawing"]) == (16, 8.0, pytest.approx(8.0))


def test_marked_images_are_said_by_mark(capsys):
    say_marked({}, "made here")
    assert capsys.readouterr().err == ""
    say_marked({REDRAWN: 1, BLACK: 0, SAFETY_COLUMN: 3}, "made here")
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2 and "1 images made here were not finite; they are drawn again" in lines[0]
    assert "3 images made here were flagged by the safety checker" in lines[1]
