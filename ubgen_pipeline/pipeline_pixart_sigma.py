"""PixArt-Sigma: the family, and its pipeline.

diffusers' loader copies this file and the siblings that it names itself, found by a regular expression over the text.
So every helper is named here, flat, and no other module of the package is.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from diffusers import PixArtSigmaPipeline

from .call_arguments import TextSettings, latent_shape
from .conditioning import Conditioning
from .family import Family
from .pipeline_call import ClassNameCall
from .prompt_encoding import check_prompt_lengths

if TYPE_CHECKING:
    # helpers of those, named for the loader
    from .annotations import attention_annotations  # noqa: F401
    from .attention_maps import AttentionRecorder  # noqa: F401
    from .attention_masks import heat_maps  # noqa: F401
    from .class_tokens import class_texts  # noqa: F401
    from .deep_features import DeepFeatureDenoiser  # noqa: F401
    from .initial_latents import draw_latents  # noqa: F401
    from .joint_attention import JointAttentionRecorder  # noqa: F401
    from .latent_denoising import denoising_steps  # noqa: F401
    from .mask_attention import JointMaskAttention  # noqa: F401
    from .mask_regions import mask_objects  # noqa: F401
    from .mask_settings import MaskSettings  # noqa: F401
    from .pipeline_output import UbGenOutput  # noqa: F401
    from .prompt_weights import parse_weights  # noqa: F401
    from .sample_seeds import sample_seed  # noqa: F401
    from .sampling_features import SamplingFeature  # noqa: F401
    from .saved_code import write_code  # noqa: F401
    from .scheduler_noise import model_input  # noqa: F401
    from .source_images import SourceImages  # noqa: F401


class PixArtSigmaParts(Family):
    """What of PixArt-Sigma the call is made of; the members are described in :class:`.Family`."""

    denoiser_part = "transformer"
    text_encoder_parts = ("text_encoder",)
    lora_targets = ("to_q", "to_k", "to_v", "to_out.0")
    default_num_inference_steps = 20
    default_guidance_scale = 4.5
    # tokens of a prompt, as the stock call takes them
    max_sequence_length = 300

    transformer: Any
    text_encoder: Any
    tokenizer: Any
    encode_prompt: Any
    _text_preprocessing: Any

    def family_misfit(self) -> str | None:
        transformer, vae = self.transformer.config, self.vae.config
        width = self.text_encoder.config.d_model
        if transformer.caption_channels == width and transformer.in_channels == vae.latent_channels:
            return None
        return (
            f"whose transformer takes {transformer.in_channels} channels and text features"
            f" {transformer.caption_channels} wide beside a VAE of {vae.latent_channels} and a text encoder of"
            f" {width}; give a text-to-image checkpoint of PixArt-Sigma"
        )

    def encode(
        self, prompts: Sequence[str], text: TextSettings | None = None, *, lora_scale: float | None = None
    ) -> list[Conditioning]:
        """One record of ``encoder_hidden_states (L, D)`` and ``encoder_attention_mask (L,)`` for each prompt; see
        :meth:`.Family.encode`."""
        rows = {prompt: self._encode(prompt) for prompt in dict.fromkeys(prompts)}
        return [rows[prompt] for prompt in prompts]

    def _encode(self, prompt: str) -> Conditioning:
        features, mask, *_ = self.encode_prompt(
            [prompt], False, clean_caption=False, max_sequence_length=self.max_sequence_length
        )
        # the padding is left off
        length = int(mask.sum())
        return Conditioning(
            {"encoder_hidden_states": features[0, :length], "encoder_attention_mask": mask[0, :length]}
        )

    def check_prompt_lengths(self, prompts: Sequence[str], class_names: Sequence[str] | None = None) -> None:
        texts = self._text_preprocessing(list(prompts), clean_caption=False)
        check_prompt_lengths(
            self.tokenizer, texts, prompts if class_names is None else class_names, limit=self.max_sequence_length
        )

    def latent_shape(self, height: int | None = None, width: int | None = None) -> tuple[int, int, int]:
        config = self.transformer.config
        return latent_shape(
            config.in_channels, config.sample_size, self.vae_scale_factor, height, width, patch=config.patch_size
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
        prediction = (self.transformer if network is None else network)(
            latents,
            timestep=timestep.expand(len(latents)),
            **conditioning.tensors,
            # what only the models before Sigma read
            added_cond_kwargs={"resolution": None, "aspect_ratio": None},
            return_dict=False,
        )[0]
        # the second half of the channels is a variance, which no scheduler of diffusers reads
        return prediction[:, : latents.shape[1]]

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        decoded = self.vae.decode(latents.to(self.vae.dtype) / self.vae.config.scaling_factor, return_dict=False)[0]
        return decoded * 0.5 + 0.5

    def encode_images(self, images: torch.Tensor) -> torch.Tensor:
        posterior = self.vae.encode((images * 2 - 1).to(self._execution_device, self.vae.dtype)).latent_dist
        return posterior.mode() * self.vae.config.scaling_factor


class UbGenPixArtSigmaPipeline(ClassNameCall, PixArtSigmaParts, PixArtSigmaPipeline):
    """Draws labelled images from class names with a PixArt-Sigma checkpoint in diffusers layout.

    Loading, offloading and schedulers are those of ``PixArtSigmaPipeline``.
    """
