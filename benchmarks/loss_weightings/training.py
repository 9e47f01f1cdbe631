"""Denoisers of the mini world trained from random weights, one for each loss weighting, target and seed.

Runs of one seed differ in the loss alone: initial weights, batches, noise and timesteps are the same. The weights of a
loss are divided by their mean over the timesteps, so that the gradient is clipped alike; Adam ignores the scale.
Shapes: N scenes, B samples, C classes, L tokens, D text width; latents are (4, 16, 16).
"""

import time
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import DDPMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from safetensors.torch import load_file

from ubgen_pipeline.files.tensor_files import save_tensors
from ubgen_pipeline.mini.scenes import CLASS_NAMES
from ubgen_pipeline.models.loading import load_pipeline
from ubgen_training.denoising.denoising_loss import DenoisingLoss
from ubgen_training.mini.autoencoder import encode_latents
from ubgen_training.mini.denoiser import NOISE_SCHEDULE, TEXT_WIDTH
from ubgen_training.mini.scene_batches import index_batches, mixed_precision, render_set
from ubgen_training.mini.state import ExponentialAverage, load_training_state, save_training_state

SCENE_SEED = 51
SAVE_EVERY = 100


@dataclass(frozen=True)
class Run:
    """One training."""

    weighting: str
    target: str
    seed: int

    @property
    def name(self) -> str:
        return f"{self.weighting}-{self.target}-{self.seed}"


@dataclass(frozen=True)
class TrainingSettings:
    """What all runs have in common; ``checkpoints`` are the updates after which averaged weights are kept."""

    checkpoints: tuple[int, ...]
    batch_size: int
    learning_rate: float
    width: int
    warmup: int = 50
    average_decay: float = 0.99


@dataclass(frozen=True)
class World:
    """``latents (N, 4, 16, 16)`` float32 and ``labels (N,)`` to train on, ``prompt_embeds (C, L, D)`` of the names."""

    latents: torch.Tensor
    labels: torch.Tensor
    prompt_embeds: torch.Tensor


def prepare_world(file: Path, num_scenes: int, bias: float, num_workers: int) -> World:
    """Scenes of the biased world through the mini autoencoder, and its text encoder's embeddings; kept in ``file``."""
    if not file.exists():
        scenes = render_set(num_scenes, bias=bias, seed=SCENE_SEED, num_workers=num_workers)
        pipeline = load_pipeline("mini")
        with torch.no_grad():
            prompt_embeds = pipeline.batch(pipeline.encode(list(CLASS_NAMES)))["encoder_hidden_states"].float()
        save_whole(
            {
                "latents": encode_latents(pipeline.vae, scenes.images).half(),
                "labels": scenes.labels,
                "prompt_embeds": prompt_embeds,
            },
            file,
        )
    arrays = load_file(file)
    return World(arrays["latents"].float(), arrays["labels"], arrays["prompt_embeds"])


def build_unet(width: int) -> UNet2DConditionModel:
    """A UNet like the mini model's, smaller and one level deeper for speed: attention at 8x8 and 4x4 only.

    The prompt scales and shifts every block too, by way of the time embedding: attention alone learns classes slowly.
    """
    unet = UNet2DConditionModel(
        sample_size=16,
        in_channels=4,
        out_channels=4,
        layers_per_block=1,
        block_out_channels=(width, 2 * width, 4 * width),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=4,
        norm_num_groups=16,
        resnet_time_scale_shift="scale_shift",
        addition_embed_type="text",
        addition_embed_type_num_heads=4,
    )
    # plain attention: the fused kernel's backward is slower on a CPU at these head sizes
    unet.set_attn_processor(AttnProcessor())
    return unet


def train_run(run: Run, world: World, settings: TrainingSettings, folder: Path) -> None:
    """Train until the last checkpoint. What lies in ``folder`` already is not done again.

    The folder gets ``average-UPDATES.safetensors`` for every checkpoint and a state from which a killed run goes on,
    bit for bit.
    """
    num_updates = settings.checkpoints[-1]
    if average_file(folder, num_updates).exists():
        return
    torch.manual_seed(run.seed)
    unet = build_unet(settings.width)
    parameters = dict(unet.named_parameters())
    optimizer = torch.optim.AdamW(parameters.values(), lr=settings.learning_rate, betas=(0.9, 0.99), fused=True)
    averages = ExponentialAverage(parameters, decay=settings.average_decay)
    state_file = folder / "state.safetensors"
    first = step = load_training_state(state_file, parameters, optimizer, averages)
    loss_of = DenoisingLoss(DDPMScheduler(**NOISE_SCHEDULE).alphas_cumprod, run.weighting, run.target)
    scale = 1 / loss_of.weights.mean()
    started = time.monotonic()
    for batch in index_batches(
        len(world.labels), settings.batch_size, seed=run.seed, start_step=step, num_steps=num_updates
    ):
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate * min(1.0, (step + 1) / settings.warmup)
        loss = _batch_loss(unet, world, batch, loss_of, seed=run.seed * 1_000_003 + step + 500_009) * scale
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters.values(), 1.0)
        optimizer.step()
        step += 1
        averages.update(parameters, step)
        if step in settings.checkpoints:
            save_whole(dict(averages.averages), average_file(folder, step))
        if step % SAVE_EVERY == 0 or step == num_updates:
            save_training_state(state_file, step, parameters, optimizer, averages)
            rate = (step - first) / (time.monotonic() - started)
            left = (num_updates - step) / rate
            print(f"{run.name}: update {step}/{num_updates}, {rate:.2f} updates/s, {left:.0f} s left", flush=True)


def _batch_loss(
    unet: UNet2DConditionModel, world: World, batch: torch.Tensor, loss_of: DenoisingLoss, seed: int
) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    clean = world.latents[batch]
    noise = torch.randn(clean.shape, generator=generator)
    # stratified over the batch: lower variance than independent draws
    strata = (torch.arange(len(batch)) + torch.rand(len(batch), generator=generator)) / len(batch)
    timesteps = (strata * len(loss_of.alphas_cumprod)).long()
    noisy = loss_of.add_noise(clean, noise, timesteps)
    with mixed_precision():
        prediction = unet(noisy, timesteps, world.prompt_embeds[world.labels[batch]]).sample
    return loss_of(prediction, clean, noise, timesteps).mean()


def load_average(folder: Path, num_updates: int, width: int) -> UNet2DConditionModel:
    """The averaged weights after that many updates, ready to sample with."""
    unet = build_unet(width)
    unet.load_state_dict(load_file(average_file(folder, num_updates)))
    return unet.eval().requires_grad_(False)


def average_file(folder: Path, num_updates: int) -> Path:
    return folder / f"average-{num_updates}.safetensors"


def save_whole(tensors: dict[str, torch.Tensor], file: Path) -> None:
    """A file that exists is complete."""
    save_tensors({name: value.contiguous() for name, value in tensors.items()}, file)
