"""Training from rewards on other families than Stable Diffusion: resumed to the bit; its LoRA in plain diffusers."""

import importlib
import shutil

import pytest
import torch
from peft import PeftModel

from support.checkpoint_equality import assert_equal_checkpoints
from support.tiny_clip import build_tiny_clip
from ubgen_pipeline.initial_latents import draw_latents, step_generators
from ubgen_pipeline.models.families import FAMILIES
from ubgen_pipeline.models.loading import load_pipeline
from ubgen_training.ubgen.command import main

NAMES = ["circle", "big star"]
FAMILY_NAMES = ("sana", "sana-sprint", "pixart-sigma", "cogview4", "lumina2")
DRAWING = {"num_inference_steps": 2, "height": 32, "width": 32, "output_type": "pt"}


@pytest.fixture(scope="module", params=FAMILY_NAMES)
def family(request):
    return request.param


def tiny_model(family):
    pipeline = importlib.import_module(f"support.tiny_models.{family.replace('-', '_')}").build()
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="module")
def flags(family, tmp_path_factory):
    """Two updates of two images, of one gradient step each."""
    model, clip = tmp_path_factory.mktemp(family), build_tiny_clip(tmp_path_factory.mktemp("clip"))
    tiny_model(family).save_pretrained(model)
    return [
        *("--model_name_or_path", str(model), "--class_names", *NAMES, "--height", "32", "--width", "32"),
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


def test_the_lora_is_of_all_targets_and_draws_the_same_in_plain_diffusers(family, flags, trained):
    ours, plain = (load_pipeline(flags[1], lora=lora) for lora in (trained, None))
    layers = {name for name, _ in ours.transformer.named_modules() if name.endswith("lora_A.default_0")}
    targets = [n for n, _ in plain.transformer.named_modules() if n.endswith(tuple(plain.lora_targets))]
    assert len(layers) == len(targets) > 0
    for pipeline in (ours, plain):
        pipeline.set_progress_bar_config(disable=True)
    drawn = ours(NAMES, **DRAWING)
    assert (drawn.images - plain(NAMES, **DRAWING).images).abs().max() > 1e-3

    stock = tiny_model(family)
    if family == "pixart-sigma":
        # diffusers has no loader for this denoiser, so that peft reads its own file
        stock.transformer = PeftModel.from_pretrained(stock.transformer, trained).base_model.model
    else:
        stock.load_lora_weights(trained)
    noise = draw_latents(drawn.seeds, plain.latent_shape(32, 32))
    as_asked = {"use_resolution_binning": False, "clean_caption": False}
    settings = {**DRAWING, **({} if family in ("cogview4", "lumina2") else as_asked)}
    if family == "sana-sprint":
        settings["generator"] = step_generators(drawn.seeds[:1])
    again = stock(NAMES[:1], latents=noise[:1], **settings).images
    torch.testing.assert_close(again, drawn.images[:1], rtol=0, atol=1e-5)


def test_its_file_has_the_familys_name(family, trained):
    assert (trained / FAMILIES[family].pipeline_class().lora_file).is_file()
    assert (trained / "adapter_config.json").is_file() == (family == "pixart-sigma")


def test_the_card_says_how_plain_diffusers_loads_it(family, trained):
    line, card = FAMILIES[family], (trained / "README.md").read_text()
    assert f"pipeline = {line.stock_names[0]}.from_pretrained(base)\n" in card
    assert ("PeftModel.from_pretrained(pipeline.transformer, trained)" in card) == (family == "pixart-sigma")
    assert ("pipeline.load_lora_weights(trained)" in card) == (family != "pixart-sigma")
    note = line.pipeline_class().licence_note
    assert ("Before its images train other models" in card) == (note is not None)
