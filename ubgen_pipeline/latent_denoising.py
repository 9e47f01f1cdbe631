"""The one denoising loop: generation, rollouts, gradients and attention recording all iterate over it.

Shapes: B samples, N denoiser rows (2B under guidance, unconditional half first), C latent channels, H x W latent size.
"""

import inspect
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from .conditioning import Conditioning
from .scheduler_noise import model_input, noise_levels

# what a denoiser is conditioned on; where one tensor is all of it, the tensor itself will do
Condition = Conditioning | torch.Tensor
# (latents (N, C, H, W), timestep () or (N,), conditioning of N rows) -> prediction (N, C, H, W)
Denoiser = Callable[[torch.Tensor, torch.Tensor, Any], torch.Tensor]
# (conditional, unconditional, scale) -> guided, each (B, C, H, W)
Guidance = Callable[[torch.Tensor, torch.Tensor, float], torch.Tensor]
PREDICTION_TYPES = ("epsilon", "v_prediction", "sample", "flow_prediction")


@dataclass(frozen=True)
class DenoisingStep:
    """One finished step: its position in the loop, the timestep it left, ``latents (B, C, H, W)`` after it, and the
    guided ``prediction (B, C, H, W)`` that took it there.

    After a jump (``stop_at``) the latents are the predicted clean ones.
    """

    index: int
    timestep: torch.Tensor
    latents: torch.Tensor
    prediction: torch.Tensor


def classifier_free_guidance(conditional: torch.Tensor, unconditional: torch.Tensor, scale: float) -> torch.Tensor:
    """``u + w (c - u)`` of two predictions of one shape (Ho and Salimans 2022, Eq. 6 with w counted from 1)."""
    return unconditional + scale * (conditional - unconditional)


def denoising_steps(
    denoiser: Denoiser,
    scheduler: Any,
    latents: torch.Tensor,
    conditioning: Condition,
    *,
    negative: Condition | None = None,
    guidance_scale: float = 1.0,
    guide: Guidance = classifier_free_guidance,
    guided_steps: Collection[int] | None = None,
    timesteps: torch.Tensor | None = None,
    generators: list[torch.Generator] | None = None,
    gradient_steps: Collection[int] | None = None,
    detach_inputs: bool = False,
    stop_at: int | None = None,
    eta: float = 0.0,
) -> Iterator[DenoisingStep]:
    """Iterate from noise to clean latents, one scheduler step at a time.

    Args:
        denoiser: ``(latents (N, C, H, W), timestep (), conditioning) -> prediction (N, C, H, W)`` of what the
            scheduler's ``prediction_type`` names, such as a family's ``predict``.
        scheduler: a diffusers scheduler. Its ``set_timesteps`` must have run just before: several schedulers keep
            a history, which that call clears.
        latents: ``(B, C, H, W)`` noise, already multiplied by :func:`.scheduler_noise.initial_scale`.
        conditioning: of B rows.
        negative: B rows to guide away from, needed where ``guidance_scale`` > 1.
        guidance_scale: w of classifier-free guidance, counted from 1; 1 or less means none.
        guide: how the two predictions become one.
        guided_steps: positions of the steps that are guided; the others take the conditional prediction, at half the
            cost and not the same samples. None guides all.
        timesteps: ``(T,)`` timesteps to walk; None takes ``scheduler.timesteps``.
        generators: B generators for the noise that the scheduler itself adds, so that it does not depend on the batch.
        gradient_steps: positions (0 ... T-1) of the steps where the denoiser runs in the caller's grad mode. At all
            others it runs under ``no_grad`` and its prediction is a constant; the scheduler's arithmetic carries
            gradient through every step. None: the caller's grad mode everywhere.
        detach_inputs: the latents that the denoiser reads are constants, so that no gradient passes through one call
            into another (DRTune, Wu et al. 2024); the scheduler's arithmetic still carries it.
        stop_at: position after whose denoiser call the loop jumps to the predicted clean latents and ends (ReFL, Xu
            et al. 2023); None walks to the end.
        eta: DDIM's noise share in [0, 1]; other schedulers ignore it.

    Raises:
        ValueError: guidance without ``negative``, generators not B, a gradient step or ``stop_at`` outside the
            loop, a gradient step after ``stop_at``, or a scheduler from which no jump is known.
    """
    timesteps = scheduler.timesteps if timesteps is None else timesteps
    assert timesteps is not None
    guided = guidance_scale > 1
    if guided and negative is None:
        raise ValueError(
            f"guidance_scale is {guidance_scale}, which needs negative; pass the conditioning of the empty prompt."
        )
    if generators is not None and len(generators) != len(latents):
        raise ValueError(f"generators holds {len(generators)} for {len(latents)} samples; pass one per sample.")
    outside = sorted(set(gradient_steps or ()) - set(range(len(timesteps))))
    if outside:
        raise ValueError(f"gradient_steps holds {outside}; the loop has steps 0 to {len(timesteps) - 1}.")
    if stop_at is not None:
        if not 0 <= stop_at < len(timesteps):
            raise ValueError(f"stop_at is {stop_at}; the loop has steps 0 to {len(timesteps) - 1}.")
        if late := sorted(step for step in gradient_steps or () if step > stop_at):
            raise ValueError(f"gradient_steps holds {late}, after stop_at = {stop_at}; leave them out or stop later.")
        check_jump(scheduler)
    return _steps(
        denoiser,
        scheduler,
        latents,
        conditioning,
        negative if guided else None,
        guidance_scale,
        guide,
        guided_steps,
        timesteps,
        _step_arguments(scheduler, generators, eta),
        gradient_steps,
        detach_inputs,
        stop_at,
    )


def _steps(
    denoiser: Denoiser,
    scheduler: Any,
    latents: torch.Tensor,
    conditioning: Condition,
    negative: Condition | None,
    guidance_scale: float,
    guide: Guidance,
    guided_steps: Collection[int] | None,
    timesteps: torch.Tensor,
    step_arguments: dict[str, Any],
    gradient_steps: Collection[int] | None,
    detach_inputs: bool,
    stop_at: int | None,
) -> Iterator[DenoisingStep]:
    both = conditioning if negative is None else guided_conditioning(conditioning, negative)
    for index, timestep in enumerate(timesteps):
        is_guided = guided_steps is None or index in guided_steps
        rows, scale = (both, guidance_scale) if is_guided else (conditioning, 1.0)
        carries_gradient = gradient_steps is None or index in gradient_steps
        # the grad mode is set around the denoiser only: it must not leak to the caller at the yield
        with torch.set_grad_enabled(torch.is_grad_enabled() and carries_gradient):
            read = model_input(scheduler, latents.detach() if detach_inputs else latents, timestep)
            prediction = guided_prediction(denoiser, read, timestep, rows, scale, guide)
        if index == stop_at:
            clean = predicted_clean_latents(scheduler, prediction, timestep, latents)
            yield DenoisingStep(index, timestep, clean, prediction)
            return
        latents = scheduler.step(prediction, timestep, latents, return_dict=False, **step_arguments)[0]
        yield DenoisingStep(index, timestep, latents, prediction)


def guided_conditioning(conditioning: Condition, negative: Condition) -> Condition:
    """2B rows of B and B, those of ``negative`` first."""
    if isinstance(conditioning, torch.Tensor) and isinstance(negative, torch.Tensor):
        return torch.cat([negative, conditioning])
    assert isinstance(conditioning, Conditioning) and isinstance(negative, Conditioning)
    return conditioning.guided(negative)


def guided_prediction(
    denoiser: Denoiser,
    latents: torch.Tensor,
    timestep: torch.Tensor,
    conditioning: Condition,
    guidance_scale: float,
    guide: Guidance = classifier_free_guidance,
) -> torch.Tensor:
    """The denoiser's prediction ``(B, C, H, W)`` under guidance: one call for both halves.

    Args:
        denoiser: as in :func:`denoising_steps`.
        latents: ``(B, C, H, W)`` as :func:`.scheduler_noise.model_input` gives them.
        timestep: ``()``, or ``(B,)`` where samples are at different steps.
        conditioning: of :func:`guided_conditioning` where ``guidance_scale`` > 1; else of B rows.
        guidance_scale: w; 1 or less means none.
        guide: how the two predictions become one.
    """
    if guidance_scale <= 1:
        return denoiser(latents, timestep, conditioning)
    timestep = torch.cat([timestep] * 2) if timestep.ndim else timestep
    unconditional, conditional = denoiser(torch.cat([latents] * 2), timestep, conditioning).chunk(2)
    return guide(conditional, unconditional, guidance_scale)


def predicted_clean_latents(
    scheduler: Any, prediction: torch.Tensor, timestep: torch.Tensor, latents: torch.Tensor
) -> torch.Tensor:
    """x0 ``(B, C, H, W)`` implied by the denoiser's ``prediction`` on ``latents``, both ``(B, C, H, W)``.

    With x = alpha x0 + sigma noise, the noise is given (``epsilon``; Ho et al. 2020, Eq. 15), or the velocity
    (``v_prediction``; Salimans and Ho 2022, appendix D: that of x / s, s^2 = alpha^2 + sigma^2, which is x itself for
    a variance-preserving scheduler), or x0 (``sample``), or noise - x0 (``flow_prediction``; Lipman et al. 2023).
    Nothing is clipped or thresholded: the latents of a VAE have no fixed range.

    Args:
        scheduler: a diffusers scheduler that passes :func:`check_jump`.
        prediction: after guidance.
        timestep: ``()``, one of ``scheduler.timesteps``.
        latents: as the scheduler's ``step`` takes them, before any scaling for the denoiser.
    """
    kind = prediction_type(scheduler)
    alpha, sigma = (1.0, 0.0) if kind == "sample" else noise_levels(scheduler, timestep)
    return clean_latents_at(kind, prediction, latents, alpha, sigma)


def clean_latents_at(
    kind: str, prediction: torch.Tensor, latents: torch.Tensor, alpha: Any, sigma: Any
) -> torch.Tensor:
    """:func:`predicted_clean_latents` of a kind of prediction at known noise levels.

    Args:
        kind: one of :data:`PREDICTION_TYPES`.
        prediction: ``(B, C, h, w)``, after guidance.
        latents: ``(B, C, h, w)``.
        alpha, sigma: of x = alpha x0 + sigma noise: numbers, or ``(B, 1, 1, 1)``.
    """
    if kind == "sample":
        return prediction
    if kind == "epsilon":
        return (latents - sigma * prediction) / alpha
    if kind == "v_prediction":
        size = (alpha**2 + sigma**2) ** 0.5
        return (alpha / size * latents - sigma * prediction) / size
    return latents - sigma * prediction


def check_jump(scheduler: Any) -> None:
    """Raise ``ValueError`` unless :func:`predicted_clean_latents` knows this scheduler and its prediction type."""
    kind = prediction_type(scheduler)
    # EDM schedulers scale the prediction before it means any of these
    can_noise = hasattr(scheduler, "add_noise") or hasattr(scheduler, "scale_noise")
    if kind not in PREDICTION_TYPES or not can_noise or hasattr(scheduler, "precondition_outputs"):
        raise ValueError(
            f"the scheduler is {type(scheduler).__name__} with prediction_type {kind!r}, from which no jump to the "
            f"predicted clean latents is known; use a gradient strategy that walks to the end, or a scheduler with "
            f"add_noise and one of {', '.join(PREDICTION_TYPES)}."
        )


def prediction_type(scheduler: Any) -> str:
    """What the scheduler takes the denoiser's prediction for, one of :data:`PREDICTION_TYPES` or another."""
    # flow-matching schedulers know no other prediction and do not name it
    return scheduler.config.get("prediction_type", "flow_prediction")


def _step_arguments(scheduler: Any, generators: list[torch.Generator] | None, eta: float) -> dict[str, Any]:
    """The optional arguments that this scheduler's ``step`` takes; their signatures differ."""
    accepted = inspect.signature(scheduler.step).parameters
    arguments = {"generator": generators, "eta": eta}
    return {name: value for name, value in arguments.items() if name in accepted}
