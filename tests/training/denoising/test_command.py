"""Denoising training by the command: exact resume, models that load again, and what is refused."""

import json
import shutil

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DiffusionPipeline,
    StableDiffusionPipeline,
    UNet2DConditionModel,
    UniPCMultistepScheduler,
)
from peft import PeftModel
from safetensors.torch import load_file

from support import ROOT
from support.checkpoint_equality import assert_equal_checkpoints
from support.family_models import own_pipeline, tiny_pipeline
from support.image_folders import save_class_folders
from support.small_trainings import NAMES, SETTINGS
from ubgen_pipeline.models.loading import load_pipeline
from ubgen_training.denoising.command import main, train
from ubgen_training.denoising.denoiser_config import DenoiserConfig
from ubgen_training.denoising.denoiser_model import DenoiserModel


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shapes")
    save_class_folders(folder, NAMES, 2)
    return folder


def config(folder, output_dir, model, **settings):
    return DenoiserConfig(
        dataset=str(folder), output_dir=str(output_dir), model_name_or_path=model, **{**SETTINGS, **settings}
    )


@pytest.mark.parametrize(("method", "target"), [("lora", None), ("scratch", "noise")])
def test_resume_is_bit_equal_and_the_model_draws(random_mini_model, folder, tmp_path, method, target):
    straight, resumed = tmp_path / "straight", tmp_path / "resumed"
    settings = {"train_method": method, "target": target, "gradient_accumulation_steps": 1}
    train(config(folder, straight, random_mini_model, **settings))
    shutil.copytree(straight / "checkpoint-1", resumed / "checkpoint-1")
    train(config(folder, resumed, random_mini_model, resume_from_checkpoint="last", **settings))
    last = straight / "checkpoint-3"
    files = [file.relative_to(last) for file in last.rglob("*.safetensors")]
    assert len(files) >= 4
    for name in files:
        # not the bytes: safetensors writes two metadata in any order
        own, other = load_file(last / name), load_file(resumed / "checkpoint-3" / name)
        assert set(own) == set(other) and all(torch.equal(own[key], other[key]) for key in own), name
    if method == "lora":
        pipeline = load_pipeline(random_mini_model, lora=straight)
    else:
        pipeline = load_pipeline(straight)
        assert pipeline.scheduler.config.prediction_type == "epsilon"
        # it is diffusers' own pipeline anywhere, and needs no code of ours
        plain = DiffusionPipeline.from_pretrained(straight)
        assert type(plain) is StableDiffusionPipeline and not list(straight.glob("*.py"))
        assert torch.equal(plain.unet.conv_in.weight, pipeline.unet.conv_in.weight)
        # what is exported is the average
        trained = UNet2DConditionModel.from_pretrained(last, subfolder="unet")
        assert not torch.equal(trained.conv_in.weight, pipeline.unet.conv_in.weight)
    drawn = pipeline(list(NAMES), seed=1, num_inference_steps=2)
    assert len(drawn.images) == 2


@pytest.mark.parametrize("family", ["sd3", "flux2-klein", "pixart-sigma"])
def test_another_familys_lora_is_resumed_to_the_bit_and_draws_in_plain_diffusers(folder, tmp_path, family):
    model, straight, resumed = (tmp_path / name for name in ("model", "straight", "resumed"))
    tiny_pipeline(family).save_pretrained(model)
    settings = {"height": 32, "width": 32, "learning_rate": 0.1, "max_steps": 2, "export_average": False}
    train(config(folder, straight, str(model), **settings))
    shutil.copytree(straight / "checkpoint-1", resumed / "checkpoint-1")
    train(config(folder, resumed, str(model), resume_from_checkpoint="last", **settings))
    assert_equal_checkpoints(resumed / "checkpoint-2", straight / "checkpoint-2")
    kept = json.loads((straight / "denoiser_config.json").read_text())
    scheme = None if family == "pixart-sigma" else "logit_normal"
    assert (kept["weighting"], kept["weighting_scheme"]) == ("debias" if scheme is None else None, scheme)

    drawing = {"seed": 1, "num_inference_steps": 2, "height": 32, "width": 32, "output_type": "pt"}
    stock = tiny_pipeline(family)
    if family == "pixart-sigma":
        stock.transformer = PeftModel.from_pretrained(stock.transformer, straight).base_model.model
    else:
        stock.load_lora_weights(straight)
    ours, plain, untrained = (
        load_pipeline(model, lora=straight),
        own_pipeline(family, stock),
        load_pipeline(model),
    )
    images = [pipeline(["circle"], **drawing).images for pipeline in (ours, plain, untrained)]
    torch.testing.assert_close(images[0], images[1], rtol=0, atol=1e-5)
    assert (images[0] - images[2]).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"weighting_scheme": "mode"}, "weighting_scheme is 'mode', but the model does not predict velocities"),
        ({"weighting_scheme": "debias"}, "weighting_scheme is 'debias'; choose one of logit_normal"),
        ({"weighting": "snr5"}, "weighting is 'snr5'"),
        ({"target": "epsilon"}, "target is 'epsilon'"),
        ({"target": "noise"}, "the model predicts 'velocity'; leave it out, or train from scratch"),
        ({"train_method": "dora"}, "train_method is 'dora'"),
        ({"empty_prompt_share": 2.0}, "empty_prompt_share"),
        ({"streaming": True, "max_steps": -1}, "give max_steps"),
        ({"per_device_train_batch_size": 5}, "has 4 rows"),
    ],
)
def test_bad_settings(random_mini_model, folder, tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        train(config(folder, tmp_path, random_mini_model, **settings))


def test_the_command(random_mini_model, folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    flags = ["--config", "training/configs/mini_denoiser.yaml", "--model_name_or_path", random_mini_model]
    flags += ["--dataset", str(folder), "--max_steps", "1", "--per_device_train_batch_size", "2", "--use_cpu"]
    assert main([*flags, "--output_dir", str(tmp_path / "out")]) == 0
    assert "weights saved in" in capsys.readouterr().out and (tmp_path / "out" / "model_index.json").is_file()
    assert not list((tmp_path / "out").rglob("*.bin"))


def test_the_command_names_what_is_wrong(tmp_path, capsys):
    assert main(["--output_dir", str(tmp_path)]) == 2
    assert "dataset is not given" in capsys.readouterr().err


@pytest.mark.parametrize("scheduler", [DDIMScheduler, UniPCMultistepScheduler])
def test_zero_terminal_snr(random_mini_model, folder, tmp_path, scheduler):
    """The noise at the last timestep says nothing of the image: Debias cannot weigh it, velocity can be learned."""
    pipeline = load_pipeline(random_mini_model)
    pipeline.scheduler = scheduler.from_config(pipeline.scheduler.config, rescale_betas_zero_snr=True)
    pipeline.save_pretrained(tmp_path / "model")
    settings = {"train_method": "scratch", "max_steps": 1, "average_decay": 0.0}
    with pytest.raises(ValueError, match=r"'debias' is infinite on target 'noise' where SNR is 0.*timestep 999"):
        train(config(folder, tmp_path / "noise", str(tmp_path / "model"), target="noise", **settings))
    assert not (tmp_path / "noise" / "unet").exists()
    out = train(config(folder, tmp_path / "velocity", str(tmp_path / "model"), target="velocity", **settings))
    trained = load_pipeline(out)
    assert type(trained.scheduler) is scheduler and trained.scheduler.config.rescale_betas_zero_snr
    model = DenoiserModel(trained, NAMES, train_method="full", empty_prompt_share=0.0)
    assert model.loss.alphas_cumprod[-1] == 0 and model.loss.weights[-1].item() == pytest.approx(0, abs=2e-6)
    seen = []
    model.denoiser_network.register_forward_pre_hook(lambda module, arguments: seen.append(arguments[0]))
    # one stratum a timestep, so that the last one is among them
    pixels, labels = torch.rand(1, 3, 64, 64).expand(1000, -1, -1, -1) * 2 - 1, torch.zeros(1000, dtype=torch.long)
    latents = model.encode(pixels[:1]).expand(1000, -1, -1, -1)
    model.encode = lambda pixels: latents
    model.denoiser_network.forward = lambda noisy, *arguments, **options: (torch.zeros_like(noisy),)
    losses = model(pixels, labels, torch.Generator().manual_seed(0))
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(0))
    assert torch.isfinite(losses).all()
    assert torch.equal(seen[0][-1], noise[-1]) and not torch.equal(seen[0][-2], noise[-2])
