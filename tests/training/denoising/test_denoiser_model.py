"""Denoising training: what the loss sees, what each method trains, and that it learns."""

import pytest
import torch

from support.image_folders import save_class_folders
from support.small_trainings import NAMES
from support.text_features import text_features
from ubgen_pipeline.dataset.labelled_images import load_labelled_images
from ubgen_pipeline.models.loading import load_pipeline
from ubgen_training.denoising.denoiser_model import DenoiserModel
from ubgen_training.denoising.denoising_loss import DenoisingLoss
from ubgen_training.denoising.pixel_rows import PixelRows, collate_pixels
from ubgen_training.lora.adapter import LoraSettings


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shapes")
    save_class_folders(folder, NAMES, 2)
    return folder


def test_the_loss_of_a_batch_is_the_loss_of_its_unet_calls(random_mini_model, folder):
    model = DenoiserModel(
        load_pipeline(random_mini_model), NAMES, train_method="full", weighting="p2", empty_prompt_share=0.5
    )
    rows = PixelRows(load_labelled_images(folder), 64, 64)
    batch = collate_pixels([rows[i] for i in range(4)])
    assert batch["pixels"].shape == (4, 3, 64, 64) and -1 <= batch["pixels"].min() < batch["pixels"].max() <= 1
    seen = {}

    def record(module, arguments, kwargs):
        seen["noisy"], seen["timesteps"] = arguments
        seen["embeds"] = kwargs["encoder_hidden_states"]

    with torch.no_grad():
        model.denoiser_network.register_forward_pre_hook(record, with_kwargs=True)
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
        prediction = model.predict(seen["noisy"], seen["timesteps"], model.pipeline.given_conditioning(seen["embeds"]))
    torch.testing.assert_close(losses, loss(prediction, clean, noise, seen["timesteps"]))
    empty = text_features(model.pipeline, [""])[0]
    own = text_features(model.pipeline, list(NAMES))
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
    assert all(name.startswith("denoiser_network.") for name in model.state_dict())
    kept = pipeline.unet.conv_in.weight
    assert torch.equal(kept, before["conv_in.weight"]) == (method != "scratch")
    if method == "scratch":
        other = DenoiserModel(load_pipeline(random_mini_model), NAMES, train_method=method, seed=1)
        assert torch.equal(other.denoiser_network.conv_in.weight, kept)


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
