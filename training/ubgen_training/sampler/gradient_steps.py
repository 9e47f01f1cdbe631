"""Which sampling steps carry gradient. One function per strategy, found by name in ``GRADIENT_STRATEGIES``.

A strategy maps ``(num_steps, num_gradient_steps, generator)`` to :class:`GradientSteps` and is called once per batch,
so that a batch shares its steps; positions count from 0, the noisiest. Of the keyword arguments each takes what it
needs: ``step_list`` (``steps``), ``num_late_steps`` (``refl``), ``leap_discount`` and ``leap_tolerance`` (``leap``).
Skipped steps run the denoiser under ``no_grad``: their prediction is a constant, and only the scheduler's arithmetic
carries gradient through them. ``leap`` and ``direct_align`` keep no graph in the rollout and compute their steps again
after it; see :mod:`.replays`. K below is ``num_gradient_steps``, T is ``num_steps``.

Deliberate deviations: ``random_tail`` has a length of at most K (AlignProp: at most T, which K = T gives), so that K
bounds the memory, and never an empty tail; ``drtune`` leaves out that paper's early stop, which is ``refl``'s.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from .replays import DirectAlign, Leap, Replay


@dataclass(frozen=True)
class GradientSteps:
    """How the gradient runs through one batch's sampling; see ``ubgen_pipeline.latent_denoising.denoising_steps``.

    ``steps`` are the positions whose denoiser call carries gradient; ``detach_inputs`` makes the latents that those
    calls read constants; after position ``stop_at`` sampling jumps to the predicted clean latents and ends. With
    ``replay`` the rollout carries no gradient, and ``steps`` are computed again after it. ``equalise`` gives every
    step's prediction the same share of the gradient; see :mod:`.equalised_gradients`.
    """

    steps: frozenset[int]
    detach_inputs: bool = False
    stop_at: int | None = None
    replay: Replay | None = None
    equalise: bool = False


GradientStrategy = Callable[..., GradientSteps]


def even_k(num_steps: int, num_gradient_steps: int, generator: torch.Generator, **_: Any) -> GradientSteps:
    """K evenly spaced steps, ``T // K`` apart, from an offset uniform in [0, T // K) (arXiv 2412.10831, appendix).

    Raises:
        ValueError: ``num_gradient_steps`` is not in [1, num_steps].
    """
    check_gradient_steps(num_steps, num_gradient_steps)
    interval = num_steps // num_gradient_steps
    offset = int(torch.randint(interval, (), generator=generator))
    return GradientSteps(frozenset(offset + interval * k for k in range(num_gradient_steps)))


def last_k(num_steps: int, num_gradient_steps: int, generator: torch.Generator, **_: Any) -> GradientSteps:
    """The last K steps (DRaFT-K, Clark et al. 2024, section 3.2); K = 1 is DRaFT-1.

    Raises:
        ValueError: ``num_gradient_steps`` is not in [1, num_steps].
    """
    check_gradient_steps(num_steps, num_gradient_steps)
    return GradientSteps(frozenset(range(num_steps - num_gradient_steps, num_steps)))


def random_tail(num_steps: int, num_gradient_steps: int, generator: torch.Generator, **_: Any) -> GradientSteps:
    """The last k steps, k uniform in [1, K] (AlignProp, Prabhudesai et al. 2023, section 4).

    Raises:
        ValueError: ``num_gradient_steps`` is not in [1, num_steps].
    """
    check_gradient_steps(num_steps, num_gradient_steps)
    length = 1 + int(torch.randint(num_gradient_steps, (), generator=generator))
    return GradientSteps(frozenset(range(num_steps - length, num_steps)))


def drtune(num_steps: int, num_gradient_steps: int, generator: torch.Generator, **_: Any) -> GradientSteps:
    """The steps of :func:`even_k`, each reading constant latents (DRTune, Wu et al. 2024, Eq. 5).

    Raises:
        ValueError: ``num_gradient_steps`` is not in [1, num_steps].
    """
    return GradientSteps(even_k(num_steps, num_gradient_steps, generator).steps, detach_inputs=True)


def refl(
    num_steps: int,
    num_gradient_steps: int,
    generator: torch.Generator,
    *,
    num_late_steps: int | None = None,
    **_: Any,
) -> GradientSteps:
    """One step, uniform among the last ``num_late_steps``, and from it a jump (ReFL, Xu et al. 2023, Algorithm 1).

    ``num_gradient_steps`` has no part in it. ``num_late_steps`` None is the last quarter, as in the paper (10 of 40).

    Raises:
        ValueError: ``num_late_steps`` is not in [1, num_steps].
    """
    num_late_steps = max(1, num_steps // 4) if num_late_steps is None else num_late_steps
    if not 1 <= num_late_steps <= num_steps:
        raise ValueError(
            f"num_late_steps is {num_late_steps}, but sampling takes {num_steps} steps (num_inference_steps); "
            f"choose from 1 to {num_steps}."
        )
    step = num_steps - 1 - int(torch.randint(num_late_steps, (), generator=generator))
    return GradientSteps(frozenset({step}), stop_at=step)


def leap(
    num_steps: int,
    num_gradient_steps: int,
    generator: torch.Generator,
    *,
    leap_discount: float | None = None,
    leap_tolerance: float | None = None,
    **_: Any,
) -> GradientSteps:
    """K different steps, any of them, with leaps from one to the next (LeapAlign, arXiv 2604.15311, where K is 2).

    ``leap_discount`` None is 0.5; ``leap_tolerance`` None weighs all samples alike.

    Raises:
        ValueError: ``num_gradient_steps`` is not in [1, num_steps], ``leap_discount`` not in [0, 1], or
            ``leap_tolerance`` not above 0.
    """
    check_gradient_steps(num_steps, num_gradient_steps)
    discount = 0.5 if leap_discount is None else leap_discount
    if not 0 <= discount <= 1:
        raise ValueError(f"leap_discount is {discount}; choose from 0 to 1.")
    if leap_tolerance is not None and not 0 < leap_tolerance < math.inf:
        raise ValueError(f"leap_tolerance is {leap_tolerance}; choose a distance above 0, or leave it out.")
    chosen = torch.randperm(num_steps, generator=generator)[:num_gradient_steps]
    return GradientSteps(frozenset(chosen.tolist()), replay=Leap(discount, leap_tolerance))


def direct_align(num_steps: int, num_gradient_steps: int, generator: torch.Generator, **_: Any) -> GradientSteps:
    """One step, any of them, taken from the finished latents with known noise (SRPO, arXiv 2509.06942).

    ``num_gradient_steps`` has no part in it.
    """
    return GradientSteps(frozenset({int(torch.randint(num_steps, (), generator=generator))}), replay=DirectAlign())


def steps(
    num_steps: int,
    num_gradient_steps: int,
    generator: torch.Generator,
    *,
    step_list: Sequence[int] | None = None,
    **_: Any,
) -> GradientSteps:
    """The positions in ``step_list``; ``num_gradient_steps`` has no part in it.

    Raises:
        ValueError: the list is missing or empty, names a position twice or one outside [0, num_steps).
    """
    positions = list(step_list or ())
    if not positions:
        raise ValueError(f"gradient_step_list is {step_list}; the strategy 'steps' needs one position or more.")
    if twice := sorted({step for step in positions if positions.count(step) > 1}):
        raise ValueError(f"gradient_step_list holds {twice} more than once; name each position once.")
    if outside := sorted(set(positions) - set(range(num_steps))):
        raise ValueError(
            f"gradient_step_list holds {outside}, but sampling takes {num_steps} steps (num_inference_steps); "
            f"choose positions from 0, the noisiest, to {num_steps - 1}."
        )
    return GradientSteps(frozenset(positions))


def full(num_steps: int, num_gradient_steps: int, generator: torch.Generator, **_: Any) -> GradientSteps:
    """Every step; ``num_gradient_steps`` has no part in it."""
    return GradientSteps(frozenset(range(num_steps)))


GRADIENT_STRATEGIES: dict[str, GradientStrategy] = {
    strategy.__name__: strategy
    for strategy in (even_k, last_k, random_tail, drtune, refl, leap, direct_align, steps, full)
}


def gradient_strategy(name: str) -> GradientStrategy:
    """The strategy called ``name``; ``even-k`` means ``even_k``.

    Raises:
        ValueError: there is none of that name.
    """
    if name.replace("-", "_") not in GRADIENT_STRATEGIES:
        raise ValueError(f"gradient_strategy is {name!r}; choose one of {', '.join(GRADIENT_STRATEGIES)}.")
    return GRADIENT_STRATEGIES[name.replace("-", "_")]


def check_gradient_steps(num_steps: int, num_gradient_steps: int) -> None:
    """Raise ``ValueError`` unless ``1 <= num_gradient_steps <= num_steps``."""
    if not 1 <= num_gradient_steps <= num_steps:
        raise ValueError(
            f"num_gradient_steps is {num_gradient_steps}, but sampling takes {num_steps} steps (num_inference_steps); "
            f"choose num_gradient_steps from 1 to {num_steps}."
        )
