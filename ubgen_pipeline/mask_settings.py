"""How attention becomes masks: the settings, those of the Dataset Diffusion paper, and those of small models."""

import math
from dataclasses import asdict, dataclass
from typing import Any

IGNORE_LABEL = 255
# what maps of classes are made of
SOURCES = ("attention", "concepts")
ANNOTATIONS = ("mask", "confidence", "heatmap", "instance", "box", "polygon")


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


@dataclass(frozen=True)
class MaskSettings:
    """Settings of masks from attention. The defaults are those of Dataset Diffusion (arXiv 2309.14303, section 4).

    Attributes:
        source: one of :data:`SOURCES`. ``attention``: a class's map is the attention to its words. ``concepts``: the
            likeness of what attention gives a pixel to what it gives the class's words, encoded apart from the prompt
            (ConceptAttention, arXiv 2502.04320); for transformers with a stream of tokens for text and one for images.
        background: words that stand for what belongs to no class, where ``source`` is ``concepts``; at least one.
        class_prompt: take the cross-attention's keys from a text of the class words alone (class-prompt
            cross-attention, section 3.2); False takes them from the prompt that the image is drawn from. Joint
            attention of text and image knows no other.
        append_class_names: append the class words to a prompt that does not end with them (class-prompt appending,
            section 3.1).
        cross_levels: levels of the cross-attention maps, averaged; level i is where the latents were halved i times:
            of 64x64 latents, level 2 is 16x16. Of joint attention: positions of its blocks.
        self_level: level of the self-attention map, and the size at which maps are refined; or position of the block.
        self_power: exponent of the self-attention map (tau, Eq. 6), at least 0; 0 leaves it out.
        invert: one minus the normalised map. For models whose object pixels look away from their class's token.
        threshold: least score in (0, 1] of a pixel that belongs to a class.
        ignore_threshold: a pixel whose best score lies between this and ``threshold`` gets label 255; None for no
            such band.
        first_step, last_step: the share of the denoising, from 0 (noise) to 1 (image), that is recorded.
        min_area: least share of the image, in [0, 1), that a connected region must cover to be an object.

    Raises:
        ValueError: a setting out of its range.
    """

    source: str = "attention"
    background: tuple[str, ...] = ("background",)
    class_prompt: bool = True
    append_class_names: bool = True
    cross_levels: tuple[int, ...] = (2,)
    self_level: int = 1
    self_power: int = 4
    invert: bool = False
    threshold: float = 0.6
    ignore_threshold: float | None = 0.5
    first_step: float = 0.0
    last_step: float = 1.0
    min_area: float = 0.005

    def __post_init__(self) -> None:
        object.__setattr__(self, "cross_levels", tuple(self.cross_levels))
        if self.source not in SOURCES:
            raise ValueError(f"source is {self.source!r}; choose {' or '.join(SOURCES)}.")
        if isinstance(self.background, str) or not self.background or not all(map(str.strip, self.background)):
            raise ValueError(f"background is {self.background!r}; give a list of at least one word.")
        object.__setattr__(self, "background", tuple(self.background))
        levels = (*self.cross_levels, self.self_level)
        if not self.cross_levels or any(not _is_count(level) for level in levels):
            raise ValueError(
                f"cross_levels is {self.cross_levels} and self_level {self.self_level}; give integers of at least 0."
            )
        if not _is_count(self.self_power):
            raise ValueError(f"self_power is {self.self_power!r}; give an integer of at least 0.")
        if not 0 < self.threshold <= 1:
            raise ValueError(f"threshold is {self.threshold}; give a number above 0 and at most 1.")
        if self.ignore_threshold is not None and not 0 <= self.ignore_threshold <= self.threshold:
            raise ValueError(
                f"ignore_threshold is {self.ignore_threshold}; give a number from 0 to threshold ({self.threshold})."
            )
        if not 0 <= self.first_step < self.last_step <= 1:
            raise ValueError(
                f"first_step is {self.first_step} and last_step {self.last_step}; give shares of the denoising"
                " with 0 <= first_step < last_step <= 1."
            )
        if not 0 <= self.min_area < 1:
            raise ValueError(f"min_area is {self.min_area}; give a share of the image of at least 0 and below 1.")

    def facts(self) -> dict[str, Any]:
        """The settings that count, by name, as a manifest holds them."""
        facts = asdict(self)
        if self.source == "attention":
            # those of the first datasets, which knew no other source
            del facts["source"], facts["background"]
        return facts

    def recorded_steps(self, num_steps: int) -> range:
        """Positions of the recorded ones among ``num_steps`` UNet calls, at least one."""
        start = min(math.floor(self.first_step * num_steps + 0.5), num_steps - 1)
        return range(start, max(math.floor(self.last_step * num_steps + 0.5), start + 1))


PAPER = MaskSettings()
# found by benchmarks/mask_sweep.py on the mini model
SMALL = MaskSettings(
    cross_levels=(1,), self_level=0, self_power=1, invert=True, threshold=0.7, ignore_threshold=0.6, first_step=0.5
)


def default_mask_settings(num_blocks: int) -> MaskSettings:
    """Settings for a UNet of so many blocks on its way down: the paper's where it has them, else the mini model's."""
    return PAPER if num_blocks > max(*PAPER.cross_levels, PAPER.self_level) else SMALL


def small_joint_settings(num_blocks: int) -> MaskSettings:
    """Settings for the mini flow model and other transformers of so few blocks, at least two: the attention to the
    words in the middle, while the noise is strong. Found by ``benchmarks/mask_sweep.py``."""
    return MaskSettings(
        class_prompt=False,
        cross_levels=(num_blocks // 2,),
        self_level=num_blocks - 1,
        self_power=4,
        last_step=0.5,
        threshold=0.8,
        ignore_threshold=0.6,
    )


def joint_mask_settings(num_blocks: int) -> MaskSettings:
    """Settings for joint attention of text and image: the last four of 19 blocks, as ConceptAttention has them for
    FLUX.1 (arXiv 2502.04320), or those at their depth."""
    blocks = tuple(range(num_blocks * 15 // 19, num_blocks))
    return MaskSettings(class_prompt=False, cross_levels=blocks, self_level=blocks[-1])


def check_annotations(annotations: object) -> tuple[str, ...]:
    """The asked annotations, each once, in the order of :data:`ANNOTATIONS`; ``ValueError`` names an unknown one."""
    if isinstance(annotations, str) or not isinstance(annotations, (list, tuple)):
        raise ValueError(f"annotations is {annotations!r}; give a list of {', '.join(ANNOTATIONS)}.")
    for name in annotations:
        if name not in ANNOTATIONS:
            raise ValueError(f"annotations holds {name!r}; choose from {', '.join(ANNOTATIONS)}.")
    return tuple(name for name in ANNOTATIONS if name in annotations)
