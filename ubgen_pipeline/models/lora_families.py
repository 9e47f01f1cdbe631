"""Which family of models a LoRA seems to be made for, by the names and shapes of its weights.

Names are read as diffusers, peft, kohya's scripts and the models' own authors write them. Widths are those of the
published models.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence

# the sides of a LoRA's pair: (r, in) and (out, r)
_DOWN = re.compile(r"(lora_a|lora_down|lora_linear_layer_down|lora\.down)(\.default)?\.weight$")
_UP = re.compile(r"(lora_b|lora_up|lora_linear_layer_up|lora\.up)(\.default)?\.weight$")
# width of the text features that cross-attention reads
_UNET_TEXT = {768: "Stable Diffusion 1.x (sd)", 1024: "Stable Diffusion 2.x (sd)", 2048: "Stable Diffusion XL (sdxl)"}
_SD3_WIDTHS = {1536, 2432}
# layers of FLUX.1's blocks that scale and shift, as diffusers and the authors call them
_FLUX1_MODULATION = (r"_norm1?(_context)?_linear$", r"_(img|txt)_mod_lin$", r"_modulation_lin$")
_LUMINA_WIDTH, _Z_IMAGE_WIDTH = 2304, 3840


def lora_family(shapes: Mapping[str, Sequence[int]]) -> str | None:
    """What models the LoRA seems to be for, with their names in the registry; None where it does not show.

    Args:
        shapes: of its weights, by their names in the file.
    """
    # kohya's names have _ in place of the dots
    found = _Layers(shapes)
    if found.any("down_blocks_", "up_blocks_", "mid_block_", "input_blocks_", "output_blocks_", "middle_block_"):
        return _unet_family(found)
    if found.any("distilled_guidance_layer"):
        return "Chroma (chroma)"
    if found.any("joint_transformer_blocks_"):
        return "AuraFlow (aura-flow)"
    if found.any("to_qkv_mlp_proj"):
        return "FLUX.2 (flux2-klein, flux2-dev)"
    if found.any("single_transformer_blocks_"):
        # names of layers of FLUX.2's single blocks begin with attn, and one of them is no list
        ends_plain = found.any(r"single_transformer_blocks_\d+_attn_to_out$")
        return "FLUX.2 (flux2-klein, flux2-dev)" if ends_plain else _flux1_family(found)
    if found.any("double_blocks_", "single_blocks_"):
        return _flux_family_of_the_authors_names(found)
    if found.any("joint_blocks_", "x_block_", "context_block_"):
        return "Stable Diffusion 3 (sd3)"
    if found.any(r"layers_\d+_self_attention_"):
        return "ERNIE-Image (ernie-image)"
    if found.any(r"layers_\d+_attention_"):
        return _next_dit_family(found)
    if found.any(r"layers_\d+_attn_"):
        return "Lumina 2 (lumina2)"
    # before those with attn2, which Stable Diffusion 3.5 has beside it
    if found.any(r"transformer_blocks_\d+_(attn|ff_context)_", r"transformer_blocks_\d+_(img|txt)_m"):
        return _joint_family(found)
    if found.any(r"blocks_\d+_attn2_"):
        width = found.width(r"blocks_\d+_attn[12]_to_[qkv]$")
        is_sana = found.any("conv_inverted", "conv_point") or width == 2240
        return "Sana (sana)" if is_sana else "PixArt-Sigma or Sana (pixart-sigma, sana)"
    if found.any(r"blocks_\d+_attn1_"):
        return "CogView4 (cogview4)"
    return None


class _Layers:
    """The layers that a LoRA is attached to, with _ in place of dots, and their widths."""

    def __init__(self, shapes: Mapping[str, Sequence[int]]):
        self.inputs: dict[str, int] = {}
        self.outputs: dict[str, int] = {}
        for key, shape in shapes.items():
            for sides, pattern, axis in ((self.inputs, _DOWN, 1), (self.outputs, _UP, 0)):
                if (match := pattern.search(key.lower())) and len(shape) > axis:
                    sides[key.lower()[: match.start()].rstrip("._").replace(".", "_")] = shape[axis]

    def any(self, *patterns: str) -> bool:
        """Whether one of the patterns is found in a layer's name."""
        return any(re.search(pattern, name) for pattern in patterns for name in self.inputs)

    def width(self, pattern: str) -> int | None:
        """What most layers of that pattern take."""
        widths = Counter(width for name, width in self.inputs.items() if re.search(pattern, name))
        return widths.most_common(1)[0][0] if widths else None

    def last(self, pattern: str) -> int:
        """The highest of the numbers that the pattern finds; -1 where it finds none."""
        return max((int(match[1]) for name in self.inputs if (match := re.search(pattern, name))), default=-1)


def _unet_family(found: _Layers) -> str:
    width = found.width(r"attn2_to_[kv]$")
    if width in _UNET_TEXT:
        return _UNET_TEXT[width]
    # only its UNet has several transformer blocks behind each other, and it alone two text encoders
    if found.last(r"transformer_blocks_(\d+)_") > 0 or found.any("te2_", "encoder_2_"):
        return _UNET_TEXT[2048]
    return "Stable Diffusion (sd)"


def _flux_family_of_the_authors_names(found: _Layers) -> str:
    name = next((name for name in found.inputs if name.endswith("linear1") and name in found.outputs), None)
    if name is not None:
        # queries, keys, values and a feed-forward layer of 4 widths, or one of 6 that is gated
        is_flux1 = found.outputs[name] == 7 * found.inputs[name]
        return _flux1_family(found) if is_flux1 else "FLUX.2 (flux2-klein, flux2-dev)"
    if found.any(*_FLUX1_MODULATION):
        return "FLUX.1 (flux)"
    return "FLUX.1, Chroma or FLUX.2 (flux, chroma, flux2-klein, flux2-dev)"


def _flux1_family(found: _Layers) -> str:
    """Chroma has FLUX.1's blocks, but for one network in place of the layers that scale and shift in each of them."""
    if found.any(*_FLUX1_MODULATION):
        return "FLUX.1 (flux)"
    return "FLUX.1 or Chroma (flux, chroma)"


def _next_dit_family(found: _Layers) -> str:
    """Z-Image's authors took the names of Lumina 2's layers; diffusers renamed the attention of Lumina 2 alone."""
    width = found.width(r"layers_\d+_attention_(qkv|out|to_[qkv]|to_out_0)$")
    if found.any(r"attention_to_(q|k|v|out_0)$") or width == _Z_IMAGE_WIDTH:
        return "Z-Image (z-image)"
    return "Lumina 2 (lumina2)" if width == _LUMINA_WIDTH else "Lumina 2 or Z-Image (lumina2, z-image)"


def _joint_family(found: _Layers) -> str:
    width = found.width(r"attn_(to|add)_[qkv](_proj)?$")
    if width in _SD3_WIDTHS:
        return "Stable Diffusion 3 (sd3)"
    # which has 60 blocks, and the others at most 38
    if found.any("_img_m", "_txt_m") or found.last(r"transformer_blocks_(\d+)_") >= 38:
        return "Qwen-Image (qwen-image)"
    if width == 3072:
        is_flux1 = found.any("ff_context", "norm1_linear")
        return _flux1_family(found) if is_flux1 else "FLUX.1, Chroma or Qwen-Image (flux, chroma, qwen-image)"
    return "Stable Diffusion 3, FLUX.1, Chroma or Qwen-Image (sd3, flux, chroma, qwen-image)"
