"""Recorded joint attention against softmax by its definition, computed from what enters each block's attention."""

import pytest
import torch
from diffusers.models.embeddings import apply_rotary_emb
from peft import LoraConfig
from torch.nn.functional import scaled_dot_product_attention

from support.tiny_models import flux, sd3
from ubgen_pipeline.joint_attention import JointAttention, JointAttentionRecorder, check_layers

LENGTH = 5


class Model:
    """A tiny transformer, its layers of joint attention, and inputs of latents that are no square: 6 x 4 tokens."""

    size = (6, 4)

    def __init__(self, name):
        if name == "sd3":
            self.network, self.text_position = sd3.build().transformer, "last"
            blocks = self.network.transformer_blocks
        else:
            self.network, self.text_position = flux.build().transformer, "first"
            blocks = [*self.network.transformer_blocks, *self.network.single_transformer_blocks]
        self.layers = [block.attn for block in blocks]

    def call(self, num_rows, timestep):
        height, width = self.size
        config = self.network.config
        inputs = {
            "encoder_hidden_states": torch.randn(num_rows, LENGTH, config.joint_attention_dim),
            "pooled_projections": torch.randn(num_rows, config.pooled_projection_dim),
            "timestep": torch.full((num_rows,), float(timestep)),
        }
        if self.text_position == "last":
            return {"hidden_states": torch.randn(num_rows, 8, 2 * height, 2 * width), **inputs}
        places = torch.cartesian_prod(torch.zeros(1), torch.arange(height).float(), torch.arange(width).float())
        tokens = {"hidden_states": torch.randn(num_rows, height * width, 16), "guidance": torch.full((num_rows,), 3.0)}
        return {**inputs, **tokens, "txt_ids": torch.zeros(LENGTH, 3), "img_ids": places}

    def run(self, call):
        with torch.no_grad():
            return self.network(**call).sample


@pytest.fixture(params=["sd3", "flux"])
def model(request):
    torch.manual_seed(0)
    return Model(request.param)


def by_hand(model, calls):
    """``(B, H, T, T)`` probabilities of each layer in each call."""
    entered = {number: [] for number in range(len(model.layers))}
    handles = [
        layer.register_forward_pre_hook(
            lambda module, args, kwargs, number=number: entered[number].append(kwargs), with_kwargs=True
        )
        for number, layer in enumerate(model.layers)
    ]
    for call in calls:
        model.run(call)
    for handle in handles:
        handle.remove()
    with torch.no_grad():
        return {
            number: [probabilities(model.layers[number], model.text_position, **kwargs) for kwargs in steps]
            for number, steps in entered.items()
        }


def probabilities(layer, text_position, hidden_states, encoder_hidden_states=None, image_rotary_emb=None):
    def heads(features, norm):
        return norm(features.unflatten(-1, (layer.heads, -1)).transpose(1, 2))

    query, key = heads(layer.to_q(hidden_states), layer.norm_q), heads(layer.to_k(hidden_states), layer.norm_k)
    if encoder_hidden_states is not None:
        text_query = heads(layer.add_q_proj(encoder_hidden_states), layer.norm_added_q or torch.nn.Identity())
        text_key = heads(layer.add_k_proj(encoder_hidden_states), layer.norm_added_k or torch.nn.Identity())
        pairs = [(query, text_query), (key, text_key)]
        query, key = (torch.cat(pair if text_position == "last" else pair[::-1], dim=2) for pair in pairs)
    if image_rotary_emb is not None:
        query, key = (apply_rotary_emb(heads_of, image_rotary_emb) for heads_of in (query, key))
    return (query @ key.mT / query.shape[-1] ** 0.5).softmax(-1)


def expected_maps(model, kept, weights, class_layers, refining_layer, power, steps):
    """``(B, K, S)``: the definition, step by step, with whole S x S arrays."""
    num_image = model.size[0] * model.size[1]
    num_text = kept[0][0].shape[-1] - num_image
    image = slice(num_image) if model.text_position == "last" else slice(num_text, None)
    text = slice(num_image, None) if model.text_position == "last" else slice(num_text)
    maps = []
    for step in steps:
        layers = [kept[number][step][-len(weights) :].mean(dim=1)[:, image] for number in class_layers]
        found = torch.stack([layer[:, :, text][:, :, : weights.shape[-1]] @ weights.mT for layer in layers]).mean(0)
        # over the image's keys alone, head by head
        among = kept[refining_layer][step][-len(weights) :][:, :, image, image]
        among = (among / among.sum(-1, keepdim=True)).mean(dim=1)
        for _ in range(power):
            found = among @ found
        maps.append(found)
    return torch.stack(maps).mean(dim=0).mT


@pytest.mark.parametrize(("class_layers", "refining_layer"), [((0,), 2), ((0, 2), 1), ((1,), 1)])
@pytest.mark.parametrize("power", [0, 1, 3])
def test_equals_attention_by_hand_and_changes_no_image(model, class_layers, refining_layer, power):
    calls = [model.call(4, timestep) for timestep in (0.9, 0.5, 0.1)]
    # of a guided batch, whose first half is not recorded
    weights, steps = torch.rand(2, 3, LENGTH) / LENGTH, (0, 2)
    recorder = JointAttentionRecorder(
        model.network,
        model.layers,
        weights,
        model.size,
        text_position=model.text_position,
        class_layers=class_layers,
        refining_layer=refining_layer,
        power=power,
        steps=steps,
    )
    with recorder:
        drawn = [model.run(call) for call in calls]
    assert all(torch.equal(model.run(call), recorded) for call, recorded in zip(calls, drawn))
    found = recorder.result()
    expected = expected_maps(model, by_hand(model, calls), weights, class_layers, refining_layer, power, steps)
    (maps,) = found.cross_maps.values()
    assert found.self_map is None and maps.shape == (2, 3, *model.size) and maps.dtype == torch.float32
    torch.testing.assert_close(maps.flatten(2), expected, rtol=1e-5, atol=0)
    # each power takes some of the contrast, but there is some
    assert (expected.std(dim=2) / expected.mean(dim=2)).min() > (1e-3, 1e-4, 1e-5, 1e-6)[power]


def test_a_loras_share_and_bfloat16_are_in_the_maps(model):
    model.network.add_adapter(LoraConfig(r=2, target_modules=["to_q", "to_k"], init_lora_weights=False))
    calls = [model.call(2, 0.5)]
    weights = torch.rand(2, 2, LENGTH)

    def maps():
        recorder = JointAttentionRecorder(
            model.network,
            model.layers,
            weights,
            model.size,
            text_position=model.text_position,
            class_layers=(1,),
            refining_layer=1,
            power=2,
        )
        with recorder:
            for call in calls:
                model.run(call)
        return recorder.result().cross_maps[model.size]

    full = maps()
    torch.testing.assert_close(
        full.flatten(2), expected_maps(model, by_hand(model, calls), weights, (1,), 1, 2, (0,)), rtol=1e-5, atol=0
    )
    model.network.disable_adapters()
    assert (maps() - full).abs().max() > 1e-4
    model.network.enable_adapters()
    model.network.to(torch.bfloat16)
    calls = [{name: value.to(torch.bfloat16) for name, value in calls[0].items()}]
    torch.testing.assert_close(maps(), full, rtol=0.05, atol=0)


def test_no_array_of_tokens_by_tokens_is_made():
    """torch would take a kernel on the CPU that makes such an array if the values were as narrow as they are."""
    torch.manual_seed(0)
    query, key, values = torch.randn(1, 2, 40, 8), torch.randn(1, 2, 40, 8), torch.rand(1, 40, 11)
    with torch.profiler.profile(record_shapes=True) as profile:
        found = JointAttention(query, key, None, None).over(values)
    shapes = [shape for event in profile.events() for shape in event.input_shapes if shape]
    assert shapes and not any(shape[-2:] == [40, 40] for shape in shapes)
    expected = ((query @ key.mT / 8**0.5).softmax(-1) @ values[:, None]).mean(dim=1)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("kind", ["bool", "added", "shared"])
def test_masks_and_shared_keys_are_followed(kind):
    torch.manual_seed(0)
    query, key = torch.randn(2, 4, 6, 8), torch.randn(2, 4, 6, 8)
    mask = torch.rand(2, 1, 1 if kind == "shared" else 6, 6) > 0.3
    mask[..., 1] = True
    mask = torch.randn(2, 1, 6, 6) if kind == "added" else mask
    values = torch.rand(2, 4, 3)
    attention = JointAttention(query, key, mask, 0.3).rows(slice(2, 6), slice(1, 5))
    expected = scaled_dot_product_attention(
        query[:, :, 2:],
        key[:, :, 1:5],
        values[:, None].expand(-1, 4, -1, -1),
        attn_mask=mask[:, :, -4:, 1:5],
        scale=0.3,
    )
    torch.testing.assert_close(attention.over(values), expected.mean(dim=1))


def test_misuse_is_named(model):
    with pytest.raises(ValueError, match=r"cross_levels of the mask settings holds 9.* 0 to 2"):
        check_layers(3, (9,), None)
    with pytest.raises(ValueError, match=r"self_level of the mask settings holds 3"):
        check_layers(3, (0,), 3)
    recorder = JointAttentionRecorder(
        model.network,
        model.layers,
        torch.rand(2, 1, LENGTH),
        model.size,
        text_position=model.text_position,
        class_layers=(0,),
        refining_layer=0,
        steps=(7,),
    )
    with recorder:
        model.run(model.call(2, 0.5))
    with pytest.raises(ValueError, match="no joint attention was recorded in 1 calls"):
        recorder.result()


def test_an_error_inside_a_block_leaves_nothing_open_and_nothing_behind(model):
    weights = torch.rand(2, 1, LENGTH)
    recorder = JointAttentionRecorder(
        model.network,
        model.layers,
        weights,
        model.size,
        text_position=model.text_position,
        class_layers=(0, 1),
        refining_layer=0,
    )
    call = model.call(2, 0.5)
    handle = model.layers[1].to_q.register_forward_hook(lambda *_: 1 / 0)
    with recorder, pytest.raises(ZeroDivisionError):
        model.run(call)
    handle.remove()
    assert torch.overrides._get_current_function_mode_stack() == []
    with recorder:
        model.run(call)
    expected = expected_maps(model, by_hand(model, [call]), weights, (0, 1), 0, 0, (0,))
    torch.testing.assert_close(recorder.result().cross_maps[model.size].flatten(2), expected, rtol=1e-5, atol=0)
