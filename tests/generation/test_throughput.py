"""The report at the end of a run: its arithmetic, and a run's figures against a clock, in the card and in a trace."""

import json
import re
import time

import pytest

from ubgen_pipeline.commands.stopwatch import STAGES
from ubgen_pipeline.generation.generate import main
from ubgen_pipeline.generation.throughput import Throughput


def test_what_the_figures_say():
    stages = {"loading": 20.0, "drawing": 75.0, "waiting": 0.25}
    figures = Throughput(200, 100.0, 80.0, stages, operations=4e9, limit=4e10)
    assert figures.share == pytest.approx(200 * 4e9 / 80 / 4e10)
    assert figures.lines() == [
        "200 images in 100.0 s: 2 images/s end to end, 2.5 images/s in the loop",
        "seconds of all threads together: 20.0 loading, 0.0 encoding, 75.0 drawing, 0.0 decoding, 0.0 writing, 0.2"
        " waiting",
        "25% of this machine's limit: 0.01 of 0.04 TFLOP/s",
    ]
    assert Throughput(1, 1.0, 1.0, {}, operations=None, limit=1e9).share is None
    two = Throughput.together([figures, figures], 90.0, 80.0)
    assert (two.num_images, two.stages["drawing"], two.share) == (400, 150.0, pytest.approx(figures.share))
    # one that was replaced has drawn, too, and one that came late has not
    lost, late = Throughput(100, 50.0, 40.0, stages, limit=0.0), Throughput(0, 5.0, 0.0, {"loading": 5.0})
    four = Throughput.together([lost, late, figures, figures], 120.0, 100.0)
    assert (four.num_images, four.limit, four.stages["loading"]) == (500, 8e10, 65.0)
    assert four.share == pytest.approx(500 * 4e9 / 100 / 8e10)
    unknown = Throughput(1, 1.0, 1.0, {}, operations=4e9)
    assert Throughput.together([figures, unknown], 90.0, 80.0).share is None


def test_a_run_says_how_fast_it_was(random_mini_model, tmp_path, capsys):
    flags = ["--class-names", "circle", "star", "--model", random_mini_model, "--samples-per-class", "2"]
    flags += [
        "--num-inference-steps",
        "2",
        "--batch-size",
        "2",
        "--device",
        "cpu",
        "--output-dir",
        str(tmp_path / "d"),
    ]
    started = time.perf_counter()
    assert main([*flags, "--profile", str(tmp_path / "trace.json")]) == 0
    wall = time.perf_counter() - started
    said = capsys.readouterr().err
    card = (tmp_path / "d" / "README.md").read_text()
    report = card.partition("## Throughput\n\n")[2].partition("## ")[0]
    assert "Of the run that finished the dataset, by its rank 0:" in report
    for line in report.split("\n"):
        assert line.strip() in said or line.strip().startswith("Of the run")
    assert "4 images in " in said and "% of this machine's limit: " in said
    figures = re.search(r"4 images in ([\d.]+) s: ([\d.]+) images/s end to end, ([\d.]+) images/s in the loop", said)
    assert figures is not None
    seconds, end_to_end, in_loop = map(float, figures.groups())
    assert 0 < seconds <= wall + 0.1
    assert end_to_end == pytest.approx(4 / seconds, rel=0.1) and in_loop >= 0.99 * end_to_end
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    spent = {name: sum(event["dur"] for event in events if event["name"] == name) / 1e6 for name in STAGES}
    line = said.partition("seconds of all threads together: ")[2].partition("\n")[0]
    told = {part.split()[1]: float(part.split()[0]) for part in line.split(", ")}
    for name in ("loading", "encoding", "drawing", "decoding"):
        assert spent[name] > 0 and told[name] == pytest.approx(spent[name], abs=0.06)
    # from the first moment on some thread is in some stage: nothing that takes long is left out
    covered = end = 0.0
    for event in sorted(events, key=lambda event: event["ts"]):
        begin, finish = event["ts"] / 1e6, (event["ts"] + event["dur"]) / 1e6
        covered += max(finish - max(begin, end), 0.0)
        end = max(end, finish)
    assert seconds - covered < max(0.2 * seconds, 0.3)
    assert sum(spent.values()) >= covered - 1e-6  # both are sums of the same numbers in another order
    # with nothing left to draw there is nothing to report, and the card stays
    assert main(flags) == 0
    assert "images/s in the loop" not in capsys.readouterr().err and (tmp_path / "d" / "README.md").read_text() == card


def test_a_trace_that_cannot_be_written_is_found_before_anything_is_drawn(random_mini_model, tmp_path, capsys):
    flags = ["--class-names", "circle", "--model", random_mini_model, "--output-dir", str(tmp_path / "d")]
    assert main([*flags, "--profile", str(tmp_path / "none" / "trace.json")]) == 2
    assert "whose folder does not exist" in capsys.readouterr().err and not (tmp_path / "d").exists()
