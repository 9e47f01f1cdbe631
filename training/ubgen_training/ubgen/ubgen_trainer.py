"""Trains a LoRA by back-propagating the ubGen loss through the sampler (arXiv 2412.10831)."""

import math
from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from datasets import Dataset
from torch import nn

from ubgen_pipeline.initial_latents import sample_seed
from ubgen_pipeline.latent_denoising import check_jump
from ubgen_pipeline.models.clip_encoders import ClipEncoder

from ..checkpoints.micro_steps import MicroSteps
from ..reward_training.trainer import SamplerTrainer, choose_seeds
from ..rewards.reward_functions import RewardFunction, check_finite, check_memory, check_partners
from ..sampler.sampler_model import SamplerModel
from .adversarial_term import AdversarialSettings, AdversarialTerm
from .ubgen_config import UbGenConfig
from .ubgen_loss import UbGenLoss


class UbGenTrainer(SamplerTrainer):
    """Fine-tunes a sampler's LoRA from class names alone.

    Args:
        model: the sampler; its prompts are those of ``class_names``, in order.
        args: settings; see :class:`UbGenConfig`.
        class_names: N names; an image's label is its name's position.
        reward_funcs: one reward or a list; see :mod:`ubgen_training.rewards.reward_functions`. Their weights are
            ``args.reward_weights``.
        clip_encoder: the CLIP of the adversarial term; None where ``args.adversarial_weight`` is 0.
        kwargs: handed to ``transformers.Trainer`` (callbacks, optimizers …).

    Raises:
        ValueError: settings that do not fit together, the steps of this scheduler, or the launcher.
    """

    args: UbGenConfig
    tags = ("ubgen", "text-to-image", "lora")
    # the loss is a mean over the micro-batch, so accumulation still has to divide it
    loss_is_scaled_for_ga = False
    settings_file = "ubgen_config.json"

    def __init__(
        self,
        model: SamplerModel,
        args: UbGenConfig,
        class_names: Sequence[str],
        reward_funcs: RewardFunction | Sequence[RewardFunction],
        clip_encoder: ClipEncoder | None = None,
        **kwargs: Any,
    ):
        super().__init__(model, args, class_names, reward_funcs, clip_encoder, **kwargs)
        size = args.images_per_class_in_batch
        sizes = (len(self.class_names), args.class_repeats, args.per_device_train_batch_size, size)
        check_partners(self.reward_funcs, *sizes)
        images = args.class_repeats * args.num_train_epochs
        if args.max_steps > 0:
            images = args.max_steps * args.images_per_update / len(self.class_names)
        check_memory(self.reward_funcs, images)
        if size > 1:
            # a row stands for a group of images, so that whatever shuffles, shards and resumes keeps them together
            labels = list(range(len(self.class_names))) * (args.class_repeats // size)
            self.train_dataset = Dataset.from_dict({"label": labels})
            self.data_collator = partial(_collate_groups, size=size)
        if clip_encoder is not None:
            clip_encoder.to(args.device)
        adversarial = None
        if args.adversarial_weight > 0:
            adversarial = self._build_adversarial_term(clip_encoder)
        self.ubgen_loss = UbGenLoss(
            self.reward_funcs,
            args.reward_weights,
            encoder=clip_encoder,
            adversarial=adversarial,
            adversarial_weight=args.adversarial_weight,
            micro_batch_size=args.reward_micro_batch_size,
        )
        self._num_steps = model.num_steps
        # tried once, so that settings which do not fit this scheduler's number of steps are refused before training
        tried = args.choose_gradient_steps(self._num_steps, torch.Generator())
        if tried.stop_at is not None or tried.replay is not None:
            check_jump(model.pipeline.scheduler)
        self._speed_up_rollouts(model)
        self._warmed_up = adversarial is None
        self._micro_steps = MicroSteps(first=1)

    def _speed_up_rollouts(self, model: SamplerModel) -> None:
        # sharded weights are whole only inside the denoiser's own forward
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:
            return
        args, batch_size = self.args, self.args.per_device_train_batch_size
        share = len(self.train_dataset) / args.world_size
        images = args.max_steps * batch_size * args.gradient_accumulation_steps
        images = images if args.max_steps > 0 else args.num_train_epochs * share
        if args.adversarial_weight > 0:
            warm_up = args.discriminator_warmup_steps
            images += share if warm_up is None else warm_up * batch_size
        compiles = args.compiles_rollout(images, self._num_steps * (1 + (model.guidance_scale > 1)))
        model.speed_up_rollouts(batch_size if compiles else None)

    def _build_adversarial_term(self, clip_encoder: ClipEncoder | None) -> AdversarialTerm:
        if clip_encoder is None:
            raise ValueError("clip_encoder is None, but adversarial_weight is above 0; give one or set that to 0.")
        args = self.args
        settings = AdversarialSettings(
            learning_rate=args.discriminator_learning_rate,
            weight_decay=args.discriminator_weight_decay,
            max_grad_norm=args.discriminator_max_grad_norm,
            discriminator_form=args.discriminator_form,
            hidden_dim=args.discriminator_hidden_dim,
            activation=args.discriminator_activation,
            noise=args.discriminator_noise,
            noise_steps=args.discriminator_noise_steps,
            r1=args.discriminator_r1,
            form=args.adversarial_form,
            text_choice=args.adversarial_text,
        )
        return AdversarialTerm(
            clip_encoder.encode_texts(self.class_names).to(args.device),
            settings,
            seed=args.seed,
            average=self.mean_of_ranks,
        )

    def training_step(self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None) -> torch.Tensor:
        """Warm the discriminator up before the first update, then train as the base does."""
        if not self._warmed_up:
            self._warm_up_discriminator()
        return super().training_step(model, inputs, num_items_in_batch)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> torch.Tensor | tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Sample images for ``inputs["labels"] (B,)`` and return their loss."""
        labels, step = inputs["labels"], self.state.global_step
        micro_step = self._micro_steps.next(step)
        generator = self._generator(f"train/{micro_step}", step)
        seeds = choose_seeds(len(labels), generator)
        # the same on all ranks: they gather sharded weights together, so they must call the denoiser equally often
        # "plan" is what the first version called them; the name is hashed
        steps_seed = sample_seed(self.args.seed, f"gradient plan/{micro_step}", step)
        gradient_steps = self.args.choose_gradient_steps(self._num_steps, torch.Generator().manual_seed(steps_seed))
        with_distance = self.args.measures_reference(step)
        drawn = model(labels=labels, seeds=seeds, gradient_steps=gradient_steps, with_distance=with_distance)
        images, moved = drawn if with_distance else (drawn, None)
        report = self.ubgen_loss(images, self._names_of(labels), labels, generator=generator, seeds=seeds, step=step)
        self.add_metrics(report.metrics)
        loss = report.loss
        if moved is not None:
            check_finite(moved.distance, "the distance to the reference model", step)
            for name, value, weight in (
                ("reference_distance", moved.distance, self.args.reference_weight),
                ("norm_excess", moved.norm_excess, self.args.norm_guard_weight),
            ):
                self.add_metrics({f"losses/{name}": value.detach().mean().item()})
                # with a weight of 0 the backward pass must not walk its graph
                if weight > 0:
                    loss = loss + weight * value.mean()
        return (loss, {"images": images}) if return_outputs else loss

    def _warm_up_discriminator(self) -> None:
        """Train the discriminator alone on the untrained generator's images, by default for one epoch."""
        args, batch_size, model = self.args, self.args.per_device_train_batch_size, self.model
        assert model is not None and self.train_dataset is not None
        all_labels = torch.tensor(self.train_dataset["label"]).repeat(args.images_per_class_in_batch)
        global_batch, num_labels = batch_size * args.world_size, len(all_labels)
        num_steps = args.discriminator_warmup_steps
        num_steps = math.ceil(num_labels / global_batch) if num_steps is None else num_steps
        history: dict[str, list[float]] = defaultdict(list)
        for step in range(num_steps):
            generator = self._generator("warm-up", step)
            positions = step * global_batch + args.process_index * batch_size + torch.arange(batch_size)
            # all ranks share one order and each takes its own part; every pass over the labels has another order
            order_seed = sample_seed(args.seed, "warm-up order", int(positions[0]) // num_labels)
            order = torch.randperm(num_labels, generator=torch.Generator().manual_seed(order_seed))
            labels = all_labels[order[positions % num_labels]].to(args.device)
            with torch.no_grad():
                images = model(labels=labels, seeds=choose_seeds(batch_size, generator))
            metrics = self.ubgen_loss.warm_up_discriminator(images, labels, generator)
            for name, value in metrics.items():
                history[name].append(value)
        self._warmed_up = True
        if num_steps:
            averaged = self.average_over_ranks(history)
            self.log({name.replace("discriminator/", "discriminator_warmup/"): v for name, v in averaged.items()})

    def _get_dataloader(self, dataset: Any, description: str, batch_size: int, *args: Any, **kwargs: Any) -> Any:
        """The base's, of which a row gives ``images_per_class_in_batch`` images."""
        return super()._get_dataloader(
            dataset, description, batch_size // self.args.images_per_class_in_batch, *args, **kwargs
        )

    def extra_state(self) -> dict[str, Any]:
        """The base's, with the discriminator, its optimizer and whether it was warmed up."""
        adversarial = self.ubgen_loss.adversarial
        own = {} if adversarial is None else {"warmed_up": self._warmed_up, "adversarial": adversarial.state_dict()}
        return {**super().extra_state(), **own}

    def load_extra_state(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`extra_state` gave."""
        super().load_extra_state(state)
        if self.ubgen_loss.adversarial is not None:
            self.ubgen_loss.adversarial.load_state_dict(state["adversarial"])
            self._warmed_up = state["warmed_up"]


def _collate_groups(rows: list[dict[str, int]], size: int) -> dict[str, torch.Tensor]:
    return {"labels": torch.tensor([row["label"] for row in rows]).repeat_interleave(size)}
