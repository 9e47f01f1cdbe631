"""Class prompts of transformers with cross-attention: the keys are of the class words, the image's queries its own."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from support.family_models import CASES
from ubgen_pipeline.class_tokens import joint_token_weights

# of other lengths
PROMPTS = ["in the evening a photo of something", "a thing"]
WORDS = [["star"], ["circle", "big red star"]]
SIZE = (64, 32)


@pytest.fixture(scope="module", params=["sana", "sana-sprint", "pixart-sigma"])
def case(request):
    return CASES[request.param]


def heads(layer, features, norm, *, norm_first):
    """``(H, L, F)`` of a projection's output ``(L, H F)``."""
    norm = norm or torch.nn.Identity()
    if norm_first:
        return norm(features).unflatten(-1, (layer.heads, -1)).transpose(0, 1)
    return norm(features.unflatten(-1, (layer.heads, -1)).transpose(0, 1))


def by_hand(pipeline, entered, words):
    """``(K, S)`` of one sample, from what enters the layer."""
    network, layer = pipeline.transformer, pipeline.mask_attention.layers[0]
    text = pipeline.encode([" ".join(words)])[0]["encoder_hidden_states"]
    text = network.caption_projection(text)
    if hasattr(network, "caption_norm"):
        text = network.caption_norm(text)
    is_sana = "Sana" in type(network).__name__
    query = heads(layer, layer.to_q(entered), layer.norm_q, norm_first=is_sana)
    key = heads(layer, layer.to_k(text), layer.norm_k, norm_first=is_sana)
    probabilities = (query @ key.mT / query.shape[-1] ** 0.5).softmax(-1).mean(dim=0)
    weights = joint_token_weights(pipeline.mask_attention.readers, " ".join(words), words)
    return weights[:, : len(text)] @ probabilities.mT


@torch.no_grad()
def test_maps_are_the_attention_to_the_class_words(case):
    pipeline = case.pipeline
    attention, shape = pipeline.mask_attention, pipeline.latent_shape(*SIZE)
    item = replace(pipeline.default_mask_settings(), self_power=0, cross_levels=(0,))
    assert item.class_prompt
    rows, _ = pipeline.with_guidance(pipeline.batch(pipeline.encode(PROMPTS)), 3.0)
    time = pipeline.timesteps(2, shape)[0]
    texts = [attention.texts(*pair, item) for pair in zip(PROMPTS, WORDS)]
    recorder = attention.recorder(texts, shape[1:], item, 2)
    entered = []
    handle = attention.layers[0].register_forward_pre_hook(lambda _, given: entered.append(given[0]))
    with recorder:
        # no call of the layer comes to the model's own
        seen = [pipeline.predict(case.noise(2, SIZE), time, rows) for _ in range(2)]
    handle.remove()
    plain = pipeline.predict(case.noise(2, SIZE), time, rows)
    assert len(entered) == 2 and all(torch.equal(plain, each) for each in seen)
    (maps,) = recorder.result().cross_maps.values()
    assert maps.shape[:2] == (2, 2) and not maps[0, 1].any()
    for sample, words in enumerate(WORDS):
        expected = by_hand(pipeline, entered[0][sample], words)
        torch.testing.assert_close(maps[sample, : len(words)].flatten(1), expected, rtol=1e-4, atol=1e-6)
        assert expected.std(dim=1).min() > 1e-6


def test_the_words_need_not_stand_in_the_prompt_and_images_stay(case):
    pipeline = case.pipeline
    # a random model's maps lose their contrast at power 4
    power = min(pipeline.default_mask_settings().self_power, 1)
    masks = replace(pipeline.default_mask_settings(), append_class_names=False, self_power=power)
    given = {"seeds": [1, 2], "prompts": PROMPTS, "shown_classes": WORDS, "shown_labels": [[0], [1, 2]]}
    size = {"num_inference_steps": 2, "height": 64, "width": 32, "output_type": "pt"}
    drawn = pipeline(["star", "circle"], annotations=["mask", "heatmap"], mask_settings=masks, **given, **size)
    assert torch.equal(drawn.images, case.draw(pipeline, PROMPTS, SIZE))
    alone = pipeline(["star", "circle"], annotations=["heatmap"], mask_settings=masks, batch_size=1, **given, **size)
    for one, other in zip(drawn.annotations, alone.annotations):
        np.testing.assert_allclose(one.heat_maps, other.heat_maps, rtol=0, atol=1e-2)
    with pytest.raises(ValueError, match="class word 'star' does not stand in the prompt"):
        pipeline(
            ["star"],
            prompts=["a thing"],
            annotations=["mask"],
            mask_settings=replace(masks, class_prompt=False),
            height=32,
            width=32,
        )
