"""The call's arguments: what they become, and what is refused by name."""

import numpy as np
import pytest
import torch

from ubgen_pipeline.call_arguments import (
    DenoisingSettings,
    call_entries,
    check_counts,
    check_embeds,
    check_output_type,
    latent_shape,
    plain_value,
    sample_batches,
)
from ubgen_pipeline.conditioning import Conditioning
from ubgen_pipeline.initial_latents import draw_latents
from ubgen_pipeline.sample_seeds import sample_seed

SHAPE = (4, 8, 8)


def _entries(names=("circle", "star"), prompts=None, negative=None, number=2, seed=7, seeds=None):
    return call_entries(names, prompts, negative, number, seed, seeds)


def test_samples_come_class_by_class_with_a_seed_each():
    entries = _entries(negative="blurry")
    assert entries.labels == [0, 0, 1, 1] and entries.prompts == ["circle", "star"]
    assert entries.negative_prompts == ["blurry", "blurry"]
    assert entries.seeds == [sample_seed(7, name, number) for name in ("circle", "star") for number in (0, 1)]
    assert _entries(prompts=["a", "b"], seeds=[1, 2, 3, 4]).seeds == [1, 2, 3, 4]


def test_batches_cover_the_samples_in_order_with_the_noise_of_their_seeds():
    entries = _entries(number=3)
    batches = sample_batches(entries, SHAPE, None, 4)
    assert [batch.entries for batch in batches] == [[0, 0, 0, 1], [1, 1]]
    assert [seed for batch in batches for seed in batch.seeds] == entries.seeds
    assert torch.equal(torch.cat([batch.noise for batch in batches]), draw_latents(entries.seeds, SHAPE))
    given = torch.randn(6, *SHAPE)
    (whole,) = sample_batches(entries, SHAPE, given, None)
    assert whole.noise is given or torch.equal(whole.noise, given)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"names": "circle"}, "class_names is 'circle'; give a list of texts"),
        ({"names": []}, "class_names holds 0 texts; give at least one"),
        ({"names": ["a", 3]}, "class_names is"),
        ({"prompts": ["a"]}, "prompts holds 1 texts; give 2, one per class"),
        ({"negative": ["a", "b", "c"]}, "negative_prompt holds 3 texts; give 2"),
        ({"number": 0}, "num_images_per_class is 0; give an integer of at least 1"),
        ({"number": True}, "num_images_per_class is True"),
        ({"seed": -1}, "seed is -1; give an integer from 0"),
        ({"seeds": [1, 2]}, "seeds holds 2 for 4 samples; give one per sample"),
    ],
)
def test_entries_are_refused_by_name(changes, message):
    with pytest.raises(ValueError, match=message):
        _entries(**changes)


def test_batches_settings_and_output_are_refused_by_name():
    with pytest.raises(ValueError, match=r"latents has shape \(3, 4, 8, 8\); give \(4, 4, 8, 8\)"):
        sample_batches(_entries(), SHAPE, torch.zeros(3, *SHAPE), None)
    with pytest.raises(ValueError, match="batch_size is 0"):
        sample_batches(_entries(), SHAPE, None, 0)
    with pytest.raises(ValueError, match=r"num_inference_steps is 1\.5"):
        DenoisingSettings(1.5, 2.0)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="output_type is 'jpg'; choose one of pil, np, pt, latent"):
        check_output_type("jpg")


def test_embeddings_come_in_pairs_and_one_row_for_each_class():
    features, record = torch.zeros(2, 5, 3), Conditioning({"a": torch.zeros(3, 5, 3)})
    assert not check_embeds(2, None, None) and check_embeds(2, features, features)
    for given, message in (
        ((features, None), "negative_prompt_embeds is None; give"),
        ((features, features[:1]), r"negative_prompt_embeds has shape \(1, 5, 3\); give \(2, tokens, width\)"),
        ((record, features), "prompt_embeds has 3 rows; give 2"),
    ):
        with pytest.raises(ValueError, match=message):
            check_embeds(2, *given)


def test_sizes_are_multiples_of_what_the_model_can_draw():
    assert latent_shape(4, 64, 8, None, 256) == (4, 64, 32)
    assert latent_shape(16, (32, 16), 4, None, None) == (16, 32, 16)
    for height, width, message in (
        (100, None, "height is 100; give a positive multiple of 8"),
        (None, 0, "width is 0"),
    ):
        with pytest.raises(ValueError, match=message):
            latent_shape(4, 64, 8, height, width)
    with pytest.raises(ValueError, match="height is 520; give a positive multiple of 16, of which 512 is nearest"):
        latent_shape(4, 64, 16, 520, None)


def test_numbers_and_lists_of_numpy_are_taken_as_pythons():
    entries = call_entries(np.array(["a", "b"]), None, np.array(["x", "y"]), np.int64(2), np.int64(3), None)
    assert entries == call_entries(["a", "b"], None, ["x", "y"], 2, 3, None)
    assert entries.class_names == ["a", "b"] and type(entries.class_names[0]) is str
    seeds = call_entries(np.array(["a"]), None, None, 1, 0, np.array([7])).seeds
    assert seeds == [7] and type(seeds[0]) is int
    check_counts(num_inference_steps=np.int64(2))
    with pytest.raises(ValueError, match="num_inference_steps is np"):
        check_counts(num_inference_steps=np.float64(2))
    tensor = torch.zeros(1)
    assert plain_value(tensor) is tensor and plain_value(np.float32(0.5)) == 0.5 and plain_value("a") == "a"
