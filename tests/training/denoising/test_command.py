"""Denoising training: what the loss sees, LoRA and whole UNets, exact resume, and models that load again."""

import shutil
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from diffusers import DDIMScheduler, UNet2DConditionModel, UniPCMultistepScheduler
from safetensors.torch import load_file

from support import ROOT
from support.image_folders import save_class_folders
from support.small_trainings import LORA_FILE, NAMES, SETTINGS
from ubgen_pipeline.dataset.labelled_images import load_labelled_images
from ubgen_pipeline.models.loading import load_pipeline
from ubgen_training.denoising.command import main, train
from ubgen_training.denoising.denoiser_config import DenoiserConfig
from ubgen_training.denoising.denoiser_model import DenoiserModel
from ubgen_training.denoising.denoising_loss import DenoisingLoss
from ubgen_training.denoising.pixel_rows import PixelRows, StreamedPixelRows, collate_pixels
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


def test_the_loss_of_a_batch_is_the_loss_of_its_unet_calls(random_mini_model, folder):
    model = DenoiserModel(
        load_pipeline(random_mini_model), NAMES, train_method="full", weighting="p2", empty_prompt_share=0.5
    )
    rows = PixelRows(load_labelled_images(folder), 64, 64)
    batch = collate_pixels([rows[i] for i in range(4)])
    assert batch["pixels"].shape == (4, 3, 64, 64) and -1 <= batch["pixels"].min() < batch["pixels"].max() <= 1
    seen = {}

    def record(module, arguments, kwargs):
        seen["noisy"], seen["timesteps"], seen["embeds"] = arguments

    with torch.no_grad():
        model.unet.register_forward_pre_hook(record, with_kwargs=True)
        losses = model(batch["pixels"], batch["labels"], torch.Generator().manual_seed(0))
        again = model(batch["pixels"], batch["labels"], torch.Generator().manual_seed(0))
    assert losses.shape == (4,) and torch.equal(losses, again)
    generator = torch.Generator().manual_seed(0)
    clean = model.encode(batch["pixels"])
    noise = torch.randn(clean.shape, generator=generator)
    quarters = seen["timesteps"] // 250
    assert quarters.tolist() == [0, 1, 2, 3]
    loss = DenoisingLoss(model.loss.alphas_cumprod, "p2", "velocity")
    torch.testing.assert_close(seen["noisy"], loss.add_noise(clean, noise, seen["timesteps"]))
    with torch.no_grad():
        prediction = model.unet(seen["noisy"], seen["timesteps"], seen["embeds"]).sample
    torch.testing.assert_close(losses, loss(prediction, clean, noise, seen["timesteps"]))
    empty = model.pipeline.encode_prompts([""])[0]
    own = model.pipeline.encode_prompts(list(NAMES))
    is_empty = [torch.allclose(row, empty, atol=1e-5) for row in seen["embeds"]]
    assert any(is_empty) and not all(is_empty)
    for row, label, without in zip(seen["embeds"], batch["labels"], is_empty):
        assert without or torch.allclose(row, own[label], atol=1e-5)


@pytest.mark.parametrize("method", ["lora", "full", "scratch"])
def test_what_each_method_trains(random_mini_model, method):
    pipeline = load_pipeline(random_mini_model)
    before = {name: value.clone() for name, value in pipeline.unet.state_dict().items()}
    model = DenoiserModel(pipeline, NAMES, train_method=method, lora=LoraSettings(2), seed=1)
    trained = {name for name, value in model.named_parameters() if value.requires_grad}
    assert trained and all(("lora" in name) == (method == "lora") for name in trained)
    assert all(name.startswith("unet.") for name in model.state_dict())
    kept = pipeline.unet.conv_in.weight
    assert torch.equal(kept, before["conv_in.weight"]) == (method != "scratch")
    if method == "scratch":
        other = DenoiserModel(load_pipeline(random_mini_model), NAMES, train_method=method, seed=1)
        assert torch.equal(other.unet.conv_in.weight, kept)


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


def test_training_lowers_the_loss(random_mini_model, folder):
    model = DenoiserModel(load_pipeline(random_mini_model), NAMES, train_method="scratch", weighting="min_snr")
    rows = PixelRows(load_labelled_images(folder), 64, 64)
    batch = collate_pixels([rows[i] for i in range(4)])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    losses = []
    for step in range(12):
        loss = model(batch["pixels"], batch["labels"], torch.Generator().manual_seed(step % 2)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-2:]) < 0.8 * sum(losses[:2])


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
    model.unet.register_forward_pre_hook(lambda module, arguments: seen.append(arguments[0]))
    # one stratum a timestep, so that the last one is among them
    pixels, labels = torch.rand(1, 3, 64, 64).expand(1000, -1, -1, -1) * 2 - 1, torch.zeros(1000, dtype=torch.long)
    latents = model.encode(pixels[:1]).expand(1000, -1, -1, -1)
    model.encode = lambda pixels: latents
    model.unet.forward = lambda noisy, timesteps, embeds: SimpleNamespace(sample=torch.zeros_like(noisy))
    losses = model(pixels, labels, torch.Generator().manual_seed(0))
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(0))
    assert torch.isfinite(losses).all()
    assert torch.equal(seen[0][-1], noise[-1]) and not torch.equal(seen[0][-2], noise[-2])


def test_the_average_is_that_of_every_update(random_mini_model, folder, tmp_path):
    """The exported weights against the recurrence by hand, from the checkpoints' own weights."""
    settings = {"average_decay": 0.2, "learning_rate": 1e-2}
    out = train(config(folder, tmp_path / "out", random_mini_model, **settings))
    start = DenoiserModel(load_pipeline(random_mini_model), NAMES, lora=LoraSettings(2), seed=SETTINGS["seed"])
    layer = "mid_block.attentions.0.transformer_blocks.0.attn2.to_q"
    key = f"unet.{layer}.lora_A.weight"
    expected = dict(start.unet.named_parameters())[f"{layer}.lora_A.default.weight"].detach()
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
        types = [{p.dtype for p in model.unet.parameters() if p.requires_grad is trained} for trained in (True, False)]
        layer = model.unet.mid_block.resnets[0].conv1
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


def test_streams_and_flips(folder):
    streamed = load_labelled_images(folder, streaming=True)
    rows = list(StreamedPixelRows(streamed, 8, 16, seed=1, flip=0.5))
    assert sorted(row["label"] for row in rows) == [0, 0, 1, 1] and rows[0]["pixels"].shape == (3, 8, 16)
    plain = PixelRows(load_labelled_images(folder), 16, 20)
    flipped = PixelRows(load_labelled_images(folder), 16, 20, flip=1.0)
    assert torch.equal(plain[1]["pixels"].flip(2), flipped[1]["pixels"])
    some = PixelRows(load_labelled_images(folder), 16, 20, flip=0.5)
    seen = set()
    for epoch in range(12):
        some.set_epoch(epoch)
        seen.add(torch.equal(some[1]["pixels"], plain[1]["pixels"]))
    assert seen == {True, False}


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
