"""The one denoising loop: generation, rollouts, gradients and attention recording all iterate over it.

Shapes: B samples, C latent channels, H x W latent size, L tokens, D width of the text encoder.
"""

import inspect
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Any

import torch

Denoiser = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class DenoisingStep:
    """One finished step: its position in the loop, the timestep it left, and ``latents (B, C, H, W)`` after it."""

    index: int
    timestep: torch.Tensor
    latents: torch.Tensor


def denoising_steps(
    denoiser: Denoiser,
    scheduler: Any,
    latents: torch.Tensor,
    prompt_embeds: torch.Tensor,
    *,
    negative_prompt_embeds: torch.Tensor | None = None,
    guidance_scale: float = 1.0,
    timesteps: torch.Tensor | None = None,
    generators: list[torch.Generator] | None = None,
    gradient_steps: Collection[int] | None = None,
    eta: float = 0.0,
) -> Iterator[DenoisingStep]:
    """Iterate from noise to clean latents, one scheduler step at a time.

    Args:
        denoiser: ``(latents (N, C, H, W), timestep (), prompt_embeds (N, L, D)) -> prediction (N, C, H, W)`` of what
            the scheduler's ``prediction_type`` names; N is 2B under guidance (unconditional half first), else B.
        scheduler: a diffusers scheduler. Its ``set_timesteps`` must have run just before: several schedulers keep
            a history, which that call clears.
        latents: ``(B, C, H, W)`` noise, already multiplied by ``scheduler.init_noise_sigma``.
        prompt_embeds: ``(B, L, D)``.
        negative_prompt_embeds: ``(B, L, D)``, needed where ``guidance_scale`` > 1.
        guidance_scale: w of classifier-free guidance, ``u + w (c - u)`` (Ho and Salimans 2022, Eq. 6 with w counted
            from 1); 1 or less means none.
        timesteps: ``(T,)`` timesteps to walk; None takes ``scheduler.timesteps``.
        generators: B generators for the noise that the scheduler itself adds, so that it does not depend on the batch.
        gradient_steps: positions (0 ... T-1) of the steps where the denoiser runs in the caller's grad mode. At all
            others it runs under ``no_grad`` and its prediction is a constant; the scheduler's arithmetic carries
            gradient through every step. None: the caller's grad mode everywhere.
        eta: DDIM's noise share in [0, 1]; other schedulers ignore it.

    Raises:
        ValueError: guidance without negative embeddings, generators not B, or a gradient step outside the loop.
    """
    timesteps = scheduler.timesteps if timesteps is None else timesteps
    assert timesteps is not None
    guided = guidance_scale > 1
    if guided and negative_prompt_embeds is None:
        raise ValueError(
            f"guidance_scale is {guidance_scale}, which needs negative_prompt_embeds; pass those of the empty prompt."
        )
    if generators is not None and len(generators) != len(latents):
        raise ValueError(f"generators holds {len(generators)} for {len(latents)} samples; pass one per sample.")
    outside = sorted(set(gradient_steps or ()) - set(range(len(timesteps))))
    if outside:
        raise ValueError(f"gradient_steps holds {outside}; the loop has steps 0 to {len(timesteps) - 1}.")
    return _steps(
        denoiser,
        scheduler,
        latents,
        torch.cat([negative_prompt_embeds, prompt_embeds])
        if negative_prompt_embeds is not None and guided
        else prompt_embeds,
        guidance_scale,
        timesteps,
        _step_arguments(scheduler, generators, eta),
        gradient_steps,
    )


def _steps(
    denoiser: Denoiser,
    scheduler: Any,
    latents: torch.Tensor,
    prompt_embeds: torch.Tensor,
    guidance_scale: float,
    timesteps: torch.Tensor,
    step_arguments: dict[str, Any],
    gradient_steps: Collection[int] | None,
) -> Iterator[DenoisingStep]:
    guided = guidance_scale > 1
    for index, timestep in enumerate(timesteps):
        carries_gradient = gradient_steps is None or index in gradient_steps
        # the grad mode is set around the denoiser only: it must not leak to the caller at the yield
        with torch.set_grad_enabled(torch.is_grad_enabled() and carries_gradient):
            model_input = torch.cat([latents] * 2) if guided else latents
            prediction = denoiser(scheduler.scale_model_input(model_input, timestep), timestep, prompt_embeds)
            if guided:
                unconditional, conditional = prediction.chunk(2)
                prediction = unconditional + guidance_scale * (conditional - unconditional)
        latents = scheduler.step(prediction, timestep, latents, return_dict=False, **step_arguments)[0]
        yield DenoisingStep(index, timestep, latents)


def _step_arguments(scheduler: Any, generators: list[torch.Generator] | None, eta: float) -> dict[str, Any]:
    """The optional arguments that this scheduler's ``step`` takes; their signatures differ."""
    accepted = inspect.signature(scheduler.step).parameters
    arguments = {"generator": generators, "eta": eta}
    return {name: value for name, value in arguments.items() if name in accepted}
