"""Finding and loading a model by name, with a scheduler and a LoRA; whatever does not fit is refused by name."""

import os
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
    FlowMatchLCMScheduler,
    LCMScheduler,
    PNDMScheduler,
    UniPCMultistepScheduler,
)
from diffusers.utils.state_dict_utils import convert_state_dict_to_peft, convert_unet_state_dict_to_peft
from huggingface_hub import constants
from huggingface_hub.errors import GatedRepoError, RemoteEntryNotFoundError, RevisionNotFoundError
from safetensors import SafetensorError, safe_open

from ..commands.console import say
from ..commands.library_log import hushed
from ..family import Family
from ..mini import EMBEDDED_MODELS, embedded_model_path
from ..scheduler_noise import is_flow_scheduler
from .families import FAMILIES, family_of, family_of_model
from .lora_families import lora_family
from .quantization import quantization_config
from .text_embeddings import load_embedding, split_embedding

SCHEDULERS: dict[str, type[Any]] = {
    "ddpm": DDPMScheduler,
    "ddim": DDIMScheduler,
    "pndm": PNDMScheduler,
    "dpm++": DPMSolverMultistepScheduler,
    "unipc": UniPCMultistepScheduler,
    "lcm": LCMScheduler,
    "ddim-trailing": DDIMScheduler,
}
# for models of flow matching, which walk along velocities
FLOW_SCHEDULERS: dict[str, type[Any]] = {
    "flow-euler": FlowMatchEulerDiscreteScheduler,
    "flow-heun": FlowMatchHeunDiscreteScheduler,
    "flow-lcm": FlowMatchLCMScheduler,
    "flow-dpm++": DPMSolverMultistepScheduler,
    "flow-unipc": UniPCMultistepScheduler,
}
# DDPM and DDIM clip their samples to the range of images by default, which is wrong for latents. PNDM by default
# starts with Runge-Kutta steps, each of which calls the denoiser several times; Stable Diffusion's own configuration
# skips them. A run of few steps must begin at pure noise, which trailing timesteps do (Lin et al. 2024).
_SCHEDULER_SETTINGS: dict[str, dict[str, Any]] = {
    "ddpm": {"clip_sample": False},
    "ddim": {"clip_sample": False},
    "pndm": {"skip_prk_steps": True},
    "lcm": {"clip_sample": False},
    "ddim-trailing": {"clip_sample": False, "timestep_spacing": "trailing"},
    "flow-dpm++": {"prediction_type": "flow_prediction", "use_flow_sigmas": True},
    "flow-unipc": {"prediction_type": "flow_prediction", "use_flow_sigmas": True},
}
_said_notes: set[str] = set()
_EMBEDDED_TEXT = ", ".join(map(repr, EMBEDDED_MODELS))
_HUB_ID = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")


def resolve_model(name_or_path: str | Path, argument: str = "model") -> str:
    """What diffusers loads: ``mini`` and ``mini-flow`` become their folders; a folder or a Hub id stays as it is.

    ``argument`` is what the caller's user calls it, for errors.

    Raises:
        ValueError: no model there, and not spelt like a Hub id.
    """
    name = str(name_or_path)
    folder = Path(embedded_model_path(name) if name in EMBEDDED_MODELS else name).expanduser()
    if (folder / "model_index.json").is_file():
        return str(folder)
    if name in EMBEDDED_MODELS:
        raise ValueError(f"{argument} is {name!r}, but {folder} holds no model; build it with `make {name}`.")
    if folder.exists():
        raise ValueError(
            f"{argument} is {name!r}, which holds no model_index.json; give a folder in diffusers layout."
        )
    if not _HUB_ID.fullmatch(name):
        raise ValueError(
            f"{argument} is {name!r}, which does not exist; give {_EMBEDDED_TEXT}, a folder or a Hub id (owner/name)."
        )
    return name


def load_pipeline(
    model: str | Path,
    *,
    lora: str | Path | None = None,
    few_step_lora: str | Path | None = None,
    scheduler: str | None = None,
    torch_dtype: torch.dtype | None = None,
    revision: str | None = None,
    lora_revision: str | None = None,
    few_step_lora_revision: str | None = None,
    embeddings: Sequence[str] = (),
    quantization: str = "none",
    device: str | torch.device | None = None,
    argument: str = "model",
) -> Any:
    """Load a pipeline of the model's family, safetensors only and running no code from the model's folder.

    Args:
        model: ``mini``, ``mini-flow``, a folder in diffusers layout, or a Hub id.
        lora: folder, file or Hub id of a LoRA in diffusers format.
        few_step_lora: of a second LoRA, distilled for a few steps, to be added to the first.
        scheduler: a key of :data:`SCHEDULERS`, or of :data:`FLOW_SCHEDULERS` for a model of flow matching; None keeps
            the model's own.
        torch_dtype: of the weights; None is float32.
        revision: of the model on the Hub.
        lora_revision: of the LoRA on the Hub.
        few_step_lora_revision: of the second LoRA on the Hub.
        embeddings: textual inversions: ``FILE``, or ``FILE=TOKEN`` to name the word; see :mod:`.text_embeddings`.
        quantization: ``int8`` or ``nf4`` for weights of 8 or 4 bits: see :func:`.quantization.quantization_config`.
        device: where to put it; None leaves it on the CPU.
        argument: what the caller's user calls ``model``, for errors.

    Raises:
        ValueError: an unknown model, family or scheduler, a quantization that cannot be made here, or a LoRA or an
            embedding that is missing or does not fit the model.
    """
    if scheduler is not None and scheduler not in (*SCHEDULERS, *FLOW_SCHEDULERS):
        raise ValueError(f"scheduler is {scheduler!r}; choose one of {', '.join((*SCHEDULERS, *FLOW_SCHEDULERS))}.")
    pipeline_class = load_family(model, revision=revision, argument=argument)
    source = resolve_model(model, argument)
    quantized = quantization_config(quantization, pipeline_class)
    try:
        pipeline = pipeline_class.from_pretrained(
            source,
            dtype=torch_dtype or torch.float32,
            revision=revision,
            use_safetensors=True,
            quantization_config=quantized,
        )
    # a Hub id that is unknown, gated or unreachable ends in an OSError of some kind, missing parts in a ValueError
    except (OSError, ValueError) as error:
        raise _not_loaded(model, argument, error, revision) from error
    # parts of the same names may be those of another family, and would fail at the denoiser's first call
    if misfit := pipeline.family_misfit():
        raise ValueError(f"{argument} is {str(model)!r}, {misfit}.")
    if str(model) not in EMBEDDED_MODELS:
        _say_licence_note(pipeline)
    if scheduler is not None:
        set_scheduler(pipeline, scheduler)
    if lora is not None:
        load_lora(pipeline, lora, revision=lora_revision)
    if few_step_lora is not None:
        load_lora(pipeline, few_step_lora, revision=few_step_lora_revision, argument="few_step_lora")
        # loading the second LoRA leaves only one of the two switched on
        pipeline.set_adapters(sorted({name for names in pipeline.get_list_adapters().values() for name in names}))
    if embeddings and not pipeline.has_textual_inversion:
        raise ValueError(
            f"embeddings is {list(embeddings)}, and {type(pipeline).__name__} takes no textual inversions; leave it"
            " out."
        )
    for entry in embeddings:
        load_embedding(pipeline, *split_embedding(entry))
    return pipeline.to(device) if device is not None else pipeline


def _say_licence_note(pipeline: Family) -> None:
    """What the family says of the licence, the first time in this process, and of several processes in one."""
    note = pipeline.licence_note_of(pipeline.denoiser_network.config)
    if note is None or note in _said_notes or os.environ.get("LOCAL_RANK", "0") != "0":
        return
    _said_notes.add(note)
    say(f"before images of this model train others: {note}")


def load_family(model: str | Path, *, revision: str | None = None, argument: str = "model") -> type[Any]:
    """Our pipeline class for a model, by the class that its ``model_index.json`` names; no weights are read.

    Raises:
        ValueError: no model there, or one of a family that is not known.
    """
    source = resolve_model(model, argument)
    try:
        return FAMILIES[family_of_model(source, revision)].pipeline_class()
    except OSError as error:
        raise _not_loaded(model, argument, error, revision) from error
    except ValueError as error:
        at = "" if revision is None else f" at revision {revision!r}"
        raise ValueError(f"{argument} is {str(model)!r}{at}, {error}.") from error


def _not_loaded(model: str | Path, argument: str, error: Exception, revision: str | None) -> ValueError:
    begin, page = f"{argument} is {str(model)!r}", f"{constants.ENDPOINT}/{model}"
    # the cause stands behind errors of diffusers and transformers
    causes = (error, error.__cause__, error.__context__)
    if any(isinstance(cause, GatedRepoError) for cause in causes):
        return ValueError(
            f"{begin}, which is gated: accept its terms on {page}, and log in (`hf auth login`) or set HF_TOKEN to a"
            " token of the account that may read it."
        )
    if any(isinstance(cause, RevisionNotFoundError) for cause in causes):
        return ValueError(
            f"{begin}, which has no revision {revision!r}; give a branch, a tag or a commit, which {page}/commits/main"
            " lists."
        )
    if any(isinstance(cause, RemoteEntryNotFoundError) for cause in causes):
        at = "" if revision is None else f" at revision {revision!r}"
        return ValueError(f"{begin}, which holds no model in diffusers layout{at}. {_first_line(error)}")
    return ValueError(
        f"{begin}, which could not be loaded; give {_EMBEDDED_TEXT}, a folder in diffusers layout or the id of a"
        f" public Hub model (owner/name). {_first_line(error)}"
    )


def set_scheduler(pipeline: Family, name: str) -> None:
    """Replace the scheduler by the one of that short name, with the model's own noise schedule.

    Raises:
        ValueError: a scheduler of the other kind: predicted noise and velocities are walked along in different ways.
    """
    if pipeline.scheduler.config.get("prediction_type") == "trigflow":
        raise ValueError(
            f"scheduler is {name!r}, and {type(pipeline).__name__} has steps of its own kind"
            f" ({type(pipeline.scheduler).__name__}); leave it out."
        )
    known = FLOW_SCHEDULERS if is_flow_scheduler(pipeline.scheduler) else SCHEDULERS
    if name not in known:
        kind = "velocities (flow matching)" if known is FLOW_SCHEDULERS else "noise"
        raise ValueError(
            f"scheduler is {name!r}, and {type(pipeline).__name__} predicts {kind}; choose one of {', '.join(known)}."
        )
    settings = dict(_SCHEDULER_SETTINGS.get(name, {}))
    if settings.get("use_flow_sigmas"):
        settings["flow_shift"] = pipeline.scheduler.config.get("shift", 1.0)
    pipeline.scheduler = known[name].from_config(pipeline.scheduler.config, **settings)


def load_lora(pipeline: Any, lora: str | Path, *, revision: str | None = None, argument: str = "lora") -> None:
    """Load a LoRA into the pipeline after checking every key and shape, so that a misfit leaves it untouched.

    Raises:
        ValueError: no LoRA there, or one that does not fit.
    """
    source = str(Path(lora).expanduser()) if Path(lora).expanduser().exists() else str(lora)
    try:
        # the pipeline reads state dict and metadata from the path: alpha stands in the metadata
        state_dict, *_ = pipeline.lora_state_dict(
            source, use_safetensors=True, return_lora_metadata=True, revision=revision
        )
    # diffusers' converters of other layouts trip over those that they do not know in many ways
    except Exception as error:
        if family := lora_family(_weight_shapes(source)):
            raise ValueError(
                f"{argument} is {str(lora)!r}, which does not fit the model: it seems to be made for {family}; use the"
                " model it was made for."
            ) from error
        raise ValueError(
            f"{argument} is {str(lora)!r}, which could not be read; give a folder with"
            f" {pipeline.lora_file}, such a file, or a Hub id. {_first_line(error)}"
        ) from error
    if misfit := _misfit(pipeline, state_dict):
        shapes = _weight_shapes(source) or {key: value.shape for key, value in state_dict.items()}
        family = lora_family(shapes)
        own = family_of(type(pipeline).__name__)
        seems = f" it seems to be made for {family};" if family and own not in re.split(r"[(), ]+", family) else ""
        raise ValueError(
            f"{argument} is {str(lora)!r}, which does not fit the model: {misfit};{seems} use the model it was made"
            " for."
        )
    # each key was looked at above, but diffusers warns of each part for which there is none, and peft of a second LoRA
    with hushed("diffusers.loaders"), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Already found a `peft_config`")
        pipeline.load_lora_weights(source, use_safetensors=True, revision=revision)


def _weight_shapes(source: str) -> dict[str, list[int]]:
    """Shapes of the weights in a LoRA's file on the disk, by name; none where there is not one file."""
    place = Path(source)
    files = list(place.glob("*.safetensors")) if place.is_dir() else [place]
    if len(files) != 1 or not files[0].is_file():
        return {}
    try:
        with safe_open(files[0], framework="pt") as weights:
            return {key: weights.get_slice(key).get_shape() for key in weights.keys()}  # noqa: SIM118
    except SafetensorError:
        return {}


def _misfit(pipeline: Any, state_dict: dict[str, torch.Tensor]) -> str | None:
    """Why the LoRA does not fit, or None; keys are ``<part>.<module>.lora_A.weight (r, in)``, ``lora_B (out, r)``."""
    denoiser = pipeline.denoiser_part
    parts = {denoiser: pipeline.denoiser_network, **pipeline.text_networks}
    foreign = [key for key in state_dict if key.split(".")[0] not in parts or "lora" not in key]
    if foreign or not state_dict:
        return f"{foreign[0]!r} belongs to no part of it" if foreign else "it holds no weights"
    peft_names = {"lora_A" in key or "lora_B" in key for key in state_dict if key.startswith(f"{denoiser}.")}
    if len(peft_names) > 1:
        # diffusers decides by the first key and then drops the keys of the other kind
        return "its weights are named in two ways, lora_A and lora.down, of which diffusers would load only one"
    for prefix, part in parts.items():
        own = {
            key.removeprefix(f"{prefix}."): value for key, value in state_dict.items() if key.startswith(f"{prefix}.")
        }
        if not own:
            continue
        if prefix != denoiser:
            own = convert_state_dict_to_peft(own)
        elif prefix == "unet":
            own = convert_unet_state_dict_to_peft(own)
        modules = dict(part.named_modules())
        for key, value in own.items():
            module_name, _, side = key.removesuffix(".weight").rpartition(".")
            # transformers dropped this level from its text encoder; diffusers drops it from the keys, too
            module = modules.get(module_name) or modules.get(module_name.removeprefix("text_model."))
            weight = getattr(module, "weight", None)
            if weight is None:
                return f"it has no {prefix}.{module_name}"
            axis = {"lora_A": 1, "lora_B": 0}.get(side)
            if axis is not None and value.shape[axis] != weight.shape[axis]:
                return f"{prefix}.{key} is {tuple(value.shape)} beside a weight of {tuple(weight.shape)}"
    return None


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
