"""Finding and loading a model by name, with a scheduler and a LoRA; whatever does not fit is refused by name."""

import os
from collections.abc import Callable, Sequence
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
from huggingface_hub import constants
from huggingface_hub.errors import GatedRepoError, RemoteEntryNotFoundError, RevisionNotFoundError

from ..commands.console import say
from ..family import Family
from ..mini import EMBEDDED_MODELS, embedded_model_path
from ..scheduler_noise import is_flow_scheduler
from .families import FAMILIES, family_of_model
from .loading_lock import one_at_a_time
from .lora_loading import attach_loras, load_lora
from .loras import HUB_ID, Lora, LoraLike, as_loras
from .model_files import chosen_variant, file_names, missing_part, model_folder
from .outlines import model_outline
from .quantization import quantization_config
from .single_file import load_single_file
from .single_file_kinds import is_single_file
from .sources import completing_model_of, public_name
from .text_embeddings import load_embedding, split_embedding
from .whole_weights import lacking_weights

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
    if folder.is_file():
        return str(folder)
    if folder.exists():
        raise ValueError(
            f"{argument} is {name!r}, which holds no model_index.json; give a folder in diffusers layout, or the"
            " checkpoint of a whole model in one file."
        )
    if not HUB_ID.fullmatch(name):
        raise ValueError(
            f"{argument} is {name!r}, which does not exist; give {_EMBEDDED_TEXT}, a folder or a Hub id (owner/name)."
        )
    return name


@one_at_a_time
def load_pipeline(
    model: str | Path,
    *,
    lora: LoraLike = None,
    few_step_lora: str | Path | Lora | None = None,
    scheduler: str | None = None,
    torch_dtype: torch.dtype | None = None,
    revision: str | None = None,
    variant: str | None = None,
    lora_revision: str | None = None,
    few_step_lora_revision: str | None = None,
    embeddings: Sequence[str] = (),
    quantization: str = "none",
    device: str | torch.device | None = None,
    argument: str = "model",
    check: Callable[[Any], object] | None = None,
) -> Any:
    """Load a pipeline of the model's family, safetensors only and running no code from the model's folder.

    Args:
        model: ``mini``, ``mini-flow``, a folder in diffusers layout, the checkpoint of a whole model in one file, or a
            Hub id.
        lora: folder, file or Hub id of a LoRA, or several of them, all of which are added; ``PATH:0.5`` adds half of
            one, and ``PATH:0`` leaves the model as it is: see :func:`.loras.split_lora`.
        few_step_lora: of another LoRA, distilled for a few steps, to be added to those.
        scheduler: a key of :data:`SCHEDULERS`, or of :data:`FLOW_SCHEDULERS` for a model of flow matching; None keeps
            the model's own.
        torch_dtype: of the weights; None is float32.
        revision: of the model on the Hub, or of the one there that has what a checkpoint in one file lacks.
        variant: of the model's weights, such as ``fp16``; None takes the plain ones, and says so where it must take a
            variant because there are none.
        lora_revision: of the LoRA on the Hub, where there is one.
        few_step_lora_revision: of the one for a few steps.
        embeddings: textual inversions: ``FILE``, or ``FILE=TOKEN`` to name the word; see :mod:`.text_embeddings`.
        quantization: ``int8`` or ``nf4`` for weights of 8 or 4 bits: see :func:`.quantization.quantization_config`.
        device: where to put it; None leaves it on the CPU.
        argument: what the caller's user calls ``model``, for errors.
        check: raises ``ValueError`` for what does not go with the model. Called with its outline, before any weights
            are read; see :func:`.outlines.model_outline`. Not for a checkpoint in one file, nor where there is none.

    Raises:
        ValueError: an unknown model, family or scheduler, a revision of a model that lies here, a quantization that
            cannot be made here, or a LoRA or an embedding that is missing or does not fit the model.
    """
    if scheduler is not None and scheduler not in (*SCHEDULERS, *FLOW_SCHEDULERS):
        raise ValueError(f"scheduler is {scheduler!r}; choose one of {', '.join((*SCHEDULERS, *FLOW_SCHEDULERS))}.")
    pipeline_class = load_family(model, revision=revision, argument=argument)
    source = resolve_model(model, argument)
    if revision is not None and Path(source).exists() and completing_model_of(source) is None:
        raise ValueError(
            f"{argument} is {str(model)!r}, which lies here and has no revisions; leave out {revision!r}."
        )
    dtype = torch_dtype or torch.float32
    loras = [(entry, "lora") for entry in as_loras(lora, lora_revision)]
    loras += [(entry, "few_step_lora") for entry in as_loras(few_step_lora, few_step_lora_revision, "few_step_lora")]
    if is_single_file(source):
        pipeline = _from_file(
            pipeline_class, source, dtype, argument, revision=revision, variant=variant, quantization=quantization
        )
    else:
        chosen = _variant(source, model, variant, revision, argument)
        if lacking := pipeline_class.lacking_part(pipeline_class.load_config(source, revision=revision)):
            raise ValueError(f"{argument} is {str(model)!r}, {lacking}.")
        outline = model_outline(pipeline_class, source, revision)
        if outline is not None:
            _check_family(outline, model, argument)
            if scheduler is not None:
                set_scheduler(outline, scheduler)
            if check is not None:
                check(outline)
            for entry, name in loras:
                load_lora(outline, entry.source, revision=entry.revision, argument=name, check_only=True)
            del outline
        quantized = quantization_config(quantization, pipeline_class)
        try:
            pipeline = pipeline_class.from_pretrained(
                source,
                dtype=dtype,
                revision=revision,
                variant=chosen,
                use_safetensors=True,
                quantization_config=quantized,
            )
        # a Hub id that is unknown, gated or unreachable ends in an OSError of some kind, missing parts in a ValueError
        except (OSError, ValueError) as error:
            raise _not_loaded(model, argument, error, revision) from error
        # of quantized weights the numbers are others
        folder = model_folder(source, revision) if quantized is None else None
        if folder is not None and (lacking := lacking_weights(pipeline, folder, chosen)):
            raise ValueError(f"{argument} is {str(model)!r}, {lacking}.")
    _check_family(pipeline, model, argument)
    if str(model) not in EMBEDDED_MODELS:
        note = pipeline.licence_note_of(pipeline.denoiser_network.config)
        _say_once(None if note is None else f"before images of this model train others: {note}")
        _say_once(pipeline.defaults_note())
    if scheduler is not None:
        set_scheduler(pipeline, scheduler)
    attach_loras(pipeline, loras)
    if embeddings and not pipeline.has_textual_inversion:
        raise ValueError(
            f"embeddings is {list(embeddings)}, and {type(pipeline).__name__} takes no textual inversions; leave it"
            " out."
        )
    for entry in embeddings:
        load_embedding(pipeline, *split_embedding(entry))
    return pipeline.to(device) if device is not None else pipeline


def _check_family(pipeline: Family, model: str | Path, argument: str) -> None:
    """Raise ``ValueError`` for parts of the same names that are those of another family: they would fail at the
    denoiser's first call."""
    if misfit := pipeline.family_misfit():
        raise ValueError(f"{argument} is {str(model)!r}, {misfit}.")


def _from_file(
    pipeline_class: Any,
    source: str,
    dtype: torch.dtype,
    argument: str,
    *,
    revision: str | None,
    variant: str | None,
    quantization: str,
) -> Any:
    """The pipeline of a checkpoint in one file.

    Raises:
        ValueError: a file that cannot be read, or a setting that takes a folder.
    """
    for name, value, usual in (("variant", variant, None), ("quantization", quantization, "none")):
        if value != usual:
            raise ValueError(
                f"{name} is {value!r}, and {argument} is the file {source!r}; leave it out, or give a folder in"
                " diffusers layout."
            )
    try:
        return load_single_file(pipeline_class, Path(source), dtype, revision)
    # the converters ask for weights by name
    except (KeyError, ValueError) as error:
        what = f"which lacks the weights {error}" if isinstance(error, KeyError) else error
        raise ValueError(f"{argument} is {source!r}, {what}.") from error


def _variant(source: str, model: str | Path, asked: str | None, revision: str | None, argument: str) -> str | None:
    """The variant of the weights to load: the one asked for, or where there are no plain weights the one there is.

    Raises:
        ValueError: no such variant, or weights that are not loaded.
    """
    try:
        names, parts = file_names(source, revision)
        if missing := missing_part(names, parts):
            raise ValueError(missing)
        chosen = chosen_variant(names, parts, asked)
    except OSError as error:
        raise _not_loaded(model, argument, error, revision) from error
    except ValueError as error:
        at = "" if revision is None else f" at revision {revision!r}"
        name = argument if asked is None else f"variant is {asked!r}, and {argument}"
        raise ValueError(f"{name} is {str(model)!r}{at}, {error}.") from error
    if chosen is not None and asked is None and os.environ.get("LOCAL_RANK", "0") == "0":
        say(f"{argument} {public_name(str(model))}: it holds no plain weights; its variant {chosen} is loaded")
    return chosen


def _say_once(note: str | None) -> None:
    """What the family says of the model, the first time in this process, and of several processes in one."""
    if note is None or note in _said_notes or os.environ.get("LOCAL_RANK", "0") != "0":
        return
    _said_notes.add(note)
    say(note)


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


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
