"""Sana and Sana-Sprint: what the two families have in common."""

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from diffusers import SanaPipeline

from .call_arguments import TextSettings, latent_shape
from .conditioning import Conditioning
from .family import Family
from .prompt_encoding import check_token_counts

# what the stock call puts before a prompt for the language model that reads it, but not before a negative one
INSTRUCTION = "\n".join(inspect.signature(SanaPipeline.__call__).parameters["complex_human_instruction"].default)


class SanaParts(Family):
    """Members that are the same in both; see :class:`.Family`."""

    denoiser_part = "transformer"
    text_encoder_parts = ("text_encoder",)
    lora_targets = ("to_q", "to_k", "to_v", "to_out.0")
    default_guidance_scale = 4.5
    licence_note = (
        "Sana's weights are under a licence of NVIDIA's, for which see each checkpoint's page: of several it allows"
        " non-commercial use only. Its text encoder is under Gemma's terms of use."
    )
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
        # Sana-Sprint's own does not know of the second one
        no_second = {"do_classifier_free_guidance": False} if self.guidance == "classifier-free" else {}
        features, mask, *_ = self.encode_prompt(
            [prompt],
            clean_caption=False,
            max_sequence_length=self.max_sequence_length,
            complex_human_instruction=instruction,
            lora_scale=lora_scale,
            **no_second,
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

    def velocity(
        self,
        latents: torch.Tensor,
        time: torch.Tensor,
        conditioning: Conditioning,
        attention_kwargs: dict[str, Any] | None,
        network: Any | None,
        **others: torch.Tensor,
    ) -> torch.Tensor:
        """What the denoiser gives ``(B, C, h, w)`` for ``time (B,)``, in the latents' dtype."""
        dtype = self.transformer.dtype
        prediction = (self.transformer if network is None else network)(
            latents.to(dtype),
            encoder_hidden_states=conditioning["encoder_hidden_states"].to(dtype),
            encoder_attention_mask=conditioning["encoder_attention_mask"],
            timestep=time,
            attention_kwargs=attention_kwargs,
            return_dict=False,
            **others,
        )[0]
        # a model that also predicts a variance does so in the second half of the channels
        return prediction[:, : latents.shape[1]].to(latents.dtype)

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        decoded = self.vae.decode(latents.to(self.vae.dtype) / self.vae.config.scaling_factor, return_dict=False)[0]
        return decoded * 0.5 + 0.5

    def encode_images(self, images: torch.Tensor) -> torch.Tensor:
        # this autoencoder has no posterior
        pixels = (images * 2 - 1).to(self._execution_device, self.vae.dtype)
        return self.vae.encode(pixels, return_dict=False)[0] * self.vae.config.scaling_factor
