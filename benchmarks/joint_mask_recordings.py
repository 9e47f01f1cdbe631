"""What ``benchmarks.mask_sweep`` records of a transformer with joint attention, and which settings it then tries.

A class's map is linear in the blocks and the steps, and so is its refinement. So the maps of each block, refined by
each block, in each quarter of the denoising give those of every combination. They are made both ways, of the attention
to the prompt's words and of concept tokens.

Shapes: B scenes, K classes of a scene, h x w tokens of an image.
"""

import itertools
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from ubgen_pipeline.attention_maps import RecordedAttention
from ubgen_pipeline.initial_latents import draw_latents
from ubgen_pipeline.latent_denoising import denoising_steps
from ubgen_pipeline.mask_settings import SOURCES, MaskSettings
from ubgen_pipeline.scheduler_noise import noised_latents
from ubgen_pipeline.source_images import remaining_timesteps

QUARTERS = 4
POWERS = (1, 2, 4)
STEPS = ((0.0, 1.0), (0.0, 0.5), (0.25, 0.75), (0.5, 1.0), (0.75, 1.0))


@dataclass(frozen=True)
class JointMaps:
    """Maps ``(B, K, h, w)`` of a batch by source, block, refining block, power (both 0 for none) and quarter."""

    maps: dict[tuple[str, int, int, int, int], torch.Tensor]

    def combined(self, settings: MaskSettings) -> RecordedAttention:
        """What recording with those settings would have given.

        Raises:
            ValueError: a power that was not recorded.
        """
        power, refining = settings.self_power, settings.self_level if settings.self_power else 0
        if power not in (0, *POWERS):
            raise ValueError(f"self_power is {power}; recorded are 0, {', '.join(map(str, POWERS))}.")
        used = range(round(settings.first_step * QUARTERS), round(settings.last_step * QUARTERS))
        parts = [
            self.maps[settings.source, block, refining, power, q] for block in settings.cross_levels for q in used
        ]
        mean = torch.stack(parts).mean(dim=0)
        return RecordedAttention({(mean.shape[-2], mean.shape[-1]): mean}, None, None)


@torch.no_grad()
def record_joint_maps(
    pipeline: Any, rendered: Sequence[Any], num_steps: int, guidance_scale: float, settings: Any
) -> JointMaps:
    """Denoise the noised scenes, and record the maps of their classes.

    Args:
        pipeline: of a family with joint attention.
        rendered: B scenes with ``image (H, W, 3)`` uint8, ``class_names`` and ``prompt``.
        num_steps: of a whole schedule.
        guidance_scale: of the denoising.
        settings: ``strength``, ``seed`` and ``background`` are read.
    """
    attention, prompts = pipeline.mask_attention, [scene.prompt for scene in rendered]
    images = torch.from_numpy(np.stack([scene.image for scene in rendered])).permute(0, 3, 1, 2) / 255
    clean = pipeline.encode_images(images)
    pipeline.timesteps(num_steps, tuple(clean.shape[1:]))
    timesteps = remaining_timesteps(pipeline.scheduler, settings.strength)
    noise = draw_latents(range(settings.seed, settings.seed + len(prompts)), tuple(clean.shape[1:]))
    latents = noised_latents(pipeline.scheduler, clean, noise, timesteps[0])
    refinements = [(0, 0), *itertools.product(range(len(attention.layers)), POWERS)]
    recorders = {}
    for source in SOURCES:
        plain = MaskSettings(
            source=source,
            background=(settings.background,),
            class_prompt=False,
            cross_levels=(0,),
            self_level=0,
            self_power=0,
        )
        texts = [attention.texts(scene.prompt, scene.class_names, plain) for scene in rendered]
        blocks = range(len(_blocks(attention, source)))
        for block, (refining, power), quarter in itertools.product(blocks, refinements, range(QUARTERS)):
            item = replace(
                plain,
                cross_levels=(block,),
                self_level=refining,
                self_power=power,
                first_step=quarter / QUARTERS,
                last_step=(quarter + 1) / QUARTERS,
            )
            recorders[source, block, refining, power, quarter] = attention.recorder(
                texts, (clean.shape[-2], clean.shape[-1]), item, len(timesteps)
            )
    with ExitStack() as recording:
        for recorder in recorders.values():
            recording.enter_context(recorder)
        for _ in denoising_steps(
            pipeline.predict,
            pipeline.scheduler,
            latents,
            pipeline.batch(pipeline.encode(prompts)),
            negative=pipeline.batch(pipeline.encode([""] * len(prompts))),
            guidance_scale=guidance_scale,
            guide=pipeline.guide,
            timesteps=timesteps,
        ):
            pass
    (size,) = next(iter(recorders.values())).result().cross_maps
    return JointMaps({key: recorder.result().cross_maps[size] for key, recorder in recorders.items()})


def joint_candidates(attention: Any, background: Sequence[str]) -> Iterator[MaskSettings]:
    """Every combination of source, blocks, refining block, power, steps and sign, without thresholds; concept tokens
    are not inverted, since their maps are shares beside the background's."""
    refinements = [(0, 0), *itertools.product(range(len(attention.layers)), POWERS)]
    for source in SOURCES:
        num_blocks = len(_blocks(attention, source))
        single = [(block,) for block in range(num_blocks)]
        neighbours = [(block, block + 1) for block in range(num_blocks - 1)]
        groups = dict.fromkeys([*single, *neighbours, tuple(range(num_blocks))])
        signs = (False, True) if source == "attention" else (False,)
        for blocks, (refining, power), (first, last), invert in itertools.product(groups, refinements, STEPS, signs):
            yield MaskSettings(
                source=source,
                background=tuple(background),
                class_prompt=False,
                cross_levels=blocks,
                self_level=refining,
                self_power=power,
                first_step=first,
                last_step=last,
                invert=invert,
            )


def _blocks(attention: Any, source: str) -> Sequence[Any]:
    return attention.layers if source == "attention" else attention.concept_blocks
