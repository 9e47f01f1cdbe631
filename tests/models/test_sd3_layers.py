"""LoRAs that name Stable Diffusion 3's layers as its authors do, against checkpoints that diffusers converts."""

import pytest
import torch
from diffusers.loaders.single_file_utils import convert_sd3_transformer_checkpoint_to_diffusers
from safetensors.torch import save_file

from support.family_models import CASES
from ubgen_pipeline.inference.prepared_pipeline import prepare_pipeline
from ubgen_pipeline.models.lora_loading import load_lora

LAYOUTS = {
    "kohya's": ("lora_unet_", "_", "lora_down", "lora_up"),
    "with dots": ("diffusion_model.", ".", "lora_A", "lora_B"),
}


def authors_layers(config):
    """Shapes of the weights of all layers, by the authors' names."""
    width = config.num_attention_heads * config.attention_head_dim
    layers = {
        "x_embedder.proj": (width, config.in_channels, config.patch_size, config.patch_size),
        "context_embedder": (width, config.joint_attention_dim),
        "t_embedder.mlp.0": (width, 256),
        "t_embedder.mlp.2": (width, width),
        "y_embedder.mlp.0": (width, config.pooled_projection_dim),
        "y_embedder.mlp.2": (width, width),
        "final_layer.linear": (config.patch_size**2 * config.out_channels, width),
        "final_layer.adaLN_modulation.1": (2 * width, width),
    }
    for i in range(config.num_layers):
        is_last, is_dual = i == config.num_layers - 1, i in config.dual_attention_layers
        x, context = f"joint_blocks.{i}.x_block.", f"joint_blocks.{i}.context_block."
        layers[f"{x}adaLN_modulation.1"] = ((9 if is_dual else 6) * width, width)
        layers[f"{context}adaLN_modulation.1"] = ((2 if is_last else 6) * width, width)
        layers[f"{context}attn.qkv"] = (3 * width, width)
        for attention in ("attn", "attn2")[: 1 + is_dual]:
            layers |= {f"{x}{attention}.qkv": (3 * width, width), f"{x}{attention}.proj": (width, width)}
        for block in (x,) if is_last else (x, context):
            layers |= {f"{block}mlp.fc1": (4 * width, width), f"{block}mlp.fc2": (width, 4 * width)}
        if not is_last:
            layers[f"{context}attn.proj"] = (width, width)
    return layers


def checkpoint(config):
    """A transformer's weights at random as its authors name them."""
    head, names = (config.attention_head_dim,), ("ln_q", "ln_k")
    weights = {"pos_embed": torch.randn(1, config.pos_embed_max_size**2, config.caption_projection_dim)}
    for name, shape in authors_layers(config).items():
        weights |= {f"{name}.weight": torch.randn(shape), f"{name}.bias": torch.randn(shape[0])}
        if name.endswith("qkv"):
            weights |= {f"{name.removesuffix('qkv')}{norm}.weight": torch.randn(head) for norm in names}
    return weights


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layer_equals_a_checkpoint_that_it_was_merged_into(layout, tmp_path):
    torch.manual_seed(0)
    pipeline = CASES["sd3"].ours(CASES["sd3"].build())
    config, (prefix, mark, down_side, up_side) = pipeline.transformer.config, LAYOUTS[layout]
    original, lora = checkpoint(config), {}
    pipeline.transformer.load_state_dict(convert_sd3_transformer_checkpoint_to_diffusers(dict(original)))
    for number, (layer, shape) in enumerate(authors_layers(config).items()):
        rank, alpha, name = 1 + number % 3, 0.7 + number, prefix + layer.replace(".", mark)
        down, up = torch.randn(rank, *shape[1:]), torch.randn(shape[0], rank)
        lora |= {f"{name}.{down_side}.weight": down, f"{name}.alpha": torch.tensor(alpha)}
        lora[f"{name}.{up_side}.weight"] = up if down.ndim == 2 else up[..., None, None]
        original[f"{layer}.weight"] += alpha / rank * (up @ down.flatten(1)).reshape(shape)
    save_file(lora, tmp_path / "x.safetensors")
    load_lora(pipeline, tmp_path / "x.safetensors")
    prepare_pipeline(pipeline, "fused", keeps_projections=True)
    found = pipeline.transformer.state_dict()
    for key, value in convert_sd3_transformer_checkpoint_to_diffusers(original).items():
        torch.testing.assert_close(found[key], value, rtol=1e-5, atol=1e-4, msg=key)


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        # more blocks than the model has, and a layer that nobody knows
        ("joint_blocks_40_x_block_attn_proj", "does not fit the model"),
        (
            "joint_blocks_0_x_block_attn_gate",
            "does not fit the model: 'lora_unet_.*attn_gate.lora_down.weight' belongs to no",
        ),
    ],
)
def test_layers_that_the_model_lacks_are_named(layer, message, tmp_path):
    pipeline = CASES["sd3"].ours(CASES["sd3"].build())
    lora = {}
    for name in ("joint_blocks_0_x_block_attn_proj", layer):
        lora |= {f"lora_unet_{name}.lora_down.weight": torch.randn(2, 32)}
        lora |= {f"lora_unet_{name}.lora_up.weight": torch.randn(32, 2)}
    save_file(lora, tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match=message):
        load_lora(pipeline, tmp_path / "x.safetensors")
    assert not pipeline.get_list_adapters()
