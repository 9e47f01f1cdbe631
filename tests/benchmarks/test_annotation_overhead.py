"""The benchmark of annotations: seconds with and without them, and maps that do not grow with the steps."""

import re

import pytest

from benchmarks.annotation_overhead import main
from ubgen_pipeline.mini import EMBEDDED_MODELS


@pytest.mark.parametrize("layout", EMBEDDED_MODELS)
def test_the_overhead_and_the_maps_are_printed(layout, monkeypatch, capsys):
    monkeypatch.setattr("benchmarks.annotation_overhead.product_rate", lambda *arguments: 1e12)
    monkeypatch.setattr("benchmarks.annotation_overhead.copy_rate", lambda device: 1e9)
    flags = ["--batch-size", "1", "--num-inference-steps", "2", "--repeats", "1", "--device", "cpu"]
    assert main(["--layouts", layout, *flags]) == 0
    said = capsys.readouterr().out
    assert re.search(rf"{layout}: \d+\.\d\d s plain, \d+\.\d\d s annotated, overhead [+-]\d", said)
    one, two = re.search(r"after 1 and 2 steps: (\S+) and (\S+) kB", said).groups()
    assert one == two and float(one) >= 0.1
    assert main(["--layouts", "sdxl"]) == 2 and "layouts holds 'sdxl'" in capsys.readouterr().err
