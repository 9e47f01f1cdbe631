"""Chroma: the family, and its pipeline.

Shapes: B samples, C x h x w latents; S = h/2 x w/2 tokens of the image, each 2 x 2 latents; L tokens of text, D width
of their features.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from diffusers import ChromaPipeline

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


class ChromaParts(Family):
    """What of Chroma the call is made of; the members are described in :class:`.Family`."""

    denoiser_part = "transformer"
    text_encoder_parts = ("text_encoder",)
    lora_targets = (
        *("to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"),
        *("ff.net.0.proj", "ff.net.2", "ff_context.net.0.proj", "ff_context.net.2"),
    )
    default_num_inference_steps = 35
    default_guidance_scale = 5.0
    text_position = "first"
    # tokens that every prompt is filled up to, as the stock call takes them
    max_sequence_length = 512

    transformer: Any
    text_encoder: Any
    tokenizer: Any
    encode_prompt: Any
    default_sample_size: int
    _pack_latents: Any
    _unpack_latents: Any
    _prepare_latent_image_ids: Any

    def family_misfit(self) -> str | None:
        return self.widths_misfit(
            channels=PATCH**2 * self.vae.config.latent_channels,
            text=(self.transformer.config.joint_attention_dim, self.text_encoder.config.d_model),
            title="Chroma",
        )

    def encode_one(self, prompt: str, text: TextSettings, lora_scale: float | None) -> Conditioning:
        """``encoder_hidden_states (L, D)`` and ``encoder_attention_mask (L,)`` bool, True for the prompt's own tokens
        and for one of those that fill it up."""
        features, _, mask, *_ = self.encode_prompt(
            [prompt],
            do_classifier_free_guidance=False,
            max_sequence_length=self.max_sequence_length,
            lora_scale=lora_scale,
        )
        return Conditioning({"encoder_hidden_states": features[0], "encoder_attention_mask": mask[0].bool()})

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
        features = conditioning["encoder_hidden_states"]
        tokens = self._pack_latents(latents.contiguous(), *latents.shape)  # (B, S, 4 C)
        # The stock call adds 1 to the scores of pairs of tokens that are read, instead of hiding the others. So do we.
        mask = conditioning["encoder_attention_mask"].to(latents.dtype)
        mask = torch.cat([mask, mask.new_ones(tokens.shape[:2])], dim=1)  # (B, L + S)
        with self._masked_checkpoints(mask):
            predicted = (self.transformer if network is None else network)(
                tokens,
                timestep=timestep.expand(num_rows).to(latents.dtype) / 1000,
                encoder_hidden_states=features,
                # text has no place; a token of the image has its row and column
                txt_ids=latents.new_zeros(features.shape[1], 3),
                img_ids=self._prepare_latent_image_ids(
                    num_rows, height // PATCH, width // PATCH, latents.device, latents.dtype
                ),
                attention_mask=mask,
                joint_attention_kwargs=attention_kwargs,
                return_dict=False,
            )[0]
        factor = self.vae_scale_factor
        return self._unpack_latents(predicted, height * factor, width * factor, factor)

    @contextmanager
    def _masked_checkpoints(self, mask: torch.Tensor) -> Iterator[None]:
        """Gives the mask to blocks of one stream that are recomputed in the backward pass, too: the transformer calls
        those without it, and would then draw other images than at sampling."""
        run = self.transformer._gradient_checkpointing_func if self.transformer.gradient_checkpointing else None
        if run is None:
            yield
            return
        one_stream = set(self.transformer.single_transformer_blocks)

        def with_mask(block: Any, *arguments: Any) -> Any:
            return run(partial(block, attention_mask=mask) if block in one_stream else block, *arguments)

        self.transformer._gradient_checkpointing_func = with_mask
        try:
            yield
        finally:
            self.transformer._gradient_checkpointing_func = run

    @property
    def mask_attention(self) -> JointMaskAttention:
        blocks = [*self.transformer.transformer_blocks, *self.transformer.single_transformer_blocks]
        return JointMaskAttention(
            self,
            [block.attn for block in blocks],
            readers=[(self.tokenizer, self.max_sequence_length)],
            concept_blocks=self.transformer.transformer_blocks,
            text_embedding=[self.transformer.context_embedder],
        )

    @classmethod
    def mask_settings_of(cls, config: Mapping[str, Any]) -> MaskSettings:
        """Blocks as those that FLUX.1's masks are made of, which Chroma was trained from."""
        return joint_mask_settings(config["num_layers"])


class UbGenChromaPipeline(ClassNameCall, ChromaParts, ChromaPipeline):
    """Draws labelled images from class names with a Chroma checkpoint in diffusers layout.

    Loading, LoRA, offloading and schedulers are those of ``ChromaPipeline``.
    """

    example_model = "lodestones/Chroma1-HD"
