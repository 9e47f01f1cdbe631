"""The benchmark of the rewards' colours: gradients that are known, and the tables of the command."""

import re

import pytest
import torch

from benchmarks import reward_colours


class _Rewards:
    """The first asks for blue everywhere, the others for what each image's latents have already."""

    def values(self, name, images, labels):
        return images[:, 2].mean(dim=(1, 2)) if name == "clip_alignment" else images.square().mean(dim=(1, 2, 3))


def test_gradients_and_their_common_share():
    latents = torch.tensor([1.0, -1.0]).view(2, 1, 1, 1).expand(2, 3, 4, 4)
    rows = list(reward_colours.gradient_rows(_Rewards(), latents, torch.zeros(2, dtype=torch.long), lambda x: x * 1.0))
    # one of 16 pixels of a mean, the same for both images
    assert rows[0] == ["clip_alignment", "+0.0", "+0.0", "+62500.0", "100.0%"]
    # opposite images, opposite gradients
    assert rows[1] == ["quality", "+0.0", "+0.0", "+0.0", "0.0%"]


def test_both_tables_are_printed(capsys):
    flags = ["--scenes-per-class", "1", "--images-per-class", "1", "--num-inference-steps", "1"]
    assert reward_colours.main(flags) == 0
    said = capsys.readouterr().out
    rows = re.findall(r"^(any|\d+°) +([\d.]+) +([\d.]+) +([\d.]+) +([\d.]+)$", said, re.MULTILINE)
    assert [row[0] for row in rows] == ["any", *(f"{hue}°" for hue in range(0, 360, 30))]
    for _, alignment, quality, variety, total in rows:
        expected = float(alignment) + 0.1 * float(quality) + 0.7 * float(variety)
        assert float(total) == pytest.approx(expected, abs=2e-4)
    # the hue changes what is rewarded
    assert len({row[2] for row in rows}) == 13
    assert len(re.findall(r"^\w+ +[+-][\d.]+ +[+-][\d.]+ +[+-][\d.]+ +[\d.]+%$", said, re.MULTILINE)) == 3


def test_a_number_below_one_is_refused(capsys):
    assert reward_colours.main(["--images-per-class", "0"]) == 2
    assert "images_per_class is 0; give 1 or more." in capsys.readouterr().err
