"""What a file that is given as a LoRA holds, by its weights' names."""

import pytest

from ubgen_pipeline.models.lora_layouts import other_kind

LAYER = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q"


@pytest.mark.parametrize(
    "names",
    [
        [f"{LAYER}.lora_down.weight", f"{LAYER}.lora_up.weight", f"{LAYER}.alpha"],
        ["unet.down_blocks.0.attn1.to_q.lora_A.weight", "unet.down_blocks.0.attn1.to_q.lora_magnitude_vector"],
        ["transformer.layers.0.attention.to_q.lora.down.weight"],
        [],
    ],
)
def test_a_loras_names_are_those_of_no_other_kind(names):
    assert other_kind(names) is None


@pytest.mark.parametrize(
    ("name", "title"),
    [
        ("lokr_w2_a", "a LoKr"),
        ("hada_w1_a", "a LoHa"),
        ("dora_scale", "a DoRA in kohya's layout"),
        ("diff", "full differences of weights"),
        ("w_norm", "full differences of weights"),
    ],
)
def test_another_kind_has_a_name_unless_it_is_read(name, title):
    names = [f"{LAYER}.lora_down.weight", f"{LAYER}.{name}"]
    found = other_kind(names)
    assert found is not None and found[0] == title and "merge it into the model" in found[1]
    assert other_kind(names, (f".{name}",)) is None


def test_an_embedding_in_the_same_file_is_named():
    names = [f"{LAYER}.lora_down.weight", "bundle_emb.style.string_to_param.*"]
    found = other_kind(names)
    assert found is not None and found[0] == "a LoRA with a textual inversion in the same file"
