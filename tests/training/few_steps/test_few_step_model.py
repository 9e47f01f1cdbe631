"""Distillation into a few steps: what is compared with what, what is trained, and what is written."""

from fractions import Fraction

import pytest
import torch
from diffusers import DDIMScheduler
from safetensors.torch import load_file, save_file

from support.image_folders import save_class_folders
from support.small_trainings import LORA_FILE, NAMES
from support.text_features import text_features
from ubgen_pipeline.dataset.labelled_images import load_labelled_images
from ubgen_pipeline.models.loading import load_pipeline
from ubgen_training.denoising.pixel_rows import PixelRows, collate_pixels
from ubgen_training.few_steps.few_step_config import LAYERS
from ubgen_training.few_steps.few_step_model import FewStepModel
from ubgen_training.lora.adapter import LoraSettings
from ubgen_training.lora.lora_files import save_lora


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shapes")
    save_class_folders(folder, NAMES, 2)
    return folder


def batch_of(folder):
    rows = PixelRows(load_labelled_images(folder), 64, 64)
    batch = collate_pixels([rows[i] for i in range(4)])
    return batch["pixels"], batch["labels"]


def shake(unet):
    """Give the LoRA's second factors, which start at 0, some weight."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, value in unet.named_parameters():
            if "lora_B" in name:
                value.copy_(torch.randn(value.shape, generator=generator) * 0.05)


@pytest.mark.parametrize(("num_segments", "guidance_scale"), [(1, 3.0), (4, 1.0)])
def test_the_loss_against_diffusers_own_sampler(tiny_model, folder, num_segments, guidance_scale):
    """Teacher and student as two models, each walked by diffusers' DDIM, one sample at a time."""
    model = FewStepModel(
        load_pipeline(tiny_model),
        NAMES,
        lora=LoraSettings(2, None, LAYERS),
        guidance_scale=guidance_scale,
        num_segments=num_segments,
        num_teacher_steps=20,
        huber_scale=0.01,
    )
    shake(model.denoiser_network)
    pixels, labels = batch_of(folder)
    with torch.no_grad():
        losses = model(pixels, labels, torch.Generator().manual_seed(0))
    teacher = load_pipeline(tiny_model)
    latents = model.encode(pixels)
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(latents.shape, generator=generator)
    steps = [1 + int((i + offset) / 4 * 20) for i, offset in enumerate(torch.rand(4, generator=generator))]
    assert len(set(steps)) == 4
    scheduler = DDIMScheduler.from_config(teacher.scheduler.config, timestep_spacing="trailing", clip_sample=False)
    prompts, empty = text_features(teacher, list(NAMES)), text_features(teacher, [""])

    def walk(prediction, noisy, start, end):
        """One step of diffusers' from ``start`` to ``end``, of the 1,000 timesteps."""
        if start == end:
            return noisy
        scheduler.set_timesteps(10)
        # the step's length is the only thing that it takes from the number of steps
        scheduler.num_inference_steps = Fraction(1000, start - end)
        return scheduler.step(prediction, start, noisy).prev_sample

    for i, step in enumerate(steps):
        start, middle = 50 * step - 1, max(50 * (step - 1) - 1, 0)
        length = 20 // num_segments
        end = max(50 * ((step - 1) // length * length) - 1, 0)
        noisy = scheduler.add_noise(latents[i : i + 1], noise[i : i + 1], torch.tensor([start]))
        prompt = prompts[labels[i] : labels[i] + 1]
        with torch.no_grad():
            own, without = (teacher.unet(noisy, start, text).sample for text in (prompt, empty))
            nearer = walk(without + guidance_scale * (own - without), noisy, start, middle)
            wanted = walk(model.denoiser_network(nearer, middle, prompt).sample, nearer, middle, end)
            reached = walk(model.denoiser_network(noisy, start, prompt).sample, noisy, start, end)
        expected = ((reached - wanted).square() + 1e-4).sqrt().mean() - 0.01
        torch.testing.assert_close(losses[i], expected, rtol=2e-3, atol=1e-5)


def test_only_the_new_lora_learns_and_the_teacher_stands_still(tiny_model, folder):
    model = FewStepModel(load_pipeline(tiny_model), NAMES, lora=LoraSettings(2, None, LAYERS))
    trained = {name for name, value in model.named_parameters() if value.requires_grad}
    assert trained and all("lora" in name for name in trained)
    kinds = {name.partition(".lora")[0].rpartition(".")[2] for name in trained}
    assert {"conv1", "proj_in", "to_q", "time_emb_proj"} <= kinds
    noisy, time, given = torch.randn(1, 4, 16, 16), torch.tensor([500]), model.conditioning.rows(slice(1))
    with torch.no_grad():
        before = model._teacher(noisy, time, given)
        shake(model.denoiser_network)
        after, student = model._teacher(noisy, time, given), model.predict(noisy, time, given)
    assert torch.equal(before, after) and not torch.allclose(after, student, atol=1e-3)
    model(*batch_of(folder), torch.Generator().manual_seed(0)).mean().backward()
    assert all((value.grad is not None) == value.requires_grad for value in model.denoiser_network.parameters())


def test_the_file_holds_every_kind_of_layer(tiny_model, tmp_path):
    """diffusers would load half of a file in which attention has its own names and the rest has peft's."""
    model = FewStepModel(load_pipeline(tiny_model), NAMES, lora=LoraSettings(2, None, LAYERS))
    shake(model.denoiser_network)
    save_lora(model.pipeline, tmp_path)
    loaded = load_pipeline(tiny_model, lora=tmp_path)
    inputs = torch.randn(1, 4, 16, 16), torch.tensor([500]), model.conditioning["encoder_hidden_states"][:1]
    with torch.no_grad():
        own = model.denoiser_network(*inputs).sample
        torch.testing.assert_close(loaded.unet(*inputs).sample, own)
        loaded.fuse_lora()
        loaded.unload_lora_weights()
        torch.testing.assert_close(loaded.unet(*inputs).sample, own, rtol=1e-4, atol=1e-5)
    weights = load_file(tmp_path / LORA_FILE)
    mixed = {key.replace("lora_A", "lora.down") if "attn" in key else key: value for key, value in weights.items()}
    save_file(mixed, tmp_path / "mixed.safetensors")
    with pytest.raises(ValueError, match=r"named in two ways, lora_A and lora\.down"):
        load_pipeline(tiny_model, lora=tmp_path / "mixed.safetensors")


def test_noise_without_signal_cannot_be_stepped_from(tiny_model):
    pipeline = load_pipeline(tiny_model)
    pipeline.scheduler = DDIMScheduler.from_config(
        pipeline.scheduler.config, rescale_betas_zero_snr=True, prediction_type="epsilon"
    )
    with pytest.raises(ValueError, match="zero terminal SNR"):
        FewStepModel(pipeline, NAMES, lora=LoraSettings(2))
