"""Checks of the arguments of a call of the pipeline."""

from collections.abc import Sequence
from typing import Any

import torch

OUTPUT_TYPES = ("pil", "np", "pt", "latent")


def text_list(argument: str, texts: Sequence[str], *, length: int | None = None) -> list[str]:
    """The texts as a list; ``ValueError`` for one text alone, something else, none, or not ``length`` of them."""
    if isinstance(texts, str) or not all(isinstance(text, str) for text in texts):
        raise ValueError(f"{argument} is {texts!r}; give a list of texts.")
    if not texts or (length is not None and len(texts) != length):
        wanted = "at least one" if length is None else f"{length}, one per class"
        raise ValueError(f"{argument} holds {len(texts)} texts; give {wanted}.")
    return list(texts)


def check_counts(**counts: int) -> None:
    """Raise ``ValueError`` naming the first argument that is no integer of at least 1."""
    for argument, count in counts.items():
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise ValueError(f"{argument} is {count!r}; give an integer of at least 1.")


def check_output_type(output_type: str) -> None:
    """Raise ``ValueError`` unless it is one of ``OUTPUT_TYPES``."""
    if output_type not in OUTPUT_TYPES:
        raise ValueError(f"output_type is {output_type!r}; choose one of {', '.join(OUTPUT_TYPES)}.")


def check_embeds(length: int, prompt_embeds: torch.Tensor | None, negative_prompt_embeds: torch.Tensor | None) -> bool:
    """Whether the call brings its own text features, ``(length, tokens, width)`` both.

    Raises:
        ValueError: one of the two without the other, or of another shape.
    """
    given = {"prompt_embeds": prompt_embeds, "negative_prompt_embeds": negative_prompt_embeds}
    missing = [argument for argument, value in given.items() if value is None]
    if len(missing) == 1:
        raise ValueError(f"{missing[0]} is None; give prompt_embeds and negative_prompt_embeds, or neither.")
    for argument, value in given.items():
        if value is not None and (value.ndim != 3 or len(value) != length):
            raise ValueError(f"{argument} has shape {tuple(value.shape)}; give ({length}, tokens, width).")
    return not missing


def check_lossy(
    guidance_until: float,
    deep_features_every: int,
    annotations: Sequence[str] | None,
    cross_attention_kwargs: dict[str, Any] | None,
) -> None:
    """Raise ``ValueError`` for a shortcut out of range, or one beside what it would spoil."""
    if not 0 <= guidance_until <= 1:
        raise ValueError(f"guidance_until is {guidance_until}; give a share of the steps, from 0 to 1.")
    check_counts(deep_features_every=deep_features_every)
    if deep_features_every > 1 and annotations:
        raise ValueError(
            f"deep_features_every is {deep_features_every}, and annotations need the attention of every step; give 1,"
            " or annotate the finished dataset with `ubgen annotate`."
        )
    if deep_features_every > 1 and cross_attention_kwargs:
        raise ValueError(
            f"deep_features_every is {deep_features_every}, which takes no cross_attention_kwargs; give 1, or leave"
            " them out."
        )


def latent_shape(
    num_channels: int, own_size: int | tuple[int, int], factor: int, height: int | None, width: int | None
) -> tuple[int, int, int]:
    """``(C, h, w)`` of one sample's latents for an image of that many pixels.

    Args:
        num_channels: C.
        own_size: (h, w) of the model's own latents, or the side of a square.
        factor: pixels a latent.
        height, width: in pixels; None takes the model's own.

    Raises:
        ValueError: a size that is not a positive multiple of 8 and of the factor.
    """
    own_height, own_width = (own_size, own_size) if isinstance(own_size, int) else own_size
    unit = max(8, factor)
    sizes = {"height": (height, own_height), "width": (width, own_width)}
    pixels = [own_side * factor if asked is None else asked for asked, own_side in sizes.values()]
    for name, value in zip(sizes, pixels):
        if value <= 0 or value % unit:
            raise ValueError(f"{name} is {value}; give a positive multiple of {unit}.")
    return num_channels, pixels[0] // factor, pixels[1] // factor
