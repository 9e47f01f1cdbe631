"""Concept tokens against blocks that are called with the concepts as their text and the whole image beside them.

The plain way computes the image's side of every block a second time, and makes no use of what ``concept_attention.py``
does: the attention is the block's own.
"""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

from support.family_models import CASES
from ubgen_pipeline.class_tokens import joint_token_weights
from ubgen_pipeline.mask_settings import MaskSettings

NAMES = ["sd3", "sd3 without T5", "flux", "flux2-klein", "flux2-dev", "qwen-image"]
PROMPTS = ["a circle", "in the evening a photo of a star beside a circle"]
WORDS = [["circle"], ["star", "circle"]]
SIZE = (64, 32)


@pytest.fixture(scope="module", params=[name for name in CASES if CASES[name].family in NAMES or name in NAMES])
def case(request):
    return CASES[request.param]


def settings(case, **changes):
    blocks = tuple(range(len(case.pipeline.mask_attention.concept_blocks)))
    given = {"source": "concepts", "class_prompt": False, "cross_levels": blocks, "self_level": 0, "self_power": 0}
    return MaskSettings(**{**given, "background": ("sea", "a"), **changes})


def concept_tokens(case, words):
    """Features ``(N, D)`` of all the concepts' tokens, and for each its concept's number and its own weight."""
    features, owners, shares = [], [], []
    for number, word in enumerate(words):
        row = case.pipeline.encode([word])[0]["encoder_hidden_states"]
        weights = joint_token_weights(case.pipeline.mask_attention.readers, word, [word])[0]
        places = weights.nonzero().flatten()
        features.append(row[places])
        owners += [number] * len(places)
        shares.append(weights[places])
    return torch.cat(features), torch.tensor(owners), torch.cat(shares)


def expected_maps(case, call, words, item):
    """``(K, S)`` of the sample that is drawn alone in a call of the network."""
    attention = case.pipeline.mask_attention
    tokens, owners, shares = concept_tokens(case, [*words, *item.background])
    tokens = tokens[None]
    for module in attention.text_embedding:
        tokens = module(tokens)
    first = joint_token_weights(attention.readers, "sea", ["sea"]).nonzero()[0, 1]
    own_places = torch.cat([torch.arange(int((owners == number).sum())) for number in owners.unique()]) + first
    blocks = list(attention.concept_blocks)
    seen = {block: {} for block in blocks}
    handles = []
    for block in blocks:
        kept = seen[block]
        handles += [
            block.register_forward_pre_hook(
                lambda _, arguments, named, kept=kept: kept.setdefault("named", dict(named)) and None, with_kwargs=True
            ),
            # of the model's own call
            block.attn.to_out[0].register_forward_pre_hook(
                lambda _, given, kept=kept: kept.setdefault("image", given[0]) is None or None
            ),
            # of the last call
            block.attn.to_add_out.register_forward_pre_hook(lambda _, given, kept=kept: kept.update(text=given[0])),
        ]
    call()
    maps = []
    for number, block in enumerate(blocks):
        named, image = seen[block]["named"], seen[block]["image"]
        num_text, num_image = named["encoder_hidden_states"].shape[1], named["hidden_states"].shape[1]
        if (rotary := named.get("image_rotary_emb")) is not None:
            places = own_places.clamp(max=num_text - 1)
            if case.family == "qwen-image":
                rotary = rotary[0], rotary[1][places]
            else:
                rotary = tuple(torch.cat([part[places], part[-num_image:]]) for part in rotary)
            named["image_rotary_emb"] = rotary
        if "encoder_hidden_states_mask" in named:
            named["encoder_hidden_states_mask"] = None
        tokens, _ = block(**{**named, "encoder_hidden_states": tokens})
        scores = image[0] @ seen[block]["text"][0].mT
        means = torch.stack([(scores * shares * (owners == concept)).sum(dim=1) for concept in owners.unique()], dim=1)
        if number in item.cross_levels:
            maps.append(means.softmax(dim=1)[:, : len(words)])
    for handle in handles:
        handle.remove()
    return torch.stack(maps).mean(dim=0).mT


@torch.no_grad()
def test_maps_equal_those_of_whole_blocks(case):
    pipeline, item = case.pipeline, settings(case)
    attention = pipeline.mask_attention
    shape = pipeline.latent_shape(*SIZE)
    pipeline.timesteps(3, shape)
    noise = case.noise(2, SIZE)
    texts = [attention.texts(*pair, item) for pair in zip(PROMPTS, WORDS)]
    rows, _ = pipeline.with_guidance(pipeline.batch(pipeline.encode(PROMPTS)), 3.0)
    times = [pipeline.scheduler.timesteps[step] for step in (0, 2)]
    for chosen in (item, replace(item, cross_levels=item.cross_levels[-1:])):
        recorder = attention.recorder(texts, shape[1:], chosen, len(times))
        with recorder:
            together = [pipeline.predict(noise, time, rows) for time in times]
        assert all(torch.equal(pipeline.predict(noise, time, rows), seen) for time, seen in zip(times, together))
        (maps,) = recorder.result().cross_maps.values()
        assert maps.shape == (2, 2, *(side // pipeline.latents_per_token for side in shape[1:]))
        assert not maps[0, 1].any()
        for sample, words in enumerate(WORDS):
            own, _ = pipeline.with_guidance(pipeline.batch(pipeline.encode([PROMPTS[sample]])), 3.0)
            alone = [partial(pipeline.predict, noise[[sample]], time, own) for time in times]
            expected = torch.stack([expected_maps(case, call, words, chosen) for call in alone]).mean(dim=0)
            torch.testing.assert_close(maps[sample, : len(words)].flatten(1), expected, rtol=1e-3, atol=1e-5)
            assert expected.std(dim=1).min() > 1e-4


def test_masks_of_concepts_change_no_image_and_do_not_depend_on_the_batch(case):
    pipeline = case.pipeline
    masks = settings(case, self_power=1, first_step=0.5)
    given = {"annotations": ["mask", "heatmap"], "mask_settings": masks, "prompts": PROMPTS, "seeds": [1, 2]}
    given |= {"shown_classes": WORDS, "shown_labels": [[0], [1, 0]]}
    size = {"num_inference_steps": 3, "height": 64, "width": 32, "output_type": "pt"}
    together = pipeline(["circle", "star"], **given, **size)
    plain = case.draw(pipeline, together.prompts, (64, 32), num_inference_steps=3)
    assert torch.equal(together.images, plain)
    alone = pipeline(["circle", "star"], **given, batch_size=1, **size)
    first, second = together.annotations
    assert first.heat_maps.shape == (1, 64, 32) and second.heat_maps.shape == (2, 64, 32)
    assert second.heat_maps.max() == 1 and np.abs(second.heat_maps[0] - second.heat_maps[1]).max() > 1e-3
    for one, other in zip(together.annotations, alone.annotations):
        np.testing.assert_allclose(one.heat_maps, other.heat_maps, rtol=0, atol=1e-2)


def test_a_model_without_two_streams_and_a_block_without_text_are_refused():
    call = {"annotations": ["mask"], "height": 32, "width": 32, "num_inference_steps": 1}
    for name in ("z-image", "sdxl", "sana"):
        pipeline = CASES[name].pipeline
        masks = replace(pipeline.default_mask_settings(), source="concepts")
        with pytest.raises(ValueError, match=f"source is 'concepts', but {type(pipeline).__name__} has no blocks"):
            pipeline(["circle"], mask_settings=masks, **call)
    sd3 = CASES["sd3"].pipeline
    last = sd3.transformer.config.num_layers - 1
    masks = replace(sd3.default_mask_settings(), source="concepts", cross_levels=(last,))
    with pytest.raises(ValueError, match=rf"cross_levels of the mask settings holds {last}; .* 0 to {last - 1}"):
        sd3(["circle"], mask_settings=masks, **call)


def test_an_error_inside_a_block_leaves_nothing_open():
    pipeline = CASES["flux"].pipeline
    item = replace(pipeline.default_mask_settings(), source="concepts", cross_levels=(0, 1))
    attention = pipeline.mask_attention
    handle = attention.concept_blocks[1].attn.to_q.register_forward_hook(lambda *_: 1 / 0)
    call = {"mask_settings": item, "height": 32, "width": 32, "num_inference_steps": 1, "output_type": "pt"}
    with pytest.raises(ZeroDivisionError):
        pipeline(["circle"], annotations=["mask"], **call)
    handle.remove()
    assert torch.overrides._get_current_function_mode_stack() == []
    assert not attention.concept_blocks[0]._forward_hooks and not pipeline.transformer._forward_pre_hooks
    assert pipeline(["circle"], annotations=["mask"], **call).masks[0].shape == (32, 32)


def test_nothing_recorded_is_named():
    pipeline = CASES["sd3"].pipeline
    item = settings(CASES["sd3"], cross_levels=(0,))
    attention = pipeline.mask_attention
    recorder = attention.recorder([attention.texts("a star", ["star"], item)], (4, 4), item, 3)
    with recorder:
        pass
    with pytest.raises(ValueError, match="no joint attention was recorded in 0 calls of SD3Transformer2DModel"):
        recorder.result()
