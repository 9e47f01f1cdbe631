"""Trains a LoRA by policy gradient through the sampler's steps (DDPO, arXiv 2305.13301; GRPO, arXiv 2402.03300).

Each batch of (sample, step) pairs of a rollout is judged again by the weights of the moment. With normalised ratios
(GRPO-Guard, arXiv 2510.22319) a pair's loss is divided by the fall of the noise level, too, which evens out the steps.

Deliberate deviations from DDPO's released code: pairs, not whole trajectories, make a batch, so that samples and steps
are shuffled together; the last step, which adds no noise or next to none, is not trained on.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from ..rewards.reward_functions import check_finite
from ..rollouts.policy_loss import policy_loss
from ..rollouts.trainer import RolloutTrainer
from .ddpo_config import DDPOConfig
from .policy_sampler import PolicySampler
from .rollout import Rollout


class DDPOTrainer(RolloutTrainer):
    """Fine-tunes a sampler's LoRA from class names and rewards that need no gradient.

    Args:
        model: a :class:`PolicySampler`.
        arguments: those of :class:`.RolloutTrainer`.

    Raises:
        ValueError: settings that do not fit together or do not fit the sampler.
    """

    args: DDPOConfig
    tags = ("ubgen", "text-to-image", "lora", "ddpo")
    settings_file = "ddpo_config.json"
    rollout_type = Rollout

    def __init__(self, model: PolicySampler, *arguments: Any, **kwargs: Any):
        super().__init__(model, *arguments, **kwargs)
        silent = sorted(set(range(model.num_steps - 1)) - set(model.coefficients.stochastic_steps))
        if silent:
            raise ValueError(f"steps {silent} add no noise under this scheduler; choose fewer num_inference_steps.")

    def first_step(self, number: int) -> int:
        """That of the rollout's window, which is set here: a resumed run enters in the middle of a rollout."""
        window = self.args.window(number)
        self._sampler.set_window(window)
        return window[0]

    def draw(
        self, model: nn.Module, labels: torch.Tensor, seeds: Sequence[int]
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """A rollout of the weights of the moment, with the log-probabilities of its steps."""
        drawn = model(labels=labels, seeds=seeds, record=True, with_means=self.args.ratio_normalisation)
        kept = {"latents": drawn.latents, "log_probs": drawn.log_probs}
        return drawn.images, kept if drawn.means is None else kept | {"means": drawn.means}

    def pair_loss(
        self, model: nn.Module, rollout: Rollout, pairs: torch.Tensor, generator: torch.Generator
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The clipped objective; nothing in it is random."""
        args, samples = self.args, pairs[:, 0]
        log_probs, kl, excess = model(
            labels=rollout.labels[samples],
            transitions=rollout.transitions(pairs, args.device),
            with_reference=args.uses_reference,
        )
        old_log_probs = rollout.log_probs[pairs[:, 0], pairs[:, 1]].to(args.device)
        weights = None
        if args.ratio_normalisation:
            # the model has answered with ratios; a step's mean moves with the fall of its noise level
            old_log_probs, weights = torch.zeros_like(log_probs), 1 / self._sampler.level_falls(pairs[:, 1])
        report = policy_loss(
            log_probs,
            old_log_probs,
            rollout.advantages[samples].to(args.device),
            clip_range=args.clip_range,
            weights=None if weights is None else weights.to(args.device),
            kl=kl,
            kl_weight=args.kl_weight,
        )
        loss = report.loss
        if excess is not None and args.norm_guard_weight > 0:
            loss = loss + args.norm_guard_weight * excess.mean()
        check_finite(loss, "the policy loss", self.state.global_step)
        deviation = (report.ratio - 1).abs()
        metrics = {
            "policy/ratio_deviation": deviation.mean().item(),
            "policy/max_ratio_deviation": deviation.max().item(),
            "policy/clip_fraction": report.clipped.float().mean().item(),
        }
        for name, value in (("kl", kl), ("norm_excess", excess)):
            if value is not None:
                metrics[f"policy/{name}"] = value.detach().mean().item()
        self.add_metrics(metrics)
        return loss, {"ratio": report.ratio}

    @property
    def _sampler(self) -> PolicySampler:
        sampler = super()._sampler
        assert isinstance(sampler, PolicySampler)
        return sampler
