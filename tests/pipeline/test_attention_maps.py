"""Recorded attention against plain attention computed by hand from every layer's input."""

import pytest
import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import Attention
from peft import LoraConfig

from ubgen_pipeline.attention_maps import AttentionRecorder, ClassTexts, attention_levels, joined_texts

LENGTH, WIDTH = 7, 12


@pytest.fixture(scope="module")
def unet():
    """Three levels, so that the middle level's place is no accident; 12x8 latents are no square."""
    torch.manual_seed(0)
    return UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(8, 16, 24),
        down_block_types=("CrossAttnDownBlock2D",) * 3,
        up_block_types=("CrossAttnUpBlock2D",) * 3,
        mid_block_type="UNetMidBlock2DCrossAttn",
        layers_per_block=1,
        norm_num_groups=4,
        attention_head_dim=2,
        cross_attention_dim=WIDTH,
    ).eval()


class PlainAttention:
    """A processor that computes attention by its definition and keeps the probabilities ``(B, H, S, L)``."""

    def __init__(self, kept, name, class_embeds):
        self.kept, self.name, self.class_embeds = kept, name, class_embeds

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, temb=None):
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states

        def heads(features):
            return features.reshape(*features.shape[:2], attn.heads, -1).permute(0, 2, 1, 3)

        query, key, value = heads(attn.to_q(hidden_states)), heads(attn.to_k(context)), heads(attn.to_v(context))
        probabilities = (query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5).softmax(-1)
        kept = probabilities
        if encoder_hidden_states is not None:
            keys = heads(attn.to_k(self.class_embeds))
            kept = (query[-len(keys) :] @ keys.transpose(-1, -2) / query.shape[-1] ** 0.5).softmax(-1)
        self.kept.setdefault(self.name, []).append(kept)
        mixed = (probabilities @ value).permute(0, 2, 1, 3).flatten(2)
        return attn.to_out[1](attn.to_out[0](mixed))


def by_hand(unet, class_embeds, calls):
    """Probabilities of every attention layer in every call, by layer name."""
    kept, before = {}, unet.attn_processors
    unet.set_attn_processor({name: PlainAttention(kept, name, class_embeds) for name in before})
    with torch.no_grad():
        for call in calls:
            unet(*call)
    unet.set_attn_processor(before)
    return kept


def mean_maps(kept, kind, num_positions, steps):
    """Mean over layers of that size, heads and chosen steps."""
    name = "attn2" if kind == "cross" else "attn1"
    maps = [probabilities[step] for layer, probabilities in kept.items() if name in layer for step in steps]
    return torch.cat([item for item in maps if item.shape[2] == num_positions], dim=1).mean(dim=1)


def random_texts(num_texts):
    weights = torch.rand(num_texts, 2, LENGTH)
    return ClassTexts(
        torch.randn(num_texts, LENGTH, WIDTH), torch.arange(num_texts), weights / weights.sum(-1, keepdim=True)
    )


@pytest.mark.parametrize("guided", [False, True])
@pytest.mark.parametrize("with_lora", [False, True])
def test_equals_attention_by_hand(unet, guided, with_lora):
    torch.manual_seed(1)
    if with_lora:
        unet.add_adapter(LoraConfig(r=2, target_modules=["to_q", "to_k"], init_lora_weights=False))
    batch = 3 * (2 if guided else 1)
    calls = [(torch.randn(batch, 4, 12, 8), step, torch.randn(batch, LENGTH, WIDTH)) for step in (900, 500, 100)]
    texts, steps = random_texts(3), (0, 2)
    recorder = AttentionRecorder(unet, texts, (12, 8), cross_levels=(1, 2), self_level=1, steps=steps)
    with torch.no_grad(), recorder:
        drawn = [unet(*call).sample for call in calls]
    with torch.no_grad():
        plain = [unet(*call).sample for call in calls]
    found = recorder.result()
    kept = by_hand(unet, texts.embeds, calls)
    if with_lora:
        unet.delete_adapters("default")

    for recorded, expected in zip(drawn, plain):
        torch.testing.assert_close(recorded, expected, rtol=0, atol=0)
    for size in ((6, 4), (3, 2)):
        expected = texts.token_weights @ mean_maps(kept, "cross", size[0] * size[1], steps)[-3:].mT
        torch.testing.assert_close(found.cross_maps[size].flatten(2), expected, rtol=0, atol=1e-4)
        # maps of different positions are not all one number
        assert expected.std(dim=2).min() > 1e-5
    torch.testing.assert_close(found.self_map, mean_maps(kept, "self", 24, steps)[-3:], rtol=0, atol=1e-4)
    torch.testing.assert_close(found.self_map.sum(dim=2), torch.ones(3, 24))
    assert found.self_size == (6, 4)


def test_a_row_does_not_depend_on_its_batch(unet):
    torch.manual_seed(2)
    call = (torch.randn(3, 4, 8, 8), 500, torch.randn(3, LENGTH, WIDTH))
    texts = random_texts(3)

    def record(rows):
        chosen = ClassTexts(texts.embeds[rows], torch.arange(len(texts.embeds[rows])), texts.token_weights[rows])
        recorder = AttentionRecorder(unet, chosen, (8, 8), cross_levels=(2,), self_level=1)
        with torch.no_grad(), recorder:
            unet(call[0][rows], call[1], call[2][rows])
        return recorder.result()

    everything, alone = record(slice(None)), record(slice(1, 2))
    torch.testing.assert_close(everything.cross_maps[2, 2][1:2], alone.cross_maps[2, 2])
    torch.testing.assert_close(everything.self_map[1:2], alone.self_map)


def test_a_sample_may_have_several_texts(unet):
    """Class words too many for one text are spread; each class's map comes from the text that names it."""
    torch.manual_seed(3)
    call = (torch.randn(2, 4, 8, 8), 500, torch.randn(2, LENGTH, WIDTH))
    first, second, other = (torch.randn(1, LENGTH, WIDTH) for _ in range(3))
    one_token = torch.eye(LENGTH)
    spread = ClassTexts(
        torch.cat([first, second]),
        torch.zeros(2, dtype=torch.int64),
        torch.stack([torch.stack([one_token[1], 0 * one_token[0]]), torch.stack([0 * one_token[0], one_token[2]])]),
    )
    single = ClassTexts(other, torch.zeros(1, dtype=torch.int64), one_token[None, 3:4])

    def record(texts):
        recorder = AttentionRecorder(unet, texts, (8, 8), cross_levels=(1,), self_level=None)
        with torch.no_grad(), recorder:
            unet(*call)
        return recorder.result().cross_maps[4, 4]

    maps = record(joined_texts([spread, single]))
    assert maps.shape == (2, 2, 4, 4)
    # a class that the second sample lacks has an empty map
    assert not maps[1, 1].any() and maps[1, 0].any()
    whole = record(ClassTexts(torch.cat([second, other]), torch.arange(2), one_token[None, 2:3].repeat(2, 1, 1)))
    torch.testing.assert_close(maps[0, 1], whole[0, 0])


def test_nothing_is_kept_between_or_after_steps(unet):
    """What the recorder holds does not grow with the steps, and leaving it removes its hooks."""
    texts = random_texts(1)
    hooks = sum(len(module._forward_hooks) for module in unet.modules())

    def held(num_steps):
        recorder = AttentionRecorder(unet, texts, (8, 8), cross_levels=(1, 2), self_level=0)
        with torch.no_grad(), recorder:
            for step in range(num_steps):
                unet(torch.randn(1, 4, 8, 8), step, torch.randn(1, LENGTH, WIDTH))
            tensors = [*recorder._cross_sums.values(), recorder._self_sum]
            tensors += [*recorder._queries.values(), *recorder._class_keys.values()]
            return sum(tensor.numel() for tensor in tensors)

    assert held(1) == held(6) > 64 * 64
    assert sum(len(module._forward_hooks) for module in unet.modules()) == hooks


def test_bad_input(unet):
    texts = random_texts(1)
    assert attention_levels(unet) == {"cross": [0, 1, 2], "self": [0, 1, 2]}
    with pytest.raises(ValueError, match=r"cross_level is 3.*\[0, 1, 2\]"):
        AttentionRecorder(unet, texts, (8, 8), cross_levels=(3,), self_level=None)
    recorder = AttentionRecorder(unet, texts, (8, 8), cross_levels=(1,), self_level=1, steps=(5,))
    with torch.no_grad(), recorder:
        unet(torch.randn(1, 4, 8, 8), 1, torch.randn(1, LENGTH, WIDTH))
    with pytest.raises(ValueError, match="no attention was recorded in 1 calls"):
        recorder.result()


def test_every_layer_of_the_unet_has_a_level(unet):
    assert sum(isinstance(module, Attention) for module in unet.modules()) == 2 * (3 + 6 + 1)
