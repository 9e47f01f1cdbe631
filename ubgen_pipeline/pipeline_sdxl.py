"""Stable Diffusion XL, with its distilled kinds (Turbo, Lightning, LCM), which differ in their configuration alone.

The UNet reads two CLIP text encoders side by side, the second one's pooled text, and the image's size. diffusers'
loader copies this file and the siblings that it names itself; see ``pipeline.py``.

Shapes: B rows, L tokens, D width of both encoders' features, P width of the pooled text.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from diffusers import StableDiffusionXLPipeline

from .call_arguments import TextSettings
from .conditioning import Conditioning
from .family import Family
from .mask_attention import UNetMaskAttention
from .mask_settings import PAPER, MaskSettings
from .pipeline_call import ClassNameCall
from .prompt_encoding import check_prompt_lengths, encode_weighted_prompts
from .prompt_weights import plain_text

if TYPE_CHECKING:
    # what those import, named for diffusers' loader by `make helper-imports`
    from .annotations import SampleAnnotation  # noqa: F401
    from .attention_maps import ClassTexts  # noqa: F401
    from .attention_masks import AttentionMask  # noqa: F401
    from .class_tokens import append_class_words  # noqa: F401
    from .concept_attention import ConceptTexts  # noqa: F401
    from .deep_features import DeepFeatureDenoiser  # noqa: F401
    from .diversity import AnnealedConditioning  # noqa: F401
    from .diversity_settings import Cads  # noqa: F401
    from .initial_latents import draw_latents  # noqa: F401
    from .joint_attention import JointAttention  # noqa: F401
    from .latent_denoising import DenoisingStep  # noqa: F401
    from .mask_regions import MaskObject  # noqa: F401
    from .pipeline_output import UbGenOutput  # noqa: F401
    from .sample_seeds import sample_seed  # noqa: F401
    from .sampling_features import Walk  # noqa: F401
    from .saved_code import code_files  # noqa: F401
    from .scheduler_noise import is_flow_scheduler  # noqa: F401
    from .source_images import SourceImages  # noqa: F401


class StableDiffusionXLParts(Family):
    """What of Stable Diffusion XL the call is made of; the members are described in :class:`.Family`."""

    denoiser_part = "unet"
    text_encoder_parts = ("text_encoder", "text_encoder_2")
    lora_targets = ("to_q", "to_k", "to_v", "to_out.0")
    default_gpu_dtype = "float16"
    upcasts_vae = True
    has_word_weights = True
    has_kept_features = True

    unet: Any
    text_encoder: Any
    text_encoder_2: Any
    tokenizer: Any
    tokenizer_2: Any
    encode_prompt: Any
    maybe_convert_prompt: Any
    get_guidance_scale_embedding: Any
    _get_add_time_ids: Any

    @property
    def guidance(self) -> str:
        """The UNet of LCM reads the number itself."""
        return "classifier-free" if self.unet.config.time_cond_proj_dim is None else "embedded"

    @property
    def is_distilled(self) -> bool:
        """Whether the model is made for a few steps: Turbo and Lightning come with trailing Euler timesteps."""
        scheduler = self.scheduler
        trailing = scheduler.config.get("timestep_spacing") == "trailing"
        return self.guidance == "embedded" or (trailing and type(scheduler).__name__.startswith("Euler"))

    @property
    def default_num_inference_steps(self) -> int:
        return 4 if self.is_distilled else 50

    @property
    def default_guidance_scale(self) -> float:
        if self.guidance == "embedded":
            return 8.0
        return 1.0 if self.is_distilled else 5.0

    @classmethod
    def without_part(cls, part: str) -> str:
        if part not in ("text_encoder", "tokenizer"):
            return super().without_part(part)
        return f"which has no {part}; give a base model of Stable Diffusion XL, no refiner"

    def family_misfit(self) -> str | None:
        """Why the parts make no base model of SDXL, to follow the model's name; refiners have one text encoder."""
        for name in self.text_encoder_parts:
            if getattr(self, name) is None:
                return self.without_part(name)
        width = sum(part.config.hidden_size for part in self.text_networks.values())
        return self.widths_misfit(
            channels=self.vae.config.latent_channels,
            text=(self.unet.config.cross_attention_dim, width),
            title="Stable Diffusion XL",
        )

    def encode(
        self, prompts: Sequence[str], text: TextSettings | None = None, *, lora_scale: float | None = None
    ) -> list[Conditioning]:
        """``encoder_hidden_states (L, D)`` and ``text_embeds (P,)`` of each prompt, ``(C * L, D)`` of C chunks where
        word weights are read; the pooled text is that of the first chunk, without them.

        To guide away from the empty prompt is to guide away from zeros, where the model's configuration says so
        (``force_zeros_for_empty_prompt``), as the stock call does without a negative prompt.
        """
        text = text or TextSettings()
        distinct = list(dict.fromkeys(prompts))
        features, _, pooled, _ = self.encode_prompt(
            [plain_text(prompt) for prompt in distinct] if text.weighted else distinct,
            device=self._execution_device,
            num_images_per_prompt=1,
            do_classifier_free_guidance=False,
            lora_scale=lora_scale,
        )
        if text.weighted:
            # of the layer before the last, as the stock call takes them
            parts = [
                encode_weighted_prompts(self, distinct, text.num_chunks, lora_scale, suffix=suffix, layer=-2)
                for suffix in ("", "_2")
            ]
            features = torch.cat(parts, dim=-1)
        rows = {
            prompt: Conditioning({"encoder_hidden_states": row, "text_embeds": one})
            for prompt, row, one in zip(distinct, features, pooled)
        }
        if text.negative and "" in rows and self.config.force_zeros_for_empty_prompt:
            rows[""] = rows[""].map(torch.zeros_like)
        return [rows[prompt] for prompt in prompts]

    def predict(
        self,
        latents: torch.Tensor,
        timestep: torch.Tensor,
        conditioning: Conditioning,
        *,
        attention_kwargs: dict[str, Any] | None = None,
        network: Any | None = None,
    ) -> torch.Tensor:
        text, pooled = conditioning["encoder_hidden_states"], conditioning["text_embeds"]
        embedded = None
        if self.unet.config.time_cond_proj_dim is not None:
            # LCM counts the scale from 0
            embedded = self.get_guidance_scale_embedding(
                conditioning["guidance"].cpu() - 1, embedding_dim=self.unet.config.time_cond_proj_dim
            ).to(latents)
        return (self.unet if network is None else network)(
            latents,
            timestep,
            encoder_hidden_states=text,
            timestep_cond=embedded,
            cross_attention_kwargs=attention_kwargs,
            added_cond_kwargs={"text_embeds": pooled, "time_ids": self.time_ids(latents, conditioning)},
            return_dict=False,
        )[0]

    def time_ids(self, latents: torch.Tensor, conditioning: Conditioning) -> torch.Tensor:
        """``(B, 6)`` for the B rows of the conditioning: the size asked for, nothing cropped."""
        text, pooled = conditioning["encoder_hidden_states"], conditioning["text_embeds"]
        size = (latents.shape[2] * self.vae_scale_factor, latents.shape[3] * self.vae_scale_factor)
        ids = self._get_add_time_ids(
            size, (0, 0), size, dtype=text.dtype, text_encoder_projection_dim=pooled.shape[-1]
        )
        return ids.to(latents.device).repeat(len(text), 1)

    def unscaled_latents(self, latents: torch.Tensor) -> torch.Tensor:
        mean, std = self._latent_statistics(latents)
        return latents * std / self.vae.config.scaling_factor + mean

    def scaled_latents(self, latents: torch.Tensor) -> torch.Tensor:
        mean, std = self._latent_statistics(latents)
        return (latents - mean) * self.vae.config.scaling_factor / std

    def _latent_statistics(self, latents: torch.Tensor) -> tuple[Any, Any]:
        """Mean and standard deviation of the VAE's latents, where its configuration has them."""
        config = self.vae.config
        if config.get("latents_mean") is None or config.get("latents_std") is None:
            return 0.0, 1.0
        mean, std = (latents.new_tensor(config[name]).view(1, -1, 1, 1) for name in ("latents_mean", "latents_std"))
        return mean, std

    def check_prompt_lengths(self, prompts: Sequence[str], class_names: Sequence[str] | None = None) -> None:
        for tokenizer in (self.tokenizer, self.tokenizer_2):
            texts = [str(self.maybe_convert_prompt(prompt, tokenizer)) for prompt in prompts]
            check_prompt_lengths(tokenizer, texts, prompts if class_names is None else class_names)

    @property
    def mask_attention(self) -> UNetMaskAttention:
        return UNetMaskAttention(self)

    @classmethod
    def mask_settings_of(cls, config: Mapping[str, Any]) -> MaskSettings:
        """The paper's, at the deepest of the levels that have attention, refined at the widest."""
        levels = [level for level, kind in enumerate(config["down_block_types"]) if "CrossAttn" in kind]
        return replace(PAPER, cross_levels=(max(levels),), self_level=min(levels))


class UbGenSDXLPipeline(ClassNameCall, StableDiffusionXLParts, StableDiffusionXLPipeline):
    """Draws labelled images from class names with any checkpoint of Stable Diffusion XL in diffusers layout."""

    example_model = "stabilityai/stable-diffusion-xl-base-1.0"
