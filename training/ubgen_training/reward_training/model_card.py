"""The facts of a finished training for its model card."""

from collections import defaultdict
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from ubgen_hub_cards.model_card import CARD_FILE, Evaluation, HowToLoad, ModelFacts, curve_of, render_model_card
from ubgen_pipeline.family import Family
from ubgen_pipeline.files.whole_files import write_whole_text
from ubgen_pipeline.mini import EMBEDDED_MODELS
from ubgen_pipeline.models.families import FAMILIES, family_of
from ubgen_pipeline.prompts.class_prompts import ClassPrompt

from .trainer import SamplerTrainer

LIBRARIES = ("ubgen", "torch", "diffusers", "transformers", "peft", "trl", "accelerate")
EVALUATED = ("fixed_samples/", "heldout/")
CURVES = ("loss", "losses/", "rewards/", "discriminator/accuracy", "discriminator/loss", "policy/")
NOT_SHOWN = ("heldout/diversity/", "heldout/alarm")
# settings that may hold any text, but no path of this machine
TEXT_SETTINGS = ("prompt_template", "clip_prompt", "clip_negative_prompt", "relative_prompt")


def write_training_card(trainer: SamplerTrainer, prompts: Sequence[ClassPrompt], method: str) -> Path | None:
    """Write ``README.md`` beside the trained weights; returns its path, or None on the other processes.

    Args:
        trainer: after training and saving.
        prompts: of its classes, in label order.
        method: one sentence of Markdown on how the weights were trained.
    """
    if not trainer.args.should_save:
        return None
    card = Path(str(trainer.args.output_dir)) / CARD_FILE
    write_whole_text(card, render_model_card(training_facts(trainer, prompts, method)))
    return card


def training_facts(trainer: SamplerTrainer, prompts: Sequence[ClassPrompt], method: str) -> ModelFacts:
    """What the card says of a training; arguments as in :func:`write_training_card`."""
    args, history = trainer.args, trainer.state.log_history
    # the trainer has filled them in
    assert args.num_inference_steps is not None and args.guidance_scale is not None
    settings = args.settings_to_resume_with()
    folder = Path(str(args.output_dir))
    grids = sorted(path.relative_to(folder).as_posix() for path in (folder / "samples").glob("step_*.png"))
    samples = trainer.reward_guards.samples
    return ModelFacts(
        base_model=args.model_name_or_path,
        train_method=args.train_method,
        method=method,
        class_names=trainer.class_names,
        prompt=prompts[0].prompt,
        num_inference_steps=args.num_inference_steps,
        guidance_scale=args.guidance_scale,
        num_updates=trainer.state.global_step,
        settings={name: value for name, value in settings.items() if name not in TEXT_SETTINGS},
        texts={name: settings[name] for name in TEXT_SETTINGS if settings[name] is not None},
        evaluations=[Evaluation(name, values[0], values[-1]) for name, values in _series(history, EVALUATED).items()],
        curves=[curve_of(name, values) for name, values in _series(history, CURVES).items()],
        alarms=[int(entry["step"]) for entry in history if "heldout/alarm" in entry],
        grids=list(dict.fromkeys([*grids[:1], *grids[-1:]])),
        grid_classes=[trainer.class_names[label] for label in dict.fromkeys(samples.labels.tolist())],
        versions=library_versions(),
        device=_device(args),
        tags=[tag for tag in trainer.tags if tag != "lora" or args.train_method == "lora"],
        how_to_load=how_to_load(trainer.pipeline, args.guidance_scale),
        has_captions=args.captions is not None,
        licence_note=None
        if args.model_name_or_path in EMBEDDED_MODELS
        else trainer.pipeline.licence_note_of(trainer.pipeline.denoiser_network.config),
    )


def how_to_load(pipeline: Family, guidance_scale: float) -> HowToLoad:
    """How plain diffusers draws with weights of that pipeline's denoiser, trained under guidance of that scale."""
    family = FAMILIES[family_of(type(pipeline).__name__) or "sd"]
    (stock,) = [base for base in type(pipeline).__mro__ if base.__name__ == family.stock_names[0]]
    return HowToLoad(
        pipeline_class=family.stock_names[0],
        # FSDP puts its own name before a class's
        denoiser_class=type(pipeline.denoiser_network).__name__.removeprefix("FSDP"),
        denoiser_part=pipeline.denoiser_part,
        has_lora_loader=pipeline.lora_file == Family.lora_file,
        guidance=pipeline.stock_guidance(guidance_scale),
        absent_parts=[
            name
            for name, part in pipeline.components.items()
            if part is None and name not in getattr(stock, "_optional_components", ())
        ],
    )


def library_versions() -> dict[str, str]:
    """The installed versions of what training stands on."""
    versions = {}
    for name in LIBRARIES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            # ubgen may run from a clone without being installed
            continue
    return versions


def _series(history: Sequence[dict[str, Any]], prefixes: tuple[str, ...]) -> dict[str, list[float]]:
    """The values of each figure under one of the prefixes, in the order of the updates."""
    series: dict[str, list[float]] = defaultdict(list)
    for entry in history:
        for name, value in entry.items():
            if name.startswith(prefixes) and not name.startswith(NOT_SHOWN) and isinstance(value, (int, float)):
                series[name].append(float(value))
    return dict(series)


def _device(args: Any) -> str:
    name = torch.cuda.get_device_name(args.device) if args.device.type == "cuda" else args.device.type.upper()
    return f"{args.world_size} x {name}" if args.world_size > 1 else name
