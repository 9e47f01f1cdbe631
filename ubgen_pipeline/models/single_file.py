"""Loads a checkpoint of a whole model in one file, as their authors publish them. diffusers converts the weights.

For Stable Diffusion 1.x, 2.x and XL what else a pipeline needs follows from the file. For the others diffusers reads
the settings of the family's first model, from the Hub or its cache; parts that the file lacks come from there, too.
"""

import json
import tempfile
from pathlib import Path
from typing import Any

import torch

from .single_file_kinds import UNET, VAE, completing_model, family_of_kind, kind_of_file, weight_shapes
from .single_file_parts import lacking_parts, weights_misfit
from .single_file_settings import write_settings

_VAE_NETWORKS = tuple(f"{VAE}{name}." for name in ("encoder", "decoder", "quant_conv", "post_quant_conv"))


def load_single_file(pipeline_class: Any, file: Path, dtype: torch.dtype, revision: str | None = None) -> Any:
    """The pipeline of a checkpoint.

    Args:
        pipeline_class: of the file's family.
        file: the checkpoint.
        dtype: of the weights.
        revision: on the Hub, of the model that has what the file lacks; see :func:`.completing_model`.

    Raises:
        ValueError: settings that the file does not say, or parts that it does not hold; the text follows the file's
            name.
    """
    kind = kind_of_file(file)
    model = completing_model(kind)
    if model is None:
        pipeline = _by_itself(pipeline_class, file, kind).to(dtype)
    else:
        pipeline = _completed(pipeline_class, file, kind, model, dtype, revision)
    pipeline.register_to_config(_name_or_path=str(file))
    return pipeline


def _by_itself(pipeline_class: Any, file: Path, kind: str) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        write_settings(file, kind, Path(folder))
        _check_sizes(file, Path(folder))
        # in the file's own precision: a weight without memory cannot be made another
        pipeline = pipeline_class.from_single_file(str(file), config=folder, local_files_only=True)
    _check_filled(pipeline)
    return pipeline


def _completed(
    pipeline_class: Any, file: Path, kind: str, model: str, dtype: torch.dtype, revision: str | None
) -> Any:
    """With the settings, the tokenizers and the parts that are lacking of ``model``, a Hub id or a folder."""
    from diffusers.loaders.single_file_utils import SingleFileComponentError

    family, shapes = family_of_kind(kind), weight_shapes(file)
    try:
        if not hasattr(pipeline_class, "from_single_file"):
            raise ValueError("diffusers reads no whole pipeline of that family from one file")
        misfit = weights_misfit(pipeline_class, shapes, family, model, revision)
        if misfit is None:
            lacking = lacking_parts(pipeline_class, shapes, family, model, dtype, revision)
            pipeline = pipeline_class.from_single_file(
                str(file), config=model, revision=revision, torch_dtype=dtype, **lacking
            )
    # the converters split weights into widths that they know
    except (OSError, ValueError, RuntimeError, SingleFileComponentError) as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        at = "" if revision is None else f" at revision {revision!r}"
        raise ValueError(
            f"a checkpoint of {kind} in one file, whose settings and tokenizers, and the parts that the file lacks,"
            f" are those of {model}{at}; that could not be read here ({first}). Give {model}, or a folder in diffusers"
            " layout with these weights in it"
        ) from error
    if misfit is not None:
        raise ValueError(misfit)
    for network in pipeline.networks.values():
        if hasattr(network, "tie_weights"):
            # of a weight with two names, files may hold one
            network.tie_weights()
        # diffusers leaves T5 as it is trained, with dropout
        network.eval()
    _check_filled(pipeline)
    return pipeline


def _check_sizes(file: Path, folder: Path) -> None:
    """Raise ``ValueError`` where the UNet or the VAE of these settings has more or fewer weights than the file."""
    from diffusers import AutoencoderKL, UNet2DConditionModel

    shapes = weight_shapes(file)
    for part, kind, names in (("unet", UNet2DConditionModel, UNET), ("vae", AutoencoderKL, _VAE_NETWORKS)):
        with torch.device("meta"):
            network: Any = kind.from_config(json.loads((folder / part / "config.json").read_text(encoding="utf-8")))
        own = sum(weight.numel() for weight in network.parameters())
        held = sum(weight.numel() for name, weight in shapes.items() if name.startswith(names))
        if held != own:
            raise ValueError(
                f"whose {part} has {held:,} numbers, and one of its kind of those widths and depths {own:,}: it is"
                " damaged, or its layers are others; fetch it anew, or give a folder in diffusers layout, whose"
                " settings say which they are"
            )


def _check_filled(pipeline: Any) -> None:
    """Raise ``ValueError`` where a weight was in no file; diffusers leaves it without memory."""
    for part, network in pipeline.networks.items():
        missing = next((name for name, weight in network.named_parameters() if weight.is_meta), None)
        if missing is not None:
            raise ValueError(f"which lacks the weights of {missing!r} of its {part}, as diffusers calls it")
