"""Which colours the rewards of the mini world ask for: of objects in one hue at a time, and by their gradients.

    python -m benchmarks.reward_colours --scenes-per-class 12 --images-per-class 4

The first table compares unbiased scenes that differ in the colours of their objects alone. The second differentiates
each reward at images of the untuned generator, with respect to their pixels and to their latents. A LoRA is shared by
all classes, so that what moves is the part of the latents' gradients that all images have in common.
"""

import colorsys
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from ubgen_pipeline.commands.console import table
from ubgen_pipeline.commands.settings_parser import field_help, parse_settings, run_command
from ubgen_pipeline.mini.scenes import CLASS_NAMES, SceneFactors, draw_factors, render_scene

# the shares of mini_logdet.yaml
WEIGHTS = {"clip_alignment": 1.0, "quality": 0.1, "logdet_variety": 0.7}


@dataclass(frozen=True)
class RewardColoursSettings:
    """Settings of this measurement."""

    scenes_per_class: int = field_help("unbiased scenes of each class in each hue", 12)
    images_per_class: int = field_help("images of the untuned generator for each class", 4)
    num_inference_steps: int = field_help("their denoising steps", 10)
    seed: int = field_help("of scenes and images", 3)

    def __post_init__(self) -> None:
        for name in ("scenes_per_class", "images_per_class", "num_inference_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; give 1 or more.")


class MiniRewards:
    """The rewards on images ``(B, 3, H, W)`` in [0, 1] with labels ``(B,)``; the variety remembers nothing."""

    def __init__(self) -> None:
        from ubgen_pipeline.models.clip_encoders import load_clip_encoder
        from ubgen_training.rewards.clip_alignment import ClipAlignmentReward
        from ubgen_training.rewards.logdet_variety import LogDetVarietyReward
        from ubgen_training.rewards.quality import load_quality_reward

        encoder = load_clip_encoder("mini")
        self.variety = LogDetVarietyReward(encoder, CLASS_NAMES, memory=0)
        self._rewards = {
            "clip_alignment": ClipAlignmentReward(encoder, CLASS_NAMES),
            "quality": load_quality_reward("mini"),
            "logdet_variety": self.variety,
        }

    def values(self, name: str, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Rewards ``(B,)``."""
        return self._rewards[name](images, [CLASS_NAMES[label] for label in labels.tolist()], labels)

    def centre_on(self, images: torch.Tensor, labels: torch.Tensor) -> None:
        """Take the images' mean as the centre of the variety."""
        with torch.no_grad():
            self.values("logdet_variety", images, labels)
        self.variety.remember()


def hue_rows(rewards: MiniRewards, scenes_per_class: int, seed: int) -> Iterator[list[str]]:
    """A row for colours at random and one for each hue: the mean of every reward, and their weighted sum."""
    labels = torch.arange(len(CLASS_NAMES)).repeat(scenes_per_class)
    factors = [
        draw_factors(CLASS_NAMES[label], bias=0.0, rng=np.random.default_rng((seed, index)))
        for index, label in enumerate(labels.tolist())
    ]
    for name, changed in [("any", factors), *((f"{hue}°", _in_hue(factors, hue)) for hue in range(0, 360, 30))]:
        images = torch.stack([torch.from_numpy(render_scene(one).image) for one in changed])
        images = images.permute(0, 3, 1, 2).float() / 255
        with torch.no_grad():
            means = {reward: float(rewards.values(reward, images, labels).mean()) for reward in WEIGHTS}
        total = sum(WEIGHTS[reward] * mean for reward, mean in means.items())
        yield [name, *(f"{mean:.4f}" for mean in means.values()), f"{total:.4f}"]


def _in_hue(factors: list[SceneFactors], hue: int) -> list[SceneFactors]:
    """The scenes with both colours of the object in one hue, in degrees: a light one and a dark one."""
    light, dark = (
        tuple(int(255 * part) for part in colorsys.hsv_to_rgb(hue / 360, *rest)) for rest in ((1, 0.95), (0.9, 0.45))
    )
    return [replace(one, colours=(light, dark)) for one in factors]


def gradient_rows(
    rewards: MiniRewards,
    latents: torch.Tensor,
    labels: torch.Tensor,
    decode: Callable[[torch.Tensor], torch.Tensor],
) -> Iterator[list[str]]:
    """A row for each reward: its mean gradient by red, green and blue, in millionths, and the share in common.

    Args:
        latents: ``(B, C, h, w)``.
        labels: ``(B,)``.
        decode: latents to images ``(B, 3, H, W)`` in [0, 1].
    """
    for reward in WEIGHTS:
        start = latents.clone().requires_grad_()
        images = decode(start)
        images.retain_grad()
        rewards.values(reward, images, labels).sum().backward()
        assert images.grad is not None and start.grad is not None
        by_colour = (1e6 * images.grad.mean(dim=(0, 2, 3))).tolist()
        common = start.grad.mean(dim=(0, 2, 3)).norm() / start.grad.square().mean(dim=(0, 2, 3)).sum().sqrt()
        yield [reward, *(f"{value:+.1f}" for value in by_colour), f"{float(common):.1%}"]


def main(argv: Sequence[str] | None = None) -> int:
    """Parse and measure; 2 for a bad setting."""
    return run_command(_print_tables, argv)


def _print_tables(argv: Sequence[str]) -> int:
    about = (__doc__ or "").partition("\n")[0]
    prog = "python -m benchmarks.reward_colours"
    settings = parse_settings(RewardColoursSettings, argv, prog=prog, description=about)
    from ubgen_pipeline import load_pipeline

    rewards, pipeline = MiniRewards(), load_pipeline("mini")
    pipeline.set_progress_bar_config(disable=True)
    drawn = pipeline(
        list(CLASS_NAMES),
        num_images_per_class=settings.images_per_class,
        seed=settings.seed,
        num_inference_steps=settings.num_inference_steps,
        guidance_scale=1.0,
        output_type="latent",
    )
    latents, labels = torch.as_tensor(drawn.images).float(), torch.as_tensor(drawn.labels)

    def decode(latents: torch.Tensor) -> torch.Tensor:
        return pipeline.vae.decode(latents / pipeline.vae.config.scaling_factor).sample / 2 + 0.5

    with torch.no_grad():
        rewards.centre_on(decode(latents), labels)
    rows = list(hue_rows(rewards, settings.scenes_per_class, settings.seed))
    print(table(["hue of the objects", *WEIGHTS, "weighted sum"], rows))
    print("\nmean gradient with respect to pixels, in millionths, and what all images share of that in latents")
    gradients = list(gradient_rows(rewards, latents, labels, decode))
    print(table(["reward", "red", "green", "blue", "in common"], gradients))
    return 0


if __name__ == "__main__":
    sys.exit(main())
