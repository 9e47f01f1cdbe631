"""The loss that distils a diffusion model into a few steps: consistency along the teacher's path, in K segments.

The teacher's path from noise to image is cut at K + 1 points. Wherever the student stands in a segment, one DDIM step
of its own should take it to the same point, the segment's lower end. So its step from t_n is compared with its step
from t_(n-1), to which the teacher leads. K = 1 is latent consistency distillation (Luo et al. 2023, arXiv 2310.04378,
Algorithm 1; as a LoRA arXiv 2311.05556), whose student is sampled by LCM's sampler. K segments are Hyper-SD's (Ren et
al. 2024, arXiv 2404.13686, section 3.1), whose student is sampled by K steps of DDIM with trailing timesteps.

Deviations: the student's step is DDIM's for any K, where LCM has boundary scalings that are 0 and 1 to 1e-5 on its
grid; the target is the student itself, as in LCM's LoRA form, and no average of it; one guidance scale and no range;
none of Hyper-SD's adversarial or human-feedback losses; its falling sequence of K is one run after another.

Shapes: B samples, N teacher steps, T training timesteps.
"""

import torch

from ..denoising.denoising_loss import predicted_clean, signal_and_spread


def teacher_timesteps(num_timesteps: int, num_steps: int) -> torch.Tensor:
    """Timesteps ``(N + 1,)`` of the teacher's path, rising from 0; the others are those of trailing spacing.

    Raises:
        ValueError: ``num_steps`` is below 1 or above ``num_timesteps`` - 1.
    """
    if not 1 <= num_steps < num_timesteps:
        raise ValueError(f"num_teacher_steps is {num_steps}; choose one in [1, {num_timesteps}).")
    points = (torch.arange(num_steps + 1) * num_timesteps / num_steps).round().long() - 1
    return points.clamp(min=0)


def segment_start(steps: torch.Tensor, num_steps: int, num_segments: int) -> torch.Tensor:
    """Lower end ``(B,)`` of the segment of steps ``(B,)`` in [1, N]; a step on the border belongs to the one below.

    Raises:
        ValueError: segments of unequal length.
    """
    if num_segments < 1 or num_steps % num_segments:
        raise ValueError(
            f"num_segments is {num_segments}; choose a divisor of num_teacher_steps, which is {num_steps}."
        )
    length = num_steps // num_segments
    return (steps - 1) // length * length


def ddim_jump(
    noisy: torch.Tensor,
    prediction: torch.Tensor,
    timesteps: torch.Tensor,
    ends: torch.Tensor,
    alphas_cumprod: torch.Tensor,
    target: str,
) -> torch.Tensor:
    """Where one DDIM step (Song et al. 2021, eq. 12, without noise) leads from ``noisy (B, …)``.

    Args:
        prediction: the network's ``(B, …)`` at ``timesteps (B,)``.
        ends: ``(B,)`` timesteps to go to; where it is the same one, ``noisy`` comes back.
        alphas_cumprod: ``(T,)`` of the noise schedule.
        target: what is predicted: ``noise``, ``x0`` or ``velocity``.
    """
    signal, spread = signal_and_spread(timesteps, alphas_cumprod, noisy)
    clean = predicted_clean(noisy, prediction, timesteps, alphas_cumprod, target)
    noise = (noisy - signal * clean) / spread
    end_signal, end_spread = signal_and_spread(ends, alphas_cumprod, noisy)
    return end_signal * clean + end_spread * noise


def pseudo_huber(values: torch.Tensor, wanted: torch.Tensor, scale: float) -> torch.Tensor:
    """Loss ``(B,)`` in float32 of ``(B, …)``: the mean of sqrt(error² + scale²) - scale, which is 0 at no error."""
    errors = values.float() - wanted.float()
    return ((errors.square() + scale**2).sqrt() - scale).flatten(1).mean(dim=1)
