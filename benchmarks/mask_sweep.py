"""Mask settings for a model of the mini world: scenes are noised part-way, denoised, and their masks compared.

The truth of a generated image is unknown, but that of a rendered scene is not: a scene that is noised part-way keeps
its object's place while the model draws it again (inversion). Attention is recorded once per quarter of the denoising
and level; every combination of settings is then scored on the same recordings.

    python -m benchmarks.mask_sweep --num-scenes 100
    python -m benchmarks.mask_sweep --model mini-flow --num-objects 2

IoU is that of a class against everything else, averaged over classes and scenes. Ignored pixels do not count in it;
their share of the image is printed beside it. With two objects of different classes in a scene, a mask that covers
both is right about neither.
"""

import itertools
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch

from benchmarks.joint_mask_recordings import joint_candidates, record_joint_maps
from ubgen_pipeline.attention_maps import AttentionRecorder, RecordedAttention, attention_levels, joined_texts
from ubgen_pipeline.attention_masks import attention_mask, heat_maps
from ubgen_pipeline.class_tokens import append_class_words, class_texts
from ubgen_pipeline.commands.settings_parser import field_help, parse_settings, run_command
from ubgen_pipeline.initial_latents import draw_latents
from ubgen_pipeline.latent_denoising import denoising_steps
from ubgen_pipeline.mask_attention import JointMaskAttention
from ubgen_pipeline.mask_settings import IGNORE_LABEL, SOURCES, MaskSettings
from ubgen_pipeline.mini.scenes import PairScene, Scene, SceneFactors, pair_scenes, scenes
from ubgen_pipeline.models.loading import load_pipeline
from ubgen_pipeline.pipeline import UbGenPipeline

QUARTERS = 4


@dataclass(frozen=True)
class SweepSettings:
    """Settings of the sweep."""

    model: str = field_help("mini, mini-flow, or a folder of a model of the mini world", "mini")
    num_objects: int = field_help("objects in a scene, 1 or 2", 1)
    num_scenes: int = field_help("rendered scenes; half choose the settings, half test them", 100)
    strength: float = field_help(
        "share of the noise schedule that the scenes are noised by, above 0 and at most 1", 0.6
    )
    full_captions: bool = field_help("draw from captions that name texture and background, too", True)
    bias: float = field_help("how often a scene has its class's own background and texture", 0.95)
    num_inference_steps: int | None = field_help(
        "denoising steps of a whole schedule; 50 for a UNet and the family's own for others if not given", None
    )
    guidance_scale: float | None = field_help(
        "classifier-free guidance; 2.0 for a UNet and the family's own for others if not given", None
    )
    background: str = field_help("word that stands for what belongs to no class, among concept tokens", "a")
    batch_size: int = field_help("scenes denoised together", 25)
    seed: int = field_help("seed of scenes and noise", 11)
    num_printed: int = field_help("settings printed, best first", 12)
    output: str | None = field_help("JSON file for every setting's score", None)

    def __post_init__(self) -> None:
        if self.num_objects not in (1, 2):
            raise ValueError(f"num_objects is {self.num_objects}; scenes have 1 or 2.")


@dataclass(frozen=True)
class KnownScene:
    """A rendered scene: ``image (64, 64, 3)`` uint8, ``truth (64, 64)`` uint8 with k + 1 where object k is, and what
    it is drawn again from."""

    image: np.ndarray
    truth: np.ndarray
    class_names: list[str]
    prompt: str

    @classmethod
    def of(cls, scene: Scene | PairScene, full_captions: bool) -> "KnownScene":
        masks = scene.masks if isinstance(scene, PairScene) else scene.mask[None]
        objects = scene.factors if isinstance(scene, PairScene) else (scene.factors,)
        names = [factors.class_name for factors in objects]
        caption = _caption(objects) if full_captions else " and ".join(names)
        truth = sum(mask.astype(np.uint8) * number for number, mask in enumerate(masks, 1))
        return cls(scene.image, np.asarray(truth), names, append_class_words(caption, names))


def _caption(objects: Sequence[SceneFactors]) -> str:
    things = " and ".join(f"a {factors.texture} {factors.class_name}" for factors in objects)
    return f"a photo of {things} on {objects[0].background}"


@dataclass(frozen=True)
class QuarterMaps:
    """Recordings of N scenes in one quarter of the denoising: cross maps by level, self maps by level."""

    cross: dict[int, torch.Tensor]
    self_attention: dict[int, torch.Tensor]
    latent_size: tuple[int, int]


@torch.no_grad()
def record_quarters(
    pipeline: UbGenPipeline, rendered: Sequence[KnownScene], num_steps: int, scale: float, settings: SweepSettings
) -> dict[bool, list[QuarterMaps]]:
    """Denoise the noised scenes and record attention at every level by quarters, with class prompts and without."""
    levels = attention_levels(pipeline.unet)
    prompts = [scene.prompt for scene in rendered]
    images = torch.stack([torch.from_numpy(scene.image).permute(2, 0, 1) for scene in rendered]) / 127.5 - 1
    clean = pipeline.vae.encode(images).latent_dist.mean * pipeline.vae.config.scaling_factor
    pipeline.scheduler.set_timesteps(num_steps)
    timesteps = pipeline.scheduler.timesteps
    timesteps = timesteps[round(len(timesteps) * (1 - settings.strength)) :]
    noise = draw_latents(range(settings.seed, settings.seed + len(prompts)), tuple(clean.shape[1:]))
    latents = pipeline.scheduler.add_noise(clean, noise, timesteps[:1])
    size = (latents.shape[2], latents.shape[3])
    recorders = {}
    for class_prompt in (True, False):
        texts = joined_texts(
            [class_texts(pipeline, scene.prompt, scene.class_names, class_prompt) for scene in rendered]
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
        negative=pipeline.batch(pipeline.encode([""] * len(prompts))),
        guidance_scale=scale,
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
    """Mean IoU of the K classes of N masks from ``maps (N, K, H, W)``, and the mean share ignored.

    ``truth (N, H, W)`` holds k + 1 where class k is, and 0 elsewhere.
    """
    values = np.stack([attention_mask(scores, settings).mask for scores in maps])
    kept = values != IGNORE_LABEL
    ious = []
    for value in range(1, maps.shape[1] + 1):
        found, expected = (values == value) & kept, (truth == value) & kept
        union = (found | expected).sum(axis=(1, 2))
        ious.append((found & expected).sum(axis=(1, 2)) / np.maximum(union, 1))
    return float(np.mean(ious)), float(1 - kept.mean())


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
    series = scenes if settings.num_objects == 1 else pair_scenes
    rendered = [
        KnownScene.of(scene, settings.full_captions)
        for scene in series(settings.num_scenes, bias=settings.bias, seed=settings.seed)
    ]
    truth = np.stack([scene.truth for scene in rendered])
    is_joint = isinstance(pipeline.mask_attention, JointMaskAttention)
    num_steps = settings.num_inference_steps or (pipeline.default_num_inference_steps if is_joint else 50)
    scale = settings.guidance_scale or (pipeline.default_guidance_scale if is_joint else 2.0)
    batches = [rendered[start : start + settings.batch_size] for start in range(0, len(rendered), settings.batch_size)]
    if is_joint:
        recorded = [record_joint_maps(pipeline, batch, num_steps, scale, settings) for batch in batches]

        def maps_of(item: MaskSettings) -> np.ndarray:
            parts = [heat_maps(record.combined(item), item, truth.shape[1:]) for record in recorded]
            return torch.cat(parts).numpy()

        all_candidates = joint_candidates(pipeline.mask_attention, [settings.background])
    else:
        quarters = [record_quarters(pipeline, batch, num_steps, scale, settings) for batch in batches]
        recordings = {
            class_prompt: [joined(group) for group in zip(*(batch[class_prompt] for batch in quarters))]
            for class_prompt in (True, False)
        }

        def maps_of(item: MaskSettings) -> np.ndarray:
            return heat_maps(combined(recordings[item.class_prompt], item), item, truth.shape[1:]).numpy()

        all_candidates = candidates(attention_levels(pipeline.unet))
    chosen, held_out = slice(0, None, 2), slice(1, None, 2)
    results = []
    for item in all_candidates:
        maps = maps_of(item)[chosen]
        for threshold, ignore in thresholds():
            with_thresholds = replace(item, threshold=threshold, ignore_threshold=ignore)
            iou, ignored = score(maps, truth[chosen], with_thresholds)
            results.append({"iou": iou, "ignored": ignored, **asdict(with_thresholds)})
    results.sort(key=lambda row: -row["iou"])
    if settings.output:
        Path(settings.output).write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    shown = ("source", "cross_levels", "self_level", "self_power", "first_step", "last_step", "invert", "threshold")
    print(f"best on {len(truth[chosen])} scenes, strength {settings.strength}")
    for row in results[: settings.num_printed]:
        print(f"  IoU {row['iou']:.3f}, ignored {row['ignored']:.3f}", {name: row[name] for name in shown})
    defaults = pipeline.default_mask_settings()
    best = MaskSettings(**{name: value for name, value in results[0].items() if name not in ("iou", "ignored")})
    ablations = {
        "the defaults": defaults,
        "the best above": best,
        "without self-attention": replace(defaults, self_power=0),
        "without class prompt": replace(defaults, class_prompt=False),
        "without ignore band": replace(defaults, ignore_threshold=None),
        ("not inverted" if defaults.invert else "inverted"): replace(defaults, invert=not defaults.invert),
        "all steps": replace(defaults, first_step=0.0, last_step=1.0),
    }
    if is_joint:
        del ablations["without class prompt"]
        for source in SOURCES:
            row = next(row for row in results if row["source"] == source and not row["invert"])
            ablations[f"the best of {source}, not inverted"] = MaskSettings(
                **{name: value for name, value in row.items() if name not in ("iou", "ignored")}
            )
    print(f"on the {len(truth[held_out])} other scenes")
    for name, item in ablations.items():
        iou, ignored = score(maps_of(item)[held_out], truth[held_out], item)
        print(f"  IoU {iou:.3f}, ignored {ignored:.3f}  {name}")


if __name__ == "__main__":
    sys.exit(main())
