"""Fidelity of a mini denoiser's images to rendered scenes, with any scheduler and number of steps.

Distances are taken between features of the mini world's judge, which reads class, background and texture and is part
of no training here, and a second time between those of the mini CLIP.
Shapes: N images, F features.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from safetensors.torch import load_file

from benchmarks.loss_weightings.training import save_whole
from ubgen_evaluation.fidelity import fidelity, frechet_distance
from ubgen_pipeline.files.whole_files import write_whole_text
from ubgen_pipeline.initial_latents import draw_latents, step_generators
from ubgen_pipeline.latent_denoising import denoising_steps
from ubgen_pipeline.mini.clip import load_mini_clip
from ubgen_pipeline.mini.judges import FACTOR_SIZES, load_factor_classifier
from ubgen_pipeline.mini.scenes import CLASS_NAMES
from ubgen_pipeline.models.loading import SCHEDULERS
from ubgen_training.denoising.denoising_loss import PREDICTION_TYPES
from ubgen_training.mini.denoiser import NOISE_SCHEDULE
from ubgen_training.mini.scene_batches import mixed_precision, render_set, to_unit_range

REFERENCE_SEED, HELD_OUT_SEED, SAMPLING_SEED = 61, 71, 1_000_000
BATCH_SIZE = 125
# KID: small subsets, because there are only some hundred images
NUM_SUBSETS, SUBSET_SIZE = 50, 200


@dataclass(frozen=True)
class Reading:
    """What the networks see: ``judge (N, F)`` and ``clip (N, F)`` features, and the class ``(N,)`` the judge reads."""

    judge: np.ndarray
    clip: np.ndarray
    classes: np.ndarray


@torch.no_grad()
def read_images(images: torch.Tensor) -> Reading:
    """Features and classes of ``images (N, 3, 64, 64)`` uint8."""
    judge, (clip, _) = load_factor_classifier(), load_mini_clip()
    judged, seen, classes = [], [], []
    for part in images.split(BATCH_SIZE):
        blocks = judge.blocks(to_unit_range(part))
        pooled = torch.cat([blocks.mean(dim=(2, 3)), blocks.amax(dim=(2, 3))], dim=1)
        judged.append(pooled)
        classes.append(judge.head(pooled)[:, : FACTOR_SIZES["class"]].argmax(dim=1))
        seen.append(clip.encode_image(to_unit_range(part)))
    return Reading(*(torch.cat(parts).numpy() for parts in (judged, seen, classes)))


def read_reference(file: Path, num_scenes: int, bias: float, num_workers: int) -> Reading:
    """The reading of rendered scenes of the training world, other than those trained on; kept in ``file``."""
    if not file.exists():
        scenes = render_set(num_scenes, bias=bias, seed=REFERENCE_SEED, num_workers=num_workers)
        save_whole({name: torch.from_numpy(array) for name, array in vars(read_images(scenes.images)).items()}, file)
    return Reading(**{name: array.numpy() for name, array in load_file(file).items()})


def compare(reading: Reading, labels: Sequence[int], reference: Reading) -> dict[str, float]:
    """FID, KID, precision and recall in the judge's features, FID in CLIP's, and the share of right classes."""
    measured = fidelity(reference.judge, reading.judge, num_subsets=NUM_SUBSETS, subset_size=SUBSET_SIZE)
    return {
        "fid": measured.fid,
        "kid": measured.kid,
        "precision": measured.precision,
        "recall": measured.recall,
        "clip_fid": frechet_distance(reference.clip.astype(np.float64), reading.clip.astype(np.float64)),
        "class_accuracy": float((reading.classes == np.asarray(labels)).mean()),
    }


def sampling_scheduler(name: str, target: str) -> Any:
    """ubgen's scheduler of that name with the mini model's noise schedule, for that target.

    Timesteps are spaced from the noisiest one down: diffusers' default leaves the noisiest fifth out at five steps.
    """
    base = DDPMScheduler(**{**NOISE_SCHEDULE, "prediction_type": PREDICTION_TYPES[target]})
    return SCHEDULERS[name].from_config(base.config, timestep_spacing="trailing")


@torch.no_grad()
def sample(
    unet: UNet2DConditionModel,
    vae: AutoencoderKL,
    prompt_embeds: torch.Tensor,
    *,
    target: str,
    sampler: str,
    num_steps: int,
    num_images: int,
) -> torch.Tensor:
    """``num_images`` images ``(N, 3, 64, 64)`` uint8 without guidance, image i of class i modulo the classes.

    The noise of image i is the same for every network, scheduler and number of steps.
    """
    images = []
    for start in range(0, num_images, BATCH_SIZE):
        rows = range(start, min(start + BATCH_SIZE, num_images))
        seeds = [SAMPLING_SEED + row for row in rows]
        scheduler = sampling_scheduler(sampler, target)
        scheduler.set_timesteps(num_steps)

        def denoiser(latents: torch.Tensor, timestep: torch.Tensor, embeds: torch.Tensor) -> torch.Tensor:
            with mixed_precision():
                return unet(latents, timestep, embeds).sample.float()

        latents = draw_latents(seeds, (4, 16, 16)) * scheduler.init_noise_sigma
        embeds = prompt_embeds[[row % len(CLASS_NAMES) for row in rows]]
        for step in denoising_steps(denoiser, scheduler, latents, embeds, generators=step_generators(seeds)):
            latents = step.latents
        images.append(decode(vae, latents))
    return torch.cat(images)


@torch.no_grad()
def decode(vae: AutoencoderKL, latents: torch.Tensor) -> torch.Tensor:
    """uint8 images ``(B, 3, 64, 64)`` of scaled latents."""
    with mixed_precision():
        decoded = vae.decode(latents / vae.config["scaling_factor"]).sample.float()
    return ((decoded.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


@torch.no_grad()
def floors(vae: AutoencoderKL, reference: Reading, num_images: int, bias: float) -> dict[str, dict[str, float]]:
    """What no denoiser can beat: as many other scenes, as they are and through the autoencoder."""
    scenes = render_set(num_images, bias=bias, seed=HELD_OUT_SEED, num_workers=1)
    labels = scenes.labels.tolist()
    latents = torch.cat([vae.encode(to_unit_range(part)).latent_dist.mean for part in scenes.images.split(BATCH_SIZE)])
    latents = latents * vae.config["scaling_factor"]
    decoded = torch.cat([decode(vae, part) for part in latents.split(BATCH_SIZE)])
    return {
        "scenes": compare(read_images(scenes.images), labels, reference),
        "reconstructed scenes": compare(read_images(decoded), labels, reference),
    }


def write_json(content: Any, file: Path) -> None:
    """A file that exists is complete."""
    write_whole_text(file, json.dumps(content, indent=1) + "\n")
