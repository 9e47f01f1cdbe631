"""The trainer from the command line to the LoRA in plain diffusers, and its resume against an uninterrupted run."""

import json
import os
import shutil
import subprocess

import pytest
import torch
from diffusers import DDPMScheduler, StableDiffusionPipeline
from safetensors.torch import load_file

from support import ROOT
from support.tiny_clip import build_tiny_clip
from support.warm_python import warm_programs
from ubgen_pipeline.initial_latents import draw_latents, step_generators
from ubgen_pipeline.models.loading import load_pipeline
from ubgen_training.checkpoints.folders import find_checkpoint
from ubgen_training.lora.adapter import LoraSettings
from ubgen_training.lora.lora_files import load_lora_into
from ubgen_training.sampler.sampler_model import SamplerModel, SamplingSettings
from ubgen_training.ubgen.ubgen_config import UbGenConfig
from ubgen_training.ubgen.ubgen_trainer import UbGenTrainer

SCRIPT = ROOT / "training" / "train_ubgen.py"
LORA = "pytorch_lora_weights.safetensors"
NAMES = ["circle", "star", "ring"]
FAST = [
    *("--num_inference_steps", "4", "--num_gradient_steps", "2", "--lora_rank", "4", "--learning_rate", "1e-2"),
    *("--per_device_train_batch_size", "2", "--save_steps", "1", "--seed", "3", "--use_cpu", "--disable_tqdm", "true"),
    *("--reward_funcs", "clip_alignment"),
]


def _run(*flags, check=True, launcher=()):
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [warm_programs() / "python", *launcher, str(SCRIPT), *map(str, flags)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert not check or done.returncode == 0, done.stderr[-3000:]
    return done


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory):
    return build_tiny_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="module")
def common(tiny_model, clip_folder):
    return ["--model_name_or_path", tiny_model, "--clip_model", clip_folder, "--class_names", *NAMES, *FAST]


@pytest.fixture(scope="module")
def straight(common, tmp_path_factory):
    """Three updates without interruption."""
    folder = tmp_path_factory.mktemp("straight")
    done = _run(*common, "--max_steps", 3, "--sample_steps", 3, "--output_dir", folder)
    return folder, done.stdout


@pytest.fixture(scope="module")
def resumed(common, straight, tmp_path_factory):
    """A process that accelerate starts with all its imports, from the last complete checkpoint to the third update."""
    folder = tmp_path_factory.mktemp("resumed")
    shutil.copytree(straight[0] / "checkpoint-1", folder / "checkpoint-1")
    # a checkpoint cut short by a kill: newer, without the trainer's state
    (folder / "checkpoint-2").mkdir()
    (folder / "checkpoint-2" / LORA).write_bytes(b"")
    flags = ["--max_steps", 3, "--output_dir", folder, "--resume_from_checkpoint", "last"]
    _run(*common, *flags, launcher=["-m", "accelerate.commands.launch", "--cpu", "--num_processes", "1"])
    return folder


def test_resumed_weights_are_bit_equal(straight, resumed):
    for file in (LORA, "checkpoint-3/optimizer.safetensors", "checkpoint-3/extra_state.safetensors"):
        own, other = load_file(resumed / file), load_file(straight[0] / file)
        assert own.keys() == other.keys()
        assert all(torch.equal(own[name], other[name]) for name in own)
    first = load_file(straight[0] / "checkpoint-1" / LORA)
    assert any(not torch.equal(value, first[name]) for name, value in load_file(straight[0] / LORA).items())


def test_nothing_is_pickled_and_no_token_is_written(straight, resumed):
    for folder in (straight[0], resumed):
        files = [file for file in folder.rglob("*") if file.is_file()]
        assert {file.suffix for file in files} <= {".safetensors", ".json", ".png", ".md"}
        assert files


def test_rewards_and_discriminator_are_logged(straight):
    history = json.loads((straight[0] / "checkpoint-3" / "trainer_state.json").read_text())["log_history"]
    warm_up = next(entry for entry in history if "discriminator_warmup/accuracy" in entry)
    first = next(entry for entry in history if "loss" in entry)
    assert warm_up["step"] == 0 and history[0]["step"] == 0 and "heldout/diversity" in history[0]
    for name in ("rewards/clip_alignment", "losses/adversarial", "discriminator/loss", "discriminator/accuracy"):
        assert name in first
    assert first["grad_norm"] > 0
    assert [entry["step"] for entry in history if "rewards/clip_alignment" in entry] == [1, 2, 3]


def test_sample_grids_show_training(straight):
    grids = sorted((straight[0] / "samples").iterdir())
    assert [grid.name for grid in grids] == ["step_000000.png", "step_000003.png"]
    assert grids[0].read_bytes() != grids[1].read_bytes()


def _plain_images(model, lora=None):
    """Two images of a plain diffusers pipeline from the noise that seeds 5 and 6 stand for."""
    pipeline = StableDiffusionPipeline.from_pretrained(model, safety_checker=None)
    pipeline.scheduler = DDPMScheduler.from_config(pipeline.scheduler.config, clip_sample=False)
    pipeline.set_progress_bar_config(disable=True)
    if lora is not None:
        pipeline.load_lora_weights(lora)
    return pipeline(
        ["star", "ring"],
        num_inference_steps=4,
        guidance_scale=2.0,
        latents=draw_latents([5, 6], (4, 8, 8)),
        generator=step_generators([5, 6]),
        output_type="pt",
    ).images


def test_lora_in_plain_diffusers_gives_what_the_trainer_saw(straight, tiny_model):
    folder, _ = straight
    sampler = SamplerModel(
        load_pipeline(tiny_model, scheduler="ddpm"), NAMES, LoraSettings(4), SamplingSettings(4, 2.0)
    )
    load_lora_into(sampler.pipeline, folder)
    with torch.no_grad():
        seen = sampler(torch.tensor([1, 2]), [5, 6]).clamp(0, 1)
    base, tuned = _plain_images(tiny_model), _plain_images(tiny_model, folder)
    assert (tuned - seen).abs().max() < 1e-5
    assert (tuned - base).abs().max() > 1e-2


def test_lora_of_another_rank_is_refused_on_resume(straight, tiny_model):
    sampler = SamplerModel(load_pipeline(tiny_model), NAMES, LoraSettings(8))
    with pytest.raises(ValueError, match="does not fit the model configured"):
        load_lora_into(sampler.pipeline, straight[0])


def _trainer(model, folder, reward, **settings):
    config = UbGenConfig(
        output_dir=str(folder),
        num_inference_steps=2,
        num_gradient_steps=1,
        reward_weights=[1.0],
        adversarial_weight=0.0,
        per_device_train_batch_size=2,
        max_steps=3,
        use_cpu=True,
        save_strategy="no",
        disable_tqdm=True,
        **settings,
    )
    sampler = SamplerModel(load_pipeline(model, scheduler="ddpm"), NAMES, LoraSettings(2), SamplingSettings(2, 1.0))
    return UbGenTrainer(sampler, config, NAMES, reward)


@pytest.mark.parametrize("strategy", ["refl", "leap", "direct_align"])
def test_a_scheduler_without_a_jump_is_refused_before_anything_is_drawn(tiny_model, tmp_path, monkeypatch, strategy):
    def no_jump(scheduler):
        raise ValueError(f"the scheduler is {type(scheduler).__name__}")

    monkeypatch.setattr("ubgen_training.ubgen.ubgen_trainer.check_jump", no_jump)
    with pytest.raises(ValueError, match="the scheduler is DDPMScheduler"):
        _trainer(tiny_model, tmp_path, lambda images, *_, **kwargs: images.mean(), gradient_strategy=strategy)


def test_a_nan_stops_training_naming_step_and_reward(tiny_model, tmp_path):
    def brightness(images, class_names, labels, step, **kwargs):
        return images.mean(dim=(1, 2, 3)) * (float("nan") if step == 2 else 1.0)

    with pytest.raises(FloatingPointError, match="step 2: brightness is not finite"):
        _trainer(tiny_model, tmp_path, brightness).train()


def test_training_raises_a_reward_and_accumulation_divides_the_loss(random_mini_model, tmp_path):
    """Seeds differ by update, rank and micro-batch; the brightness of the images rises."""
    seen = []

    def brightness(images, class_names, labels, seeds, **kwargs):
        if images.requires_grad:  # not the evaluations, whose samples are fixed
            seen.append(tuple(seeds))
        return images.mean(dim=(1, 2, 3))

    trainer = _trainer(
        random_mini_model, tmp_path, brightness, gradient_accumulation_steps=2, learning_rate=1e-2, class_repeats=4
    )
    with torch.no_grad():
        before = trainer.model(torch.tensor([0, 1]), [1, 2]).mean()
    trainer.train()
    with torch.no_grad():
        after = trainer.model(torch.tensor([0, 1]), [1, 2]).mean()
    assert len(set(seen)) == len(seen) == 6
    assert after > before


def test_noise_depends_on_the_rank(tiny_model, tmp_path):
    trainer = _trainer(tiny_model, tmp_path, lambda images, *_, **__: images.mean(dim=(1, 2, 3)))
    draws = []
    for rank in (0, 1):
        trainer.args.__class__.process_index = property(lambda self, rank=rank: rank)
        try:
            draws.append(torch.rand(3, generator=trainer._generator("train/0", 4)))
        finally:
            del trainer.args.__class__.process_index
    assert not torch.equal(*draws)


def test_find_checkpoint_takes_a_folder_only_if_complete(tmp_path):
    assert find_checkpoint(None, tmp_path) is None
    with pytest.raises(ValueError, match="no complete checkpoint"):
        find_checkpoint(str(tmp_path), tmp_path)
