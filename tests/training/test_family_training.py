"""``train_ubgen.py`` on other families than Stable Diffusion: resumed to the bit; its LoRA in plain diffusers.

One of each kind: packed latents and guidance that is read; three text encoders of which one is missing; steps of its
own kind; a LoRA in peft's file; prompts in lists; velocities of the other sign.
"""

import shutil

import pytest
import torch
from peft import PeftModel

from support.checkpoint_equality import assert_equal_checkpoints
from support.family_models import CASES
from support.tiny_clip import build_tiny_clip
from ubgen_pipeline.models.families import FAMILIES
from ubgen_pipeline.models.loading import load_pipeline
from ubgen_training.ubgen.command import main

PROMPTS = ["circle", "big star"]
CASE_NAMES = ("flux", "sd3 without T5", "sana-sprint", "pixart-sigma", "cogview4", "lumina2")


@pytest.fixture(scope="module", params=CASE_NAMES)
def case(request):
    return CASES[request.param]


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return build_tiny_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="module")
def flags(case, clip, tmp_path_factory):
    """Two updates of two images, of one gradient step each."""
    model = tmp_path_factory.mktemp("model")
    case.build().save_pretrained(model)
    return [
        *("--model_name_or_path", str(model), "--class_names", *PROMPTS, "--height", "32", "--width", "32"),
        *("--num_inference_steps", "2", "--num_gradient_steps", "1", "--lora_rank", "2", "--learning_rate", "0.1"),
        *("--reward_funcs", "clip_alignment", "--clip_model", str(clip), "--adversarial_weight", "0"),
        *("--per_device_train_batch_size", "2", "--max_steps", "2", "--save_steps", "1", "--logging_steps", "1"),
        *("--heldout_steps", "0", "--sample_steps", "0", "--use_cpu", "--disable_tqdm", "true", "--seed", "3"),
    ]


@pytest.fixture(scope="module")
def trained(flags, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    assert main([*flags, "--output_dir", str(folder)]) == 0
    return folder


def test_a_resumed_training_is_equal_to_the_bit(flags, trained, tmp_path):
    shutil.copytree(trained / "checkpoint-1", tmp_path / "checkpoint-1")
    assert main([*flags, "--output_dir", str(tmp_path), "--resume_from_checkpoint", "last"]) == 0
    assert_equal_checkpoints(tmp_path / "checkpoint-2", trained / "checkpoint-2")


def test_the_lora_draws_the_same_in_plain_diffusers_as_its_card_says(case, flags, trained):
    ours = load_pipeline(flags[1], lora=trained)
    ours.set_progress_bar_config(disable=True)
    drawn = case.draw(ours, PROMPTS)
    assert (drawn - case.draw(case.pipeline, PROMPTS)).abs().max() > 1e-3
    stock, line, card = case.build(), FAMILIES[case.family], (trained / "README.md").read_text()
    # what a model came without is said, or diffusers refuses it
    left_out = "" if case.options.get("with_t5", True) else ", text_encoder_3=None, tokenizer_3=None"
    assert f"pipeline = {line.stock_names[0]}.from_pretrained(base{left_out})\n" in card
    has_loader = hasattr(stock, "load_lora_weights")
    assert ("pipeline.load_lora_weights(trained)" in card) == has_loader
    assert ("PeftModel.from_pretrained(pipeline.transformer, trained)" in card) != has_loader
    assert (trained / "adapter_config.json").is_file() != has_loader
    assert (trained / line.pipeline_class().lora_file).is_file()
    note = ours.licence_note_of(ours.transformer.config)
    assert ("Before its images train other models" in card) == (note is not None)
    if has_loader:
        stock.load_lora_weights(trained)
    else:
        stock.transformer = PeftModel.from_pretrained(stock.transformer, trained).base_model.model
    torch.testing.assert_close(case.draw_stock(stock, PROMPTS), drawn, rtol=0, atol=1e-4)
