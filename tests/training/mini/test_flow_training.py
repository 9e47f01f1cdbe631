"""Training the mini flow model: its shortcut for the T5's zeros is exact, its texts are true, and it goes on."""

import random

import pytest
import torch
from transformers import CLIPTokenizer

from ubgen_pipeline.mini import mini_model_path
from ubgen_pipeline.mini.scenes import BACKGROUND_NAMES, TEXTURE_NAMES, pair_scenes, scenes
from ubgen_training.mini.flow_model import TEXT_WIDTHS, build_text_encoder, build_transformer, deepen
from ubgen_training.mini.flow_training import NUM_T5_TOKENS, OneForManyZeros, encode_texts, train_flow, true_text


@pytest.fixture(scope="module")
def tokenizer():
    return CLIPTokenizer.from_pretrained(mini_model_path(), subfolder="tokenizer")


@torch.no_grad()
def test_added_blocks_change_nothing_until_they_are_trained():
    torch.manual_seed(0)
    shallow, deep = build_transformer(num_layers=2, num_heads=2), build_transformer(num_layers=4, num_heads=2)
    for value in shallow.parameters():
        torch.nn.init.normal_(value, std=0.1)
    deep.load_state_dict(deepen(shallow.state_dict(), 4, num_heads=2))
    given = torch.randn(2, 4, 16, 16), torch.randn(2, 7, 96), torch.randn(2, 96), torch.tensor([300.0, 20.0])
    torch.testing.assert_close(deep(*given).sample, shallow(*given).sample, rtol=1e-5, atol=1e-6)
    assert deepen(deep.state_dict(), 4, num_heads=2).keys() == deep.state_dict().keys()
    with pytest.raises(ValueError, match="num_layers is 2, but the weights have 4 blocks"):
        deepen(deep.state_dict(), 2, num_heads=2)


@torch.no_grad()
def test_one_token_of_zeros_counts_as_all_of_the_t5s(tokenizer):
    torch.manual_seed(0)
    transformer = build_transformer(num_layers=3, num_heads=2)
    for value in transformer.parameters():
        # the last layer begins at zero, so nothing could be seen of the others
        torch.nn.init.normal_(value, std=0.1)
    ids = tokenizer(["circle and star"], padding="max_length", max_length=24, return_tensors="pt").input_ids
    features, pooled = encode_texts([build_text_encoder(tokenizer, width) for width in TEXT_WIDTHS], ids)
    assert not features[:, -1].any()
    latents, timestep = torch.randn(1, 4, 16, 16), torch.tensor([300.0])
    all_zeros = torch.nn.functional.pad(features, (0, 0, 0, NUM_T5_TOKENS - 1))
    expected = transformer(latents, all_zeros, pooled, timestep).sample
    unweighted = transformer(latents, features, pooled, timestep).sample
    transformer.set_attn_processor(OneForManyZeros())
    found = transformer(latents, features, pooled, timestep).sample
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert (unweighted - expected).abs().max() > 1e-3


def test_texts_are_true_of_their_scene(tokenizer):
    rng, (scene,) = random.Random(0), pair_scenes(1, bias=0.95, seed=3)
    names = {factors.class_name for factors in scene.factors}
    texts = [true_text(scene.factors, rng) for _ in range(400)]
    assert 0.05 < sum(text == "" for text in texts) / len(texts) < 0.15
    surfaces = {factors.texture for factors in scene.factors} | {scene.factors[0].background}
    for text in filter(None, texts):
        words = set(text.replace(";", "").split())
        assert names <= words and words & {*BACKGROUND_NAMES, *TEXTURE_NAMES} <= surfaces
        assert len(tokenizer(text).input_ids) <= tokenizer.model_max_length
    first, second = scene.factors
    textured = f"{first.texture} {first.class_name} and {second.texture} {second.class_name}"
    assert any(textured in text for text in texts)
    swapped = f"{second.texture} {first.class_name} and"
    assert first.texture == second.texture or not any(swapped in text for text in texts)
    (single,) = scenes(1, bias=0.95, seed=3)
    assert {true_text([single.factors], rng) for _ in range(100)} >= {"", single.factors.class_name}


def test_a_training_that_was_stopped_goes_on_as_if_it_had_not_been(tokenizer, tmp_path):
    latents = torch.randn(4, 4, 16, 16, generator=torch.Generator().manual_seed(1))
    objects = [(scene.factors,) for scene in scenes(4, bias=0.95, seed=1)]

    def weights(folder, **settings):
        (tmp_path / folder).mkdir(exist_ok=True)
        transformer, encoders = train_flow(
            latents, objects, tokenizer, tmp_path / folder, num_steps=3, batch_size=2, **settings
        )
        return [value for network in (transformer, *encoders) for value in network.state_dict().values()]

    whole = weights("whole")
    stopped = weights("parts", max_seconds=0)
    resumed = weights("parts")
    assert all(torch.equal(a, b) for a, b in zip(whole, resumed, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(whole, stopped, strict=True))
