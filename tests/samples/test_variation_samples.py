"""Variations of source rows: rounds over the rows, seeds of their own, and what of a source is left out."""

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features, Image, Value
from PIL import Image as PilImage

from ubgen_pipeline.prompts.class_prompts import ClassName
from ubgen_pipeline.prompts.diffugen_variations import DRAWN_FROM, OtherObjects
from ubgen_pipeline.prompts.template_files import PromptFile
from ubgen_pipeline.prompts.templates import PromptTemplates
from ubgen_pipeline.sample_seeds import sample_seed
from ubgen_pipeline.samples.source_dataset import SourceDataset
from ubgen_pipeline.samples.source_samples import SourceSettings
from ubgen_pipeline.samples.variation_samples import VariationSamples

NAMES = ["disc", "star", "ring"]


def variations(folder, *, empty=(), attributes=True, samples_per_source=1, descriptions=None):
    """Samples of six rows, disc, star and ring in turns; the rows ``empty`` show no object."""
    labels = [0, 1, 2] * 2
    masks = [np.full((8, 8), 0 if row in empty else 1 + label, np.uint8) for row, label in enumerate(labels)]
    for mask in masks:
        mask[0] = 0
    columns = {
        "image": [PilImage.fromarray(np.zeros((8, 8, 3), np.uint8))] * 6,
        "label": labels,
        "mask": [PilImage.fromarray(mask) for mask in masks],
        "attributes": [dict.fromkeys(DRAWN_FROM, "top")] * 6,
    }
    features = {"image": Image(), "label": ClassLabel(names=NAMES), "mask": Image()}
    features["attributes"] = {name: Value("string") for name in DRAWN_FROM}
    if not attributes:
        del columns["attributes"], features["attributes"]
    Dataset.from_dict(columns, features=Features(features)).save_to_disk(str(folder))
    file = PromptFile(
        tuple(map(ClassName, NAMES)),
        (0, 1, 2),
        PromptTemplates(("{name}",), {}),
        variations=OtherObjects(descriptions or {"disc": ("red ball", "blue plate"), "star": ("golden star",)}),
    )
    return VariationSamples(
        file,
        3,
        samples_per_source,
        (),
        True,
        source=SourceDataset(str(folder), "train", NAMES),
        settings=SourceSettings("inpaint", 1.0, "object", 0, samples_per_source),
    )


def test_every_row_has_its_first_turn_before_any_has_its_second(tmp_path):
    samples = variations(tmp_path / "s", empty=(3,), samples_per_source=2)
    assert len(samples) == 8
    drawn = [samples.sample(index) for index in range(8)]
    # disc in rows 0 and 3, whose mask is empty; star in rows 1 and 4; rings have no descriptions
    assert [samples.lineage(sample)["source_index"] for sample in drawn] == [0, 1, 4, 0] * 2
    assert [sample.prompt.word for sample in drawn[:4]] == ["red ball", "golden star", "golden star", "blue plate"]
    assert list(samples.turns) == [sample.prompt.label for sample in drawn[:4]] == [0, 1, 1, 0]
    # seeds count on within a class, over the rounds
    assert [sample.seed for sample in drawn if sample.prompt.name == "star"] == [
        sample_seed(3, "star", number) for number in range(4)
    ]
    assert len(samples.prompts()) == 3 and "description" in samples.attribute_names


def test_what_is_left_out_is_noted(tmp_path):
    bare, other = variations(tmp_path / "s", empty=(3,)).notes
    assert bare == "1 of 6 rows of the source have no object in their masks"
    assert other.startswith("2 of 6 rows of the source show what is asked for already")
    all_drawn = variations(tmp_path / "t", descriptions=dict.fromkeys(NAMES, ("thing",)))
    assert list(all_drawn.notes) == [] and len(all_drawn) == 6


def test_facts_hold_the_variations_and_the_source(tmp_path):
    facts = variations(tmp_path / "s").facts()
    assert facts["variations"]["star"] == ["golden star"] and facts["source"]["task"] == "inpaint"


def test_sources_that_do_not_say_how_they_were_drawn_are_refused(tmp_path):
    with pytest.raises(ValueError, match="have no attribute 'template'"):
        variations(tmp_path / "s", attributes=False)
    with pytest.raises(ValueError, match="none of the 6 rows"):
        variations(tmp_path / "t", empty=range(6))
