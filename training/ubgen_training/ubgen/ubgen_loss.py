"""The full loss L = w_en L_en + sum of w_r (1 - r) over the rewards (paper Eq. 8), with each term's own gradient norm.

With the CLIP alignment and quality rewards at weights 1 and 0.1 this is the paper's L_en + L_in + 0.1 L_q.
Each term is differentiated down to the images and its graph dropped, before the sampler's graph is walked once with
the sum: the gradient is that of ordinary back-propagation, the peak memory is lower, and the norms come for free.
Micro-batches lower it further: some images at a time go through the encoder and the rewards, and back.
Shapes: B images, F feature width.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from ubgen_pipeline.models.clip_encoders import ClipEncoder

from ..rewards.reward_functions import (
    RewardFunction,
    call_reward,
    check_differentiable,
    check_finite,
    check_reward_names,
    check_reward_weights,
    reads_whole_batch,
    remember_batch,
    reward_name,
)
from .adversarial_term import AdversarialTerm
from .micro_batches import MicroBatch, MicroBatches


@dataclass(frozen=True)
class LossReport:
    """The scalar ``loss``, differentiable through the images, and what to log under its names."""

    loss: torch.Tensor
    metrics: dict[str, float] = field(default_factory=dict)


class UbGenLoss:
    """Weighted rewards and, where given, the adversarial term.

    Args:
        reward_funcs: see :mod:`ubgen_training.rewards.reward_functions`.
        reward_weights: one per reward; None gives ones. A weight of 0 only logs.
        encoder: the CLIP whose image features the adversarial term reads and rewards may use.
        adversarial: the adversarial term, or None.
        adversarial_weight: its weight.
        micro_batch_size: images that the encoder and the rewards take at a time; None is the whole batch. A reward
            that says ``reads_whole_batch`` always takes it whole.

    Raises:
        ValueError: lengths differ, a reward has no gradient, names repeat, or the term lacks its encoder.
    """

    def __init__(
        self,
        reward_funcs: Sequence[RewardFunction],
        reward_weights: Sequence[float] | None = None,
        *,
        encoder: ClipEncoder | None = None,
        adversarial: AdversarialTerm | None = None,
        adversarial_weight: float = 1.0,
        micro_batch_size: int | None = None,
    ):
        self.reward_funcs = list(reward_funcs)
        self.reward_weights = check_reward_weights(self.reward_funcs, reward_weights)
        for reward in self.reward_funcs:
            check_differentiable(reward)
        check_reward_names(self.reward_funcs)
        if adversarial is not None and encoder is None:
            raise ValueError("encoder is None, but the adversarial term reads CLIP features; give the encoder.")
        self.encoder = encoder
        self.adversarial = adversarial
        self.adversarial_weight = adversarial_weight
        self.micro_batch_size = micro_batch_size

    def __call__(
        self,
        images: torch.Tensor,
        class_names: Sequence[str],
        labels: torch.Tensor,
        *,
        generator: torch.Generator,
        seeds: Sequence[int] = (),
        step: int = 0,
    ) -> LossReport:
        """The loss of ``images (B, 3, H, W)`` with ``labels (B,)``; the discriminator then takes its own step.

        Args:
            generator: a CPU generator, by which the other classes are chosen.
            seeds: handed on to the rewards.
            step: handed on to the rewards and named in errors.

        Raises:
            ValueError: a reward answers with a wrong shape or without gradient.
            FloatingPointError: a term is not finite; the message names it and the step.
        """
        check_finite(images, "the sampled images", step)
        encode = None if self.encoder is None else self.encoder.encode_images
        batch = MicroBatches(images, self.micro_batch_size, encode)
        weighted = list(zip(self.reward_funcs, self.reward_weights))
        values: dict[str, list[torch.Tensor]] = {reward_name(reward): [] for reward in self.reward_funcs}
        metrics: dict[str, float] = {}
        total = images.new_zeros(())
        text_features = None

        def differentiate(reward: RewardFunction, weight: float, part: MicroBatch) -> None:
            name, rows = reward_name(reward), part.rows
            inputs = {"image_features": part.features, "seeds": seeds[rows]}
            part_values = call_reward(reward, part.pixels, class_names[rows], labels[rows], step=step, **inputs)
            values[name].append(part_values.detach())
            if weight != 0:
                batch.differentiate(name, weight * (1 - part_values).sum() / len(images), part)

        with torch.enable_grad():
            for reward, weight in weighted:
                if reads_whole_batch(reward):
                    differentiate(reward, weight, batch.whole())
            if self.adversarial is not None and batch.features is not None:
                text_features = self.adversarial.choose_text_features(labels, generator)
                term = self.adversarial.generator_loss(batch.features, text_features, generator).mean()
                check_finite(term, "the adversarial term", step)
                total = total + self.adversarial_weight * term.detach()
                metrics["losses/adversarial"] = term.item()
                if self.adversarial_weight != 0:
                    batch.differentiate("adversarial", self.adversarial_weight * term, batch.whole())
            for part in batch:
                for reward, weight in weighted:
                    if not reads_whole_batch(reward):
                        differentiate(reward, weight, part)
        for reward, weight in weighted:
            mean = torch.cat(values[reward_name(reward)]).mean()
            total = total + weight * (1 - mean)
            metrics[f"rewards/{reward_name(reward)}"] = mean.item()
        gradient = torch.zeros_like(batch.pixels)
        for name in (*values, *(["adversarial"] if self.adversarial is not None else [])):
            own = batch.gradient(name)
            check_finite(own, f"the gradient of {name}", step)
            metrics[f"reward_grad_norms/{name}"] = own.norm().item()
            gradient += own
        # last, so that nothing is updated if a term is not finite
        remember_batch(self.reward_funcs)
        if batch.features is not None and text_features is not None:
            metrics |= self._update_discriminator(batch.features.detach(), text_features, generator)
        # its value is the loss, its gradient with respect to the images is the sum of the terms' gradients
        carrier = (images * gradient).sum()
        return LossReport(total + carrier - carrier.detach(), metrics)

    @torch.no_grad()
    def warm_up_discriminator(
        self, images: torch.Tensor, labels: torch.Tensor, generator: torch.Generator
    ) -> dict[str, float]:
        """One step of the discriminator alone on ``images (B, 3, H, W)``; returns what to log."""
        assert self.encoder is not None and self.adversarial is not None
        text_features = self.adversarial.choose_text_features(labels, generator)
        return self._update_discriminator(self.encoder.encode_images(images), text_features, generator)

    def _update_discriminator(
        self, features: torch.Tensor, text_features: torch.Tensor, generator: torch.Generator
    ) -> dict[str, float]:
        assert self.adversarial is not None
        report = self.adversarial.update_discriminator(features, text_features, generator)
        return {f"discriminator/{name}": value for name, value in vars(report).items()}
