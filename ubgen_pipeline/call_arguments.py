"""The arguments of a call of the pipeline, checked and gathered into records.

A call has K entries, each a class with its prompt, and N samples: so many of each entry.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from numbers import Integral
from typing import Any

import torch

from .conditioning import Conditioning
from .initial_latents import draw_latents
from .sample_seeds import default_seeds

OUTPUT_TYPES = ("pil", "np", "pt", "latent")


@dataclass(frozen=True)
class CallEntries:
    """What is asked for.

    Attributes:
        class_names, prompts, negative_prompts: K each.
        labels: N, the entry that each sample belongs to.
        seeds: N.
    """

    class_names: list[str]
    prompts: list[str]
    negative_prompts: list[str]
    labels: list[int]
    seeds: list[int]


@dataclass(frozen=True)
class DenoisingSettings:
    """How noise becomes latents.

    Attributes:
        num_inference_steps: at least 1.
        guidance_scale: 1 or less means none.
        eta: DDIM's noise share in [0, 1].
        true_cfg_scale: of a second prediction beside an embedded guidance; 1 or less means none.
        attention_kwargs: handed to the denoiser's attention; ``scale`` in it is that of a LoRA.
    """

    num_inference_steps: int
    guidance_scale: float
    eta: float = 0.0
    attention_kwargs: dict[str, Any] | None = None
    true_cfg_scale: float = 1.0

    def __post_init__(self) -> None:
        check_counts(num_inference_steps=self.num_inference_steps)
        if not math.isfinite(self.true_cfg_scale):
            raise ValueError(f"true_cfg_scale is {self.true_cfg_scale}; give a finite number.")

    @property
    def lora_scale(self) -> float | None:
        return (self.attention_kwargs or {}).get("scale")


@dataclass(frozen=True)
class TextSettings:
    """How prompts are read.

    Attributes:
        weighted: word weights (``star++``) are read, and prompts may have any length.
        num_chunks: with them, tokenizer lengths that every prompt is filled up to; None takes the longest.
        negative: they are what to guide away from, before which some families put no instruction.
    """

    weighted: bool = False
    num_chunks: int | None = None
    negative: bool = False


@dataclass(frozen=True)
class SampleBatch:
    """B of the samples, which are denoised together.

    Attributes:
        rows: their places among the N.
        entries: B, the entry that each belongs to.
        seeds: B.
        noise: ``(B, C, h, w)`` standard normal, on the CPU.
    """

    rows: slice
    entries: list[int]
    seeds: list[int]
    noise: torch.Tensor = field(repr=False)


def call_entries(
    class_names: Sequence[str],
    prompts: Sequence[str] | None,
    negative_prompt: str | Sequence[str] | None,
    num_images_per_class: int,
    seed: int,
    seeds: Sequence[int] | None,
) -> CallEntries:
    """What is asked for, from the call's arguments of these names.

    Raises:
        ValueError: no classes, lists of other lengths, or a number out of range.
    """
    class_names = text_list("class_names", class_names)
    prompts = class_names if prompts is None else text_list("prompts", prompts, length=len(class_names))
    if negative_prompt is None or isinstance(negative_prompt, str):
        negative_prompt = [negative_prompt or ""] * len(class_names)
    negative_prompts = text_list("negative_prompt", negative_prompt, length=len(class_names))
    check_counts(num_images_per_class=num_images_per_class)
    labels = [label for label in range(len(class_names)) for _ in range(num_images_per_class)]
    seeds = (
        default_seeds(seed, [class_names[label] for label in labels]) if seeds is None else list(plain_value(seeds))
    )
    if len(seeds) != len(labels):
        raise ValueError(f"seeds holds {len(seeds)} for {len(labels)} samples; give one per sample.")
    return CallEntries(class_names, prompts, negative_prompts, labels, seeds)


def sample_batches(
    entries: CallEntries, shape: tuple[int, int, int], latents: torch.Tensor | None, batch_size: int | None
) -> list[SampleBatch]:
    """The samples in batches, each with its noise.

    Args:
        entries: what is asked for.
        shape: (C, h, w) of one sample's latents.
        latents: ``(N, C, h, w)`` noise; None draws each sample's from its seed.
        batch_size: None takes all at once.

    Raises:
        ValueError: latents of another shape, or a number out of range.
    """
    num_samples = len(entries.labels)
    noise = draw_latents(entries.seeds, shape) if latents is None else latents
    if tuple(noise.shape) != (num_samples, *shape):
        raise ValueError(f"latents has shape {tuple(noise.shape)}; give {(num_samples, *shape)}.")
    batch_size = num_samples if batch_size is None else batch_size
    check_counts(batch_size=batch_size)
    slices = [slice(start, start + batch_size) for start in range(0, num_samples, batch_size)]
    return [SampleBatch(rows, entries.labels[rows], entries.seeds[rows], noise[rows]) for rows in slices]


def plain_value(value: Any) -> Any:
    """Python's own number, text or list in place of one of numpy's or pandas'; tensors and all else stay."""
    is_foreign = hasattr(value, "tolist") and not isinstance(value, torch.Tensor)
    return value.tolist() if is_foreign else value


def text_list(argument: str, texts: Sequence[str], *, length: int | None = None) -> list[str]:
    """The texts as a list; ``ValueError`` for one text alone, something else, none, or not ``length`` of them."""
    texts = plain_value(texts)
    if isinstance(texts, str) or not all(isinstance(text, str) for text in texts):
        raise ValueError(f"{argument} is {texts!r}; give a list of texts.")
    if not texts or (length is not None and len(texts) != length):
        wanted = "at least one" if length is None else f"{length}, one per class"
        raise ValueError(f"{argument} holds {len(texts)} texts; give {wanted}.")
    return list(texts)


def check_counts(**counts: int) -> None:
    """Raise ``ValueError`` naming the first argument that is no integer of at least 1."""
    for argument, count in counts.items():
        if isinstance(count, bool) or not isinstance(count, Integral) or count < 1:
            raise ValueError(f"{argument} is {count!r}; give an integer of at least 1.")


def check_output_type(output_type: str) -> None:
    """Raise ``ValueError`` unless it is one of ``OUTPUT_TYPES``."""
    if output_type not in OUTPUT_TYPES:
        raise ValueError(f"output_type is {output_type!r}; choose one of {', '.join(OUTPUT_TYPES)}.")


def check_embeds(length: int, prompt_embeds: Any, negative_prompt_embeds: Any, *, needs_negative: bool = True) -> bool:
    """Whether the call brings its own conditioning, of ``length`` rows both; tensors are ``(length, tokens, width)``.

    Raises:
        ValueError: one of the two without the other, where both are needed, or of another shape.
    """
    given = {"prompt_embeds": prompt_embeds, "negative_prompt_embeds": negative_prompt_embeds}
    if not needs_negative:
        del given["negative_prompt_embeds"]
    missing = [argument for argument, value in given.items() if value is None]
    if 0 < len(missing) < len(given):
        raise ValueError(f"{missing[0]} is None; give prompt_embeds and negative_prompt_embeds, or neither.")
    for argument, value in given.items():
        if isinstance(value, torch.Tensor) and (value.ndim != 3 or len(value) != length):
            raise ValueError(f"{argument} has shape {tuple(value.shape)}; give ({length}, tokens, width).")
        if isinstance(value, Conditioning) and value.num_rows != length:
            raise ValueError(f"{argument} has {value.num_rows} rows; give {length}, one per class.")
    return not missing


def latent_shape(
    num_channels: int,
    own_size: int | tuple[int, int],
    factor: int,
    height: int | None,
    width: int | None,
    *,
    patch: int = 1,
) -> tuple[int, int, int]:
    """``(C, h, w)`` of one sample's latents for an image of that many pixels.

    Args:
        num_channels: C.
        own_size: (h, w) of the model's own latents, or the side of a square.
        factor: pixels a latent.
        height, width: in pixels; None takes the model's own.
        patch: latents a side of what the denoiser reads as one token.

    Raises:
        ValueError: a size that is not a positive multiple of 8 and of the factor times the patch.
    """
    own_height, own_width = (own_size, own_size) if isinstance(own_size, int) else own_size
    unit = math.lcm(8, factor * patch)
    sizes = {"height": (height, own_height), "width": (width, own_width)}
    pixels = [own_side * factor if asked is None else asked for asked, own_side in sizes.values()]
    for name, value in zip(sizes, pixels):
        if value <= 0 or value % unit:
            nearest = max(round(value / unit), 1) * unit
            raise ValueError(f"{name} is {value}; give a positive multiple of {unit}, of which {nearest} is nearest.")
    return num_channels, pixels[0] // factor, pixels[1] // factor
