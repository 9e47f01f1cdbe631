"""A training step as users write it with diffusers and peft, for comparison with ``UbGenTrainer``.

All of it eager: the LoRA beside the weights and under autocast where they are 16-bit, prompts encoded in every step,
the whole batch decoded and rewarded at once, and one ``backward`` through the steps that carry gradient; the others
run under ``no_grad``, as in the code released with arXiv 2412.10831.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
from diffusers import StableDiffusionPipeline
from diffusers.training_utils import cast_training_params
from peft import LoraConfig

from ubgen_pipeline.initial_latents import draw_latents, step_generators
from ubgen_pipeline.latent_denoising import predicted_clean_latents
from ubgen_pipeline.models.loading import resolve_model, set_scheduler
from ubgen_training.sampler.gradient_steps import GradientSteps


class StockTraining:
    """The stock arm: the sampler, LoRA and optimizer of a training loop that users write.

    Args:
        model: ``mini`` or a folder.
        prompts: N prompts, one per class.
        rewards: pairs of a reward and its weight.
        lora_rank: rank of the LoRA on the attention's projections.
        dtype: precision of the frozen weights; in 16 bits the UNet and the VAE run under autocast.
        learning_rate: of AdamW.
        max_grad_norm: norm to which the gradient is clipped.
    """

    def __init__(
        self,
        model: str,
        prompts: Sequence[str],
        rewards: Sequence[tuple[Any, float]],
        *,
        lora_rank: int,
        num_inference_steps: int,
        guidance_scale: float,
        scheduler: str,
        dtype: torch.dtype,
        device: str,
        learning_rate: float = 2e-5,
        max_grad_norm: float = 0.1,
    ):
        self.prompts, self.rewards, self.device, self.dtype = list(prompts), list(rewards), device, dtype
        self.num_inference_steps, self.guidance_scale = num_inference_steps, guidance_scale
        self.max_grad_norm = max_grad_norm
        self.pipeline = StableDiffusionPipeline.from_pretrained(
            resolve_model(model), dtype=dtype, safety_checker=None, requires_safety_checker=False
        )
        set_scheduler(self.pipeline, scheduler)  # pyright: ignore[reportArgumentType]
        for part in (self.pipeline.unet, self.pipeline.vae, self.pipeline.text_encoder):
            part.requires_grad_(False)
        targets = ["to_q", "to_k", "to_v", "to_out.0"]
        self.pipeline.unet.add_adapter(
            LoraConfig(r=lora_rank, lora_alpha=lora_rank, init_lora_weights="gaussian", target_modules=targets)
        )
        cast_training_params(self.pipeline.unet, torch.float32)
        self.pipeline.to(device)
        self.parameters = {name: p for name, p in self.pipeline.unet.named_parameters() if p.requires_grad}
        self.optimizer = torch.optim.AdamW(self.parameters.values(), lr=learning_rate)

    def step(self, labels: torch.Tensor, seeds: Sequence[int], gradient_steps: GradientSteps) -> None:
        """One update; :meth:`gradient` gives its gradient until the next one."""
        self.optimizer.zero_grad(set_to_none=True)
        images = self._sample(labels, seeds, gradient_steps)
        names = [self.prompts[label] for label in labels.tolist()]
        loss = images.new_zeros(())
        for reward, weight in self.rewards:
            loss = loss + weight * (1 - reward(images, names, labels)).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters.values(), self.max_grad_norm)
        self.optimizer.step()

    def gradient(self) -> torch.Tensor:
        """The last step's gradient of all LoRA weights, in the order of their names: ``(P,)`` on the CPU."""
        return flat_gradient(self.parameters)

    @torch.no_grad()
    def load(self, weights: dict[str, torch.Tensor]) -> None:
        """Take over these LoRA weights, which go by their names in the UNet."""
        for name, parameter in self.parameters.items():
            parameter.copy_(weights[name])

    def _sample(self, labels: torch.Tensor, seeds: Sequence[int], gradient_steps: GradientSteps) -> torch.Tensor:
        pipeline, scheduler = self.pipeline, self.pipeline.scheduler
        with torch.no_grad():
            prompts = [self.prompts[label] for label in labels.tolist()]
            wanted, negative = pipeline.encode_prompt(
                prompts, self.device, 1, True, negative_prompt=[""] * len(prompts)
            )
        embeds = torch.cat([negative, wanted])
        scheduler.set_timesteps(self.num_inference_steps, device=self.device)
        unet = pipeline.unet.config
        shape = (unet.in_channels, unet.sample_size, unet.sample_size)
        latents = draw_latents(seeds, shape).to(self.device) * scheduler.init_noise_sigma
        generators = step_generators(seeds)
        is_16_bit = self.dtype != torch.float32
        autocast = torch.autocast(torch.device(self.device).type, self.dtype) if is_16_bit else nullcontext()
        with autocast:
            for index, timestep in enumerate(scheduler.timesteps):
                read = latents.detach() if gradient_steps.detach_inputs else latents
                with torch.set_grad_enabled(index in gradient_steps.steps):
                    doubled = scheduler.scale_model_input(torch.cat([read] * 2), timestep)
                    prediction = pipeline.unet(doubled, timestep, encoder_hidden_states=embeds).sample
                    unconditional, conditional = prediction.chunk(2)
                    prediction = unconditional + self.guidance_scale * (conditional - unconditional)
                if index == gradient_steps.stop_at:
                    latents = predicted_clean_latents(scheduler, prediction, timestep, latents)
                    break
                latents = scheduler.step(prediction, timestep, latents, generator=generators).prev_sample
            scaling = pipeline.vae.config.scaling_factor
            images = pipeline.vae.decode(latents.to(self.dtype) / scaling).sample
        return images.float() * 0.5 + 0.5


def flat_gradient(parameters: dict[str, torch.nn.Parameter]) -> torch.Tensor:
    """Gradients of all parameters in the order of their names, ``(P,)`` float32 on the CPU."""
    gradients = [parameters[name].grad for name in sorted(parameters)]
    return torch.cat([gradient.detach().flatten().float().cpu() for gradient in gradients if gradient is not None])
