"""Denoising training: what the loss sees, LoRA and whole UNets, exact resume, and models that load again."""

import shutil
import subprocess
import sys

import pytest
import torch
from diffusers import DDIMScheduler, UNet2DConditionModel, UniPCMultistepScheduler
from safetensors.torch import load_file

from support import ROOT
from support.image_folders import save_class_folders
from support.small_trainings import LORA_FILE, NAMES, SETTINGS
from ubgen_pipeline.models.loading import load_pipeline
from ubgen_training.denoising.command import main, train
from ubgen_training.denoising.denoiser_config import DenoiserConfig
from ubgen_training.denoising.denoiser_model import DenoiserModel
from ubgen_training.lora.adapter import LoraSettings


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
        # what is exported is the average
        trained = UNet2DConditionModel.from_pretrained(last, subfolder="unet")
        assert not torch.equal(trained.conv_in.weight, pipeline.unet.conv_in.weight)
    drawn = pipeline(list(NAMES), seed=1, num_inference_steps=2)
    assert len(drawn.images) == 2


def test_the_average_is_that_of_every_update(random_mini_model, folder, tmp_path):
    """The exported weights against the recurrence by hand, from the checkpoints' own weights."""
    settings = {"average_decay": 0.2, "learning_rate": 1e-2}
    out = train(config(folder, tmp_path / "out", random_mini_model, **settings))
    start = DenoiserModel(load_pipeline(random_mini_model), NAMES, lora=LoraSettings(2), seed=SETTINGS["seed"])
    layer = "mid_block.attentions.0.transformer_blocks.0.attn2.to_q"
    key = f"unet.{layer}.lora_A.weight"
    expected = dict(start.denoiser_network.named_parameters())[f"{layer}.lora_A.default.weight"].detach()
    for number, decay in ((1, 1 / 10), (2, 2 / 11), (3, 0.2)):
        trained = load_file(out / f"checkpoint-{number}" / LORA_FILE)[key]
        expected = decay * expected + (1 - decay) * trained
    torch.testing.assert_close(load_file(out / LORA_FILE)[key], expected)
    assert (expected - trained).abs().max() > 1e-3


@pytest.mark.parametrize("method", ["lora", "scratch"])
def test_mixed_precision(random_mini_model, folder, tmp_path, monkeypatch, method):
    """bfloat16 arithmetic, float32 trained weights, frozen ones of a LoRA in bfloat16; the same to a rounding."""
    seen, forward = [], DenoiserModel.forward

    def spied(model, *inputs):
        network = model.denoiser_network
        types = [{p.dtype for p in network.parameters() if p.requires_grad is trained} for trained in (True, False)]
        layer = network.mid_block.resnets[0].conv1
        hook = layer.register_forward_hook(lambda module, arguments, output: seen.append((output.dtype, *types)))
        loss = forward(model, *inputs)
        hook.remove()
        assert loss.dtype == torch.float32
        return loss

    monkeypatch.setattr(DenoiserModel, "forward", spied)
    settings = {"train_method": method, "max_steps": 1, "save_strategy": "no", "average_decay": 0.0}
    weights = {}
    for bf16 in (False, True):
        out = train(config(folder, tmp_path / str(bf16), random_mini_model, bf16=bf16, **settings))
        file = out / LORA_FILE if method == "lora" else out / "unet" / "diffusion_pytorch_model.safetensors"
        weights[bf16] = load_file(file)
    (plain, _, _), (mixed, trained, frozen) = seen
    assert (plain, mixed, trained) == (torch.float32, torch.bfloat16, {torch.float32})
    assert frozen == ({torch.bfloat16} if method == "lora" else set())
    assert any(not torch.equal(value, weights[False][name]) for name, value in weights[True].items())
    for name, value in weights[True].items():
        assert value.dtype == torch.float32
        # an update of AdamW moves a weight by the learning rate; a LoRA starts from weights drawn in bfloat16
        torch.testing.assert_close(value, weights[False][name], atol=2.5e-3, rtol=2**-7)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
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


def test_the_command(random_mini_model, folder, tmp_path):
    flags = ["--config", "training/configs/mini_denoiser.yaml", "--model_name_or_path", random_mini_model]
    flags += ["--dataset", str(folder), "--max_steps", "1", "--per_device_train_batch_size", "2", "--use_cpu"]
    command = [sys.executable, "training/train_denoiser.py", *flags, "--output_dir", str(tmp_path / "out")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "weights saved in" in done.stdout and (tmp_path / "out" / "model_index.json").is_file()
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
