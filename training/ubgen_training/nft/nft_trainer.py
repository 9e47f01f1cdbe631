"""Trains a LoRA by the forward process (DiffusionNFT, arXiv 2509.16117; AWM, arXiv 2509.25050).

Samples are drawn by any solver with an average of the trained weights, the old ones. Of a sample only its finished
latents and its reward are kept. Each pair of a sample and a step gives it the noise of that step, and the trained
prediction there is held against that of the weights that drew it. Training takes no guidance.

Deliberate deviation from the released code: noise levels are those of the sampling steps.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ..checkpoints.weight_average import WeightAverage
from ..rewards.reward_functions import check_finite
from ..rollouts.policy_loss import policy_loss
from ..rollouts.trainer import RolloutTensors, RolloutTrainer
from ..sampler.reference_distance import norm_excess
from .forward_sampler import ForwardSampler, Noised
from .nft_config import NFTConfig
from .objective import matching_log_probability, mixed_predictions, nft_loss, optimality


@dataclass(frozen=True)
class FinishedRollout(RolloutTensors):
    """R samples on the CPU, with their finished ``latents (R, C, h, w)``."""

    latents: torch.Tensor


class NFTTrainer(RolloutTrainer):
    """Fine-tunes a sampler's LoRA from class names and rewards that need no gradient.

    Args:
        model: a :class:`ForwardSampler`.
        arguments: those of :class:`.RolloutTrainer`.

    Raises:
        ValueError: settings that do not fit together or do not fit the sampler.
    """

    args: NFTConfig
    tags = ("ubgen", "text-to-image", "lora", "nft")
    settings_file = "nft_config.json"
    rollout_type = FinishedRollout

    def __init__(self, model: ForwardSampler, *arguments: Any, **kwargs: Any):
        super().__init__(model, *arguments, **kwargs)
        self._old = WeightAverage(model.denoiser_network, self.args.old_decay)

    def before_rollout(self, number: int) -> None:
        """Let the weights that draw follow the trained ones."""
        self.reshard()
        if not self._old.weights:
            self._old.start()
        else:
            self._old.update()

    def draw(
        self, model: nn.Module, labels: torch.Tensor, seeds: Sequence[int]
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Samples of the old weights."""
        with self._old_weights():
            drawn = model(labels=labels, seeds=seeds, record=True)
        return drawn.images, {"latents": drawn.latents}

    @contextmanager
    def _old_weights(self) -> Iterator[None]:
        """The model draws and predicts with the old weights inside the ``with``."""
        self.reshard()
        with self._old.applied():
            try:
                yield
            finally:
                self.reshard()

    def pair_loss(
        self, model: nn.Module, rollout: FinishedRollout, pairs: torch.Tensor, generator: torch.Generator
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The objective on the pairs' samples with noise of the pairs' steps."""
        args, (samples, index) = self.args, pairs.unbind(1)
        clean = rollout.latents[samples]
        noise = torch.randn(clean.shape, generator=generator)
        noised = Noised(clean.to(args.device), noise.to(args.device), index)
        labels, advantages = rollout.labels[samples], rollout.advantages[samples].to(args.device)
        with torch.no_grad(), self._old_weights():
            old_prediction, _ = model(labels=labels, noised=noised)
        prediction, reference = model(labels=labels, noised=noised, with_reference=args.uses_reference)
        losses, metrics = self._objective(prediction, old_prediction, noised, advantages)
        loss = losses.mean()
        if reference is not None:
            distance = (prediction.float() - reference.float()).square().mean()
            excess = norm_excess(prediction, reference).mean()
            loss = loss + args.kl_weight * distance + args.norm_guard_weight * excess
            metrics |= {"policy/kl": distance.item(), "policy/norm_excess": excess.item()}
        check_finite(loss, "the loss", self.state.global_step)
        with torch.no_grad():
            metrics["policy/old_distance"] = (prediction - old_prediction).float().square().mean().item()
        self.add_metrics(metrics)
        return loss, {"prediction": prediction}

    def _objective(
        self, prediction: torch.Tensor, old_prediction: torch.Tensor, noised: Noised, advantages: torch.Tensor
    ) -> tuple[torch.Tensor, dict[str, float]]:
        """Losses ``(B,)``, or the mean alone, and what to log."""
        args, levels = self.args, self._sampler.levels
        if args.objective == "awm":
            target = levels.target(noised.clean, noised.noise, noised.index)
            log_probs, old = (matching_log_probability(value, target) for value in (prediction, old_prediction))
            report = policy_loss(log_probs, old, advantages, clip_range=args.clip_range)
            return report.loss, {"policy/clip_fraction": report.clipped.float().mean().item()}
        noisy = levels.noised(noised.clean, noised.noise, noised.index)
        positive, negative = (
            levels.clean(noisy, mixed, noised.index)
            for mixed in mixed_predictions(prediction, old_prediction, args.beta)
        )
        good = optimality(advantages, args.advantage_clip)
        return nft_loss(positive, negative, noised.clean, good), {"policy/optimality": good.mean().item()}

    def extra_state(self) -> dict[str, Any]:
        """The base's, with the weights that draw."""
        return {**super().extra_state(), "old_weights": self._old.state_dict()}

    def load_extra_state(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`extra_state` gave."""
        super().load_extra_state(state)
        self._old.load_state_dict(state["old_weights"])

    @property
    def _sampler(self) -> ForwardSampler:
        sampler = super()._sampler
        assert isinstance(sampler, ForwardSampler)
        return sampler
