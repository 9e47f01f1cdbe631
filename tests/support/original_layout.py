"""Stable Diffusion in the layout of its authors: one file, whose names of weights are those of their first code."""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file


def save_original(pipeline: Any, file: Path, metadata: dict[str, str] | None = None) -> Path:
    """Write a Stable Diffusion 1 or XL pipeline of diffusers' in one file."""
    is_xl = hasattr(pipeline, "text_encoder_2")
    weights = {f"model.diffusion_model.{k}": v for k, v in _unet(pipeline.unet).items()}
    weights |= {f"first_stage_model.{k}": v for k, v in _vae(pipeline.vae.state_dict()).items()}
    first = "conditioner.embedders.0.transformer." if is_xl else "cond_stage_model.transformer."
    for key, value in pipeline.text_encoder.state_dict().items():
        weights[first + ("" if key.startswith("text_model.") else "text_model.") + key] = value
    if is_xl:
        second = "conditioner.embedders.1.model."
        weights |= {second + key: value for key, value in _open_clip(pipeline.text_encoder_2.state_dict()).items()}
    save_file({key: value.contiguous().clone() for key, value in weights.items()}, file, metadata)
    return file


def save_original_2(unet: Any, vae: Any, text_encoder: Any, file: Path) -> Path:
    """Write the parts of a Stable Diffusion 2 in one file; the text encoder with its projection."""
    weights = {f"model.diffusion_model.{k}": v for k, v in _unet(unet).items()}
    weights |= {f"first_stage_model.{k}": v for k, v in _vae(vae.state_dict()).items()}
    weights |= {f"cond_stage_model.model.{k}": v for k, v in _open_clip(text_encoder.state_dict()).items()}
    save_file({key: value.contiguous().clone() for key, value in weights.items()}, file)
    return file


def save_original_3(pipeline: Any, file: Path) -> Path:
    """Write a Stable Diffusion 3 pipeline in one file, with its text encoders."""
    weights = {f"model.diffusion_model.{k}": v for k, v in _sd3(pipeline.transformer).items()}
    weights |= {f"first_stage_model.{k}": v for k, v in _vae(pipeline.vae.state_dict()).items()}
    encoders = {"clip_l": "text_encoder", "clip_g": "text_encoder_2", "t5xxl": "text_encoder_3"}
    for theirs, ours in encoders.items():
        state = getattr(pipeline, ours).state_dict()
        weights |= {f"text_encoders.{theirs}.transformer.{k}": v for k, v in state.items()}
    save_file({key: value.contiguous().clone() for key, value in weights.items()}, file)
    return file


def _sd3(transformer: Any) -> dict[str, torch.Tensor]:
    fixed = {
        "pos_embed.proj.": "x_embedder.proj.", "context_embedder.": "context_embedder.",
        "time_text_embed.timestep_embedder.linear_1.": "t_embedder.mlp.0.",
        "time_text_embed.timestep_embedder.linear_2.": "t_embedder.mlp.2.",
        "time_text_embed.text_embedder.linear_1.": "y_embedder.mlp.0.",
        "time_text_embed.text_embedder.linear_2.": "y_embedder.mlp.2.",
        "proj_out.": "final_layer.linear.", "norm_out.linear.": "final_layer.adaLN_modulation.1.",
    }  # fmt: skip
    in_block = {
        "attn.to_out.0.": "x_block.attn.proj.", "attn2.to_out.0.": "x_block.attn2.proj.",
        "attn.to_add_out.": "context_block.attn.proj.", "norm1.linear.": "x_block.adaLN_modulation.1.",
        "norm1_context.linear.": "context_block.adaLN_modulation.1.",
        "ff.net.0.proj.": "x_block.mlp.fc1.", "ff.net.2.": "x_block.mlp.fc2.",
        "ff_context.net.0.proj.": "context_block.mlp.fc1.", "ff_context.net.2.": "context_block.mlp.fc2.",
        "attn.norm_q.": "x_block.attn.ln_q.", "attn.norm_k.": "x_block.attn.ln_k.",
        "attn2.norm_q.": "x_block.attn2.ln_q.", "attn2.norm_k.": "x_block.attn2.ln_k.",
        "attn.norm_added_q.": "context_block.attn.ln_q.", "attn.norm_added_k.": "context_block.attn.ln_k.",
    }  # fmt: skip
    state, last = transformer.state_dict(), len(transformer.transformer_blocks) - 1
    weights = {"pos_embed": state.pop("pos_embed.pos_embed")}
    named = {**fixed}
    for i in range(last + 1):
        block = f"transformer_blocks.{i}."
        named |= {block + ours: f"joint_blocks.{i}.{theirs}" for ours, theirs in in_block.items()}
        for q, k, v, theirs in (
            ("attn.to_q.", "attn.to_k.", "attn.to_v.", "x_block.attn.qkv."),
            ("attn2.to_q.", "attn2.to_k.", "attn2.to_v.", "x_block.attn2.qkv."),
            ("attn.add_q_proj.", "attn.add_k_proj.", "attn.add_v_proj.", "context_block.attn.qkv."),
        ):
            for side in ("weight", "bias") if block + q + "weight" in state else ():
                parts = [state.pop(block + name + side) for name in (q, k, v)]
                weights[f"joint_blocks.{i}.{theirs}{side}"] = torch.cat(parts)
    for key, value in state.items():
        begin = next(begin for begin in named if key.startswith(begin))
        # their shift comes before the scale, where no gate follows
        is_swapped = begin in ("norm_out.linear.", f"transformer_blocks.{last}.norm1_context.linear.")
        value = torch.cat(value.chunk(2)[::-1]) if is_swapped else value
        weights[named[begin] + key.removeprefix(begin)] = value
    return weights


def _resnet(name: str) -> str:
    for ours, theirs in (
        ("norm1", "in_layers.0"), ("conv1", "in_layers.2"), ("norm2", "out_layers.0"), ("conv2", "out_layers.3"),
        ("time_emb_proj", "emb_layers.1"), ("conv_shortcut", "skip_connection"),
    ):  # fmt: skip
        name = name.replace(ours, theirs)
    return name


def _unet(unet: Any) -> dict[str, torch.Tensor]:
    per_level = unet.config.layers_per_block
    fixed = {
        "conv_in.": "input_blocks.0.0.", "time_embedding.linear_1.": "time_embed.0.", "conv_norm_out.": "out.0.",
        "time_embedding.linear_2.": "time_embed.2.", "conv_out.": "out.2.",
        "add_embedding.linear_1.": "label_emb.0.0.", "add_embedding.linear_2.": "label_emb.0.2.",
        "mid_block.resnets.0.": "middle_block.0.", "mid_block.attentions.0.": "middle_block.1.",
        "mid_block.resnets.1.": "middle_block.2.",
    }  # fmt: skip
    named = dict(fixed)
    for level in range(len(unet.down_blocks)):
        start = 1 + level * (per_level + 1)
        for i in range(per_level):
            named[f"down_blocks.{level}.resnets.{i}."] = f"input_blocks.{start + i}.0."
            named[f"down_blocks.{level}.attentions.{i}."] = f"input_blocks.{start + i}.1."
        named[f"down_blocks.{level}.downsamplers.0.conv."] = f"input_blocks.{start + per_level}.0.op."
    for level, block in enumerate(unet.up_blocks):
        start = level * (per_level + 1)
        has_attention = hasattr(block, "attentions")
        for i in range(per_level + 1):
            named[f"up_blocks.{level}.resnets.{i}."] = f"output_blocks.{start + i}.0."
            named[f"up_blocks.{level}.attentions.{i}."] = f"output_blocks.{start + i}.1."
        place = 2 if has_attention else 1
        named[f"up_blocks.{level}.upsamplers.0.conv."] = f"output_blocks.{start + per_level}.{place}.conv."
    weights = {}
    for key, value in unet.state_dict().items():
        begin = next(begin for begin in named if key.startswith(begin))
        rest = key.removeprefix(begin)
        weights[named[begin] + (_resnet(rest) if "resnets" in begin else rest)] = value
    return weights


def _vae(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    num_levels = 1 + max(int(key.split(".")[2]) for key in state if key.startswith("decoder.up_blocks."))
    weights = {}
    for key, value in state.items():
        name = key.replace("conv_shortcut", "nin_shortcut").replace("conv_norm_out", "norm_out")
        name = name.replace("downsamplers.0.", "downsample.").replace("upsamplers.0.", "upsample.")
        for side in ("down", "up"):
            if f"{side}_blocks." in name:
                before, _, after = name.partition(f"{side}_blocks.")
                level, _, rest = after.partition(".")
                number = int(level) if side == "down" else num_levels - 1 - int(level)
                name = f"{before}{side}.{number}.{rest.replace('resnets.', 'block.')}"
        for i in (0, 1):
            name = name.replace(f"mid_block.resnets.{i}.", f"mid.block_{i + 1}.")
        if "mid_block.attentions.0." in name:
            name = name.replace("mid_block.attentions.0.", "mid.attn_1.")
            for ours, theirs in (
                ("group_norm", "norm"), ("to_q", "q"), ("to_k", "k"), ("to_v", "v"), ("to_out.0", "proj_out"),
            ):  # fmt: skip
                name = name.replace(ours, theirs)
            value = value[..., None, None] if value.ndim == 2 else value
        weights[name] = value
    return weights


def _open_clip(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    weights = {}
    for key, value in state.items():
        name = key.removeprefix("text_model.")
        if name == "text_projection.weight":
            weights["text_projection"] = value.T
            continue
        for ours, theirs in (
            ("embeddings.token_embedding", "token_embedding"),
            ("embeddings.position_embedding.weight", "positional_embedding"),
            ("final_layer_norm", "ln_final"), ("encoder.layers.", "transformer.resblocks."), ("layer_norm1", "ln_1"),
            ("layer_norm2", "ln_2"), ("mlp.fc1", "mlp.c_fc"), ("mlp.fc2", "mlp.c_proj"),
            ("self_attn.out_proj", "attn.out_proj"),
        ):  # fmt: skip
            name = name.replace(ours, theirs)
        if "self_attn.q_proj" in name:
            parts = [state[key.replace("q_proj", side)] for side in ("q_proj", "k_proj", "v_proj")]
            name = name.replace("self_attn.q_proj.", "attn.in_proj_")
            value = torch.cat(parts)
        elif "self_attn" in name:
            continue
        weights[name] = value
    return weights
