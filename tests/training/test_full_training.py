"""Training every weight of the UNet, by either trainer, from the command to plain diffusers."""

import json
from pathlib import Path

import pytest
import torch
from diffusers import DDPMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import load_file

from support.checkpoint_equality import assert_equal_checkpoints
from support.training_worker import NAMES, build_trainer
from ubgen_pipeline.initial_latents import draw_latents, step_generators

UNET = Path("unet") / "diffusion_pytorch_model.safetensors"
FULL = {"train_method": "full", "learning_rate": 1e-4, "max_steps": 2, "heldout_steps": 0, "sample_steps": 0}


@pytest.fixture(scope="module", params=["ubgen", "ddpo"])
def trained(request, tiny_model, tmp_path_factory):
    """Two updates of every weight, each saved."""
    folder = tmp_path_factory.mktemp(request.param)
    settings = {**FULL, "kind": request.param, **({"kl_weight": 0.0} if request.param == "ddpo" else {})}
    trainer = build_trainer(tiny_model, folder, **settings)
    trainer.train()
    trainer.save_model()
    return folder, trainer, settings


def test_every_weight_is_trained_and_no_adapter_is_left(trained, tiny_model):
    folder, trainer, _ = trained
    before, after = load_file(Path(tiny_model) / UNET), load_file(folder / UNET)
    assert before.keys() == after.keys()
    moved = [name for name in before if not torch.equal(before[name].float(), after[name])]
    # a bias before a normalisation has no gradient in exact arithmetic, and rounding may leave none
    assert len(moved) > 0.95 * len(before)
    assert not list(folder.glob("*lora*")) and trainer.lora_average is None


def test_the_unet_in_plain_diffusers_gives_what_the_trainer_saw(trained, tiny_model):
    folder, trainer, _ = trained
    steps = trainer.args.num_inference_steps
    with torch.no_grad():
        seen = trainer.model(torch.tensor([1, 2]), [5, 6]).clamp(0, 1)

    def plain(**parts):
        pipeline = StableDiffusionPipeline.from_pretrained(tiny_model, safety_checker=None, **parts)
        pipeline.scheduler = DDPMScheduler.from_config(pipeline.scheduler.config, clip_sample=False)
        pipeline.set_progress_bar_config(disable=True)
        noise = {"latents": draw_latents([5, 6], (4, 8, 8)), "generator": step_generators([5, 6])}
        return pipeline(NAMES[1:], num_inference_steps=steps, guidance_scale=2.0, output_type="pt", **noise).images

    tuned = plain(unet=UNet2DConditionModel.from_pretrained(folder, subfolder="unet"))
    assert (tuned - seen).abs().max() < 1e-5
    assert (plain() - seen).abs().max() > 1e-4


def test_it_resumes_bit_equal(trained, tiny_model, tmp_path):
    folder, _, settings = trained
    again = build_trainer(tiny_model, tmp_path, **settings)
    again.train(resume_from_checkpoint=str(folder / "checkpoint-1"))
    assert_equal_checkpoints(tmp_path / "checkpoint-2", folder / "checkpoint-2")
    assert json.loads((folder / "checkpoint-2" / "checkpoint.json").read_text())["resumable"]
