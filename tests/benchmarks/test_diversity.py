"""The benchmark of diversity without training: its arms, and a table of a few images."""

import pytest
import torch

from benchmarks.diversity import DiversityBenchmarkSettings, compare, main
from ubgen_pipeline.diversity_settings import Cads


def test_arms():
    assert list(DiversityBenchmarkSettings().arms().values()) == [
        {},
        {"diversity": Cads(scale=0.5)},
        {"diversity": Cads(scale=1.0)},
        {"guidance_interval": (0.22, 0.84)},
        {"guidance_interval": (0.1, 0.6)},
    ]
    with pytest.raises(ValueError, match=r"intervals holds '0.5'; give LOW:HIGH"):
        DiversityBenchmarkSettings(intervals=["0.5"])


def test_every_arm_has_a_row(mini_model, capsys):
    num_threads = torch.get_num_threads()
    try:
        rows = compare(
            DiversityBenchmarkSettings(num_images=20, num_inference_steps=4, scales=[2.0], intervals=["0.1:0.5"])
        )
    finally:
        torch.set_num_threads(num_threads)
    assert [row.name for row in rows] == ["plain", "CADS, scale 2", "guidance in [0.1, 0.5]"]
    assert all(0 <= row.recognised <= 1 and 0 <= row.background_entropy <= 3.4 and row.fid > 0 for row in rows)
    assert len({row.fid for row in rows}) == 3
    assert "20 images each, 4 steps, guidance 2" in capsys.readouterr().out


@pytest.mark.parametrize("number", ["10", "35"])
def test_numbers_that_are_refused(number, capsys):
    assert main(["--num-images", number]) == 2
    assert f"num_images is {number}" in capsys.readouterr().err
