"""A training step as users write it with diffusers and peft, for comparison with ``UbGenTrainer``.

All of it eager: the LoRA beside the weights and under autocast where they are 16-bit, prompts encoded in every step,
the whole batch decoded and rewarded at once, and one ``backward`` through the steps that carry gradient; the others
run under ``no_grad``, as in the code released with arXiv 2412.10831.
"""

import json
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, ClassVar

import torch
from diffusers import StableDiffusion3Pipeline, StableDiffusionPipeline
from diffusers.training_utils import cast_training_params
from peft import LoraConfig

from ubgen_pipeline.initial_latents import draw_latents, step_generators
from ubgen_pipeline.latent_denoising import predicted_clean_latents
from ubgen_pipeline.models.loading import load_family, resolve_model, set_scheduler
from ubgen_pipeline.pipeline import StableDiffusionParts
from ubgen_pipeline.pipeline_sd3 import StableDiffusion3Parts
from ubgen_training.sampler.gradient_steps import GradientSteps


class StockTraining:
    """The stock arm: the sampler, LoRA and optimizer of a training loop that users write, of Stable Diffusion 1 or 2.

    Args:
        model: an embedded model or a folder.
        prompts: N prompts, one per class.
        rewards: pairs of a reward and its weight.
        lora_rank: rank of the LoRA on the attention's projections.
        dtype: precision of the frozen weights; in 16 bits the UNet and the VAE run under autocast.
        learning_rate: of AdamW.
        scheduler: by its key; None is the model's own.
        max_grad_norm: norm to which the gradient is clipped.
    """

    kind: ClassVar[Any] = StableDiffusionPipeline

    def __init__(
        self,
        model: str,
        prompts: Sequence[str],
        rewards: Sequence[tuple[Any, float]],
        *,
        lora_rank: int,
        num_inference_steps: int,
        guidance_scale: float,
        scheduler: str | None,
        dtype: torch.dtype,
        device: str,
        learning_rate: float = 2e-5,
        max_grad_norm: float = 0.1,
    ):
        self.prompts, self.rewards, self.device, self.dtype = list(prompts), list(rewards), device, dtype
        self.num_inference_steps, self.guidance_scale = num_inference_steps, guidance_scale
        self.max_grad_norm = max_grad_norm
        folder = resolve_model(model)
        self.pipeline = self.kind.from_pretrained(folder, dtype=dtype, **self._left_out(Path(folder)))
        if scheduler is not None:
            set_scheduler(self.pipeline, scheduler)
        for part in self.pipeline.components.values():
            if isinstance(part, torch.nn.Module):
                part.requires_grad_(False)
        targets = self._lora_targets()
        self.denoiser.add_adapter(
            LoraConfig(r=lora_rank, lora_alpha=lora_rank, init_lora_weights="gaussian", target_modules=targets)
        )
        cast_training_params(self.denoiser, torch.float32)
        self.pipeline.to(device)
        self.parameters = {name: p for name, p in self.denoiser.named_parameters() if p.requires_grad}
        self.optimizer = torch.optim.AdamW(self.parameters.values(), lr=learning_rate)

    @property
    def denoiser(self) -> Any:
        """The network that is trained."""
        return self.pipeline.unet

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
        """Take over these LoRA weights, which go by their names in the denoiser."""
        for name, parameter in self.parameters.items():
            parameter.copy_(weights[name])

    def _sample(self, labels: torch.Tensor, seeds: Sequence[int], gradient_steps: GradientSteps) -> torch.Tensor:
        scheduler = self.pipeline.scheduler
        with torch.no_grad():
            texts = self._encode([self.prompts[label] for label in labels.tolist()])
        scheduler.set_timesteps(self.num_inference_steps, device=self.device)
        config = self.denoiser.config
        shape = (config.in_channels, config.sample_size, config.sample_size)
        latents = draw_latents(seeds, shape).to(self.device) * getattr(scheduler, "init_noise_sigma", 1.0)
        generators = step_generators(seeds)
        is_16_bit = self.dtype != torch.float32
        autocast = torch.autocast(torch.device(self.device).type, self.dtype) if is_16_bit else nullcontext()
        with autocast:
            for index, timestep in enumerate(scheduler.timesteps):
                read = latents.detach() if gradient_steps.detach_inputs else latents
                with torch.set_grad_enabled(index in gradient_steps.steps):
                    prediction = self._predict(torch.cat([read] * 2), timestep, texts)
                    unconditional, conditional = prediction.chunk(2)
                    prediction = unconditional + self.guidance_scale * (conditional - unconditional)
                if index == gradient_steps.stop_at:
                    latents = predicted_clean_latents(scheduler, prediction, timestep, latents)
                    break
                latents = scheduler.step(prediction, timestep, latents, generator=generators).prev_sample
            vae = self.pipeline.vae
            shift = vae.config.get("shift_factor") or 0.0
            images = vae.decode(latents.to(self.dtype) / vae.config.scaling_factor + shift).sample
        return images.float() * 0.5 + 0.5

    def _left_out(self, folder: Path) -> dict[str, Any]:
        """Arguments of loading for parts that the model does without."""
        return {"safety_checker": None, "requires_safety_checker": False}

    def _lora_targets(self) -> list[str]:
        return ["to_q", "to_k", "to_v", "to_out.0"]

    def _encode(self, prompts: Sequence[str]) -> Any:
        """What :meth:`_predict` takes of B prompts, the empty ones first."""
        wanted, negative = self.pipeline.encode_prompt(
            list(prompts), self.device, 1, True, negative_prompt=[""] * len(prompts)
        )
        return torch.cat([negative, wanted])

    def _predict(self, doubled: torch.Tensor, timestep: torch.Tensor, texts: Any) -> torch.Tensor:
        scaled = self.pipeline.scheduler.scale_model_input(doubled, timestep)
        return self.pipeline.unet(scaled, timestep, encoder_hidden_states=texts).sample


class StockFlowTraining(StockTraining):
    """The stock arm of Stable Diffusion 3's layout."""

    kind: ClassVar[Any] = StableDiffusion3Pipeline

    @property
    def denoiser(self) -> Any:
        return self.pipeline.transformer

    def _left_out(self, folder: Path) -> dict[str, Any]:
        index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
        return {name: None for name in ("text_encoder_3", "tokenizer_3") if index.get(name, [None])[0] is None}

    def _lora_targets(self) -> list[str]:
        # what the last block's text asks for is dropped
        asking = [f"transformer_blocks.{row}.attn.add_q_proj" for row in range(self.denoiser.config.num_layers - 1)]
        return ["to_q", "to_k", "to_v", "to_out.0", "add_k_proj", "add_v_proj", "to_add_out", *asking]

    def _encode(self, prompts: Sequence[str]) -> Any:
        wanted, negative, pooled, negative_pooled = self.pipeline.encode_prompt(
            list(prompts), None, None, device=self.device, negative_prompt=[""] * len(prompts)
        )
        return torch.cat([negative, wanted]), torch.cat([negative_pooled, pooled])

    def _predict(self, doubled: torch.Tensor, timestep: torch.Tensor, texts: Any) -> torch.Tensor:
        features, pooled = texts
        return self.denoiser(
            hidden_states=doubled,
            timestep=timestep.expand(len(doubled)),
            encoder_hidden_states=features,
            pooled_projections=pooled,
        ).sample


def stock_arm_of(model: str) -> type[StockTraining]:
    """The stock arm for an embedded model or a folder.

    Raises:
        ValueError: a model of a family for which none is written.
    """
    family = load_family(model)
    if issubclass(family, StableDiffusion3Parts):
        return StockFlowTraining
    if issubclass(family, StableDiffusionParts):
        return StockTraining
    raise ValueError(
        f"model is {model!r}, a {family.__name__}, for which no stock arm is written; give one of Stable Diffusion 1,"
        " 2 or 3."
    )


def flat_gradient(parameters: dict[str, torch.nn.Parameter]) -> torch.Tensor:
    """Gradients of all parameters in the order of their names, ``(P,)`` float32 on the CPU."""
    gradients = [parameters[name].grad for name in sorted(parameters)]
    return torch.cat([gradient.detach().flatten().float().cpu() for gradient in gradients if gradient is not None])
