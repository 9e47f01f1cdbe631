"""``train_ubgen.py`` on Stable Diffusion 3 and FLUX.1: resumed to the bit, and its LoRA in plain diffusers."""

import shutil

import pytest
import torch

from support.checkpoint_equality import assert_equal_checkpoints
from support.sd3_flux import CASES, NAMES, seeded, stock_images
from support.tiny_clip import build_tiny_clip
from ubgen_pipeline.models.loading import load_pipeline
from ubgen_training.ubgen.command import main

DRAWING = {"num_inference_steps": 2, "height": 32, "width": 32}


@pytest.mark.parametrize("name", ["sd3", "sd3_without_t5", "flux_dev"])
def test_a_training_is_resumed_to_the_bit_and_its_lora_goes_into_plain_diffusers(name, tmp_path):
    case, model, whole, again = CASES[name], *(tmp_path / part for part in ("model", "whole", "again"))
    case.stock().save_pretrained(model)
    flags = [
        *("--model_name_or_path", str(model), "--class_names", *NAMES, "--height", "32", "--width", "32"),
        *("--num_inference_steps", "2", "--num_gradient_steps", "1", "--lora_rank", "2", "--learning_rate", "0.1"),
        *("--reward_funcs", "clip_alignment", "--clip_model", build_tiny_clip(tmp_path / "clip")),
        *("--adversarial_weight", "0", "--per_device_train_batch_size", "2", "--max_steps", "2", "--save_steps", "1"),
        *("--logging_steps", "1", "--heldout_steps", "0", "--sample_steps", "0", "--use_cpu", "--seed", "3"),
        *("--disable_tqdm", "true", "--guidance_scale", "3"),
    ]
    assert main([*flags, "--output_dir", str(whole)]) == 0
    shutil.copytree(whole / "checkpoint-1", again / "checkpoint-1")
    assert main([*flags, "--output_dir", str(again), "--resume_from_checkpoint", "last"]) == 0
    assert_equal_checkpoints(again / "checkpoint-2", whole / "checkpoint-2")

    ours, stock = load_pipeline(model, lora=whole), case.stock()
    ours.set_progress_bar_config(disable=True)
    noise = seeded(ours)
    untrained = stock_images(stock, NAMES, noise, guidance_scale=3.0, **DRAWING)
    stock.load_lora_weights(whole)
    drawn = ours(NAMES, latents=noise, guidance_scale=3.0, output_type="pt", **DRAWING).images
    assert (drawn - untrained).abs().max() > 1e-3
    expected = stock_images(stock, NAMES, noise, guidance_scale=3.0, **DRAWING)
    torch.testing.assert_close(drawn, expected, rtol=0, atol=1e-5)
