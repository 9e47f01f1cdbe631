"""Which sampling steps carry gradient. One function per strategy, found by name in ``GRADIENT_STRATEGIES``.

A strategy maps ``(num_steps, num_gradient_steps, generator)`` to the set of step positions, 0 being the noisiest.
"""

from collections.abc import Callable

import torch

GradientStrategy = Callable[[int, int, torch.Generator], frozenset[int]]


def even_k(num_steps: int, num_gradient_steps: int, generator: torch.Generator) -> frozenset[int]:
    """K evenly spaced steps, ``interval = num_steps // K`` apart, from an offset uniform in [0, interval).

    The strategy of ubGen (arXiv 2412.10831, appendix); call it once per batch, so that a batch shares its steps.

    Raises:
        ValueError: ``num_gradient_steps`` is not in [1, num_steps].
    """
    check_gradient_steps(num_steps, num_gradient_steps)
    interval = num_steps // num_gradient_steps
    offset = int(torch.randint(interval, (), generator=generator))
    return frozenset(offset + interval * k for k in range(num_gradient_steps))


GRADIENT_STRATEGIES: dict[str, GradientStrategy] = {"even_k": even_k}


def gradient_strategy(name: str) -> GradientStrategy:
    """The strategy called ``name``.

    Raises:
        ValueError: there is none of that name.
    """
    if name not in GRADIENT_STRATEGIES:
        raise ValueError(f"gradient_strategy is {name!r}; choose one of {', '.join(sorted(GRADIENT_STRATEGIES))}.")
    return GRADIENT_STRATEGIES[name]


def check_gradient_steps(num_steps: int, num_gradient_steps: int) -> None:
    """Raise ``ValueError`` unless ``1 <= num_gradient_steps <= num_steps``."""
    if not 1 <= num_gradient_steps <= num_steps:
        raise ValueError(
            f"num_gradient_steps is {num_gradient_steps}, but sampling takes num_inference_steps = {num_steps}; "
            f"choose num_gradient_steps from 1 to {num_steps}."
        )
