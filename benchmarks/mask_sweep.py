"""Mask settings for a model of the mini world: scenes are noised part-way, denoised, and their masks compared.

The truth of a generated image is unknown, but that of a rendered scene is not: a scene that is noised part-way keeps
its object's place while the model draws it again (inversion). Attention is recorded once per quarter of the denoising
and level; every combination of settings is then scored on the same recordings.

    python -m benchmarks.mask_sweep --num-scenes 100

IoU is that of the class against everything else, averaged over scenes. Ignored pixels do not count in it; their share
of the image is printed beside it.
"""

import itertools
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch

from ubgen_pipeline.attention_maps import AttentionRecorder, RecordedAttention, attention_levels, joined_texts
from ubgen_pipeline.attention_masks import attention_mask, heat_maps
from ubgen_pipeline.class_tokens import append_class_words, class_texts
from ubgen_pipeline.commands.settings_parser import field_help, parse_settings, run_command
from ubgen_pipeline.initial_latents import draw_latents
from ubgen_pipeline.latent_denoising import denoising_steps
from ubgen_pipeline.mask_settings import IGNORE_LABEL, SMALL, MaskSettings
from ubgen_pipeline.mini.scenes import Scene, scenes
from ubgen_pipeline.models.loading import load_pipeline
from ubgen_pipeline.pipeline import UbGenPipeline

QUARTERS = 4


@dataclass(frozen=True)
class SweepSettings:
    """Settings of the sweep."""

    model: str = field_help("mini, or a folder of a model of the mini world", "mini")
    num_scenes: int = field_help("rendered scenes; half choose the settings, half test them", 100)
    strength: float = field_help(
        "share of the noise schedule that the scenes are noised by, above 0 and at most 1", 0.6
    )
    full_captions: bool = field_help("draw from captions that name texture and background, too", True)
    bias: float = field_help("how often a scene has its class's own background and texture", 0.95)
    num_inference_steps: int = field_help("denoising steps of a whole schedule", 50)
    guidance_scale: float = field_help("classifier-free guidance", 2.0)
    batch_size: int = field_help("scenes denoised together", 25)
    seed: int = field_help("seed of scenes and noise", 11)
    num_printed: int = field_help("settings printed, best first", 12)
    output: str | None = field_help("JSON file for every setting's score", None)


@dataclass(frozen=True)
class QuarterMaps:
    """Recordings of N scenes in one quarter of the denoising: cross maps by level, self maps by level."""

    cross: dict[int, torch.Tensor]
    self_attention: dict[int, torch.Tensor]
    latent_size: tuple[int, int]


@torch.no_grad()
def record_quarters(
    pipeline: UbGenPipeline, rendered: Sequence[Scene], settings: SweepSettings
) -> dict[bool, list[QuarterMaps]]:
    """Denoise the noised scenes and record attention at every level by quarters, with class prompts and without."""
    levels = attention_levels(pipeline.unet)
    names = [scene.factors.class_name for scene in rendered]
    captions = [scene.factors.caption for scene in rendered] if settings.full_captions else names
    prompts = [append_class_words(caption, [name]) for caption, name in zip(captions, names)]
    images = torch.stack([torch.from_numpy(scene.image).permute(2, 0, 1) for scene in rendered]) / 127.5 - 1
    clean = pipeline.vae.encode(images).latent_dist.mean * pipeline.vae.config.scaling_factor
    pipeline.scheduler.set_timesteps(settings.num_inference_steps)
    timesteps = pipeline.scheduler.timesteps
    timesteps = timesteps[round(len(timesteps) * (1 - settings.strength)) :]
    noise = draw_latents(range(settings.seed, settings.seed + len(names)), tuple(clean.shape[1:]))
    latents = pipeline.scheduler.add_noise(clean, noise, timesteps[:1])
    size = (latents.shape[2], latents.shape[3])
    recorders = {}
    for class_prompt in (True, False):
        texts = joined_texts(
            [class_texts(pipeline, prompt, [name], class_prompt) for prompt, name in zip(prompts, names)]
        )
        for quarter, level in itertools.product(range(QUARTERS), levels["self"]):
            steps = range(len(timesteps) * quarter // QUARTERS, len(timesteps) * (quarter + 1) // QUARTERS)
            recorders[class_prompt, quarter, level] = AttentionRecorder(
                pipeline.unet, texts, size, cross_levels=levels["cross"], self_level=level, steps=steps
            )
    for recorder in recorders.values():
        recorder.__enter__()
    for _ in denoising_steps(
        pipeline.predict,
        pipeline.scheduler,
        latents,
        pipeline.batch(pipeline.encode(prompts)),
        negative=pipeline.batch(pipeline.encode([""] * len(names))),
        guidance_scale=settings.guidance_scale,
        timesteps=timesteps,
    ):
        pass
    for recorder in recorders.values():
        recorder.__exit__()
    quarters: dict[bool, list[QuarterMaps]] = {True: [], False: []}
    for class_prompt, quarter in itertools.product((True, False), range(QUARTERS)):
        results = {level: recorders[class_prompt, quarter, level].result() for level in levels["self"]}
        maps = next(iter(results.values())).cross_maps.values()
        self_maps = {level: result.self_map for level, result in results.items() if result.self_map is not None}
        quarters[class_prompt].append(QuarterMaps(dict(zip(levels["cross"], maps)), self_maps, size))
    return quarters


def joined(parts: Sequence[QuarterMaps]) -> QuarterMaps:
    """The same quarter of several batches."""
    return QuarterMaps(
        {level: torch.cat([item.cross[level] for item in parts]) for level in parts[0].cross},
        {level: torch.cat([item.self_attention[level] for item in parts]) for level in parts[0].self_attention},
        parts[0].latent_size,
    )


def combined(quarters: Sequence[QuarterMaps], settings: MaskSettings) -> RecordedAttention:
    """What recording with those settings would have given, averaged from the quarters it covers."""
    used = quarters[round(settings.first_step * QUARTERS) : round(settings.last_step * QUARTERS)]
    height, width = quarters[0].latent_size
    cross = {
        (height >> level, width >> level): sum(item.cross[level] for item in used) / len(used)
        for level in settings.cross_levels
    }
    level = settings.self_level
    self_map = sum(item.self_attention[level] for item in used) / len(used) if settings.self_power else None
    return RecordedAttention(cross, self_map, (height >> level, width >> level))  # pyright: ignore


def score(maps: np.ndarray, truth: np.ndarray, settings: MaskSettings) -> tuple[float, float]:
    """Mean IoU of N masks from ``maps (N, H, W)`` with the truth ``(N, H, W)``, and the mean share ignored."""
    values = np.stack([attention_mask(scores[None], settings).mask for scores in maps])
    kept, inside = values != IGNORE_LABEL, values == 1
    union = ((inside | truth) & kept).sum(axis=(1, 2))
    iou = (inside & truth & kept).sum(axis=(1, 2)) / np.maximum(union, 1)
    return float(iou.mean()), float(1 - kept.mean())


def candidates(levels: dict[str, list[int]]) -> Iterator[MaskSettings]:
    """Every combination of levels, power, steps and sign, without thresholds."""
    cross = [(level,) for level in levels["cross"]] + ([tuple(levels["cross"])] if len(levels["cross"]) > 1 else [])
    steps = [(0.0, 1.0), (0.0, 0.5), (0.25, 0.75), (0.5, 1.0), (0.75, 1.0)]
    for cross_levels, self_level, power, (first, last), invert in itertools.product(
        cross, levels["self"], (0, 1, 2, 4), steps, (False, True)
    ):
        yield MaskSettings(
            cross_levels=cross_levels,
            self_level=self_level,
            self_power=power,
            first_step=first,
            last_step=last,
            invert=invert,
        )


def thresholds() -> Iterator[tuple[float, float | None]]:
    for threshold in (0.3, 0.4, 0.5, 0.6, 0.7, 0.8):
        yield threshold, None
        yield threshold, round(threshold - 0.1, 2)


def main(argv: Sequence[str] | None = None) -> int:
    return run_command(_body, argv)


def _body(argv: Sequence[str]) -> None:
    settings = parse_settings(SweepSettings, argv, prog="python -m benchmarks.mask_sweep", description=__doc__)
    pipeline = load_pipeline(settings.model)
    rendered = list(scenes(settings.num_scenes, bias=settings.bias, seed=settings.seed))
    truth = np.stack([scene.mask for scene in rendered])
    batches = [
        record_quarters(pipeline, rendered[start : start + settings.batch_size], settings)
        for start in range(0, len(rendered), settings.batch_size)
    ]
    recordings = {
        class_prompt: [joined(group) for group in zip(*(batch[class_prompt] for batch in batches))]
        for class_prompt in (True, False)
    }
    chosen, held_out = slice(0, None, 2), slice(1, None, 2)

    def evaluated(item: MaskSettings, rows: slice) -> tuple[float, float]:
        maps = heat_maps(combined(recordings[item.class_prompt], item), item, truth.shape[1:])[:, 0].numpy()
        return score(maps[rows], truth[rows], item)

    results = []
    for item in candidates(attention_levels(pipeline.unet)):
        maps = heat_maps(combined(recordings[True], item), item, truth.shape[1:])[:, 0].numpy()
        for threshold, ignore in thresholds():
            with_thresholds = replace(item, threshold=threshold, ignore_threshold=ignore)
            iou, ignored = score(maps[chosen], truth[chosen], with_thresholds)
            results.append({"iou": iou, "ignored": ignored, **asdict(with_thresholds)})
    results.sort(key=lambda row: -row["iou"])
    if settings.output:
        Path(settings.output).write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    shown = ("cross_levels", "self_level", "self_power", "first_step", "last_step", "invert", "threshold")
    print(f"best on {len(truth[chosen])} scenes, strength {settings.strength}")
    for row in results[: settings.num_printed]:
        print(f"  IoU {row['iou']:.3f}, ignored {row['ignored']:.3f}", {name: row[name] for name in shown})
    ablations = {
        "the defaults": SMALL,
        "without self-attention": replace(SMALL, self_power=0),
        "without class prompt": replace(SMALL, class_prompt=False),
        "without ignore band": replace(SMALL, ignore_threshold=None),
        "not inverted": replace(SMALL, invert=False),
        "all steps": replace(SMALL, first_step=0.0, last_step=1.0),
    }
    print(f"on the {len(truth[held_out])} other scenes")
    for name, item in ablations.items():
        iou, ignored = evaluated(item, held_out)
        print(f"  IoU {iou:.3f}, ignored {ignored:.3f}  {name}")


if __name__ == "__main__":
    sys.exit(main())
