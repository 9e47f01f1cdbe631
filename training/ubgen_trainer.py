"""Trains a LoRA by back-propagating the ubGen loss through the sampler (arXiv 2412.10831).

Deliberate deviations from ``transformers.Trainer``: checkpoints hold safetensors and JSON only, never a pickle; all
randomness of a batch comes from a hash of (seed, purpose, rank, update), so that a resumed run draws what an
uninterrupted one would have drawn; nothing is reported to anyone.
"""

import math
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch import nn
from trl.trainer.base_trainer import _BaseTrainer

from ubgen_pipeline.initial_latents import SEED_LIMIT, sample_seed

from .adversarial_term import AdversarialSettings, AdversarialTerm
from .checkpoint_state import load_state, random_state, restore_random_state, save_state
from .clip_encoders import ClipEncoder
from .gradient_steps import gradient_strategy
from .lora_export import load_lora_into, save_lora
from .reward_functions import RewardFunction
from .sample_grid import SampleGridCallback
from .sampler_model import SamplerModel
from .ubgen_config import UbGenConfig
from .ubgen_loss import UbGenLoss

TRAINER_STATE = "trainer_state.json"
SETTINGS_FILE = "ubgen_config.json"


class UbGenTrainer(_BaseTrainer):
    """Fine-tunes a sampler's LoRA from class names alone.

    Args:
        model: the sampler; its prompts are those of ``class_names``, in order.
        args: settings; see :class:`UbGenConfig`.
        class_names: N names; an image's label is its name's position.
        reward_funcs: one reward or a list; see :mod:`ubgen_training.reward_functions`. Their weights are
            ``args.reward_weights``.
        clip_encoder: the CLIP of the adversarial term; None where ``args.adversarial_weight`` is 0.
        kwargs: handed to ``transformers.Trainer`` (callbacks, optimizers …).

    Raises:
        ValueError: settings that do not fit together, or FSDP or DeepSpeed, whose checkpoints are not written yet.
    """

    _tag_names = ("ubgen", "text-to-image", "lora")
    _name = "ubGen"
    # the loss is a mean over the micro-batch, so accumulation still has to divide it
    loss_is_scaled_for_ga = False

    def __init__(
        self,
        model: SamplerModel,
        args: UbGenConfig,
        class_names: Sequence[str],
        reward_funcs: RewardFunction | Sequence[RewardFunction],
        clip_encoder: ClipEncoder | None = None,
        **kwargs: Any,
    ):
        self.class_names = list(class_names)
        if not self.class_names:
            raise ValueError("class_names is empty; give at least one, or two with the adversarial term.")
        if len(self.class_names) != len(model.prompt_embeds):
            raise ValueError(
                f"class_names holds {len(self.class_names)} names, the sampler {len(model.prompt_embeds)} prompts; "
                "give one prompt per name, in the same order."
            )
        rewards = [reward_funcs] if callable(reward_funcs) else list(reward_funcs)
        labels = list(range(len(self.class_names))) * args.class_repeats
        super().__init__(
            model=model,
            args=args,
            train_dataset=Dataset.from_dict({"label": labels}),
            data_collator=_collate_labels,
            **kwargs,
        )
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:
            raise ValueError("FSDP and DeepSpeed are not supported by this trainer yet; launch it with DDP.")
        for component in (clip_encoder, *rewards):
            # not a plain function: an object that holds a model
            if hasattr(component, "to"):
                component.to(args.device)
        adversarial = None
        if args.adversarial_weight > 0:
            adversarial = self._build_adversarial_term(clip_encoder)
        self.ubgen_loss = UbGenLoss(
            rewards,
            args.reward_weights,
            encoder=clip_encoder,
            adversarial=adversarial,
            adversarial_weight=args.adversarial_weight,
        )
        self._choose_gradient_steps = gradient_strategy(args.gradient_strategy)
        self._warmed_up = adversarial is None
        self._batch_position = (0, 0)
        self._metrics: dict[str, list[float]] = defaultdict(list)
        if args.sample_steps:
            self.add_callback(
                SampleGridCallback(
                    model,
                    self.class_names,
                    every_steps=args.sample_steps,
                    num_per_class=args.num_samples_per_class,
                )
            )

    def _build_adversarial_term(self, clip_encoder: ClipEncoder | None) -> AdversarialTerm:
        if clip_encoder is None:
            raise ValueError("clip_encoder is None, but adversarial_weight is above 0; give one or set that to 0.")
        args = self.args
        settings = AdversarialSettings(
            learning_rate=args.discriminator_learning_rate,
            weight_decay=args.discriminator_weight_decay,
            max_grad_norm=args.discriminator_max_grad_norm,
            hidden_dim=args.discriminator_hidden_dim,
            activation=args.discriminator_activation,
            form=args.adversarial_form,
            text_draw=args.adversarial_text,
        )
        return AdversarialTerm(
            clip_encoder.encode_texts(self.class_names).to(args.device),
            settings,
            seed=args.seed,
            average=lambda gradient: self.accelerator.reduce(gradient, reduction="mean"),
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
        micro_step = self._batch_position[1] + 1 if self._batch_position[0] == step else 0
        self._batch_position = (step, micro_step)
        generator = self._generator(f"train/{micro_step}", step)
        seeds = _draw_seeds(len(labels), generator)
        gradient_steps = self._choose_gradient_steps(
            self.args.num_inference_steps, self.args.num_gradient_steps, generator
        )
        images = model(labels=labels, seeds=seeds, gradient_steps=gradient_steps)
        names = [self.class_names[label] for label in labels.tolist()]
        report = self.ubgen_loss(images, names, labels, generator=generator, seeds=seeds, step=step)
        for name, value in report.metrics.items():
            self._metrics[name].append(value)
        return (report.loss, {"images": images}) if return_outputs else report.loss

    def _warm_up_discriminator(self) -> None:
        """Train the discriminator alone on the untrained generator's images, by default for one epoch."""
        args, batch_size = self.args, self.args.per_device_train_batch_size
        global_batch, num_labels = batch_size * args.world_size, len(self.train_dataset)
        num_steps = args.discriminator_warmup_steps
        num_steps = math.ceil(num_labels / global_batch) if num_steps is None else num_steps
        all_labels = torch.tensor(self.train_dataset["label"])
        history: dict[str, list[float]] = defaultdict(list)
        for step in range(num_steps):
            generator = self._generator("warm-up", step)
            positions = step * global_batch + args.process_index * batch_size + torch.arange(batch_size)
            # every rank walks its own part of one common order, a new one each time around
            order_seed = sample_seed(args.seed, "warm-up order", int(positions[0]) // num_labels)
            order = torch.randperm(num_labels, generator=torch.Generator().manual_seed(order_seed))
            labels = all_labels[order[positions % num_labels]].to(args.device)
            with torch.no_grad():
                images = self.model(labels=labels, seeds=_draw_seeds(batch_size, generator))
            metrics = self.ubgen_loss.warm_up_discriminator(images, labels, generator)
            for name, value in metrics.items():
                history[name].append(value)
        self._warmed_up = True
        if num_steps:
            averaged = self._average_over_ranks(history)
            self.log({name.replace("discriminator/", "discriminator_warmup/"): v for name, v in averaged.items()})

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the mean of each reward, gradient norm and discriminator figure since the last log."""
        if self._metrics and "loss" in logs:
            logs = {**logs, **self._average_over_ranks(self._metrics)}
            self._metrics.clear()
        super().log(logs, start_time)

    def _average_over_ranks(self, metrics: dict[str, list[float]]) -> dict[str, float]:
        means = torch.tensor([sum(values) / len(values) for values in metrics.values()], device=self.args.device)
        return dict(zip(metrics, self.accelerator.reduce(means, reduction="mean").tolist()))

    def _generator(self, purpose: str, step: int) -> torch.Generator:
        """A CPU generator for one batch of this rank, the same in every run with this seed."""
        seed = sample_seed(self.args.seed, f"{purpose}/rank {self.args.process_index}", step)
        return torch.Generator().manual_seed(seed)

    def _send_telemetry(self) -> None:
        """Nothing is sent."""

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        folder = Path(output_dir or str(self.args.output_dir))
        folder.mkdir(parents=True, exist_ok=True)
        save_lora(self._sampler.unet, folder)
        # to_json_string blanks tokens
        (folder / SETTINGS_FILE).write_text(self.args.to_json_string() + "\n")

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        load_lora_into(self._sampler.unet, resume_from_checkpoint)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if not self.args.should_save:
            return
        folder, adversarial = Path(output_dir), self.ubgen_loss.adversarial
        state = {
            "class_names": self.class_names,
            "optimizer": self.optimizer.state_dict(),
            "lr_scheduler": self.lr_scheduler.state_dict(),
        }
        save_state(state, folder / "optimizer.safetensors")
        if adversarial is not None:
            state = {"warmed_up": self._warmed_up, "adversarial": adversarial.state_dict()}
            save_state(state, folder / "adversarial.safetensors")

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None:
            return
        folder, adversarial = Path(checkpoint), self.ubgen_loss.adversarial
        state = _load_required(folder / "optimizer.safetensors")
        if state["class_names"] != self.class_names:
            raise ValueError(
                f"{checkpoint} was trained on {len(state['class_names'])} other class names or another order; "
                "resume with the same ones."
            )
        self.optimizer.load_state_dict(state["optimizer"])
        self.lr_scheduler.load_state_dict(state["lr_scheduler"])
        if adversarial is not None:
            state = _load_required(folder / "adversarial.safetensors")
            adversarial.load_state_dict(state["adversarial"])
            self._warmed_up = state["warmed_up"]

    def _save_scaler(self, output_dir: str) -> None:
        scaler = getattr(self.accelerator, "scaler", None)
        if scaler is not None and self.args.should_save:
            save_state(scaler.state_dict(), Path(output_dir) / "scaler.safetensors")

    def _load_scaler(self, checkpoint: str | None) -> None:
        scaler = getattr(self.accelerator, "scaler", None)
        if scaler is not None and checkpoint is not None:
            scaler.load_state_dict(_load_required(Path(checkpoint) / "scaler.safetensors"))

    def _save_rng_state(self, output_dir: str) -> None:
        save_state(random_state(), Path(output_dir) / f"random_state_{self.args.process_index}.safetensors")

    def _load_rng_state(self, checkpoint: str | None) -> None:
        if checkpoint is None:
            return
        file = Path(checkpoint) / f"random_state_{self.args.process_index}.safetensors"
        # a run resumed on more processes has none for the new ones, and needs none: see the module's docstring
        if file.is_file():
            restore_random_state(load_state(file))

    @property
    def _sampler(self) -> SamplerModel:
        return self.accelerator.unwrap_model(self.model)


def find_checkpoint(resume_from_checkpoint: str | None, output_dir: str | Path) -> str | None:
    """The checkpoint folder meant: a folder, or with ``true`` or ``last`` the newest complete one in ``output_dir``.

    Raises:
        ValueError: there is none, or it is not complete.
    """
    if resume_from_checkpoint is None or str(resume_from_checkpoint).lower() == "false":
        return None
    if str(resume_from_checkpoint).lower() not in ("true", "last"):
        if not (Path(resume_from_checkpoint) / TRAINER_STATE).is_file():
            raise ValueError(
                f"resume_from_checkpoint is {str(resume_from_checkpoint)!r}, which holds no complete checkpoint; "
                "give a checkpoint-N folder, or 'last' for the newest in output_dir."
            )
        return str(resume_from_checkpoint)
    # the trainer's state is written last, so a checkpoint cut short by a kill lacks it
    complete = [file.parent for file in Path(output_dir).glob(f"checkpoint-*/{TRAINER_STATE}")]
    if not complete:
        raise ValueError(f"resume_from_checkpoint is given, but output_dir {str(output_dir)!r} holds no checkpoint.")
    return str(max(complete, key=lambda folder: int(folder.name.rpartition("-")[2])))


def _load_required(file: Path) -> Any:
    if not file.is_file():
        raise ValueError(f"the checkpoint lacks {file}; resume from a complete one, written with the same settings.")
    return load_state(file)


def _draw_seeds(count: int, generator: torch.Generator) -> list[int]:
    return torch.randint(SEED_LIMIT - 1, (count,), generator=generator).tolist()


def _collate_labels(rows: list[dict[str, int]]) -> dict[str, torch.Tensor]:
    return {"labels": torch.tensor([row["label"] for row in rows])}
