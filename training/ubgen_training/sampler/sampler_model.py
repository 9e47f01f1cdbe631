"""The model that the trainer trains: class labels and seeds in, differentiable images out.

One forward is a whole rollout, so that DistributedDataParallel sees one call per step. Only the denoiser is a
registered module; the VAE and the text features are frozen and stay out of the state dict.
Shapes: B samples, N classes, H x W pixels.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import PretrainedConfig

from ubgen_pipeline.conditioning import Conditioning
from ubgen_pipeline.family import Family
from ubgen_pipeline.inference.prompt_cache import PromptCache
from ubgen_pipeline.initial_latents import draw_latents, step_generators
from ubgen_pipeline.latent_denoising import (
    Denoiser,
    DenoisingStep,
    check_jump,
    denoising_steps,
    guided_conditioning,
    guided_prediction,
)
from ubgen_pipeline.scheduler_noise import initial_scale

from ..checkpoints.library_internals import ModuleWithFrozenParts
from ..lora.adapter import (
    LoraSettings,
    adapters_disabled,
    add_lora,
    check_train_method,
    train_all_weights,
    weights_exchanged,
)
from .equalised_gradients import (
    ScaledGradients,
    direct_align_weight,
    equalising_factors,
    mean_weight,
    scaled_gradient,
    step_weights,
)
from .gradient_steps import GradientSteps
from .reference_distance import ReferenceDistance, ReferenceReport
from .replays import KeptRollout, StepLevels, direct_align, leap
from .rollout_denoiser import RolloutDenoiser


@dataclass(frozen=True)
class SamplingSettings:
    """How training samples are drawn; sizes are in pixels, None takes the model's own; ``eta`` is DDIM's noise share.

    ``decode_batch_size`` images are decoded at a time, and decoded once more in the backward pass instead of keeping
    the VAE's activations; the gradient is the same. None decodes the whole batch at once and keeps them.
    """

    num_inference_steps: int = 50
    guidance_scale: float = 2.0
    height: int | None = None
    width: int | None = None
    decode_batch_size: int | None = None
    eta: float = 0.0


class SamplerModel(ModuleWithFrozenParts):
    """A sampler with a trainable LoRA.

    Args:
        pipeline: with the scheduler to train under already set; its denoiser gets the adapter.
        prompts: N prompts, in label order; encoded once and alone, here.
        lora: see :class:`LoraSettings`.
        sampling: see :class:`SamplingSettings`.
        seed: of the LoRA's initial weights.
        train_method: ``lora``, or ``full``: every weight of the denoiser is trained, in float32, without an adapter.
        prompt_cache: encodes the prompts; None: one that keeps nothing on the disk.

    Raises:
        ValueError: an unknown method, a rank or ``decode_batch_size`` below 1, or target modules the denoiser does not
            have.
    """

    def __init__(
        self,
        pipeline: Family,
        prompts: Sequence[str],
        lora: LoraSettings | None = None,
        sampling: SamplingSettings | None = None,
        *,
        seed: int = 0,
        train_method: str = "lora",
        prompt_cache: PromptCache | None = None,
    ):
        super().__init__()
        check_train_method(train_method)
        lora, self.sampling = lora or LoraSettings(), sampling or SamplingSettings()
        if self.sampling.decode_batch_size is not None and self.sampling.decode_batch_size < 1:
            raise ValueError(f"decode_batch_size is {self.sampling.decode_batch_size}; choose 1 or more, or None.")
        # transformers' Trainer reads a config off its model
        self.config = PretrainedConfig()
        self.pipeline = pipeline
        self.latent_shape = pipeline.latent_shape(self.sampling.height, self.sampling.width)
        self.num_prompts = len(prompts)
        scale = self.sampling.guidance_scale
        with torch.no_grad():
            cache = prompt_cache or PromptCache()
            conditioning = pipeline.batch(cache.rows(pipeline, prompts))
            # what the loop guides with; 1 where the denoiser reads the number itself, or none has an effect
            self.conditioning, self.guidance_scale = pipeline.with_guidance(conditioning, scale)
            # one row, which all samples share
            self.negative = (
                pipeline.batch(cache.rows(pipeline, [""], negative=True)) if self.guidance_scale > 1 else None
            )
        pipeline.vae.requires_grad_(False)
        for text_encoder in pipeline.text_networks.values():
            text_encoder.requires_grad_(False)
        self.train_method = train_method
        self.denoiser_network = pipeline.denoiser_network
        if train_method == "lora":
            add_lora(self.denoiser_network, lora, seed, pipeline.lora_targets)
        else:
            train_all_weights(self.denoiser_network)
            self.move_tensors(lambda value: value.float() if value.is_floating_point() else value)
        self._rollout_denoiser: RolloutDenoiser | None = None
        # of a VAE whose layers cannot be computed again one after another
        self._decodes_again = False
        # weights of the reference model by name, where it is no longer the untrained one
        self.reference_weights: Mapping[str, torch.Tensor] | None = None

    def reference_model(self) -> AbstractContextManager:
        """The denoiser is the reference model inside the ``with``: the untrained one, unless that has moved on."""
        if self.reference_weights is None:
            return adapters_disabled(self.denoiser_network)
        return weights_exchanged(self.denoiser_network, self.reference_weights)

    def speed_up_rollouts(self, compiled_batch_size: int | None = None) -> None:
        """Call the denoiser of :class:`RolloutDenoiser` at the steps without gradient; images differ by rounding.

        ``compiled_batch_size`` is the B for which it is compiled; None compiles nothing.
        """
        rows = 1 + (self.guidance_scale > 1)
        self._rollout_denoiser = RolloutDenoiser(
            self.pipeline, None if compiled_batch_size is None else rows * compiled_batch_size
        )

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of the images, in pixels."""
        height, width = (side * self.pipeline.pixels_per_latent for side in self.latent_shape[-2:])
        return height, width

    @property
    def num_steps(self) -> int:
        """Steps of one rollout, which gradient positions refer to; some schedulers take more than were asked for."""
        return len(self.pipeline.timesteps(self.sampling.num_inference_steps, self.latent_shape))

    def forward(
        self,
        labels: torch.Tensor,
        seeds: Sequence[int],
        gradient_steps: GradientSteps | None = None,
        *,
        with_distance: bool = False,
    ) -> torch.Tensor | tuple[torch.Tensor, ReferenceReport]:
        """Images ``(B, 3, H, W)`` float32, nominally in [0, 1] and not clamped.

        Args:
            labels: ``(B,)`` positions in the prompts.
            seeds: B integers in [0, 2**63): the noise, initial and of every step.
            gradient_steps: which of the denoiser's calls carry gradient, and whether sampling stops early; None: all,
                to the end.
            with_distance: also return how far those calls are from the reference model; see
                :mod:`ubgen_training.sampler.reference_distance`.

        Raises:
            ValueError: they do not fit the steps; see :func:`denoising_steps`.
        """
        denoiser = self.predict
        if with_distance:
            guidance = self.guidance_scale, self.pipeline.guide
            denoiser = ReferenceDistance(denoiser, self.denoiser_network, *guidance, self.reference_model)
        if gradient_steps is not None and gradient_steps.replay is not None:
            latents = self._replayed_latents(labels, seeds, gradient_steps, denoiser)
        else:
            for step in self.denoise(labels, seeds, gradient_steps, denoiser):
                latents = step.latents
        images = self.decode(latents)
        return (images, denoiser.report()) if isinstance(denoiser, ReferenceDistance) else images

    def denoise(
        self,
        labels: torch.Tensor,
        seeds: Sequence[int],
        gradient_steps: GradientSteps | None = None,
        denoiser: Denoiser | None = None,
        generators: list[torch.Generator] | None = None,
    ) -> Iterator[DenoisingStep]:
        """The steps of :meth:`forward`'s rollout, one after another; arguments and errors are its own.

        ``denoiser`` stands in for :meth:`predict`, and ``generators`` for those of the seeds; None takes these.
        """
        timesteps = self._timesteps()
        # only now: a family may make its scheduler anew
        scheduler = self.pipeline.scheduler
        conditioning, negative = self.conditioning_of(labels)
        call = self._with_rollout(denoiser or self.predict)
        if gradient_steps is not None and gradient_steps.equalise:
            call = ScaledGradients(call, self._factors(timesteps, gradient_steps.stop_at))
        return denoising_steps(
            call,
            scheduler,
            self._initial_latents(seeds),
            conditioning,
            negative=negative,
            guidance_scale=self.guidance_scale,
            guide=self.pipeline.guide,
            timesteps=timesteps,
            generators=step_generators(seeds) if generators is None else generators,
            gradient_steps=None if gradient_steps is None else gradient_steps.steps,
            detach_inputs=gradient_steps is not None and gradient_steps.detach_inputs,
            stop_at=None if gradient_steps is None else gradient_steps.stop_at,
            eta=self.sampling.eta,
        )

    def _timesteps(self) -> torch.Tensor:
        """``(T,)``; makes the scheduler ready for a rollout."""
        timesteps = self.pipeline.timesteps(self.sampling.num_inference_steps, self.latent_shape)
        return timesteps.to(self.denoiser_network.device)

    def _initial_latents(self, seeds: Sequence[int]) -> torch.Tensor:
        noise = draw_latents(seeds, self.latent_shape).to(self.denoiser_network.device)
        return noise * initial_scale(self.pipeline.scheduler)

    def _factors(self, timesteps: torch.Tensor, stop_at: int | None) -> list[float]:
        """What the gradients of all steps' predictions are multiplied by, so that each has the same weight."""
        scheduler, eta = self.pipeline.scheduler, self.sampling.eta
        weights = step_weights(scheduler, timesteps, eta=eta)
        if stop_at is None:
            return equalising_factors(weights, mean_weight(weights))
        return equalising_factors(step_weights(scheduler, timesteps, eta=eta, stop_at=stop_at), mean_weight(weights))

    def _replayed_latents(
        self, labels: torch.Tensor, seeds: Sequence[int], gradient_steps: GradientSteps, denoiser: Denoiser
    ) -> torch.Tensor:
        """Final latents ``(B, C, h, w)`` whose graph is that of the steps computed again after the rollout."""
        timesteps, generators = self._timesteps(), step_generators(seeds)
        with torch.no_grad():
            loop = self.denoise(labels, seeds, GradientSteps(frozenset()), denoiser, generators)
            # only now: a family may make its scheduler anew
            scheduler, latents = self.pipeline.scheduler, self._initial_latents(seeds)
            check_jump(scheduler)
            levels, weights = StepLevels(scheduler, timesteps), step_weights(scheduler, timesteps)
            before = {}
            for position in range(len(timesteps)):
                if position in gradient_steps.steps:
                    before[position] = latents
                latents = next(loop).latents
        conditioning, negative = self.conditioning_of(labels)
        both = conditioning if negative is None else guided_conditioning(conditioning, negative)

        def predict(latents: torch.Tensor, position: int) -> torch.Tensor:
            read, guidance = levels.read(latents, position), (self.guidance_scale, self.pipeline.guide)
            return guided_prediction(denoiser, read, timesteps[position], both, *guidance)

        if gradient_steps.replay == "leap":
            kept = KeptRollout(before, latents)
            return leap(kept, levels, predict, gradient_steps.discount, gradient_steps.tolerance)
        (position,) = gradient_steps.steps
        # after those of the rollout's own steps, of which the finished latents are made
        noise = torch.stack([torch.randn(self.latent_shape, generator=each) for each in generators])
        factor = 1.0
        if gradient_steps.equalise:
            (factor,) = equalising_factors([direct_align_weight(levels, position)], mean_weight(weights))
        return direct_align(
            latents, noise.to(latents), levels, lambda x, at: scaled_gradient(predict(x, at), factor), position
        )

    def conditioning_of(self, labels: torch.Tensor) -> tuple[Conditioning, Conditioning | None]:
        """B rows of the prompts of ``labels (B,)``, and of what the loop guides away from, if anything."""
        rows = labels.tolist()
        return self.conditioning.rows(rows), None if self.negative is None else self.negative.rows([0] * len(rows))

    def predict(self, latents: torch.Tensor, timestep: torch.Tensor, conditioning: Conditioning) -> torch.Tensor:
        """The prediction ``(N, C, h, w)`` that the pipeline's own gives, in the latents' dtype.

        A 16-bit denoiser runs in its own precision: autocast would widen every normalisation to float32.
        """
        dtype = next(self.denoiser_network.parameters()).dtype
        with _precision_of(dtype, latents.device):
            read = conditioning.floats(lambda value: value.to(dtype))
            prediction = self.pipeline.predict(latents.to(dtype), timestep, read)
        return prediction.to(latents.dtype)

    def _with_rollout(self, denoiser: Denoiser) -> Denoiser:
        """``denoiser`` at the steps with gradient, the faster one at the others."""
        rollout = self._rollout_denoiser
        if rollout is None or not rollout.refresh():
            return denoiser

        def call(latents: torch.Tensor, timestep: torch.Tensor, conditioning: Conditioning) -> torch.Tensor:
            return (denoiser if torch.is_grad_enabled() else rollout)(latents, timestep, conditioning)

        return call

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Images ``(B, 3, H, W)`` float32 of ``latents (B, C, h, w)``, in micro-batches where the settings say so.

        A micro-batch is one checkpoint: the backward pass decodes it again and drops its activations before it
        turns to the next. The sampler's own graph is walked once, after all of them.
        """
        size = self.sampling.decode_batch_size or (len(latents) if self._decodes_again else None)
        if size is None:
            return self._decode(latents).float()
        images = [
            # nothing in the VAE's decoder is random, so there is no random state to restore
            checkpoint(self._decode, rows, use_reentrant=False, preserve_rng_state=False)
            for rows in latents.split(size)
        ]
        return torch.cat(images).float()

    def _decode(self, latents: torch.Tensor) -> torch.Tensor:
        with _precision_of(next(self.pipeline.vae.parameters()).dtype, latents.device):
            return self.pipeline.decode(latents)

    def activation_checkpointing_enable(self, **_: Any) -> None:
        """Recompute activations of denoiser and VAE in the backward pass; options are not used.

        A VAE that cannot do so layer by layer, such as those of Qwen-Image and Sana, decodes again as a whole.
        """
        self.denoiser_network.enable_gradient_checkpointing()
        # diffusers' own mark, of which its method of enabling makes an error
        if self.pipeline.vae._supports_gradient_checkpointing:
            self.pipeline.vae.enable_gradient_checkpointing()
        else:
            self._decodes_again = True

    def gradient_checkpointing_enable(self, **kwargs: Any) -> None:
        """The older name of :meth:`activation_checkpointing_enable`."""
        self.activation_checkpointing_enable(**kwargs)

    def frozen_parts(self) -> tuple[nn.Module, ...]:
        """The VAE: prompts are encoded once, before any move, and the text encoders stay in the CPU's memory."""
        return (self.pipeline.vae,)

    def move_tensors(self, fn: Callable[[torch.Tensor], torch.Tensor]) -> None:
        """The prompts' features move with the model."""
        self.conditioning = self.conditioning.map(fn)
        self.negative = None if self.negative is None else self.negative.map(fn)


def _precision_of(dtype: torch.dtype, device: torch.device) -> AbstractContextManager:
    """No autocast for 16-bit weights; float32 ones are left to it."""
    is_16_bit = dtype in (torch.float16, torch.bfloat16)
    return torch.autocast(device.type, enabled=False) if is_16_bit else nullcontext()
