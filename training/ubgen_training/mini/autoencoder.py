"""The mini model's autoencoder: diffusers' ``AutoencoderKL``, 64x64x3 to 16x16x4."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution

from .scene_batches import SceneSet, index_batches, mixed_precision, to_unit_range
from .state import ExponentialAverage, load_training_state, save_training_state

KL_WEIGHT = 1e-5
BATCH_SIZE = 32
LAYOUT: dict[str, Any] = {
    "sample_size": 64,
    "latent_channels": 4,
    "block_out_channels": (24, 48, 96),
    "down_block_types": ("DownEncoderBlock2D",) * 3,
    "up_block_types": ("UpDecoderBlock2D",) * 3,
    "layers_per_block": 1,
    "norm_num_groups": 12,
    "mid_block_add_attention": False,
}


def build_autoencoder() -> AutoencoderKL:
    """The untrained network."""
    return AutoencoderKL(**LAYOUT)


def train_autoencoder(data: SceneSet, work_dir: Path, *, num_steps: int, seed: int = 0) -> AutoencoderKL:
    """Minimise |x - x'| + 4 (x - x')^2 + KL; returns averaged weights, ``scaling_factor`` set from the data."""
    torch.manual_seed(seed)
    model = build_autoencoder()

    def loss_of(images: torch.Tensor) -> torch.Tensor:
        posterior = _posterior(model, images)
        error = _decoded(model, posterior.sample()).float() - images
        return error.abs().mean() + 4 * error.square().mean() + KL_WEIGHT * posterior.kl().float().mean()

    _descend(
        model, loss_of, data, work_dir / "autoencoder.safetensors", num_steps=num_steps, learning_rate=2e-3, seed=seed
    )
    latents = encode_latents(model, data.images[:2000], scaled=False)
    model.register_to_config(scaling_factor=float(1 / latents.std()))
    return model


def refine_decoder(model: AutoencoderKL, data: SceneSet, work_dir: Path, *, num_steps: int, seed: int = 1) -> None:
    """Train the decoder on, in place, with the encoder frozen: the latents that a denoiser knows stay as they are."""
    for part in (model.encoder, model.quant_conv):
        if part is not None:
            part.requires_grad_(False)

    def loss_of(images: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            latents = _posterior(model, images).mean
        error = _decoded(model, latents).float() - images
        return error.abs().mean() + 8 * error.square().mean()

    _descend(
        model, loss_of, data, work_dir / "decoder.safetensors", num_steps=num_steps, learning_rate=1e-3, seed=seed
    )


def _descend(
    model: AutoencoderKL,
    loss_of: Callable[[torch.Tensor], torch.Tensor],
    data: SceneSet,
    state_file: Path,
    *,
    num_steps: int,
    learning_rate: float,
    seed: int,
) -> None:
    """AdamW with warm-up and linear decay on what requires a gradient; leaves the averaged weights in the model.

    ``loss_of`` gives the scalar loss of images ``(B, 3, 64, 64)`` in [-1, 1].
    """
    parameters = {name: value for name, value in model.named_parameters() if value.requires_grad}
    optimizer = torch.optim.AdamW(parameters.values(), lr=learning_rate, betas=(0.9, 0.99), weight_decay=0.0)
    averages = ExponentialAverage(parameters)
    step = load_training_state(state_file, parameters, optimizer, averages)
    started, first_step = time.monotonic(), step
    for batch in index_batches(len(data), BATCH_SIZE, seed=seed, start_step=step, num_steps=num_steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * min(1.0, (step + 1) / 200) * max(0.02, 1 - step / num_steps)
        with mixed_precision():
            loss = loss_of(to_unit_range(data.images[batch]))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters.values(), 1.0)
        optimizer.step()
        step += 1
        averages.update(parameters, step)
        if step % 50 == 0:
            rate = (step - first_step) / (time.monotonic() - started)
            print(f"{state_file.stem} {step}/{num_steps} loss {loss.item():.5f} {rate:.2f} steps/s", flush=True)
        if step % 500 == 0 or step == num_steps:
            save_training_state(state_file, step, parameters, optimizer, averages)
    with torch.no_grad():
        for name, value in parameters.items():
            value.copy_(averages.averages[name])
    model.eval()


@torch.no_grad()
def encode_latents(model: AutoencoderKL, images: torch.Tensor, *, scaled: bool = True) -> torch.Tensor:
    """Latent means ``(N, 4, 16, 16)`` float32 of uint8 images ``(N, 3, 64, 64)``."""
    parts = [_posterior(model, to_unit_range(part)).mean for part in images.split(100)]
    latents = torch.cat(parts)
    return latents * model.config["scaling_factor"] if scaled else latents


@torch.no_grad()
def reconstruction_psnr(model: AutoencoderKL, images: torch.Tensor) -> float:
    """Peak signal-to-noise ratio in dB of encode-decode on uint8 images, from the mean squared error over all."""
    squared_error = 0.0
    for part in images.split(100):
        decoded = _decoded(model, _posterior(model, to_unit_range(part)).mean)
        decoded = ((decoded.clamp(-1, 1) + 1) * 127.5).round()
        squared_error += (decoded - part.float()).square().mean(dim=(1, 2, 3)).sum().item()
    return float(10 * torch.log10(torch.tensor(255**2 / (squared_error / len(images)))))


def _posterior(model: AutoencoderKL, images: torch.Tensor) -> DiagonalGaussianDistribution:
    return model.encode(images, return_dict=False)[0]


def _decoded(model: AutoencoderKL, latents: Any) -> torch.Tensor:
    # any tensor of floats: diffusers' annotation knows float32 ones only
    return model.decode(latents, return_dict=False)[0]
