"""Trains on samples that were drawn and scored before, in batches of (sample, step) pairs, until the next are drawn.

An update is one of the base trainer's. Every ``updates_per_rollout`` of them a rollout is drawn and scored without
gradient, so rewards need none; in between, each batch of pairs gives a loss. Threads can score what was drawn while
the next images are drawn, on another device too. A reward that reads the whole batch reads the whole rollout.
Everything random is a hash of (seed, purpose, rank, rollout); what was drawn with weights that are gone lies in the
checkpoint.

Shapes: R samples of a rollout, B of a batch, K rewards.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from datasets import Dataset
from torch import nn

from ubgen_pipeline.models.clip_encoders import ClipEncoder

from ..checkpoints.micro_steps import MicroSteps
from ..reward_training.trainer import SamplerTrainer, choose_seeds
from ..rewards.reward_functions import (
    RewardFunction,
    call_reward,
    check_finite,
    check_memory,
    check_partner_share,
    check_reward_weights,
    compares_within_class,
    reads_whole_batch,
    remember_batch,
    reward_name,
)
from ..sampler.sampler_model import SamplerModel
from .advantages import ClassStatistics, group_advantages
from .batch_scores import BatchScores
from .config import RolloutConfig
from .pairs import ordered_labels, ordered_partner_share, shuffled_pairs


@dataclass(frozen=True)
class RolloutTensors:
    """R samples on the CPU: ``labels (R,)``, ``advantages (R,)``, and what a subclass keeps of each, R rows of it."""

    labels: torch.Tensor
    advantages: torch.Tensor

    def state_dict(self) -> dict[str, torch.Tensor]:
        """The tensors by name, for a checkpoint; the class made of these reads it."""
        kept = {part.name: getattr(self, part.name) for part in fields(self)}
        return {name: value for name, value in kept.items() if value is not None}


class _BatchScore(NamedTuple):
    """``images (B, 3, H, W)``, their ``features (B, F)`` or None, ``rewards (B, K)``; where rewards are computed."""

    images: torch.Tensor
    features: torch.Tensor | None
    rewards: torch.Tensor


class RolloutTrainer(SamplerTrainer):
    """Fine-tunes a sampler's LoRA from class names and rewards that need no gradient; a subclass says how.

    Args:
        model: the sampler; its prompts are those of ``class_names``, in order.
        args: settings; see :class:`RolloutConfig`.
        class_names: N names; an image's label is its name's position.
        reward_funcs: one reward or a list; see :mod:`ubgen_training.rewards.reward_functions`. Their weights are
            ``args.reward_weights``.
        clip_encoder: the CLIP whose image features rewards get, and in which the diversity of samples is measured;
            None gives and measures none.
        kwargs: handed to :class:`SamplerTrainer`.

    Raises:
        ValueError: settings that do not fit together or do not fit the sampler, or a reward that compares the images
            of a class where no rollout holds two.
    """

    args: RolloutConfig
    rollout_type: ClassVar[type[RolloutTensors]]
    # the loss is a mean over the batch of pairs, so accumulation still has to divide it
    loss_is_scaled_for_ga = False

    def __init__(
        self,
        model: SamplerModel,
        args: RolloutConfig,
        class_names: Sequence[str],
        reward_funcs: RewardFunction | Sequence[RewardFunction],
        clip_encoder: ClipEncoder | None = None,
        **kwargs: Any,
    ):
        super().__init__(model, args, class_names, reward_funcs, clip_encoder, **kwargs)
        self.reward_weights = check_reward_weights(self.reward_funcs, args.reward_weights)
        self.num_trainable_steps = args.num_trainable_steps(model.num_steps)
        self.clip_encoder = clip_encoder
        # one for the sum of the rewards, or one for each
        self.statistics = [
            ClassStatistics(args.statistics_window, args.statistics_min_count)
            for _ in (self.reward_funcs if args.reward_normalisation == "each" else [None])
        ]
        self._check_sets()
        self.train_dataset = self._counting_dataset()
        self._rollout: Any = None
        self._micro_steps = MicroSteps()

    def _check_sets(self) -> None:
        """See that rewards which compare the images of a class find several in a rollout."""
        args, num_classes = self.args, len(self.class_names)
        for reward in self.reward_funcs:
            # one that gathers the images of all processes compares them, too
            count = args.rollout_size * (args.world_size if hasattr(reward, "over_processes") else 1)
            share = 1.0 if args.group_copies > 1 else ordered_partner_share(count, num_classes, args.seed)
            check_partner_share(
                [reward] if compares_within_class(reward) else [],
                share,
                f"with rollout_size {args.rollout_size}, advantages {args.advantages!r} and {num_classes} classes",
                "rollout",
                "set advantages to 'group', or rollout_size to twice the number of classes or more",
            )
        images = args.class_repeats * args.num_train_epochs
        if args.max_steps > 0:
            images = args.max_steps * args.images_per_update / num_classes
        check_memory(self.reward_funcs, images)

    def draw(
        self, model: nn.Module, labels: torch.Tensor, seeds: Sequence[int]
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Images ``(B, 3, H, W)`` of a batch, and what the rollout keeps of each beside label and advantage."""
        raise NotImplementedError

    def pair_loss(
        self, model: nn.Module, rollout: Any, pairs: torch.Tensor, generator: torch.Generator
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The mean loss of ``pairs (B, 2)`` of sample and step, and what else to give to who asks for outputs.

        ``generator`` is a CPU generator of this batch's own.
        """
        raise NotImplementedError

    def before_rollout(self, number: int) -> None:
        """Called before rollout ``number`` is drawn."""

    def first_step(self, number: int) -> int:
        """Position of the first of rollout ``number``'s trainable steps; called before anything is done with it."""
        return 0

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> torch.Tensor | tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The loss of the next batch of pairs; ``inputs`` only say that it is due."""
        args, step = self.args, self.state.global_step
        micro_step = self._micro_steps.next(step)
        number, update = divmod(step, args.updates_per_rollout)
        position = update * args.batches_per_update + micro_step
        first_step = self.first_step(number)
        if position == 0:
            self.before_rollout(number)
            self._rollout = self._collect(number)
        elif self._rollout is None:
            raise ValueError(
                f"the checkpoint of update {step} holds no rollout for process {args.process_index}; resume with as"
                " many processes as it was written with."
            )
        generator = self._generator(f"batch/{position}", number)
        pairs = self._pairs(number, position) + torch.tensor([0, first_step])
        loss, outputs = self.pair_loss(model, self._rollout, pairs, generator)
        return (loss, outputs) if return_outputs else loss

    @torch.no_grad()
    def _collect(self, number: int) -> RolloutTensors:
        """Draw and score this process's part of rollout ``number``."""
        args, model = self.args, self.model
        assert model is not None
        copies = args.group_copies
        count = args.rollout_size // copies
        first = (number * args.world_size + args.process_index) * count
        labels = ordered_labels(first, count, len(self.class_names), args.seed).repeat_interleave(copies)
        seeds = choose_seeds(len(labels), self._generator("rollout", number))
        # columns of the rewards of single images, and of those that read the whole rollout
        singles, sets = (
            [k for k, reward in enumerate(self.reward_funcs) if reads_whole_batch(reward) == whole]
            for whole in (False, True)
        )
        kept: list[dict[str, torch.Tensor]] = []
        batch = args.per_device_train_batch_size
        with BatchScores[_BatchScore](args.reward_workers) as batch_scores:
            for start in range(0, len(labels), batch):
                rows = slice(start, start + batch)
                images, parts = self.draw(model, labels[rows], seeds[rows])
                check_finite(images, "the sampled images", self.state.global_step)
                kept.append({name: value.cpu() for name, value in parts.items()})
                batch_scores.add(self._score_batch, singles, images.to(args.scoring_device), labels[rows], seeds[rows])
            scores = batch_scores.all()
        for score in scores:
            self._note_rewards(singles, score.rewards)
        rewards = torch.cat([score.rewards for score in scores])
        if sets:
            images = torch.cat([score.images for score in scores])
            features = None
            if self.clip_encoder is not None:
                features = torch.cat([score.features for score in scores if score.features is not None])
            set_rewards = self._score(sets, images, features, labels, seeds)
            self._note_rewards(sets, set_rewards)
            rewards = rewards + set_rewards
        # last, so that nothing is remembered of images of which a reward is not finite
        remember_batch(self.reward_funcs)
        advantages = self._advantages(rewards, labels)
        joined = {name: torch.cat([parts[name] for parts in kept]) for name in kept[0]}
        return self.rollout_type(labels, advantages, **joined)

    # a thread does not inherit it
    @torch.no_grad()
    def _score_batch(
        self, columns: Sequence[int], images: torch.Tensor, labels: torch.Tensor, seeds: Sequence[int]
    ) -> "_BatchScore":
        """Features and rewards of a batch that was drawn; changes nothing of the trainer, so threads may call it."""
        features = None if self.clip_encoder is None else self.clip_encoder.encode_images(images)
        return _BatchScore(images, features, self._score(columns, images, features, labels, seeds))

    def _score(
        self,
        columns: Sequence[int],
        images: torch.Tensor,
        features: torch.Tensor | None,
        labels: torch.Tensor,
        seeds: Sequence[int],
    ) -> torch.Tensor:
        """Rewards ``(B, K)``; 0 in all columns but these."""
        names, labels = self._names_of(labels), labels.to(images.device)
        given = {"seeds": seeds, "image_features": features}
        rewards = images.new_zeros(len(images), len(self.reward_funcs))
        for k in columns:
            reward = self.reward_funcs[k]
            values = call_reward(reward, images, names, labels, step=self.state.global_step, marginal=True, **given)
            rewards[:, k] = values.to(rewards)
        return rewards

    def _note_rewards(self, columns: Sequence[int], rewards: torch.Tensor) -> None:
        """Note the means of these columns of ``rewards (B, K)``."""
        for k in columns:
            self.add_metrics({f"rewards/{reward_name(self.reward_funcs[k])}": rewards[:, k].mean().item()})

    def _advantages(self, rewards: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Advantages ``(R,)`` float32 of this process's samples with ``rewards (R, K)``; the statistics see those of
        all processes."""
        args = self.args
        total = rewards.new_zeros(len(rewards))
        for column, weight in zip(rewards.unbind(1), self.reward_weights):
            total = total + weight * column
        self.add_metrics({"rewards/total": total.mean().item(), "rewards/deviation": total.std(correction=0).item()})
        parts, weights = (
            ([total], [1.0]) if args.reward_normalisation == "sum" else (rewards.unbind(1), self.reward_weights)
        )
        values = sum(
            weight * self._normalised(part, labels, statistics)
            for part, weight, statistics in zip(parts, weights, self.statistics)
        )
        return torch.tensor(values, dtype=torch.float32).clamp(-args.advantage_clip, args.advantage_clip)

    def _normalised(self, rewards: torch.Tensor, labels: torch.Tensor, statistics: ClassStatistics) -> np.ndarray:
        """``rewards (R,)`` held against those of their groups or their classes."""
        args, size = self.args, len(rewards)
        if args.advantages == "group":
            return group_advantages(rewards.tolist(), args.group_size)
        everyone = [self.gather_ranks(part) for part in (rewards, labels)]
        values = statistics.advantages(*(part.tolist() for part in everyone))
        return values[args.process_index * size : (args.process_index + 1) * size]

    def _pairs(self, number: int, position: int) -> torch.Tensor:
        """The pairs ``(B, 2)`` of the rollout's batch at ``position``, steps counted from the first trainable one."""
        args = self.args
        inner_epoch, batch = divmod(position, args.batches_per_pass)
        generator = self._generator(f"pairs/{inner_epoch}", number)
        pairs = shuffled_pairs(args.rollout_size, self.num_trainable_steps, args.trained_steps, generator)
        size = args.per_device_train_batch_size
        return pairs[batch * size : (batch + 1) * size]

    def _counting_dataset(self) -> Dataset:
        """As many rows as an epoch has pairs: enough rollouts to show each class ``class_repeats`` times.

        The base's loader only counts with it. Labels come from the rollouts, whose order no loader knows.
        """
        args = self.args
        prompts = args.rollout_size // args.group_copies * args.world_size
        rollouts = math.ceil(len(self.class_names) * args.class_repeats / prompts)
        batches = rollouts * args.num_inner_epochs * args.batches_per_pass
        return Dataset.from_dict({"label": [0] * (batches * args.per_device_train_batch_size * args.world_size)})

    def extra_state(self) -> dict[str, Any]:
        """The base's, with the classes' recent rewards."""
        return {**super().extra_state(), "statistics": [one.state_dict() for one in self.statistics]}

    def load_extra_state(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`extra_state` gave."""
        super().load_extra_state(state)
        saved = state["statistics"]
        # checkpoints of the first version hold those of the sum alone
        for one, part in zip(self.statistics, [saved] if isinstance(saved, dict) else saved, strict=True):
            one.load_state_dict(part)

    def rank_state(self) -> dict[str, Any]:
        """The base's, with this process's rollout where the next update goes on with it."""
        rollout = self._rollout
        if self.state.global_step % self.args.updates_per_rollout == 0:
            rollout = None
        return {**super().rank_state(), "rollout": None if rollout is None else rollout.state_dict()}

    def load_rank_state(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`rank_state` gave."""
        super().load_rank_state(state)
        self._rollout = self.rollout_type(**state["rollout"]) if state["rollout"] is not None else None
        self._micro_steps.restart()
