"""Textual inversion: only the word learns, it learns the images, resumes exactly, and what is refused."""

import subprocess
import sys

import pytest
import torch
from PIL import Image

from support import ROOT
from ubgen_pipeline.models.loading import load_pipeline
from ubgen_pipeline.models.text_embeddings import read_embedding
from ubgen_training.textual_inversion.command import main
from ubgen_training.textual_inversion.example_images import read_images
from ubgen_training.textual_inversion.token_model import TokenModel, encode_images

QUICK = ["--images", "novel:frame:2:5", "--token", "<frame>", "--initial_word", "star", "--use_cpu"]
QUICK += ["--per_device_train_batch_size", "2", "--num_inference_steps", "2", "--seed", "3"]


@pytest.fixture
def model(random_mini_model):
    return TokenModel(load_pipeline(random_mini_model), "<frame>", "star", 2, ["a {token}", "{token}"], seed=1)


def test_only_the_vectors_learn_and_the_loss_falls(model):
    pipeline = model.pipeline
    assert [name for name, p in model.named_parameters() if p.requires_grad] == ["vectors"]
    star = pipeline.text_encoder.get_input_embeddings().weight[pipeline.tokenizer.convert_tokens_to_ids("star</w>")]
    assert torch.equal(model.vectors[0], star) and not torch.equal(model.vectors[1], star)
    latents = encode_images(pipeline, read_images("novel:frame:4:5", 64, 64))
    generator = torch.Generator().manual_seed(0)
    noise, timesteps = torch.randn(latents.shape, generator=generator), torch.tensor([100, 300, 500, 700])
    templates = torch.tensor([0, 1, 0, 1])
    optimizer, losses = torch.optim.Adam([model.vectors], lr=0.05), []
    for _ in range(12):
        optimizer.zero_grad()
        loss = model(latents, noise, timesteps, templates)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] and all(p.grad is None for p in pipeline.unet.parameters())


def test_the_loss_is_the_schedulers_own_target(model):
    """At the last step of a velocity model, v = alpha noise - sigma x0 (Salimans and Ho 2022, appendix D)."""
    pipeline = model.pipeline
    latents, noise = torch.randn(1, 4, 16, 16), torch.randn(1, 4, 16, 16)
    timesteps, templates = torch.tensor([400]), torch.tensor([0])
    alpha = pipeline.scheduler.alphas_cumprod[400].sqrt()
    sigma = (1 - alpha**2).sqrt()
    with torch.no_grad():
        prompt_embeds = pipeline.text_encoder(model.prompt_ids[:1])[0]
        predicted = pipeline.denoiser(alpha * latents + sigma * noise, timesteps, prompt_embeds)
        expected = (predicted - (alpha * noise - sigma * latents)).square().mean()
        assert model(latents, noise, timesteps, templates).item() == pytest.approx(expected.item(), rel=1e-4)


def test_installed_vectors_draw_what_was_trained(model):
    with torch.no_grad():
        model.vectors.add_(0.5)
        hooked = model.pipeline.encode_prompts(["a <frame>"])
        model.install()
        assert torch.equal(model.pipeline.encode_prompts(["a <frame>"]), hooked)


def test_command_samples_and_exact_resume(random_mini_model, tmp_path):
    common = ["--model_name_or_path", random_mini_model, *QUICK, "--num_vectors", "2", "--save_steps", "2"]
    command = [sys.executable, str(ROOT / "training/train_textual_inversion.py"), *common, "--max_steps", "4"]
    subprocess.run([*command, "--num_samples", "2", "--output_dir", str(tmp_path / "a")], check=True)
    assert Image.open(tmp_path / "a" / "samples.png").size == (128, 128)
    assert not [file for file in (tmp_path / "a").rglob("*") if file.suffix in (".bin", ".pt", ".pth", ".pkl")]
    resume = ["--resume_from_checkpoint", str(tmp_path / "a" / "checkpoint-2"), "--output_dir", str(tmp_path / "b")]
    assert main([*common, "--max_steps", "4", "--num_samples", "0", *resume]) == 0
    (name, one), (_, two) = read_embedding(tmp_path / "a"), read_embedding(tmp_path / "b")
    assert name == "<frame>" and torch.equal(one, two)
    assert not torch.equal(one, read_embedding(tmp_path / "a" / "checkpoint-2")[1])
    pipeline = load_pipeline(random_mini_model, embeddings=[str(tmp_path / "a")])
    assert pipeline(["<frame>"], num_inference_steps=1).images[0].size == (64, 64)


def test_images_of_a_folder(tmp_path):
    Image.new("RGB", (100, 50), "red").save(tmp_path / "b.png")
    Image.new("L", (64, 64), 255).save(tmp_path / "a.jpg")
    images = read_images(str(tmp_path), 64, 64)
    assert images.shape == (2, 3, 64, 64) and images[0].min() > 0.9 and images[1, 1].max() < 0.1


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--images", "/nonexistent"], "is no folder"),
        (["--images", "novel:star:2:1"], "write novel:NAME:NUMBER:SEED"),
        (["--token", "circle"], "knows already"),
        (["--initial_word", "zebra crossing"], "tokens for this model"),
        (["--templates", "a photo"], "must hold {token}"),
        (["--num_vectors", "40"], "tokenizer takes"),
        (["--num_vectors", "0"], "num_vectors is 0"),
    ],
)
def test_bad_input(random_mini_model, tmp_path, capsys, more, message):
    given = ["--model_name_or_path", random_mini_model, *QUICK, "--output_dir", str(tmp_path / "o"), *more]
    assert main(given) == 2
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error


def test_an_image_that_is_none(tmp_path, capsys):
    (tmp_path / "x.png").write_bytes(b"no image")
    assert main(["--images", str(tmp_path), "--output_dir", str(tmp_path / "o")]) == 2
    assert "'x.png', which could not be read" in capsys.readouterr().err
