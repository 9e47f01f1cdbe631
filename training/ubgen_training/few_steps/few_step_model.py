"""Distillation into a few steps: the model, images and prompts in, loss out, a LoRA inside; and its trainer.

One denoiser is teacher and student: the teacher is what it gives with the new LoRA switched off.
Shapes: B samples, N prompts, H x W pixels, h x w latents.
"""

from collections.abc import Sequence

import torch

from ubgen_pipeline.conditioning import Conditioning
from ubgen_pipeline.family import Family
from ubgen_pipeline.inference.prompt_cache import PromptCache

from ..denoising.denoiser_trainer import DenoiserTrainer
from ..denoising.denoising_loss import check_noise_scheduler, signal_and_spread, target_of
from ..denoising.latent_model import LatentModel, stratified, training_schedule
from ..lora.adapter import LoraSettings, adapters_disabled, add_lora
from .consistency_loss import ddim_jump, pseudo_huber, segment_start, teacher_timesteps


class FewStepModel(LatentModel):
    """A student that reaches in one step where the teacher goes in many.

    Args:
        pipeline: the teacher; a LoRA of its own must be fused.
        prompts: N prompts, in label order.
        lora: the student's; it starts as the teacher without guidance.
        guidance_scale: the teacher's; 1 is none and saves its call with the empty prompt.
        num_segments: of the path; see :mod:`ubgen_training.few_steps.consistency_loss`.
        num_teacher_steps: of the path.
        huber_scale: of the loss.
        seed: of the LoRA's initial weights.
        prompt_cache: see the base.

    Raises:
        ValueError: steps and segments that do not go together, or a model that predicts noise where there is no
            signal, from which nothing can be stepped.
    """

    train_method = "lora"

    def __init__(
        self,
        pipeline: Family,
        prompts: Sequence[str],
        *,
        lora: LoraSettings,
        guidance_scale: float = 2.0,
        num_segments: int = 1,
        num_teacher_steps: int = 50,
        huber_scale: float = 0.001,
        seed: int = 0,
        prompt_cache: PromptCache | None = None,
    ):
        super().__init__(pipeline, prompts, prompt_cache)
        check_noise_scheduler(pipeline.scheduler)
        self.target = target_of(pipeline.scheduler.config.prediction_type)
        self.alphas_cumprod = training_schedule(pipeline.scheduler)
        if self.target == "noise" and self.alphas_cumprod[-1] == 0:
            raise ValueError(
                "the model predicts noise on a schedule with zero terminal SNR, where that says nothing of the image;"
                " give a model that predicts x0 or velocity."
            )
        self.timesteps = teacher_timesteps(len(self.alphas_cumprod), num_teacher_steps)
        segment_start(self.timesteps[1:], num_teacher_steps, num_segments)
        self.num_segments = num_segments
        self.guidance_scale = guidance_scale
        self.huber_scale = huber_scale
        add_lora(self.denoiser_network, lora, seed, pipeline.lora_targets)

    def forward(self, pixels: torch.Tensor, labels: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Loss ``(B,)`` of ``pixels (B, 3, H, W)`` in [-1, 1] with the prompts of ``labels (B,)``.

        Args:
            generator: on the CPU; gives noise and steps.
        """
        latents = self.encode(pixels)
        num_steps = len(self.timesteps) - 1
        noise = torch.randn(latents.shape, generator=generator).to(latents)
        steps = 1 + stratified(len(latents), num_steps, generator)
        ends = self.timesteps[segment_start(steps, num_steps, self.num_segments)].to(latents.device)
        start, middle = (self.timesteps[index].to(latents.device) for index in (steps, steps - 1))
        given = self.conditioning_of(labels, latents)
        signal, spread = signal_and_spread(start, self.alphas_cumprod, latents)
        noisy = signal * latents + spread * noise
        with torch.no_grad():
            nearer = self._jump(noisy, self._teacher(noisy, start, given), start, middle)
            wanted = self._jump(nearer, self.predict(nearer, middle, given), middle, ends)
        reached = self._jump(noisy, self.predict(noisy, start, given), start, ends)
        return pseudo_huber(reached, wanted, self.huber_scale)

    def _teacher(self, noisy: torch.Tensor, timesteps: torch.Tensor, given: Conditioning) -> torch.Tensor:
        """Its guided prediction ``(B, 4, h, w)``."""
        with adapters_disabled(self.denoiser_network):
            if self.guidance_scale == 1:
                return self.predict(noisy, timesteps, given)
            empty = self.conditioning_of(torch.full((len(noisy),), self.conditioning.num_rows - 1), noisy)
            both = self.predict(torch.cat([noisy] * 2), torch.cat([timesteps] * 2), given.guided(empty))
        without, prompted = both.chunk(2)
        return self.pipeline.guide(prompted, without, self.guidance_scale)

    def _jump(
        self, noisy: torch.Tensor, prediction: torch.Tensor, timesteps: torch.Tensor, ends: torch.Tensor
    ) -> torch.Tensor:
        return ddim_jump(noisy, prediction.float(), timesteps, ends, self.alphas_cumprod, self.target)


class FewStepTrainer(DenoiserTrainer):
    """A :class:`DenoiserTrainer` of a :class:`FewStepModel`."""

    settings_file = "few_step_config.json"
