"""Masks of the pipeline's call from joint attention, with Stable Diffusion 3 and FLUX.1."""

import dataclasses

import numpy as np
import pytest
import torch

from support.family_models import CASES
from ubgen_pipeline.mask_settings import MaskSettings

NAMES = ["circle", "star"]
PROMPTS = ["a circle", "a photo of a red star on a blue field"]


@pytest.fixture(scope="module", params=["sd3", "sd3 without T5", "flux"])
def case(request):
    return CASES[request.param]


@pytest.fixture(scope="module")
def pipeline(case):
    return case.pipeline


def test_annotations_leave_images_as_they_are_and_do_not_depend_on_the_batch(pipeline):
    settings = {"height": 24, "width": 32, "num_inference_steps": 3, "output_type": "np"}
    plain = pipeline(NAMES, prompts=PROMPTS, **settings)
    # the words are appended, as the default settings have it; a random model's maps lose their contrast at power 4
    masks = dataclasses.replace(pipeline.default_mask_settings(), source="attention", self_power=1)
    wanted = {"annotations": ["mask", "heatmap", "box"], "shown_classes": [["circle"], ["red", "star"]]}
    wanted |= {"shown_labels": [[0], [5, 1]], "mask_settings": masks}
    together = pipeline(NAMES, prompts=PROMPTS, **wanted, **settings)
    assert together.prompts == ["a circle", f"{PROMPTS[1]}; red star"]
    np.testing.assert_array_equal(together.images[0], plain.images[0])
    again = pipeline(NAMES, prompts=together.prompts, **settings)
    np.testing.assert_array_equal(together.images, again.images)
    alone = pipeline(NAMES, prompts=PROMPTS, batch_size=1, **wanted, **settings)
    first, second = together.annotations
    assert first.labels == [0] and first.heat_maps.shape == (1, 24, 32) and first.mask.shape == (24, 32)
    assert second.labels == [5, 1] and second.heat_maps.shape == (2, 24, 32)
    assert set(np.unique(second.mask)) <= {0, 6, 2, 255} and second.heat_maps.max() == 1
    assert np.abs(second.heat_maps[0] - second.heat_maps[1]).max() > 1e-3
    for one, other in zip(together.annotations, alone.annotations):
        np.testing.assert_allclose(one.heat_maps, other.heat_maps, rtol=0, atol=1e-2)


def test_the_words_are_found_where_the_text_encoders_read_them(case, pipeline):
    words = MaskSettings(class_prompt=False)
    weights = pipeline.mask_attention.texts("a red star", ["star", "red"], words)
    torch.testing.assert_close(weights.sum(dim=1), torch.ones(2))
    readers = {"sd3": [(77, 1)], "flux": []}[case.family]
    if pipeline.text_networks.keys() & {"text_encoder_3"} or case.family == "flux":
        readers = [*readers, (pipeline.max_sequence_length, 0)]
    assert weights.shape == (2, sum(length for length, _ in readers))
    # the T5's word begins with a mark of its own, the CLIPs' sentence with one
    first = 0
    for length, num_marks in readers:
        part = weights[:, first : first + length]
        assert (part[0] > 0).sum() >= 4 and (part[1] > 0).sum() >= 3
        assert not (part[0] * part[1]).any() and not part[:, :num_marks].any()
        torch.testing.assert_close(part.sum(dim=1), torch.full((2,), 1 / len(readers)))
        first += length


def test_mask_settings_of_the_model_and_those_that_do_not_go(case, pipeline):
    settings = pipeline.default_mask_settings()
    assert not settings.class_prompt and settings == pipeline.mask_settings_of(pipeline.transformer.config)
    deep = pipeline.mask_settings_of({"num_layers": {"sd3": 24, "flux": 19}[case.family]})
    assert deep.source == "attention" and deep.cross_levels == {"sd3": (9,), "flux": (15, 16, 17, 18)}[case.family]
    call = {"height": 32, "width": 32, "num_inference_steps": 1, "annotations": ["mask"]}
    with pytest.raises(ValueError, match=r"mask_settings\.class_prompt is True, but this model"):
        pipeline(NAMES, mask_settings=type(settings)(), **call)
    with pytest.raises(ValueError, match="cross_levels of the mask settings holds 99"):
        pipeline(NAMES, mask_settings=type(settings)(class_prompt=False, cross_levels=(99,)), **call)
    with pytest.raises(ValueError, match="class word 'star' does not stand in the prompt"):
        pipeline(
            ["star"],
            prompts=["a ring"],
            mask_settings=type(settings)(
                class_prompt=False, append_class_names=False, cross_levels=(0,), self_level=0
            ),
            **call,
        )
