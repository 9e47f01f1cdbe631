"""LoRAs that name the layers of Stable Diffusion 3 as its authors do, told by diffusers' names.

    lora_unet_joint_blocks_0_x_block_attn_qkv.lora_down.weight        of kohya's scripts
    diffusion_model.joint_blocks.0.x_block.attn.qkv.lora_A.weight     with dots

diffusers converts whole checkpoints of these names, and no LoRAs. Its layers differ in two ways: queries, keys and
values are three, and the shift and scale of the last norms stand the other way round.
"""

import re
from collections.abc import Mapping

import torch

_PREFIX = re.compile(r"lora_unet_|diffusion_model[._]|model[._]diffusion_model[._]")
_BLOCK = re.compile(r"joint_blocks_(\d+)_(x|context)_block_(.+)")
# of a block's two streams, the image's and the text's
_QKV = {
    ("x", "attn_qkv"): ("attn.to_q", "attn.to_k", "attn.to_v"),
    ("x", "attn2_qkv"): ("attn2.to_q", "attn2.to_k", "attn2.to_v"),
    ("context", "attn_qkv"): ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
}
_IN_BLOCK = {
    ("x", "attn_proj"): "attn.to_out.0",
    ("x", "attn2_proj"): "attn2.to_out.0",
    ("x", "mlp_fc1"): "ff.net.0.proj",
    ("x", "mlp_fc2"): "ff.net.2",
    ("x", "adaLN_modulation_1"): "norm1.linear",
    ("context", "attn_proj"): "attn.to_add_out",
    ("context", "mlp_fc1"): "ff_context.net.0.proj",
    ("context", "mlp_fc2"): "ff_context.net.2",
    ("context", "adaLN_modulation_1"): "norm1_context.linear",
}
_OTHERS = {
    "x_embedder_proj": "pos_embed.proj",
    "context_embedder": "context_embedder",
    "t_embedder_mlp_0": "time_text_embed.timestep_embedder.linear_1",
    "t_embedder_mlp_2": "time_text_embed.timestep_embedder.linear_2",
    "y_embedder_mlp_0": "time_text_embed.text_embedder.linear_1",
    "y_embedder_mlp_2": "time_text_embed.text_embedder.linear_2",
    "final_layer_linear": "proj_out",
    "final_layer_adaLN_modulation_1": "norm_out.linear",
}
# what has a row for each of the layer's outputs, as opposed to the factor of its inputs and numbers
_OF_OUTPUTS = re.compile(r"lora_(up|B|magnitude)|lora\.up")


def sd3_layers(raw: Mapping[str, torch.Tensor], num_layers: int) -> dict[str, torch.Tensor]:
    """The tensors with diffusers' names of those layers that the authors' names are known of; others as they are.

    Args:
        raw: of a file, by name.
        num_layers: blocks of the model; the last one's text stream ends in a norm of its own.
    """
    named: dict[str, torch.Tensor] = {}
    for key, value in raw.items():
        stem, side = _split(key)
        layers = _layers_of(stem, num_layers)
        if layers is None:
            named[key] = value
            continue
        names, is_swapped = layers
        parts = [value] * len(names)
        if _OF_OUTPUTS.match(side):
            parts = list(value.chunk(len(names)))
            if is_swapped:
                parts = [torch.cat(value.chunk(2)[::-1])]
        named |= {f"transformer.{name}.{side}": part for name, part in zip(names, parts, strict=True)}
    return named


def _split(key: str) -> tuple[str, str]:
    """A layer's name with _ for dots, and the side of its pair."""
    match = re.search(r"\.(lora[._]|alpha$)", key)
    if match is None:
        return key, ""
    return key[: match.start()].replace(".", "_"), key[match.start() + 1 :]


def _layers_of(stem: str, num_layers: int) -> tuple[tuple[str, ...], bool] | None:
    """diffusers' layers in the order of the outputs, and whether shift and scale change places."""
    prefix = _PREFIX.match(stem)
    if prefix is None:
        return None
    name = stem[prefix.end() :]
    if name in _OTHERS:
        return (_OTHERS[name],), name == "final_layer_adaLN_modulation_1"
    block = _BLOCK.fullmatch(name)
    if block is None:
        return None
    place, begin = (block[2], block[3]), f"transformer_blocks.{block[1]}."
    if place in _QKV:
        return tuple(begin + layer for layer in _QKV[place]), False
    if place in _IN_BLOCK:
        is_last = int(block[1]) == num_layers - 1
        return (begin + _IN_BLOCK[place],), is_last and _IN_BLOCK[place] == "norm1_context.linear"
    return None
