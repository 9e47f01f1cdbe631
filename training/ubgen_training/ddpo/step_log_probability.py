"""The Gaussian that one step of DDPM or of DDIM with eta > 0 samples from, and the log-probability of the step taken.

Both are linear: with prediction e(x_t) of noise, velocity or clean latents, a step samples

    x_{t-1} ~ N(a_t x_t + b_t e(x_t), s_t^2 I)

so a whole schedule is three short vectors a, b and s. DDPM's follow Ho et al. 2020 (arXiv 2006.11239, Eq. 7), DDIM's
Song et al. 2021 (arXiv 2010.02502, Eq. 12 and 16), velocity Salimans and Ho 2022 (arXiv 2202.00512, appendix D).

Shapes: B samples, T steps, C x H x W latents.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import DDIMScheduler, DDPMScheduler

# below it a step counts as deterministic; diffusers' own DDPM variance is never under 1e-20
SMALLEST_DEVIATION = 1e-6
REDUCTIONS = ("mean", "sum")


@dataclass(frozen=True)
class StepCoefficients:
    """A schedule as ``latent (T,)``, ``prediction (T,)`` and ``deviation (T,)``: a, b and s above.

    All float64 on the CPU; position 0 is the noisiest step.
    """

    latent: torch.Tensor
    prediction: torch.Tensor
    deviation: torch.Tensor

    @property
    def stochastic_steps(self) -> list[int]:
        """Positions of the steps that add noise; the others have no density and cannot be trained on."""
        return torch.nonzero(self.deviation > SMALLEST_DEVIATION).flatten().tolist()

    def step_mean(self, index: torch.Tensor, latents: torch.Tensor, prediction: torch.Tensor) -> torch.Tensor:
        """The mean ``(B, C, H, W)`` of the steps at positions ``index (B,)`` from ``latents (B, C, H, W)``."""
        return _per_sample(self.latent, index, latents) * latents + _per_sample(self.prediction, index, latents) * (
            prediction.to(latents.dtype)
        )


def step_coefficients(scheduler: Any, eta: float = 0.0) -> StepCoefficients:
    """The coefficients of every step of a DDPM or DDIM scheduler, after its ``set_timesteps``.

    Args:
        scheduler: a diffusers ``DDPMScheduler`` or ``DDIMScheduler``.
        eta: DDIM's noise share in (0, 1]; DDPM has no such setting and ignores it.

    Raises:
        ValueError: another scheduler; DDIM with eta outside (0, 1]; clipped predictions, whose step is not linear; or
            a variance that the model learns.
    """
    if not isinstance(scheduler, (DDPMScheduler, DDIMScheduler)):
        raise ValueError(
            f"scheduler is {type(scheduler).__name__}, whose steps have no log-probability; choose ddpm, or ddim with"
            " eta above 0."
        )
    # diffusers says it is a dict; it is one with attributes
    config: Any = scheduler.config
    if config.clip_sample or config.thresholding:
        raise ValueError(
            "the scheduler clips its predictions (clip_sample or thresholding), so its steps are not Gaussian in the"
            " prediction; set both to false."
        )
    if isinstance(scheduler, DDIMScheduler) and not 0 < eta <= 1:
        raise ValueError(f"eta is {eta}, but the scheduler is ddim; choose eta in (0, 1], or the scheduler ddpm.")
    timesteps = scheduler.timesteps.cpu()
    if isinstance(scheduler, DDPMScheduler):
        # like DDPMScheduler.previous_timestep, which is the next one in the list
        previous = torch.cat([timesteps[1:], timesteps.new_tensor([-1])])
        final_signal = torch.ones((), dtype=torch.float64)
    else:
        previous = timesteps - config.num_train_timesteps // len(timesteps)
        final_signal = scheduler.final_alpha_cumprod.double()
    signals = scheduler.alphas_cumprod.double().cpu()
    # alpha-bar before and after each step
    signal, previous_signal = (
        signals[timesteps],
        torch.where(previous >= 0, signals[previous.clamp(min=0)], final_signal),
    )
    if isinstance(scheduler, DDPMScheduler):
        return _ddpm_coefficients(signal, previous_signal, timesteps, config)
    return _ddim_coefficients(signal, previous_signal, eta, config.prediction_type)


def log_probability(
    latents: torch.Tensor, mean: torch.Tensor, deviation: torch.Tensor, reduction: str = "mean"
) -> torch.Tensor:
    """``log N(latents; mean, deviation^2 I)``, ``(B,)``.

    Args:
        latents: ``(B, C, H, W)``, where the step arrived; no gradient goes through it.
        mean: ``(B, C, H, W)``.
        deviation: ``(B,)``, above 0.
        reduction: ``sum`` over the elements of a sample is the density's own; ``mean`` divides by their number, so
            that clip ranges and learning rates carry over between image sizes (as in DDPO's released code).
    """
    deviation = deviation.to(mean.dtype)[:, None, None, None]
    elements = -0.5 * ((latents.detach() - mean) / deviation) ** 2 - deviation.log() - 0.5 * math.log(2 * math.pi)
    return _reduce(elements, reduction)


def gaussian_kl(
    mean: torch.Tensor, reference_mean: torch.Tensor, deviation: torch.Tensor, reduction: str = "mean"
) -> torch.Tensor:
    """``KL(N(mean, s^2 I) || N(reference_mean, s^2 I)) = |mean - reference_mean|^2 / (2 s^2)``, ``(B,)``.

    Shapes and ``reduction`` as in :func:`log_probability`.
    """
    deviation = deviation.to(mean.dtype)[:, None, None, None]
    return _reduce(0.5 * ((mean - reference_mean) / deviation) ** 2, reduction)


def normalised_log_ratio(
    latents: torch.Tensor,
    mean: torch.Tensor,
    old_mean: torch.Tensor,
    deviation: torch.Tensor,
    reduction: str = "mean",
) -> torch.Tensor:
    """The log-ratio ``(B,)`` of a step under ``mean`` and ``old_mean``, normalised (GRPO-Guard, arXiv 2510.22319).

    With d = mean - old_mean and a step to old_mean + s noise, the log-ratio is d·noise / s - |d|² / (2 s²). Its mean
    is below 0, so ratios lean to below 1, and its spread is larger the smaller s is, so that one clip range means
    another thing at each step. Without that mean, and times s, it is d·noise.

    Shapes and ``reduction`` as in :func:`log_probability`; gradient goes through ``mean`` alone.
    """
    noise = (latents - old_mean).detach() / deviation.to(mean.dtype)[:, None, None, None]
    return _reduce((mean - old_mean.detach()) * noise, reduction)


def _ddpm_coefficients(
    signal: torch.Tensor, previous_signal: torch.Tensor, timesteps: torch.Tensor, config: Any
) -> StepCoefficients:
    beta = 1 - signal / previous_signal
    # None, which solvers without noise have and hand on, is fixed_small to diffusers
    if config.variance_type in (None, "fixed_small", "fixed_small_log"):
        variance = (1 - previous_signal) / (1 - signal) * beta
    elif config.variance_type == "fixed_large":
        variance = beta
    else:
        raise ValueError(
            f"the scheduler's variance_type is {config.variance_type!r}; choose fixed_small, fixed_small_log or"
            " fixed_large."
        )
    # diffusers adds no noise where it leaves timestep 0
    variance = torch.where(timesteps > 0, variance, 0.0)
    clean_from_latent, clean_from_prediction, _, _ = _clean_and_noise(signal, config.prediction_type)
    clean_share = previous_signal.sqrt() * beta / (1 - signal)
    latent_share = (signal / previous_signal).sqrt() * (1 - previous_signal) / (1 - signal)
    return StepCoefficients(
        latent=clean_share * clean_from_latent + latent_share,
        prediction=clean_share * clean_from_prediction,
        deviation=variance.clamp(min=0).sqrt(),
    )


def _ddim_coefficients(
    signal: torch.Tensor, previous_signal: torch.Tensor, eta: float, prediction_type: str
) -> StepCoefficients:
    variance = eta**2 * (1 - previous_signal) / (1 - signal) * (1 - signal / previous_signal)
    direction = (1 - previous_signal - variance).clamp(min=0).sqrt()
    clean_from_latent, clean_from_prediction, noise_from_latent, noise_from_prediction = _clean_and_noise(
        signal, prediction_type
    )
    return StepCoefficients(
        latent=previous_signal.sqrt() * clean_from_latent + direction * noise_from_latent,
        prediction=previous_signal.sqrt() * clean_from_prediction + direction * noise_from_prediction,
        deviation=variance.clamp(min=0).sqrt(),
    )


def _clean_and_noise(
    signal: torch.Tensor, prediction_type: str
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Factors ``(T,)`` of x_t and of the prediction in the clean latents, then in the noise, that they imply."""
    root_signal, root_noise = signal.sqrt(), (1 - signal).sqrt()
    one, zero = torch.ones_like(signal), torch.zeros_like(signal)
    if prediction_type == "epsilon":
        return 1 / root_signal, -root_noise / root_signal, zero, one
    if prediction_type == "v_prediction":
        return root_signal, -root_noise, root_noise, root_signal
    if prediction_type == "sample":
        return zero, one, 1 / root_noise, -root_signal / root_noise
    raise ValueError(
        f"the scheduler's prediction_type is {prediction_type!r}; choose epsilon, v_prediction or sample."
    )


def _per_sample(values: torch.Tensor, index: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    return values[index.cpu()].to(like.device, like.dtype)[:, None, None, None]


def _reduce(elements: torch.Tensor, reduction: str) -> torch.Tensor:
    return elements.flatten(1).sum(1) if reduction == "sum" else elements.flatten(1).mean(1)
