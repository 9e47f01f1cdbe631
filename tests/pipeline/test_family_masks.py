"""Masks of every family are its own attention to the words, and no image changes; see ``support/family_models.py``."""

from dataclasses import replace

import numpy as np
import torch
from torch.overrides import TorchFunctionMode

from ubgen_pipeline.mask_settings import MaskSettings


class _Attentions(TorchFunctionMode):
    """Keeps what enters every attention."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is torch.nn.functional.scaled_dot_product_attention:
            self.seen.append({**dict(zip(("query", "key", "value", "attn_mask"), args)), **(kwargs or {})})
        return func(*args, **(kwargs or {}))


def _probabilities(seen, row):
    """``(queries, keys)``, the mean over heads, by the definition."""
    query, key, mask = seen["query"][row], seen["key"][row], seen.get("attn_mask")
    key = key.repeat_interleave(len(query) // len(key), dim=0)
    scores = query @ key.mT * (seen.get("scale") or query.shape[-1] ** -0.5)
    if mask is not None:
        mask = mask[row if len(mask) > 1 else 0]
        scores = scores.masked_fill(~mask, float("-inf")) if mask.dtype == torch.bool else scores + mask
    return scores.softmax(-1).mean(dim=0)


def test_masks_change_no_image_and_are_the_attention_to_the_words(case):
    pipeline, words = case.pipeline, ["circle", "star"]
    prompts = ["a circle", "in the evening a photo of a star"]
    if case.family == "sdxl":
        masks = replace(pipeline.default_mask_settings(), self_power=0, class_prompt=False)
    else:
        # of the prompts themselves
        prompts_own = {"source": "attention", "class_prompt": False, "self_power": 0, "cross_levels": (0,)}
        masks = replace(pipeline.default_mask_settings(), **prompts_own)
    settings = {"annotations": ["mask", "heatmap"], "mask_settings": masks, "seeds": [1, 2], "prompts": prompts}
    size = {"num_inference_steps": 2, "height": 64, "width": 32, "output_type": "pt"}
    together = pipeline(words, **settings, **size)
    assert torch.equal(together.images, case.draw(pipeline, prompts, (64, 32)))
    assert together.masks[0].shape == (64, 32) and set(np.unique(together.masks[0])) <= {0, 1, 255}
    alone = pipeline(words, **settings, batch_size=1, **size)
    for one, other in zip(together.annotations, alone.annotations):
        np.testing.assert_allclose(one.heat_maps, other.heat_maps, rtol=0, atol=1e-2)
    if case.family == "sdxl":
        # a UNet's are compared by hand in test_attention_maps.py
        return

    attention, latent_size = pipeline.mask_attention, pipeline.latent_shape(64, 32)[1:]
    texts = [attention.texts(prompt, [word], masks) for prompt, word in zip(prompts, words)]
    conditioning, _ = pipeline.with_guidance(pipeline.batch(pipeline.encode(prompts)), 3.0)
    pipeline.timesteps(2, pipeline.latent_shape(64, 32))
    recorder = attention.recorder(texts, latent_size, masks, 1)
    seen = _Attentions()
    layer = attention.layers[0]
    with torch.no_grad(), recorder:
        # inside the recorder's own, whose further calls it does not see
        handles = [
            layer.register_forward_pre_hook(lambda *_: seen.__enter__() and None),
            layer.register_forward_hook(lambda *_: seen.__exit__(None, None, None)),
        ]
        pipeline.predict(case.noise(2, (64, 32)), pipeline.scheduler.timesteps[0], conditioning)
        for handle in handles:
            handle.remove()
    ((token_size, maps),) = recorder.result().cross_maps.items()
    num_image = token_size[0] * token_size[1]
    # a call of both samples, or of one each
    rows = [(seen.seen[0], 0), (seen.seen[0], 1)] if len(seen.seen) == 1 else [(call, 0) for call in seen.seen]
    for sample, (call, row) in enumerate(rows):
        weights, found = texts[sample][0], _probabilities(call, row)
        places = weights.nonzero().flatten()
        if pipeline.text_position == "last":
            # what fills the image up lies between
            image, places = slice(num_image), places + num_image + -num_image % attention.image_tokens_unit
        elif pipeline.text_position == "first":
            begin = len(weights) if attention.text_lengths != "filled" else found.shape[0] - num_image
            image, places = slice(begin, begin + num_image), places + attention.num_before
        else:
            image = slice(None)
        expected = (found[image][:, places] * weights[weights > 0]).sum(dim=1)
        torch.testing.assert_close(maps[sample, 0].flatten(), expected, rtol=1e-4, atol=1e-7)


def test_the_words_of_masks_are_where_the_text_encoders_read_them(family):
    """The tokens that enter a text encoder spell the word at the places of its weights."""
    pipeline = family.pipeline
    if family.family == "sdxl":
        return
    read = {}
    handles = [
        encoder.register_forward_pre_hook(
            lambda _, given, named, name=name: read.update({name: (named.get("input_ids", *given[:1]))[0].tolist()}),
            with_kwargs=True,
        )
        for name, encoder in pipeline.text_networks.items()
    ]
    (row,) = pipeline.encode(["a big star at sea"])
    for handle in handles:
        handle.remove()
    attention = pipeline.mask_attention
    weights = attention.texts("a big star at sea", ["star"], MaskSettings(class_prompt=False))
    torch.testing.assert_close(weights.sum(), torch.tensor(1.0))
    num_features = len(next(value for value in row.tensors.values() if value.ndim == 2))
    assert weights.shape[1] <= max(num_features, pipeline.prompt_tokens)
    first = 0
    for _, length in attention.readers:
        places = weights[0, first : first + length].nonzero().flatten().tolist()
        assert any(_spelled(pipeline, name, ids, places, num_features, length) for name, ids in read.items())
        first += length


def _spelled(pipeline, name, ids, places, num_features, length):
    tokenizer = getattr(pipeline, name.replace("text_encoder", "tokenizer"))
    # features of a template are left out at the beginning
    for dropped in {0, len(ids) - num_features, len(ids) - length}:
        taken = [ids[place + dropped] for place in places if 0 <= place + dropped < len(ids)]
        if tokenizer.decode(taken).replace(" ", "") == "star":
            return True
    return False
