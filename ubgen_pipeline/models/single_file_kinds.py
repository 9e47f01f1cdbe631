"""Which model a checkpoint in one file is, by the names and shapes of its weights, as diffusers tells it."""

import re
from pathlib import Path

import torch

from .loras import weight_names

_PICKLES = (".ckpt", ".pt", ".pth", ".bin")
# families by what diffusers calls the kinds of checkpoints that ubgen draws with
_FAMILIES = {
    "v1": "sd", "v2": "sd", "xl_base": "sdxl", "playground-v2-5": "sdxl",
    "sd3": "sd3", "sd35_large": "sd3", "sd35_medium": "sd3", "flux-dev": "flux", "flux-schnell": "flux",
    "flux-2-dev": "flux2-dev", "z-image-turbo": "z-image", "auraflow": "aura-flow", "lumina2": "lumina2",
    "sana": "sana",
}  # fmt: skip
UNET, VAE = "model.diffusion_model.", "first_stage_model."
# what every checkpoint of a UNet has; diffusers takes all that it does not know for Stable Diffusion 1
FIRST_LAYER = f"{UNET}input_blocks.0.0.weight"
# of ComfyUI's 8-bit floats and of bitsandbytes; without these numbers the weights beside them are others
_QUANTIZED = re.compile(r"\.(scale_weight|weight_scale|absmax|weight_format)$|scaled_fp8$|\.quant_state\.")


def is_single_file(source: str | Path) -> bool:
    """Whether that is a file, and not a folder or a Hub id."""
    return Path(source).expanduser().is_file()


def settings_beside(file: Path) -> Path | None:
    """The file of settings of the same name beside a checkpoint, ``model.yaml``; None where there is none."""
    place = file.with_suffix(".yaml")
    return place if place.is_file() else None


def kind_of_file(file: Path) -> str:
    """What diffusers calls that kind of checkpoint.

    Raises:
        ValueError: pickled, no safetensors file, or of no known kind; the text follows the file's name.
    """
    from diffusers.loaders.single_file_utils import infer_diffusers_model_type

    if file.suffix in _PICKLES:
        raise ValueError(
            "which is pickled and not loaded, since loading it can run code of whoever made it. Where you trust it,"
            " write its state_dict anew with `safetensors.torch.save_file`, and give that file"
        )
    shapes = weight_shapes(file)
    if not shapes:
        raise ValueError("which is no safetensors file; give a folder in diffusers layout, or a checkpoint")
    if any(re.search(r"lora_|hada_|lokr_", name) for name in shapes):
        raise ValueError("which is a LoRA and no whole model; give it as lora, beside its model")
    if (scaled := next((name for name in shapes if _QUANTIZED.search(name)), None)) is not None:
        raise ValueError(
            f"whose weights are quantized, with scales beside them ({scaled}) that diffusers does not read from one"
            " file; give one that is not"
        )
    if not any(name.startswith((UNET, VAE)) or "transformer" in name or "blocks" in name for name in shapes):
        raise ValueError("whose weights are those of no model that is known")
    try:
        kind = infer_diffusers_model_type(shapes)
    # of position embeddings of another size than it knows, it names no kind
    except UnboundLocalError as error:
        raise ValueError(
            "whose weights are those of Stable Diffusion 3 for a size that diffusers does not know"
        ) from error
    # it asks for some weights by name where it has seen others
    except (KeyError, IndexError) as error:
        raise ValueError(f"which lacks weights of the kind that it seems to be ({error})") from error
    if kind == "v1" and FIRST_LAYER not in shapes:
        raise ValueError("whose weights are those of no model that diffusers reads from one file")
    return kind


def family_of_file(file: Path) -> str:
    """The registry's name of the family; raises as :func:`kind_of_file`, and for families that are not there."""
    return family_of_kind(kind_of_file(file))


def family_of_kind(kind: str) -> str:
    """The registry's name of the family.

    Raises:
        ValueError: a kind that is not drawn with from one file; the text follows the file's name.
    """
    if kind not in _FAMILIES:
        raise ValueError(
            f"which diffusers reads as a checkpoint of the kind {kind}, and those are not drawn with from one file;"
            " give a folder in diffusers layout, of a family that is known"
        )
    return _FAMILIES[kind]


def is_stable_diffusion(kind: str) -> bool:
    """Whether all settings follow from the file, as those of Stable Diffusion 1.x, 2.x and XL do."""
    return _FAMILIES.get(kind) in ("sd", "sdxl")


def completing_model(kind: str) -> str | None:
    """Hub id of the model that has the settings, tokenizers and parts that such a file lacks; None: it needs none."""
    from diffusers.loaders.single_file_utils import DIFFUSERS_DEFAULT_PIPELINE_PATHS

    if is_stable_diffusion(kind):
        return None
    return DIFFUSERS_DEFAULT_PIPELINE_PATHS[kind]["pretrained_model_name_or_path"]


def weight_shapes(file: Path) -> dict[str, torch.Tensor]:
    """The weights without their values, by name; none where it is no safetensors file."""
    from safetensors import safe_open

    if not weight_names(file):
        return {}
    with safe_open(file, framework="pt") as weights:
        names = list(weights.keys())
        return {name: torch.empty(weights.get_slice(name).get_shape(), device="meta") for name in names}
