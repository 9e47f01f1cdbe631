"""The model that the trainer trains: class labels and seeds in, differentiable images out.

One forward is a whole rollout, so that DistributedDataParallel sees one call per step. Only the denoiser is a
registered module; the VAE and the text features are frozen and stay out of the state dict.
Shapes: B samples, N classes, H x W pixels.
"""

from collections.abc import Callable, Mapping, Sequence
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
from ubgen_pipeline.latent_denoising import Denoiser

from ..checkpoints.library_internals import ModuleWithFrozenParts
from ..lora.adapter import (
    LoraSettings,
    adapters_disabled,
    add_lora,
    check_train_method,
    train_all_weights,
    weights_exchanged,
)
from .gradient_steps import GradientSteps
from .reference_distance import ReferenceDistance, ReferenceReport
from .rollout import Rollout
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
        images = self.decode(self.rollout(labels, seeds, denoiser).latents(gradient_steps))
        return (images, denoiser.report()) if isinstance(denoiser, ReferenceDistance) else images

    def rollout(self, labels: torch.Tensor, seeds: Sequence[int], denoiser: Denoiser | None = None) -> Rollout:
        """Of :meth:`forward`'s batch; ``denoiser`` stands in for :meth:`predict`."""
        conditioning, negative = self.conditioning_of(labels)
        return Rollout(
            self.pipeline,
            self._with_rollout(denoiser or self.predict),
            seeds,
            conditioning,
            negative,
            guidance_scale=self.guidance_scale,
            latent_shape=self.latent_shape,
            num_inference_steps=self.sampling.num_inference_steps,
            eta=self.sampling.eta,
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
