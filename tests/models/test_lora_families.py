"""LoRAs of every family are recognised by their weights' names, as several programs write them, and shapes."""

import pytest
import torch
from peft import LoraConfig, get_peft_model_state_dict, inject_adapter_in_model
from safetensors.torch import save_file

from support.family_models import CASES
from ubgen_pipeline.models.lora_families import lora_family
from ubgen_pipeline.models.lora_loading import load_lora

DIFFUSERS = ("{}.lora_A.weight", "{}.lora_B.weight")
OLD_DIFFUSERS = ("{}.lora.down.weight", "{}.lora.up.weight")
PEFT = ("base_model.model.{}.lora_A.weight", "base_model.model.{}.lora_B.weight")


def kohya(name):
    return name.replace(".", "_") + ".lora_down.weight", name.replace(".", "_") + ".lora_up.weight"


def shapes(names, layer, width, out=None):
    down, up = (name.format(layer) for name in names)
    return {down: (4, width), up: (out or width, 4)}


UNET = "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k"
JOINT = "transformer_blocks.{}.attn.to_q"


@pytest.mark.parametrize(
    ("found", "family"),
    [
        (shapes(DIFFUSERS, f"unet.{UNET}", 768), "(sd)"),
        (shapes(OLD_DIFFUSERS, f"unet.{UNET}", 768), "Stable Diffusion 1.x"),
        (shapes(DIFFUSERS, f"unet.{UNET}", 1024), "Stable Diffusion 2.x"),
        (shapes(kohya(f"lora_unet.{UNET}"), "", 2048), "(sdxl)"),
        (shapes(kohya("lora_unet.input_blocks.4.1.transformer_blocks.1.attn1.to_q"), "", 640), "(sdxl)"),
        (shapes(DIFFUSERS, "transformer." + JOINT.format(3), 1536), "(sd3)"),
        (shapes(kohya("lora_unet.joint_blocks.3.x_block.attn.qkv"), "", 2432), "(sd3)"),
        (shapes(DIFFUSERS, "transformer.single_transformer_blocks.3.attn.to_q", 3072), "(flux, chroma)"),
        (shapes(DIFFUSERS, "transformer.single_transformer_blocks.3.norm.linear", 3072), "(flux)"),
        (shapes(kohya("lora_unet.double_blocks.3.img_mod.lin"), "", 3072), "(flux)"),
        (shapes(kohya("lora_unet.double_blocks.3.img_attn.qkv"), "", 3072, 9216), "(flux, chroma, flux2-klein"),
        (shapes(kohya("lora_unet.distilled_guidance_layer.layers.0.in_layer"), "", 5120), "Chroma (chroma)"),
        (shapes(DIFFUSERS, "transformer.transformer_blocks.3.ff_context.net.2", 12288), "sd3, flux"),
        (shapes(kohya("lora_unet.single_blocks.3.linear1"), "", 3072, 21504), "(flux, chroma)"),
        (shapes(DIFFUSERS, "diffusion_model.single_blocks.3.linear1", 3072, 27648), "(flux2-klein, flux2-dev)"),
        (shapes(PEFT, "single_transformer_blocks.3.attn.to_qkv_mlp_proj", 6144), "(flux2-klein, flux2-dev)"),
        (shapes(DIFFUSERS, "transformer." + JOINT.format(59), 3072), "(qwen-image)"),
        (shapes(DIFFUSERS, "transformer.transformer_blocks.3.img_mlp.net.2", 12288), "(qwen-image)"),
        (shapes(DIFFUSERS, "transformer." + JOINT.format(3), 3072), "FLUX.1, Chroma or Qwen-Image"),
        (shapes(DIFFUSERS, "diffusion_model.layers.3.attention.to_q", 3840), "(z-image)"),
        (shapes(DIFFUSERS, "transformer.layers.3.attn.to_q", 2304), "(lumina2)"),
        # the authors of both give their layers the same names
        (shapes(kohya("lora_unet.layers.3.attention.qkv"), "", 2304, 3840), "Lumina 2 (lumina2)"),
        (shapes(DIFFUSERS, "diffusion_model.layers.3.attention.qkv", 3840, 11520), "Z-Image (z-image)"),
        (shapes(kohya("lora_unet.layers.3.attention.to_q"), "", 3840), "Z-Image (z-image)"),
        (shapes(kohya("lora_unet.layers.3.attention.out"), "", 64), "Lumina 2 or Z-Image (lumina2, z-image)"),
        (shapes(DIFFUSERS, "transformer.transformer_blocks.3.attn2.to_q", 2240), "(sana)"),
        (shapes(PEFT, "transformer_blocks.3.attn2.to_k", 1152), "(pixart-sigma, sana)"),
        (shapes(DIFFUSERS, "transformer.transformer_blocks.3.attn1.to_k", 4096), "(cogview4)"),
        (shapes(DIFFUSERS, "transformer.joint_transformer_blocks.3.attn.to_q", 3072), "(aura-flow)"),
        (shapes(PEFT, "layers.3.self_attention.to_q", 4096), "(ernie-image)"),
    ],
)
def test_published_layouts_are_recognised(found, family):
    assert family in lora_family(found)


def test_what_is_no_lora_of_a_known_family_is_nothing():
    assert lora_family({}) is None
    assert lora_family(shapes(DIFFUSERS, "text_encoder.layers.0.self_attn.q_proj", 768)) is None


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if not case.kind])
def test_a_lora_of_all_that_a_family_targets_names_the_family(name):
    pipeline = CASES[name].ours(CASES[name].build())
    config = LoraConfig(r=2, target_modules=list(pipeline.lora_targets))
    inject_adapter_in_model(config, pipeline.denoiser_network)
    weights = get_peft_model_state_dict(pipeline.denoiser_network)
    # widths are those of no published model
    found = lora_family({f"{pipeline.denoiser_part}.{key}": value.shape for key, value in weights.items()})
    # none where nobody has said how the family's layers are called
    assert found is None or name.replace("sana-sprint", "sana") in found.replace("(sd)", "(sdxl)")


@pytest.mark.parametrize("name", ["sd3", "sdxl", "pixart-sigma", "z-image"])
def test_a_lora_of_another_family_is_refused_with_its_name(name, tmp_path):
    pipeline = CASES[name].ours(CASES[name].build())
    file = tmp_path / "pytorch_lora_weights.safetensors"
    single, double = "transformer.single_transformer_blocks.3.attn.to_q", "lora_unet.double_blocks.3.img_attn.qkv"
    message = r"lora is .*it seems to be made for FLUX\.1.*; use the model it was made"
    for found in (shapes(DIFFUSERS, single, 64), shapes(kohya(double), "", 64, 192)):
        save_file({key: torch.zeros(shape) for key, shape in found.items()}, file)
        with pytest.raises(ValueError, match=message):
            load_lora(pipeline, file)
    assert not any("lora" in key for key, _ in pipeline.denoiser_network.named_parameters())
