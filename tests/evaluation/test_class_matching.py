"""Classes of two lists, matched by name; figures of a test set and a dataset whose classes stand in other orders."""

import numpy as np
import pytest
from PIL import Image as Pillow

from ubgen_evaluation.backbone_measures import measure_backbone
from ubgen_evaluation.backbones import Backbone
from ubgen_evaluation.class_matching import class_positions
from ubgen_evaluation.dataset_measures import Reference, measure_dataset
from ubgen_evaluation.evaluate_settings import EvaluateSettings

NAMES = ["red", "blue", "green"]


def positions(names, others):
    return class_positions(names, others, "a", "b").tolist()


def test_by_name_whatever_the_order_case_and_blanks():
    assert positions(NAMES, ["blue", "green", "red"]) == [2, 0, 1]
    assert positions(["Siberian_husky", "tench"], ["Tench", "siberian husky"]) == [1, 0]
    # either list may know more
    assert positions(NAMES, ["green", "red"]) == [1, -1, 0]
    assert positions(["green", "red"], NAMES) == [2, 0]


def test_by_position_where_names_say_nothing_and_it_is_said(capsys):
    assert positions(["n01", "n02"], ["tench", "goldfish"]) == [0, 1]
    assert "matched by their positions" in capsys.readouterr().err
    assert positions([], ["tench", "goldfish"]) == [0, 1]
    # a name that is there twice matches nothing
    assert positions(["crane", "crane"], ["Crane", "crane"]) == [0, 1]


def test_what_cannot_be_matched_is_refused():
    with pytest.raises(ValueError, match="a has the class 'green', which b does not have, though they share 2"):
        positions(NAMES, ["red", "blue", "violet"])
    with pytest.raises(ValueError, match="a has 3 classes and b 2, with other names"):
        positions(NAMES, ["one", "two"])


@pytest.fixture
def folders(tmp_path):
    """Coloured images in class folders, whose order is the alphabet's, not that of ``NAMES``."""
    colours = {"red": (255, 0, 0), "blue": (0, 0, 255), "green": (0, 255, 0)}
    for name, colour in colours.items():
        (tmp_path / "folders" / name).mkdir(parents=True)
        for number in range(4):
            shade = tuple(max(0, value - 9 * number) for value in colour)
            Pillow.new("RGB", (8, 8), shade).save(tmp_path / "folders" / name / f"{number}.png")
    return str(tmp_path / "folders")


def colour_backbone():
    """Features are the mean colour; the classifier's classes stand in the order of ``NAMES``."""
    from torch import nn, stack
    from torchvision.transforms.functional import to_tensor

    def features(images):
        return images.mean(dim=(2, 3))

    def logits(images):
        red, green, blue = features(images).T
        return stack([red, blue, green], dim=1)

    return Backbone("colours", nn.Linear(1, 1), features, logits, to_tensor, tuple(NAMES), "colours")


def test_accuracy_and_the_score_of_a_dataset_are_by_name(folders, tmp_path):
    settings = EvaluateSettings(
        backbones=["colours"], test=folders, num_resamples=5, probe_trials=2, output_dir=str(tmp_path / "out")
    )
    assert measure_backbone(colour_backbone(), settings)["accuracy"].value == 1

    # real images whose labels follow NAMES; those of the folders follow the alphabet
    real = np.repeat(np.eye(3)[[0, 2, 1]], 4, axis=0) + np.random.default_rng(0).normal(size=(12, 3)) * 0.01
    reference = Reference(real, np.repeat([0, 1, 2], 4), tuple(NAMES), "real")
    settings = EvaluateSettings(datasets=[folders], reference="real", output_dir=str(tmp_path / "out"))
    figures = measure_dataset(folders, colour_backbone(), settings, reference)
    assert figures["classification accuracy score"].value == 1
