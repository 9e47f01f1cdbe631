"""Stochastic steps along a flow, x = (1 - s) x0 + s noise, whose Euler steps alone have no density.

Each is Gaussian and linear in the latents and the velocity v (:class:`.StepCoefficients`). From noise level s to s',
with d = s' - s < 0 and noise share eta:

    flow_sde    Flow-GRPO (arXiv 2505.05470): w^2 = eta^2 s / (1 - s);
                mean x + (v + w^2 / 2s (x + (1 - s) v)) d, deviation w sqrt(-d)
    dance_sde   DanceGRPO (arXiv 2505.07818): the same with w = eta
    cps         coefficients-preserving sampling (arXiv 2509.05952): x0 and the noise that v implies, of which a part
                sin(eta pi / 2) is drawn anew: (1 - s') x0 + s' cos(eta pi / 2) noise, deviation s' sin(eta pi / 2)

With eta 0 all three are Euler's step, and so are the steps outside of a window, where there is one (MixGRPO, arXiv
2507.21802): only those inside draw, and are trained on. Deliberate deviations: the last step, which ends at the image,
is Euler's for all, so that no noise is left in it; where s = 1, w of flow_sde is taken at the next level, as in the
released code.

Shapes: B samples, T steps, C x h x w latents.
"""

import math
from typing import Any

import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from diffusers.utils.torch_utils import randn_tensor

from .step_log_probability import StepCoefficients

FLOW_DYNAMICS = ("flow_sde", "dance_sde", "cps")


class StochasticFlowScheduler(FlowMatchEulerDiscreteScheduler):
    """Euler's schedule with the steps of one of :data:`FLOW_DYNAMICS`."""

    dynamics: str
    # of the positions that draw; None: all
    window: range | None = None

    @classmethod
    def like(cls, scheduler: Any, dynamics: str) -> "StochasticFlowScheduler":
        """One of the same schedule as a model's own scheduler of flow matching."""
        shift = {"shift": scheduler.config["flow_shift"]} if "flow_shift" in scheduler.config else {}
        # a model's own stochastic steps are another kind; these are Euler's wherever none of ours draws
        stochastic: Any = cls.from_config(scheduler.config, stochastic_sampling=False, **shift)
        stochastic.dynamics = dynamics
        return stochastic

    def coefficients(self, eta: float) -> StepCoefficients:
        """Of every step, after ``set_timesteps``."""
        sigmas: Any = self.sigmas
        return flow_coefficients(sigmas, eta, self.dynamics, self.window)

    # not the base's arguments: it has others for stochastic samplers of its own
    def step(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        model_output: torch.Tensor,
        timestep: Any,
        sample: torch.Tensor,
        generator: Any = None,
        eta: float = 0.0,
        return_dict: bool = False,
    ) -> tuple[torch.Tensor]:
        """One step; arguments as diffusers' schedulers have them, ``eta`` as DDIM's."""
        if self.step_index is None:
            self._init_step_index(timestep)
        index: Any = self.step_index
        coefficients = self.coefficients(eta)
        deviation = coefficients.deviation[index].item()
        if deviation == 0:
            return (super().step(model_output, timestep, sample, return_dict=False)[0],)  # pyright: ignore
        mean = coefficients.step_mean(torch.full((len(sample),), index), sample.float(), model_output)
        noise = randn_tensor(mean.shape, generator=generator, device=mean.device, dtype=mean.dtype)
        self._step_index = index + 1
        return ((mean + deviation * noise).to(model_output.dtype),)


def flow_coefficients(
    sigmas: torch.Tensor, eta: float, dynamics: str, window: range | None = None
) -> StepCoefficients:
    """The coefficients of every step of a flow.

    Args:
        sigmas: ``(T + 1,)`` noise levels, the last one that of the image.
        eta: noise share, 0 or more; of ``cps`` in [0, 1].
        dynamics: one of :data:`FLOW_DYNAMICS`.
        window: of the steps that draw; the others are Euler's. None: all.
    """
    sigmas = sigmas.detach().double().cpu()
    level, following = sigmas[:-1], sigmas[1:]
    change = following - level
    if dynamics == "cps":
        deviation = following * math.sin(eta * math.pi / 2)
        kept = following * math.cos(eta * math.pi / 2)
        latent, prediction = (1 - following) + kept, kept * (1 - level) - (1 - following) * level
    else:
        width = torch.full_like(level, eta)
        if dynamics == "flow_sde":
            width = eta * (level / (1 - torch.where(level >= 1, sigmas[1], level))).sqrt()
        pull = width**2 / (2 * level)
        latent, prediction = 1 + pull * change, (1 + pull * (1 - level)) * change
        deviation = width * (-change).sqrt()
    positions = range(len(level))
    is_euler = torch.tensor([step == positions[-1] or step not in (window or positions) for step in positions])
    return StepCoefficients(
        latent=torch.where(is_euler, 1.0, latent),
        prediction=torch.where(is_euler, change, prediction),
        deviation=torch.where(is_euler, 0.0, deviation),
    )
