"""The model that denoising training trains: images and prompts in, loss out, the denoiser inside.

One forward is one call of it, so that any launcher wraps it.
Shapes: B samples, N prompts, H x W pixels.
"""

from collections.abc import Sequence
from typing import Any

import torch

from ubgen_pipeline.family import Family

from ..lora.adapter import LoraSettings, add_lora, train_all_weights
from .denoising_loss import PREDICTION_TYPES, DenoisingLoss, check_noise_scheduler, target_of
from .latent_model import LatentModel, stratified, training_schedule


class DenoiserModel(LatentModel):
    """A denoiser in training.

    Args:
        pipeline: its denoiser is trained; that of ``scratch`` is a new one of the same layout.
        prompts: N prompts, in label order; encoded once, here, with the empty one.
        train_method: ``lora``, ``full`` or ``scratch``.
        weighting: see :mod:`ubgen_training.denoising.denoising_loss`.
        target: ``noise``, ``x0`` or ``velocity``; None takes the model's own. Another one than the model's makes sense
            from scratch only.
        lora: of ``train_method`` ``lora``.
        empty_prompt_share: share of samples shown with the empty prompt.
        seed: of the LoRA's, or of the new denoiser's, initial weights.

    Raises:
        ValueError: a target that the model was not trained for, or a weighting that is infinite on it, as at zero
            terminal SNR.
    """

    def __init__(
        self,
        pipeline: Family,
        prompts: Sequence[str],
        *,
        train_method: str = "lora",
        weighting: str = "debias",
        target: str | None = None,
        lora: LoraSettings | None = None,
        empty_prompt_share: float = 0.1,
        seed: int = 0,
    ):
        check_noise_scheduler(pipeline.scheduler)
        own_target = target_of(pipeline.scheduler.config.prediction_type)
        target = target or own_target
        if target != own_target and train_method != "scratch":
            raise ValueError(
                f"target is {target!r}, but the model predicts {own_target!r}; leave it out, or train from scratch."
            )
        super().__init__(pipeline, prompts)
        self.train_method = train_method
        self.loss = DenoisingLoss(training_schedule(pipeline.scheduler), weighting, target)
        self.empty_prompt_share = empty_prompt_share
        if train_method == "scratch":
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                trained = pipeline.denoiser_network
                parts: Any = pipeline
                parts.register_modules(**{pipeline.denoiser_part: type(trained).from_config(trained.config)})
            parts.register_modules(
                scheduler=type(pipeline.scheduler).from_config(
                    pipeline.scheduler.config, prediction_type=PREDICTION_TYPES[target]
                )
            )
            self.denoiser_network = pipeline.denoiser_network
        if train_method == "lora":
            add_lora(self.denoiser_network, lora or LoraSettings(), seed, pipeline.lora_targets)
        else:
            train_all_weights(self.denoiser_network)

    def forward(self, pixels: torch.Tensor, labels: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Loss ``(B,)`` of ``pixels (B, 3, H, W)`` in [-1, 1] with the prompts of ``labels (B,)``.

        Args:
            generator: on the CPU; gives noise, timesteps and which prompts are left empty.
        """
        latents = self.encode(pixels)
        noise = torch.randn(latents.shape, generator=generator).to(latents)
        timesteps = stratified(len(latents), len(self.loss.alphas_cumprod), generator).to(latents.device)
        is_empty = torch.rand(len(latents), generator=generator) < self.empty_prompt_share
        rows = torch.where(is_empty, self.conditioning.num_rows - 1, labels.cpu())
        given = self.conditioning_of(rows, latents)
        noisy = self.loss.add_noise(latents, noise, timesteps)
        return self.loss(self.predict(noisy, timesteps, given), latents, noise, timesteps)
