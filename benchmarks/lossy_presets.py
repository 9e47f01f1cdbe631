"""What each lossy preset of ``ubgen generate`` gains and what it costs, on the mini model.

    python -m benchmarks.lossy_presets
    python -m benchmarks.lossy_presets --few-step-loras lcm-4=FEW hyper-8=OTHER

Every preset draws the same samples, from the same noise, in turn with the exact arm: batch by batch A B C … A B C …,
on one CPU thread in CPU seconds, so that other work on the machine counts little; on a GPU in wall seconds. The exact
arm draws with other seeds too, which shows what chance alone does. The judge that reads the images was trained apart
from the generator and is no part of any reward. Presets for a few steps need a LoRA of their own, which
``training/train_few_steps.py`` makes, and are left out without.
"""

import math
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch

from benchmarks.demo import OWN_BACKGROUND_INDEX, OWN_TEXTURE_INDEX
from benchmarks.machine_limits import machine_line, synchronize
from ubgen_evaluation import class_accuracy, own_share
from ubgen_evaluation.fidelity import frechet_distance
from ubgen_pipeline.commands.console import say
from ubgen_pipeline.commands.settings_parser import field_help, parse_settings, run_command
from ubgen_pipeline.inference.image_drawer import ImageDrawer
from ubgen_pipeline.inference.packed_products import pack_products
from ubgen_pipeline.inference.prepared_pipeline import for_another_thread, prepare_pipeline
from ubgen_pipeline.inference.presets import FEW_STEP_PRESETS, PRESETS
from ubgen_pipeline.inference.settings import lora_weights
from ubgen_pipeline.mini import mini_lora_path
from ubgen_pipeline.mini.clip import load_mini_clip
from ubgen_pipeline.mini.judges import predict_factors
from ubgen_pipeline.mini.scenes import CLASS_NAMES, scenes
from ubgen_pipeline.models.loading import load_pipeline, set_scheduler
from ubgen_pipeline.sample_seeds import default_seeds

OTHER_SEEDS = "exact, other seeds"


@dataclass(frozen=True)
class PresetSettings:
    """Settings of the benchmark."""

    num_images: int = field_help("images of each arm; a multiple of ten", 60)
    presets: list[str] | None = field_help("presets to measure; all that need no LoRA of theirs if not given", None)
    few_step_loras: list[str] | None = field_help("presets for a few steps, each PRESET=LORA", None)
    num_inference_steps: int = field_help("of the exact arm, and of presets that set none", 50)
    lora: str | None = field_help("a LoRA of the mini model", mini_lora_path())
    seed: int = field_help("seed of the samples", 0)
    device: str | None = field_help("cpu or cuda; a GPU where there is one, if not given", None)

    def __post_init__(self) -> None:
        if self.num_images < 10 or self.num_images % 10:
            raise ValueError(f"num_images is {self.num_images}; give a multiple of ten.")
        for name in self.presets or ():
            if name not in PRESETS or PRESETS[name].needs_lora:
                raise ValueError(f"presets holds {name!r}; choose of {', '.join(measurable())}.")
        for entry in self.few_step_loras or ():
            name, _, lora = entry.partition("=")
            if not lora or name not in FEW_STEP_PRESETS:
                choices = ", ".join(FEW_STEP_PRESETS)
                raise ValueError(f"few_step_loras holds {entry!r}; give PRESET=LORA with one of {choices}.")


class Row(NamedTuple):
    """One line of the table: ratio of median seconds of a batch, shares in [0, 1], FIDs, and PSNR of the pairs.

    ``speed_up`` is the exact arm's seconds over the preset's.

    ``read_alike`` is the share of pairs in which the judge reads the same class, background and texture.
    """

    name: str
    speed_up: float
    class_accuracy: float
    own_background: float
    own_texture: float
    read_alike: float
    fid_exact: float
    fid_scenes: float
    decibels: float


def measurable() -> list[str]:
    """Presets that need no LoRA of their own."""
    return [name for name, preset in PRESETS.items() if not preset.needs_lora]


class Arm:
    """One way of drawing. The arms share their weights, except those with a LoRA for a few steps.

    Args:
        pipeline: prepared for inference.
        settings: those of ``GenerateSettings`` that the preset sets.
        shortcuts: arguments of the pipeline's call.
        seed: seed of the samples.
    """

    def __init__(self, pipeline: Any, settings: Mapping[str, Any], shortcuts: Mapping[str, Any], seed: int):
        own = for_another_thread(pipeline)
        set_scheduler(own, settings.get("scheduler", "pndm"))
        self._draw = ImageDrawer(own)
        self._arguments = {"guidance_scale": 2.0, **settings, **shortcuts}
        self._arguments.pop("scheduler", None)
        self._seed = seed
        self.seconds: list[float] = []
        self.images: list[np.ndarray] = []

    def draw(self, number: int, device: str) -> None:
        """Draw batch ``number``, one image of each class."""
        seeds = [default_seeds(self._seed, [name] * (number + 1))[-1] for name in CLASS_NAMES]
        synchronize(device)
        clock = time.perf_counter if device.startswith("cuda") else time.thread_time
        start = clock()
        images = self._draw(CLASS_NAMES, CLASS_NAMES, seeds=seeds, **self._arguments).images()
        synchronize(device)
        self.seconds.append(clock() - start)
        self.images.append(images)


def compare(settings: PresetSettings) -> list[Row]:
    """Draw with every arm and print the table."""
    device = settings.device or ("cuda" if torch.cuda.is_available() else "cpu")
    if device == "cpu":
        torch.set_num_threads(1)
    print(machine_line(device))
    dtype = torch.float16 if device.startswith("cuda") else torch.float32

    def prepared(few_step_lora: str | None = None) -> Any:
        pipeline = load_pipeline(
            "mini", lora=settings.lora, few_step_lora=few_step_lora, torch_dtype=dtype, device=device
        )
        pipeline.set_progress_bar_config(disable=True)
        placement = lora_weights(bool(settings.lora or few_step_lora), str(dtype).removeprefix("torch."))
        prepare_pipeline(pipeline, placement, keeps_projections=False)
        pack_products(pipeline.unet)
        return pipeline

    pipeline = prepared()
    own = {"num_inference_steps": settings.num_inference_steps}
    arms = {"exact": Arm(pipeline, own, {}, settings.seed)}
    for name in settings.presets or measurable():
        arms[name] = Arm(pipeline, own | PRESETS[name].settings, PRESETS[name].shortcuts, settings.seed)
    for entry in settings.few_step_loras or ():
        name, _, lora = entry.partition("=")
        arms[name] = Arm(prepared(lora), own | PRESETS[name].settings, PRESETS[name].shortcuts, settings.seed)
    arms[OTHER_SEEDS] = Arm(pipeline, own, {}, settings.seed + 1)
    for number in range(settings.num_images // len(CLASS_NAMES)):
        for arm in arms.values():
            arm.draw(number, device)
        say(f"{(number + 1) * len(CLASS_NAMES)}/{settings.num_images} images of each arm")
    rendered = np.stack([scene.image for scene in scenes(settings.num_images, bias=0.0, seed=1_000_003)])
    features = {"scenes": image_features(rendered)}
    images = {name: np.concatenate(arm.images) for name, arm in arms.items()}
    features |= {name: image_features(item) for name, item in images.items()}
    # the first batch warms up
    seconds = {name: statistics.median(arm.seconds[1:] or arm.seconds) for name, arm in arms.items()}
    readings = {name: predict_factors(item) for name, item in images.items()}
    labels, rows = np.tile(np.arange(len(CLASS_NAMES)), settings.num_images // len(CLASS_NAMES)), []
    for name, factors in readings.items():
        alike = [factors[kind] == readings["exact"][kind] for kind in factors]
        rows.append(
            Row(
                name,
                seconds["exact"] / seconds[name],
                class_accuracy(factors["class"], labels, len(CLASS_NAMES)).mean,
                own_share(factors["background"], OWN_BACKGROUND_INDEX, labels).mean,
                own_share(factors["texture"], OWN_TEXTURE_INDEX, labels).mean,
                float(np.mean(np.all(alike, axis=0))),
                # of equal sets it may come out a little below 0
                max(0.0, frechet_distance(features["exact"], features[name])),
                max(0.0, frechet_distance(features["scenes"], features[name])),
                peak_signal_to_noise(images["exact"], images[name]),
            )
        )
    print(f"\n{table(rows, settings.num_images)}")
    return rows


@torch.no_grad()
def image_features(images: np.ndarray) -> np.ndarray:
    """Features ``(N, 128)`` of ``(N, 64, 64, 3)`` uint8 images by the mini CLIP."""
    model, _ = load_mini_clip()
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1
    return torch.cat([model.encode_image(part) for part in pixels.split(100)]).double().numpy()


def peak_signal_to_noise(images: np.ndarray, others: np.ndarray) -> float:
    """Median over the pairs of ``(N, H, W, 3)`` uint8 images, in decibels; infinite where most are equal."""
    errors = np.square(images.astype(np.float64) - others).mean(axis=(1, 2, 3))
    error = float(np.median(errors))
    return math.inf if error == 0 else 10 * math.log10(255**2 / error)


def table(rows: Sequence[Row], num_images: int) -> str:
    """The rows as a table in Markdown."""
    lines = [
        "| | speed | class accuracy | own background | own texture | read alike | FID to exact | FID to scenes"
        " | PSNR to exact |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        cells = [row.name, f"{row.speed_up:.2f}x", *(f"{share:.1%}" for share in row[2:6])]
        cells += [f"{row.fid_exact:.2f}", f"{row.fid_scenes:.2f}", f"{row.decibels:.1f} dB"]
        lines.append(f"| {' | '.join(cells)} |")
    error = 2 * math.sqrt(0.25 / num_images)
    return "\n".join([*lines, "", f"{num_images} images each; two standard errors of a share: at most {error:.1%}."])


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, measure and print; 2 for a bad setting."""
    return run_command(_body, argv)


def _body(argv: Sequence[str]) -> None:
    compare(
        parse_settings(
            PresetSettings,
            argv,
            prog="python -m benchmarks.lossy_presets",
            description=__doc__,
        )
    )


if __name__ == "__main__":
    sys.exit(main())
