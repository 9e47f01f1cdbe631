"""What CADS and guidance within an interval do to the images of the mini model.

    python -m benchmarks.diversity
    python -m benchmarks.diversity --num-images 1000 --scales 0.25 1 2 --intervals 0.2:0.8

Every arm draws the same classes from the same noise. The judge that reads the images was trained apart from the
generator.
"""

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch

from benchmarks.demo import OWN_BACKGROUND_INDEX
from benchmarks.lossy_presets import image_features
from benchmarks.machine_limits import machine_line
from ubgen_evaluation import class_accuracy, factor_entropy, own_share
from ubgen_evaluation.fidelity import frechet_distance
from ubgen_pipeline.commands.console import Progress
from ubgen_pipeline.commands.settings_parser import field_help, parse_settings, run_command
from ubgen_pipeline.diversity_settings import Cads, check_interval
from ubgen_pipeline.inference.image_drawer import ImageDrawer
from ubgen_pipeline.inference.packed_products import pack_products
from ubgen_pipeline.inference.prepared_pipeline import prepare_pipeline
from ubgen_pipeline.mini.judges import predict_factors
from ubgen_pipeline.mini.scenes import BACKGROUND_NAMES, CLASS_NAMES, scenes
from ubgen_pipeline.models.loading import load_pipeline
from ubgen_pipeline.sample_seeds import default_seeds

PLAIN = "plain"


@dataclass(frozen=True)
class DiversityBenchmarkSettings:
    """Settings of the benchmark."""

    num_images: int = field_help("images of each arm; a multiple of ten", 120)
    scales: list[float] | None = field_help("noise scales of CADS; 0.5 and 1 if not given", None)
    intervals: list[str] | None = field_help(
        "LOW:HIGH, shares of noise with guidance; 0.22:0.84 and 0.1:0.6 if not given", None
    )
    guidance_scale: float = field_help("of every arm", 2.0)
    num_inference_steps: int = field_help("of every arm", 20)
    model: str = field_help("mini, or another model of its world", "mini")
    seed: int = field_help("seed of the samples", 0)

    def __post_init__(self) -> None:
        if self.num_images < 20 or self.num_images % 10:
            raise ValueError(f"num_images is {self.num_images}; give a multiple of ten, of at least 20.")
        self.arms()

    def arms(self) -> dict[str, dict[str, Any]]:
        """What each arm adds to the pipeline's call."""
        found: dict[str, dict[str, Any]] = {PLAIN: {}}
        found |= {f"CADS, scale {scale:g}": {"diversity": Cads(scale=scale)} for scale in self.scales or (0.5, 1.0)}
        for entry in self.intervals or ("0.22:0.84", "0.1:0.6"):
            try:
                interval = check_interval([float(end) for end in entry.split(":")])
            except ValueError as error:
                raise ValueError(f"intervals holds {entry!r}; give LOW:HIGH from 0 to 1.") from error
            found[f"guidance in [{entry.replace(':', ', ')}]"] = {"guidance_interval": interval}
        return found


class Row(NamedTuple):
    """One line of the table: shares in [0, 1], entropy in bits within a class, and the FID to scenes."""

    name: str
    recognised: float
    background_entropy: float
    own_background: float
    fid: float


@torch.no_grad()
def compare(settings: DiversityBenchmarkSettings) -> list[Row]:
    """Draw with every arm and print the table."""
    torch.set_num_threads(1)
    print(machine_line("cpu"))
    pipeline = load_pipeline(settings.model)
    pipeline.set_progress_bar_config(disable=True)
    prepare_pipeline(pipeline, "none", keeps_projections=False)
    pack_products(pipeline.denoiser_network)
    draw, arms = ImageDrawer(pipeline), settings.arms()
    batches = settings.num_images // len(CLASS_NAMES)
    labels = np.tile(np.arange(len(CLASS_NAMES)), batches)
    rendered = np.stack([scene.image for scene in scenes(settings.num_images, bias=0.0, seed=1_000_003)])
    scene_features = image_features(rendered)
    seeds = default_seeds(settings.seed, CLASS_NAMES * batches)
    progress, rows = Progress(settings.num_images * len(arms), "images"), []
    for name, arguments in arms.items():
        images = []
        for start in range(0, len(labels), len(CLASS_NAMES)):
            drawn = draw(
                CLASS_NAMES,
                CLASS_NAMES,
                seeds=seeds[start : start + len(CLASS_NAMES)],
                guidance_scale=settings.guidance_scale,
                num_inference_steps=settings.num_inference_steps,
                **arguments,
            )
            images.append(drawn.images())
            progress.advance(len(CLASS_NAMES))
        pixels = np.concatenate(images)
        factors = predict_factors(pixels)
        rows.append(
            Row(
                name,
                class_accuracy(factors["class"], labels, len(CLASS_NAMES)).mean,
                factor_entropy(factors["background"], len(BACKGROUND_NAMES), labels, len(CLASS_NAMES)).mean,
                own_share(factors["background"], OWN_BACKGROUND_INDEX, labels).mean,
                max(0.0, frechet_distance(scene_features, image_features(pixels))),
            )
        )
    print(f"\n{table(rows, settings)}")
    return rows


def table(rows: Sequence[Row], settings: DiversityBenchmarkSettings) -> str:
    """The rows as a table in Markdown."""
    lines = ["| | recognised | background entropy, bits | own background | FID to scenes |", "|---|---|---|---|---|"]
    for row in rows:
        cells = [row.name, f"{row.recognised:.1%}", f"{row.background_entropy:.2f}", f"{row.own_background:.1%}"]
        lines.append(f"| {' | '.join([*cells, f'{row.fid:.1f}'])} |")
    error = 2 * math.sqrt(0.25 / settings.num_images)
    return "\n".join(
        [
            *lines,
            "",
            f"{settings.num_images} images each, {settings.num_inference_steps} steps, guidance"
            f" {settings.guidance_scale:g}; two standard errors of a share: at most {error:.1%}.",
        ]
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, measure and print; 2 for a bad setting."""
    return run_command(_body, argv)


def _body(argv: Sequence[str]) -> None:
    prog = "python -m benchmarks.diversity"
    compare(parse_settings(DiversityBenchmarkSettings, argv, prog=prog, description=__doc__))


if __name__ == "__main__":
    sys.exit(main())
