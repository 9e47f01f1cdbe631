"""LoRAs named after a model's own layers, of every family: the weights of a merge by hand, or a reason to refuse."""

import pytest
import torch
from safetensors.torch import save_file

from support.family_models import CASES
from ubgen_pipeline.inference.prepared_pipeline import prepare_pipeline
from ubgen_pipeline.models.lora_loading import load_lora

FAMILIES = ("sd3", "flux", "sdxl", "z-image", "qwen-image", "flux2-klein", "sana", "cogview4", "aura-flow", "lumina2")
# what stands before a layer's name, what stands between its parts, and what its sides are called
LAYOUTS = {
    "OneTrainer's": ("lora_transformer_", "_", ("lora_down", "lora_up")),
    "kohya's": ("lora_unet_", "_", ("lora_down", "lora_up")),
    "ComfyUI's": ("diffusion_model.", ".", ("lora_A", "lora_B")),
    "diffusers' with alphas": ("", ".", ("lora.down", "lora.up")),
}


def pipeline_of(family):
    return CASES[family].ours(CASES[family].build())


def networks(pipeline):
    return {pipeline.denoiser_part: pipeline.denoiser_network, **pipeline.text_networks}


def weights_of(pipeline):
    return {
        f"{part}.{key}": value.detach().clone()
        for part, network in networks(pipeline).items()
        for key, value in network.state_dict().items()
    }


def lora_for(pipeline, places, *, dtype=torch.float16, is_dora=False):
    """Tensors of a LoRA with another rank and alpha for each layer, and the pipeline's weights with it merged by hand.

    Args:
        places: of each (part, layer) its name in the file, with the names of its sides.
    """
    torch.manual_seed(0)
    file, merged = {}, weights_of(pipeline)
    for number, ((part, layer), (name, (down_side, up_side))) in enumerate(places.items()):
        weight = merged[f"{part}.{layer}.weight"]
        rank, alpha = 1 + number % 3, 0.7 + number
        down, up = torch.randn(rank, weight.shape[1]).to(dtype), torch.randn(len(weight), rank).to(dtype)
        file |= {f"{name}.{down_side}.weight": down, f"{name}.{up_side}.weight": up}
        file[f"{name}.alpha"] = torch.tensor(alpha)
        weight += alpha / rank * up.float() @ down.float()
        if is_dora:
            norm = weight.norm(dim=1, keepdim=True)
            file[f"{name}.dora_scale"] = norm * (0.5 + torch.rand_like(norm))
            weight *= file[f"{name}.dora_scale"] / norm
    return file, merged


def assert_fused(pipeline, merged):
    prepare_pipeline(pipeline, "fused", keeps_projections=True)
    found = weights_of(pipeline)
    assert found.keys() == merged.keys()
    for key, value in merged.items():
        torch.testing.assert_close(found[key], value, rtol=1e-5, atol=1e-5, msg=key)


def attention_layers(pipeline, count=5):
    names = [name for name, _ in pipeline.denoiser_network.named_modules() if name.endswith(pipeline.lora_targets)]
    return [(pipeline.denoiser_part, name) for name in names[:count]]


@pytest.mark.parametrize(("layout", "is_dora"), [*((layout, False) for layout in LAYOUTS), ("OneTrainer's", True)])
@pytest.mark.parametrize("family", FAMILIES)
def test_names_of_the_models_own_layers_equal_a_merge_by_hand(family, layout, is_dora, tmp_path):
    pipeline = pipeline_of(family)
    prefix, mark, sides = LAYOUTS[layout]
    prefix = prefix or f"{pipeline.denoiser_part}."
    places = {(part, layer): (prefix + layer.replace(".", mark), sides) for part, layer in attention_layers(pipeline)}
    file, merged = lora_for(pipeline, places, is_dora=is_dora)
    save_file(file, tmp_path / "x.safetensors")
    load_lora(pipeline, tmp_path / "x.safetensors")
    assert_fused(pipeline, merged)


@pytest.mark.parametrize(
    ("family", "texts"), [("sd3", {"1": "text_encoder", "2": "text_encoder_2"}), ("flux", {"1": "text_encoder"})]
)
def test_layers_of_text_encoders_are_fused_beside_the_denoisers(family, texts, tmp_path):
    """diffusers fuses FLUX.1's denoiser alone, and takes the text encoder's LoRA off."""
    pipeline = pipeline_of(family)
    sides = ("lora_down", "lora_up")
    places = {
        (part, layer): (f"lora_transformer_{layer.replace('.', '_')}", sides)
        for part, layer in attention_layers(pipeline)
    }
    for number, part in texts.items():
        for name, _ in networks(pipeline)[part].named_modules():
            if name.endswith(("q_proj", "fc1")):
                written = f"text_model.{name.removeprefix('text_model.')}".replace(".", "_")
                places[part, name] = (f"lora_te{number}_{written}", sides)
    file, merged = lora_for(pipeline, places)
    save_file(file, tmp_path / "x.safetensors")
    load_lora(pipeline, tmp_path / "x.safetensors")
    assert_fused(pipeline, merged)


def flux_authors_lora(pipeline, **more):
    """Of FLUX.1 in its authors' names, whose queries, keys and values are one layer; and what it gives."""
    torch.manual_seed(0)
    merged = weights_of(pipeline)
    width = merged["transformer.transformer_blocks.0.attn.to_q.weight"].shape[1]
    down, up = torch.randn(2, width).bfloat16(), torch.randn(3 * width, 2).bfloat16()
    layer = "lora_unet_double_blocks_0_img_attn_qkv"
    file = {f"{layer}.lora_down.weight": down, f"{layer}.lora_up.weight": up, f"{layer}.alpha": torch.tensor(0.7)}
    for number, side in enumerate(("to_q", "to_k", "to_v")):
        rows = slice(number * width, (number + 1) * width)
        merged[f"transformer.transformer_blocks.0.attn.{side}.weight"] += 0.35 * up[rows].float() @ down.float()
    return {**file, **more}, merged


def test_alphas_are_not_rounded_to_16_bits(tmp_path):
    """diffusers multiplies them into the weights in the file's precision."""
    pipeline = pipeline_of("flux")
    file, merged = flux_authors_lora(pipeline)
    save_file(file, tmp_path / "x.safetensors")
    load_lora(pipeline, tmp_path / "x.safetensors")
    assert_fused(pipeline, merged)


@pytest.mark.parametrize("number", ["2", "3"])
def test_layers_that_diffusers_leaves_out_without_a_word_are_named(number, tmp_path):
    layer = f"lora_te{number}_encoder_block_0_layer_0_SelfAttention_q"
    pipeline = pipeline_of("flux")
    shape = pipeline.text_encoder_2.encoder.block[0].layer[0].SelfAttention.q.weight.shape
    t5 = {f"{layer}.lora_down.weight": torch.randn(2, shape[1]), f"{layer}.lora_up.weight": torch.randn(shape[0], 2)}
    file, _ = flux_authors_lora(pipeline, **t5)
    save_file(file, tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match=f"'{layer}.lora_up.weight' belongs to no part of it, or to one for which"):
        load_lora(pipeline, tmp_path / "x.safetensors")
    save_file(t5, tmp_path / "t5.safetensors")
    with pytest.raises(ValueError, match=r"t5\.safetensors"):
        load_lora(pipeline, tmp_path / "t5.safetensors")
    assert not pipeline.get_list_adapters()


def test_peft_names_without_peft_settings_are_refused_since_their_alpha_is_not_known(tmp_path):
    pipeline = pipeline_of("sd3")
    (place,) = attention_layers(pipeline, 1)
    file, _ = lora_for(pipeline, {place: (f"base_model.model.{place[1]}", ("lora_A", "lora_B"))})
    save_file(file, tmp_path / "x.safetensors")
    load_lora(pipeline, tmp_path / "x.safetensors", check_only=True)
    del file[f"base_model.model.{place[1]}.alpha"]
    save_file(file, tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match=r"peft's name, and adapter_config\.json, which says its alpha, is not"):
        load_lora(pipeline, tmp_path / "x.safetensors")
