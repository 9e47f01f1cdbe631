"""Sana: the family, and its pipeline.

diffusers' loader copies this file and the siblings that it names itself, found by a regular expression over the text.
So every helper is named here, flat, and no other module of the package is.
"""

import inspect
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from diffusers import SanaPipeline

from .call_arguments import TextSettings, latent_shape
from .conditioning import Conditioning
from .family import Family
from .pipeline_call import ClassNameCall
from .prompt_encoding import check_token_counts

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

# what the stock call puts before a prompt for the language model that reads it, but not before a negative one
INSTRUCTION = "\n".join(inspect.signature(SanaPipeline.__call__).parameters["complex_human_instruction"].default)


class SanaParts(Family):
    """What of Sana the call is made of; the members are described in :class:`.Family`."""

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
        width = self.text_encoder.config.hidden_size
        if transformer.caption_channels == width and transformer.in_channels == vae.latent_channels:
            return None
        return (
            f"whose transformer takes {transformer.in_channels} channels and text features"
            f" {transformer.caption_channels} wide beside a VAE of {vae.latent_channels} and a text encoder of"
            f" {width}; give a text-to-image checkpoint of Sana"
        )

    @property
    def latents_dtype(self) -> torch.dtype:
        return torch.float32

    def encode(
        self, prompts: Sequence[str], text: TextSettings | None = None, *, lora_scale: float | None = None
    ) -> list[Conditioning]:
        """One record of ``encoder_hidden_states (L, D)`` and ``encoder_attention_mask (L,)`` for each prompt; see
        :meth:`.Family.encode`."""
        instruction = None if text is not None and text.negative else [INSTRUCTION]
        rows = {prompt: self._encode(prompt, instruction, lora_scale) for prompt in dict.fromkeys(prompts)}
        return [rows[prompt] for prompt in prompts]

    def _encode(self, prompt: str, instruction: list[str] | None, lora_scale: float | None) -> Conditioning:
        features, mask, *_ = self.encode_prompt(
            [prompt],
            False,
            clean_caption=False,
            max_sequence_length=self.max_sequence_length,
            complex_human_instruction=instruction,
            lora_scale=lora_scale,
        )
        # the padding is left off; where the tokenizer makes nothing else of an empty prompt, all of it is read
        length = int(mask.sum()) or self.max_sequence_length
        return Conditioning(
            {"encoder_hidden_states": features[0, :length], "encoder_attention_mask": mask[0, :length]}
        )

    def check_prompt_lengths(self, prompts: Sequence[str], class_names: Sequence[str] | None = None) -> None:
        texts = self._text_preprocessing(list(prompts), clean_caption=False)
        names = prompts if class_names is None else class_names
        # of the tokens read behind the instruction two are not the prompt's
        counts = (len(self.tokenizer(INSTRUCTION + text).input_ids) for text in texts)
        limit = len(self.tokenizer(INSTRUCTION).input_ids) + self.max_sequence_length - 2
        check_token_counts(counts, limit, names)

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
        dtype, config = self.transformer.dtype, self.transformer.config
        prediction = (self.transformer if network is None else network)(
            latents.to(dtype),
            encoder_hidden_states=conditioning["encoder_hidden_states"].to(dtype),
            encoder_attention_mask=conditioning["encoder_attention_mask"],
            timestep=timestep.expand(len(latents)) * config.timestep_scale,
            attention_kwargs=attention_kwargs,
            return_dict=False,
        )[0]
        # a model that also predicts a variance does so in the second half of the channels
        return prediction[:, : config.in_channels].to(latents.dtype)

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        decoded = self.vae.decode(latents.to(self.vae.dtype) / self.vae.config.scaling_factor, return_dict=False)[0]
        return decoded * 0.5 + 0.5

    def encode_images(self, images: torch.Tensor) -> torch.Tensor:
        # this autoencoder has no posterior
        pixels = (images * 2 - 1).to(self._execution_device, self.vae.dtype)
        return self.vae.encode(pixels, return_dict=False)[0] * self.vae.config.scaling_factor


class UbGenSanaPipeline(ClassNameCall, SanaParts, SanaPipeline):
    """Draws labelled images from class names with a Sana checkpoint in diffusers layout.

    Loading, LoRA, offloading and schedulers are those of ``SanaPipeline``.
    """
