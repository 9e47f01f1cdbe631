"""FLUX.1 schnell and dev: the family, and the pipeline that diffusers loads as a ``custom_pipeline`` too.

As for ``pipeline.py``, the loader copies the siblings that this file names itself. Follows diffusers'
``FluxPipeline``, whose images the tests compare with. Image prompts are left out.

Shapes: B samples, C x h x w latents, H x W pixels; S = h/2 x w/2 tokens of the image, each 2 x 2 latents; L tokens of
text, D width of their features.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from diffusers import FluxPipeline

from .call_arguments import TextSettings
from .conditioning import Conditioning
from .family import Family
from .mask_attention import JointMaskAttention
from .mask_settings import MaskSettings, joint_mask_settings
from .pipeline_call import ClassNameCall
from .scheduler_noise import resolution_shift, set_flow_timesteps

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
    from .prompt_encoding import token_chunks  # noqa: F401
    from .prompt_weights import Fragment  # noqa: F401
    from .sample_seeds import sample_seed  # noqa: F401
    from .sampling_features import Walk  # noqa: F401
    from .saved_code import code_files  # noqa: F401
    from .source_images import SourceImages  # noqa: F401


# latents a side of a token
PATCH = 2


class FluxParts(Family):
    """What of FLUX.1 the call is made of; the members are described in :class:`.Family`.

    dev reads the guidance scale as a number and takes one prediction a step; schnell is distilled without it. Both can
    be guided away from a negative prompt by a second prediction (``true_cfg_scale``).

    Attributes:
        max_sequence_length: tokens that the T5 reads of a prompt.
    """

    denoiser_part = "transformer"
    text_encoder_parts = ("text_encoder", "text_encoder_2")
    lora_targets = (
        *("to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"),
        *("ff.net.0.proj", "ff.net.2", "ff_context.net.0.proj", "ff_context.net.2"),
    )
    text_position = "first"
    has_true_guidance = True
    max_sequence_length = 512

    transformer: Any
    text_encoder: Any
    text_encoder_2: Any
    tokenizer: Any
    tokenizer_2: Any
    encode_prompt: Any
    default_sample_size: int
    maybe_convert_prompt: Any
    _pack_latents: Any
    _unpack_latents: Any
    _prepare_latent_image_ids: Any

    @property
    def guidance(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        return "embedded" if self.transformer.config.guidance_embeds else "none"

    @property
    def default_num_inference_steps(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return 28 if self.guidance == "embedded" else 4

    @property
    def default_guidance_scale(self) -> float:  # pyright: ignore[reportIncompatibleVariableOverride]
        return 3.5 if self.guidance == "embedded" else 1.0

    @classmethod
    def licence_note_of(cls, config: Mapping[str, Any]) -> str | None:
        # schnell is under Apache 2.0
        if not config["guidance_embeds"]:
            return None
        return "FLUX.1 dev is under a licence that forbids training a model that competes with it on its images."

    @classmethod
    def without_part(cls, part: str) -> str:
        what = {"text_encoder": "the CLIP", "text_encoder_2": "the T5"}.get(part)
        if what is None:
            return super().without_part(part)
        return f"which has no {part}, {what} that FLUX.1 reads prompts with; give a complete checkpoint"

    def family_misfit(self) -> str | None:
        """Why the parts that were loaded make no FLUX.1, to follow the model's name; or None."""
        for name in self.text_encoder_parts:
            if getattr(self, name) is None:
                return self.without_part(name)
        transformer, channels = self.transformer.config, self.vae.config.latent_channels
        if transformer.in_channels != PATCH**2 * channels:
            return f"whose transformer takes {transformer.in_channels} channels beside a VAE of {channels}"
        pooled, width = self.text_encoder.config.hidden_size, self.text_encoder_2.config.d_model
        if transformer.pooled_projection_dim != pooled:
            return (
                f"whose transformer takes {transformer.pooled_projection_dim} pooled features beside CLIP's {pooled}"
            )
        if transformer.joint_attention_dim != width:
            return (
                f"whose transformer takes text features {transformer.joint_attention_dim} wide beside a T5 of {width}"
            )
        return None

    def encode_one(self, prompt: str, text: TextSettings, lora_scale: float | None) -> Conditioning:
        """The T5's ``encoder_hidden_states (L, D)`` and the CLIP's ``pooled_projections``."""
        embeds, pooled, _ = self.encode_prompt(
            [prompt],
            device=self._execution_device,
            max_sequence_length=self.max_sequence_length,
            lora_scale=lora_scale,
        )
        return Conditioning({"encoder_hidden_states": embeds[0], "pooled_projections": pooled[0]})

    @property
    def prompt_tokenizer(self) -> Any:
        return self.tokenizer_2

    @property
    def num_latent_channels(self) -> int:
        return self.transformer.config.in_channels // PATCH**2

    @property
    def own_latent_size(self) -> int:
        return self.default_sample_size

    @property
    def latents_per_token(self) -> int:
        return PATCH

    def timesteps(self, num_steps: int, shape: tuple[int, int, int]) -> torch.Tensor:
        _, height, width = shape
        mu = resolution_shift(self.scheduler, (height // PATCH) * (width // PATCH))
        sigmas = np.linspace(1.0, 1 / num_steps, num_steps).tolist()
        return set_flow_timesteps(self.scheduler, num_steps, self._execution_device, sigmas=sigmas, mu=mu)

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
        num_text_tokens = conditioning["encoder_hidden_states"].shape[1]
        predicted = (self.transformer if network is None else network)(
            self._pack_latents(latents.contiguous(), *latents.shape),  # (B, S, 4 C)
            timestep=timestep.expand(num_rows).to(latents.dtype) / 1000,
            **{"guidance": None, **conditioning.tensors},
            # text has no place; a token of the image has its row and column
            txt_ids=latents.new_zeros(num_text_tokens, 3),
            img_ids=self._prepare_latent_image_ids(
                num_rows, height // PATCH, width // PATCH, latents.device, latents.dtype
            ),
            joint_attention_kwargs=attention_kwargs,
            return_dict=False,
        )[0]
        factor = self.vae_scale_factor
        return self._unpack_latents(predicted, height * factor, width * factor, factor)

    @property
    def mask_attention(self) -> JointMaskAttention:
        blocks = [*self.transformer.transformer_blocks, *self.transformer.single_transformer_blocks]
        return JointMaskAttention(
            self,
            [block.attn for block in blocks],
            readers=[(self.tokenizer_2, self.max_sequence_length)],
            concept_blocks=self.transformer.transformer_blocks,
            text_embedding=[self.transformer.context_embedder],
        )

    @classmethod
    def mask_settings_of(cls, config: Mapping[str, Any]) -> MaskSettings:
        """Of the blocks with weights of their own for text and image."""
        return joint_mask_settings(config["num_layers"])


class UbGenFluxPipeline(ClassNameCall, FluxParts, FluxPipeline):
    """Draws labelled images from class names with any FLUX.1 schnell or dev checkpoint in diffusers layout.

    Loading, LoRA, offloading and schedulers are those of ``FluxPipeline``.
    """

    example_model = "black-forest-labs/FLUX.1-schnell"

    # so that a checkpoint without one of them can be refused by name, instead of by a list of all parts
    _optional_components = [*FluxPipeline._optional_components, *FluxParts.text_encoder_parts]  # noqa: RUF012
