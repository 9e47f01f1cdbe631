"""Fine-tune a text-to-image model's LoRA from class names with the ubGen loss.

    accelerate launch training/train_ubgen.py --config training/configs/mini.yaml --output_dir out
    python training/train_ubgen.py --model_name_or_path mini --class_names circle star --max_steps 2

Settings are those of ``UbGenConfig``, as flags or in a YAML file; ``--help`` lists them.
"""

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

from ubgen_pipeline.class_prompts import class_prompts, load_class_names
from ubgen_pipeline.models import load_pipeline
from ubgen_pipeline.settings_parser import parse_settings, run_command
from ubgen_training.checkpoint_folders import find_checkpoint
from ubgen_training.clip_encoders import load_clip_encoder
from ubgen_training.reward_functions import check_reward_weights
from ubgen_training.reward_registry import build_reward, needs_clip_encoder, probe_rewards
from ubgen_training.sampler_model import LoraSettings, SamplerModel, SamplingSettings
from ubgen_training.ubgen_config import UbGenConfig
from ubgen_training.ubgen_trainer import UbGenTrainer


def train(config: UbGenConfig) -> Path:
    """Train as ``config`` says and save the LoRA; returns its folder.

    Raises:
        ValueError: a setting that cannot work, found before any training.
        FloatingPointError: a reward or the loss became NaN or infinite.
    """
    checkpoint = find_checkpoint(config.resume_from_checkpoint, str(config.output_dir))
    check_writable(str(config.output_dir))
    check_reward_weights(config.reward_funcs, config.reward_weights)
    if not config.class_names and not config.classes:
        raise ValueError("class_names is empty; give --class_names A B ... or --classes FILE_OR_BUILT_IN_LIST.")
    if config.class_names and config.classes:
        raise ValueError(f"both class_names and classes ({config.classes!r}) are given; give one of them.")
    prompts = class_prompts(load_class_names(config.class_names or str(config.classes)), config.prompt_template)
    names = [prompt.name for prompt in prompts]
    if len(names) < 2 and config.adversarial_weight > 0:
        raise ValueError(
            f"class_names holds {names!r} only; the adversarial term sets an image against a name of another class: "
            "give two or more, or --adversarial_weight 0."
        )
    dtype = torch.float16 if config.fp16 else torch.bfloat16 if config.bf16 else torch.float32
    pipeline = load_pipeline(
        config.model_name_or_path, scheduler=config.scheduler, revision=config.model_revision, torch_dtype=dtype
    )
    texts = [prompt.prompt for prompt in prompts]
    pipeline.check_prompt_lengths(texts, names)
    sampler = SamplerModel(
        pipeline,
        texts,
        LoraSettings(config.lora_rank, config.lora_alpha, tuple(config.lora_target_modules)),
        SamplingSettings(
            config.num_inference_steps,
            config.guidance_scale,
            config.height,
            config.width,
            config.reward_micro_batch_size,
        ),
        seed=config.seed,
        train_method=config.train_method,
    )
    needs_clip = config.adversarial_weight > 0 or needs_clip_encoder(
        [*config.reward_funcs, *config.heldout_reward_funcs]
    )
    encoder = load_clip_encoder(config.clip_model) if needs_clip else None
    rewards = [build_reward(name, config, encoder, names) for name in config.reward_funcs]
    heldout = [build_reward(name, config, encoder, names) for name in config.heldout_reward_funcs]
    trainer = UbGenTrainer(sampler, config, names, rewards, encoder, heldout_reward_funcs=heldout)
    height, width = (side * pipeline.vae_scale_factor for side in sampler.latent_shape[-2:])
    probe_rewards(rewards, names, height=height, width=width, encoder=encoder, device=config.device)
    trainer.train(resume_from_checkpoint=checkpoint)
    trainer.save_model()
    trainer.save_state()
    return Path(str(config.output_dir))


def check_writable(folder: str) -> None:
    """Raise ``ValueError`` unless ``folder`` exists, or can be made, and takes files."""
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ValueError(
            f"output_dir {folder!r} cannot be written ({error.strerror or error}); choose another folder."
        ) from error


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, build, run, publish; a bad setting prints one line and gives exit code 2, a NaN gives 1."""

    def body(argv: Sequence[str]) -> int:
        config = parse_settings(UbGenConfig, argv, prog="train_ubgen.py", description=__doc__.splitlines()[0])
        try:
            print(f"LoRA saved in {train(config)}")
        except FloatingPointError as error:
            print(f"ubgen: error: {error}", file=sys.stderr)
            return 1
        return 0

    return run_command(body, argv)


if __name__ == "__main__":
    sys.exit(main())
