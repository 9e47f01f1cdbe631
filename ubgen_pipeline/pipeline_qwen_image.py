"""Qwen-Image: the family, and the pipeline that diffusers loads as a ``custom_pipeline`` too.

Shapes: B samples, C x h x w latents, L tokens of a prompt. The network reads the latents as ``h/2 * w/2`` tokens, each
of the 4 C numbers of a square of two by two latents.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from diffusers import QwenImagePipeline

from .call_arguments import TextSettings
from .conditioning import Conditioning
from .family import Family
from .latent_denoising import classifier_free_guidance
from .mask_attention import JointMaskAttention
from .mask_settings import MaskSettings, joint_mask_settings
from .pipeline_call import ClassNameCall
from .scheduler_noise import resolution_shift, set_flow_timesteps
from .templated_prompts import TemplatedTokenizer

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
    from .mask_regions import MaskObject  # noqa: F401
    from .pipeline_output import UbGenOutput  # noqa: F401
    from .prompt_encoding import token_chunks  # noqa: F401
    from .prompt_weights import Fragment  # noqa: F401
    from .sample_seeds import sample_seed  # noqa: F401
    from .sampling_features import Walk  # noqa: F401
    from .saved_code import code_files  # noqa: F401
    from .source_images import SourceImages  # noqa: F401


class QwenImageParts(Family):
    """What of Qwen-Image the call is made of; the members are described in :class:`.Family`."""

    denoiser_part = "transformer"
    text_encoder_parts = ("text_encoder",)
    default_num_inference_steps = 50
    default_guidance_scale = 4.0
    text_position = "first"

    transformer: Any
    text_encoder: Any
    tokenizer: Any
    tokenizer_max_length: int
    default_sample_size: int
    prompt_template_encode: str
    prompt_template_encode_start_idx: int
    encode_prompt: Any
    _pack_latents: Any
    _unpack_latents: Any

    @property
    def lora_targets(self) -> tuple[str, ...]:
        # what the last block makes of the text is read by nothing behind it
        not_last = range(self.transformer.config.num_layers - 1)
        text = (f"{number}.attn.{name}" for number in not_last for name in ("add_q_proj", "to_add_out"))
        return ("to_q", "to_k", "to_v", "to_out.0", "add_k_proj", "add_v_proj", *text)

    def family_misfit(self) -> str | None:
        return self.widths_misfit(
            channels=4 * self.vae.config.z_dim,
            text=(
                self.transformer.config.joint_attention_dim,
                self.text_encoder.config.get_text_config().hidden_size,
            ),
            title="Qwen-Image",
        )

    def encode_one(self, prompt: str, text: TextSettings, lora_scale: float | None) -> Conditioning:
        """``encoder_hidden_states (L, D)`` and ``encoder_hidden_states_mask (L,)``, L being its own length."""
        (features,), _ = self.encode_prompt([prompt])
        mask = torch.ones(len(features), dtype=torch.long, device=features.device)
        return Conditioning({"encoder_hidden_states": features, "encoder_hidden_states_mask": mask})

    @property
    def prompt_tokenizer(self) -> TemplatedTokenizer:
        """Tokenizes a prompt in the template that the text encoder reads it in."""
        return TemplatedTokenizer(
            self.tokenizer, self.prompt_template_encode.format, num_dropped=self.prompt_template_encode_start_idx
        )

    @property
    def prompt_tokens(self) -> int:
        return self.tokenizer_max_length + self.prompt_template_encode_start_idx

    @property
    def mask_attention(self) -> JointMaskAttention:
        return JointMaskAttention(
            self,
            [block.attn for block in self.transformer.transformer_blocks],
            readers=[(self.prompt_tokenizer, self.tokenizer_max_length)],
            # what the last block makes of the text is read by nothing, so it was never trained
            concept_blocks=self.transformer.transformer_blocks[:-1],
            text_embedding=[self.transformer.txt_norm, self.transformer.txt_in],
        )

    @classmethod
    def mask_settings_of(cls, config: Mapping[str, Any]) -> MaskSettings:
        """Blocks as deep as those that FLUX.1's masks are made of; which are best was not measured."""
        return joint_mask_settings(config["num_layers"])

    @property
    def num_latent_channels(self) -> int:
        return self.transformer.config.in_channels // 4

    @property
    def own_latent_size(self) -> int:
        return self.default_sample_size

    def timesteps(self, num_steps: int, shape: tuple[int, int, int]) -> torch.Tensor:
        _, height, width = shape
        return set_flow_timesteps(
            self.scheduler,
            num_steps,
            self._execution_device,
            sigmas=np.linspace(1.0, 1 / num_steps, num_steps).tolist(),
            mu=resolution_shift(self.scheduler, (height // 2) * (width // 2)),
        )

    def predict(
        self,
        latents: torch.Tensor,
        timestep: torch.Tensor,
        conditioning: Conditioning,
        *,
        attention_kwargs: dict[str, Any] | None = None,
        network: Any | None = None,
    ) -> torch.Tensor:
        num_rows, _, height, width = latents.shape
        read = latents.to(self.transformer.dtype)
        mask = conditioning["encoder_hidden_states_mask"]
        predicted = (self.transformer if network is None else network)(
            self._tokens(read),
            timestep=timestep.expand(num_rows).to(read.dtype) / 1000,
            encoder_hidden_states=conditioning["encoder_hidden_states"],
            # the fastest kernels of attention take no mask
            encoder_hidden_states_mask=None if mask.all() else mask,
            img_shapes=[[(1, height // 2, width // 2)]] * num_rows,
            attention_kwargs=attention_kwargs,
            return_dict=False,
        )[0]
        return self._grid(predicted, height, width).to(latents.dtype)

    @classmethod
    def stock_guidance(cls, scale: float) -> dict[str, Any]:
        # its guidance_scale is another number; any negative prompt switches this one on
        return {"true_cfg_scale": scale, "negative_prompt": ""}

    def guide(self, conditional: torch.Tensor, unconditional: torch.Tensor, scale: float) -> torch.Tensor:
        """Classifier-free guidance ``(B, C, h, w)`` whose tokens keep the length of the conditional prediction's."""
        tokens = self._tokens(conditional)
        guided = classifier_free_guidance(tokens, self._tokens(unconditional), scale)
        guided = guided * (tokens.norm(dim=-1, keepdim=True) / guided.norm(dim=-1, keepdim=True))
        return self._grid(guided, *conditional.shape[2:])

    def _tokens(self, latents: torch.Tensor) -> torch.Tensor:
        """``(B, h/2 * w/2, 4 C)`` of latents ``(B, C, h, w)``."""
        return self._pack_latents(latents, *latents.shape)

    def _grid(self, tokens: torch.Tensor, height: int, width: int) -> torch.Tensor:
        """``(B, C, h, w)`` of :meth:`_tokens`."""
        factor = self.vae_scale_factor
        return self._unpack_latents(tokens, height * factor, width * factor, factor).squeeze(2)

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        # the VAE is one of videos: (B, C, frames, h, w)
        return super().decode(latents[:, :, None])[:, :, 0]

    def encode_images(self, images: torch.Tensor) -> torch.Tensor:
        return super().encode_images(images[:, :, None])[:, :, 0]

    def unscaled_latents(self, latents: torch.Tensor) -> torch.Tensor:
        mean, std = self._latent_statistics()
        return latents * std + mean

    def scaled_latents(self, latents: torch.Tensor) -> torch.Tensor:
        mean, std = self._latent_statistics()
        return (latents - mean) / std

    def _latent_statistics(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and standard deviation ``(1, C, 1, 1, 1)`` of the VAE's latents."""
        config = self.vae.config
        mean, std = (
            torch.tensor(values, device=self._execution_device, dtype=self.vae.dtype).view(1, -1, 1, 1, 1)
            for values in (config.latents_mean, config.latents_std)
        )
        return mean, std


class UbGenQwenImagePipeline(ClassNameCall, QwenImageParts, QwenImagePipeline):
    """Draws labelled images from class names with Qwen-Image in diffusers layout."""

    example_model = "Qwen/Qwen-Image"
