"""What the trainers of a sampler share: labels in, per-rank noise, rewards averaged over ranks, exact checkpoints.

All randomness of a batch comes from a hash of (seed, purpose, rank, update), so that a resumed run chooses what an
uninterrupted one would have chosen. Nothing is reported to anyone.
"""

import contextlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch import nn
from torch.distributed.fsdp import FSDPModule

from ubgen_pipeline.initial_latents import SEED_LIMIT, sample_seed
from ubgen_pipeline.models.clip_encoders import ClipEncoder

from ..checkpoints.trainer import CheckpointingTrainer
from ..checkpoints.weight_average import WeightAverage
from ..lora.trained_weights import load_trained_weights, save_trained_weights
from ..rewards.reward_functions import (
    RewardFunction,
    check_reward_names,
    check_reward_weights,
    load_reward_states,
    reward_name,
    reward_states,
)
from ..sampler.activation_offload import offload_activations
from ..sampler.prompt_features import free_text_encoders
from ..sampler.sampler_model import SamplerModel
from .alarm import Evaluation, RewardAlarm
from .config import SamplerConfig
from .fixed_samples import FixedSamples
from .guards import RewardGuards, default_interval
from .moving_reference import MovingReference, check_moving_reference

# folders beside the LoRA that is exported, for the averaged and the trained one
AVERAGE_FOLDER = "lora_average"
TRAINED_FOLDER = "lora_trained"


class SamplerTrainer(CheckpointingTrainer):
    """Trains a sampler from class names alone; a subclass says what the loss is.

    Args:
        model: the sampler; its prompts are those of ``class_names``, in order.
        args: settings; see :class:`SamplerConfig`.
        class_names: N names; an image's label is its name's position.
        reward_funcs: one reward or a list; see :mod:`ubgen_training.rewards.reward_functions`.
        clip_encoder: the CLIP in whose features the diversity of samples is measured; None measures none.
        heldout_reward_funcs: rewards that are evaluated and never trained on.
        kwargs: handed to ``transformers.Trainer`` (callbacks, optimizers …).

    Raises:
        ValueError: no class names, or not as many as the sampler has prompts; two rewards of one name.
    """

    args: SamplerConfig
    # of the model card; one for LoRAs is left out where all weights are trained
    tags: tuple[str, ...]

    def __init__(
        self,
        model: SamplerModel,
        args: SamplerConfig,
        class_names: Sequence[str],
        reward_funcs: RewardFunction | Sequence[RewardFunction],
        clip_encoder: ClipEncoder | None = None,
        *,
        heldout_reward_funcs: Sequence[RewardFunction] = (),
        **kwargs: Any,
    ):
        self.class_names = list(class_names)
        if not self.class_names:
            raise ValueError("class_names is empty; give at least one, or two with the adversarial term.")
        if len(self.class_names) != model.num_prompts:
            raise ValueError(
                f"class_names holds {len(self.class_names)} names, the sampler {model.num_prompts} prompts; "
                "give one prompt per name, in the same order."
            )
        # the base reads what may follow from them
        args.take_sampling(model.sampling.num_inference_steps, model.sampling.guidance_scale)
        self.reward_funcs = [reward_funcs] if callable(reward_funcs) else list(reward_funcs)
        check_reward_names(self.reward_funcs)
        self._metrics: dict[str, list[float]] = defaultdict(list)
        labels = list(range(len(self.class_names))) * args.class_repeats
        super().__init__(
            model=model,
            args=args,
            train_dataset=Dataset.from_dict({"label": labels}),
            data_collator=_collate_labels,
            **kwargs,
        )
        if args.prompt_features is not None:
            # only now, since the base takes a fingerprint of all networks
            free_text_encoders(model.pipeline)
        self._loss_components: list[Any] = [*self.reward_funcs, clip_encoder]
        components = [*self._loss_components, *heldout_reward_funcs]
        for component in components:
            # rewards that hold a model have `to`, plain functions have not
            if hasattr(component, "to"):
                component.to(args.scoring_device)
            if args.world_size > 1 and hasattr(component, "over_processes"):
                component.over_processes(
                    lambda share: self.gather_ranks(share).to(args.scoring_device), args.process_index
                )
        self.lora_average: WeightAverage | None = None
        # of a LoRA it takes less memory than one batch's activations; of a whole denoiser it would take gigabytes
        if args.lora_average_decay > 0 and model.train_method == "lora":
            self.lora_average = WeightAverage(model.denoiser_network, args.lora_average_decay)
            self.add_callback(self.lora_average)
        self.reward_guards = self._build_reward_guards(model, heldout_reward_funcs, clip_encoder)
        self.add_callback(self.reward_guards)
        self.moving_reference: MovingReference | None = None
        if args.reference_decay is not None:
            check_moving_reference(
                [reward_name(reward) for reward in self.reward_guards.heldout],
                has_encoder=clip_encoder is not None,
                is_sharded=self.is_fsdp_enabled or self.is_deepspeed_enabled,
            )
            self.moving_reference = MovingReference(model.denoiser_network, args.reference_decay)
            self.reward_guards.on_evaluation = self._move_reference

    def _build_reward_guards(
        self, model: SamplerModel, heldout: Sequence[RewardFunction], clip_encoder: ClipEncoder | None
    ) -> RewardGuards:
        args = self.args
        samples = FixedSamples(
            model,
            self.class_names,
            seed=args.seed,
            num_classes=args.num_sample_classes,
            num_per_class=args.num_samples_per_class,
            batch_size=args.per_device_train_batch_size,
            rank=args.process_index,
            num_ranks=args.world_size,
            gather=self.gather_ranks,
            device=args.scoring_device,
        )
        weighted = list(zip(self.reward_funcs, check_reward_weights(self.reward_funcs, args.reward_weights)))
        every_steps = args.heldout_steps
        if every_steps is None:
            every_steps = default_interval(len(samples.seeds), args.images_per_update)
        return RewardGuards(
            samples,
            self.class_names,
            [reward for reward, weight in weighted if weight != 0],
            # a weight of 0 only logs, so nothing trains on it either
            [*(reward for reward, weight in weighted if weight == 0), *heldout],
            clip_encoder,
            log=self.log,
            callbacks=lambda: self.callback_handler.callbacks,
            alarm=RewardAlarm(args.alarm_window, args.alarm_tolerance),
            every_steps=every_steps,
            grid_steps=args.sample_steps,
            stop_on_alarm=args.stop_on_alarm,
        )

    def _move_reference(self, evaluation: Evaluation) -> None:
        """Let the reference model follow, where the held-out figures say so; they are the same on every rank."""
        assert self.moving_reference is not None
        if self.moving_reference.look(evaluation.heldout):
            self._sampler.reference_weights = self.moving_reference.weights
        self.log({"heldout/reference_moves": float(self.moving_reference.num_updates)})

    def compute_loss_context_manager(self) -> contextlib.ExitStack:
        """transformers' own, in which activations wait in main memory where that is asked for."""
        stack = super().compute_loss_context_manager()
        if self.args.activation_offload:
            stack.enter_context(offload_activations(self._all_weights()))
        return stack

    def _all_weights(self) -> Iterator[torch.Tensor]:
        """Weights of the models that a loss runs."""
        sampler = self._sampler
        # a reward is a model, holds one, or is a plain function
        held = [part for one in self._loss_components for part in (one, *getattr(one, "__dict__", {}).values())]
        for module in (sampler.denoiser_network, sampler.pipeline.vae, *held):
            if isinstance(module, nn.Module):
                yield from module.parameters()

    def add_metrics(self, metrics: dict[str, float]) -> None:
        """Note figures of one micro-batch of this rank; their means over ranks and batches go into the next log."""
        for name, value in metrics.items():
            self._metrics[name].append(value)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the means of what :meth:`add_metrics` noted since the last log."""
        if self._metrics and "loss" in logs:
            logs = {**logs, **self.average_over_ranks(self._metrics)}
            self._metrics.clear()
        super().log(logs, start_time)

    def average_over_ranks(self, metrics: dict[str, list[float]]) -> dict[str, float]:
        """The mean of each list over its values and all ranks; every rank must hold the same names."""
        means = torch.tensor([sum(values) / len(values) for values in metrics.values()], device=self.args.device)
        return dict(zip(metrics, self.mean_of_ranks(means).tolist()))

    def gather_ranks(self, share: torch.Tensor) -> torch.Tensor:
        """``share (s, ...)`` of every rank, joined along the first axis in rank order."""
        joined = self.accelerator.gather(share.to(self.args.device))
        assert isinstance(joined, torch.Tensor)
        return joined

    def mean_of_ranks(self, values: torch.Tensor) -> torch.Tensor:
        """The mean over all ranks of ``values``, which have one shape everywhere."""
        mean = self.accelerator.reduce(values, reduction="mean")
        assert isinstance(mean, torch.Tensor)
        return mean

    def run_facts(self) -> dict[str, Any]:
        """The base's, and the names of the rewards."""
        return {**super().run_facts(), "rewards": [reward_name(reward) for reward in self.reward_funcs]}

    def extra_state(self) -> dict[str, Any]:
        """The base's, with the average of the LoRA, what the alarm has seen and what rewards remember."""
        own: dict[str, Any] = {"reward_guards": self.reward_guards.state_dict()}
        if self.lora_average is not None:
            own["lora_average"] = self.lora_average.state_dict()
        if self.moving_reference is not None:
            own["moving_reference"] = self.moving_reference.state_dict()
        if remembered := reward_states(self.reward_funcs):
            own["rewards"] = remembered
        return {**super().extra_state(), **own}

    def load_extra_state(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`extra_state` gave."""
        super().load_extra_state(state)
        self.reward_guards.load_state_dict(state["reward_guards"])
        if self.lora_average is not None:
            self.lora_average.load_state_dict(state["lora_average"])
        if self.moving_reference is not None:
            self.moving_reference.load_state_dict(state["moving_reference"])
            if self.moving_reference.has_moved:
                self._sampler.reference_weights = self.moving_reference.weights
        load_reward_states(self.reward_funcs, state.get("rewards", {}))

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """The base's, with the average of the LoRA beside it, or at the end in its place; every rank must call it."""
        average, folder = self.lora_average, Path(output_dir or str(self.args.output_dir))
        if average is None or not average.weights:
            super().save_model(output_dir, _internal_call)
            return
        # an evaluation may have come before
        self.reshard()
        # a checkpoint always holds the trained weights where a resumed run looks for them
        is_exported = self.args.export_average and not _internal_call
        with average.applied() if is_exported else contextlib.nullcontext():
            super().save_model(output_dir, _internal_call)
        with contextlib.nullcontext() if is_exported else average.applied():
            beside = folder / (TRAINED_FOLDER if is_exported else AVERAGE_FOLDER)
            self.save_weights(beside, write=self.args.should_save)

    def reshard(self) -> None:
        """Where weights are sharded, let each process hold its part alone.

        FSDP2 leaves those of the outermost module whole after a forward pass without a backward one. Other weights
        that were written into their parts then would not be seen by the next pass.
        """
        assert self.model is not None
        for module in self.model.modules():
            if isinstance(module, FSDPModule):
                module.reshard()

    def rank_state(self) -> dict[str, Any]:
        """The base's, and the figures noted since the last log."""
        return {**super().rank_state(), "metrics": dict(self._metrics)}

    def load_rank_state(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`rank_state` gave."""
        super().load_rank_state(state)
        self._metrics.clear()
        self._metrics.update(state["metrics"])

    def initial_modules(self) -> dict[str, nn.Module]:
        """All networks that an image comes from."""
        return self._sampler.pipeline.networks

    def save_weights(self, folder: Path, *, write: bool = True) -> None:
        """Write the LoRA or, where all weights are trained, the whole denoiser."""
        sampler = self._sampler
        save_trained_weights(sampler.pipeline, sampler.train_method, folder, write=write)

    def load_weights(self, folder: Path) -> None:
        """Read what :meth:`save_weights` wrote."""
        sampler = self._sampler
        load_trained_weights(sampler.pipeline, sampler.train_method, folder)

    @property
    def pipeline(self) -> Any:
        """What is trained, as it draws."""
        return self._sampler.pipeline

    @property
    def _sampler(self) -> SamplerModel:
        return self.accelerator.unwrap_model(self.model)

    def _generator(self, purpose: str, step: int) -> torch.Generator:
        """A CPU generator for one batch of this rank, the same in every run with this seed."""
        seed = sample_seed(self.args.seed, f"{purpose}/rank {self.args.process_index}", step)
        return torch.Generator().manual_seed(seed)

    def _names_of(self, labels: torch.Tensor) -> list[str]:
        return [self.class_names[label] for label in labels.tolist()]

    def init_hf_repo(self, token: str | None = None, private: bool | None = None) -> None:
        """Nothing: :mod:`ubgen_training.reward_training.hub_push` makes the repository, before a model is loaded."""

    def push_to_hub(self, *_: Any, **__: Any) -> None:
        """Not the base's, which uploads the whole folder, settings and all.

        Raises:
            ValueError: always; it says how to push.
        """
        raise ValueError(
            "a trainer does not push by itself; call TrainingPush of ubgen_training.reward_training.hub_push, or "
            "train by the command with push_to_hub and hub_model_id set."
        )


def choose_seeds(count: int, generator: torch.Generator) -> list[int]:
    """``count`` sample seeds in [0, 2**63) from a CPU generator."""
    return torch.randint(SEED_LIMIT - 1, (count,), generator=generator).tolist()


def _collate_labels(rows: list[dict[str, int]]) -> dict[str, torch.Tensor]:
    return {"labels": torch.tensor([row["label"] for row in rows])}
