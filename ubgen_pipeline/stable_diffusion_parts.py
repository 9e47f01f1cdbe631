"""What of Stable Diffusion 1.x and 2.x the pipeline is made of: text, denoiser, images to latents and back, sizes.

Another family of models is another file like this one; the pipeline's call knows none of them.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import torch

from .call_arguments import latent_shape
from .mask_settings import MaskSettings, default_mask_settings
from .prompt_encoding import check_prompt_lengths, count_prompt_chunks, encode_weighted_prompts


class StableDiffusionParts:
    """Methods of a ``StableDiffusionPipeline``. Itself it is none: the loader takes one that is alone in its file."""

    unet: Any
    vae: Any
    text_encoder: Any
    tokenizer: Any
    safety_checker: Any
    vae_scale_factor: int
    encode_prompt: Any
    maybe_convert_prompt: Any
    run_safety_checker: Any
    _execution_device: Any

    # names of the networks in diffusers' layout: nothing outside the root of ubgen_pipeline says them
    denoiser_part = "unet"
    text_encoder_parts = ("text_encoder",)
    # the layers that a LoRA is attached to unless told otherwise
    lora_targets = ("to_q", "to_k", "to_v", "to_out.0")

    @property
    def denoiser_network(self) -> Any:
        """The network that predicts: what is trained, compiled, and given a LoRA."""
        return getattr(self, self.denoiser_part)

    @property
    def text_networks(self) -> dict[str, Any]:
        """The text encoders by their names in diffusers' layout."""
        return {name: getattr(self, name) for name in self.text_encoder_parts}

    @property
    def networks(self) -> dict[str, Any]:
        """All networks that an image comes from, by name: denoiser, VAE, text encoders."""
        return {self.denoiser_part: self.denoiser_network, "vae": self.vae, **self.text_networks}

    def family_misfit(self) -> str | None:
        """Why the parts that were loaded make no Stable Diffusion 1.x or 2.x, to follow the model's name; or None.

        SDXL and inpainting checkpoints have parts of the same names.
        """
        width, channels = self.text_encoder.config.hidden_size, self.vae.config.latent_channels
        unet = self.unet.config
        if unet.cross_attention_dim == width and unet.in_channels == channels:
            return None
        return (
            f"whose UNet takes {unet.in_channels} channels and text features {unet.cross_attention_dim} wide beside a"
            f" VAE of {channels} and a text encoder of {width}; give a text-to-image checkpoint of Stable Diffusion"
            " 1.x or 2.x"
        )

    def encode_prompts(self, prompts: Sequence[str], *, lora_scale: float | None = None) -> torch.Tensor:
        """Text features ``(B, L, D)`` of B prompts, in the text encoder's dtype; each distinct prompt is encoded once.

        Differentiable in the text encoder's weights unless the caller switched gradients off.
        """
        distinct = list(dict.fromkeys(prompts))
        features, _ = self.encode_prompt(distinct, self._execution_device, 1, False, lora_scale=lora_scale)
        return features[[distinct.index(prompt) for prompt in prompts]]

    def encode_weighted_prompts(
        self, prompts: Sequence[str], *, num_chunks: int | None = None, lora_scale: float | None = None
    ) -> torch.Tensor:
        """Text features ``(B, C * L, D)`` of B prompts with word weights, L being the tokenizer's length.

        Args:
            prompts: texts, see :mod:`.prompt_weights` for the syntax.
            num_chunks: C; None takes what the longest prompt needs.
            lora_scale: of a LoRA in the text encoder.

        Raises:
            ValueError: a prompt needs more chunks than ``num_chunks``.
        """
        return encode_weighted_prompts(self, prompts, num_chunks, lora_scale)

    def encode_both(
        self,
        prompts: Sequence[str],
        negative_prompts: Sequence[str],
        weighted: bool,
        num_chunks: int | None,
        lora_scale: float | None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Text features of prompts and of what to guide away from; the arguments are those of the two above."""
        if not weighted:
            return (
                self.encode_prompts(prompts, lora_scale=lora_scale),
                self.encode_prompts(negative_prompts, lora_scale=lora_scale),
            )
        texts = [*prompts, *negative_prompts]
        features = self.encode_weighted_prompts(texts, num_chunks=num_chunks, lora_scale=lora_scale)
        return features[: len(prompts)], features[len(prompts) :]

    def count_prompt_chunks(self, prompts: Iterable[str]) -> int:
        """Tokenizer lengths that the longest of the weighted prompts takes."""
        return count_prompt_chunks(self, prompts)

    def default_mask_settings(self) -> MaskSettings:
        """The mask settings for this model's UNet."""
        return default_mask_settings(len(self.unet.config.down_block_types))

    def denoiser(
        self,
        latents: torch.Tensor,
        timestep: torch.Tensor,
        prompt_embeds: torch.Tensor,
        cross_attention_kwargs: dict[str, Any] | None = None,
    ) -> torch.Tensor:
        """The UNet's prediction ``(B, C, h, w)`` (noise or velocity, as the scheduler's ``prediction_type`` says).

        Args:
            latents: ``(B, C, h, w)`` after ``scheduler.scale_model_input``.
            timestep: ``()`` or ``(B,)``.
            prompt_embeds: ``(B, L, D)``.
            cross_attention_kwargs: handed to the attention processors.
        """
        return self.unet(
            latents,
            timestep,
            encoder_hidden_states=prompt_embeds,
            cross_attention_kwargs=cross_attention_kwargs,
            return_dict=False,
        )[0]

    def decode_latents(self, latents: torch.Tensor) -> torch.Tensor:
        """Images ``(B, 3, H, W)``, nominally in [0, 1] but not clamped, so that no gradient is lost, of latents
        ``(B, C, h, w)``."""
        decoded = self.vae.decode(latents.to(self.vae.dtype) / self.vae.config.scaling_factor, return_dict=False)[0]
        return decoded * 0.5 + 0.5

    def encode_images(self, images: torch.Tensor) -> torch.Tensor:
        """Scaled latents ``(B, C, h, w)`` of ``images (B, 3, H, W)`` in [0, 1]: the means of the VAE's posterior, so
        that nothing is drawn."""
        posterior = self.vae.encode((images * 2 - 1).to(self._execution_device, self.vae.dtype)).latent_dist
        return posterior.mode() * self.vae.config.scaling_factor

    def latent_shape(self, height: int | None = None, width: int | None = None) -> tuple[int, int, int]:
        """``(C, h, w)`` of one sample's latents for an image of that many pixels; None takes the model's own size.

        Raises:
            ValueError: a size that is not a positive multiple of 8 and of the VAE's factor.
        """
        config = self.unet.config
        return latent_shape(config.in_channels, config.sample_size, self.vae_scale_factor, height, width)

    def image_size(self, height: int | None = None, width: int | None = None) -> tuple[int, int]:
        """(H, W) in pixels of an image of the size asked for; None takes the model's own."""
        _, *sides = self.latent_shape(height, width)
        return sides[0] * self.vae_scale_factor, sides[1] * self.vae_scale_factor

    def check_prompt_lengths(self, prompts: Sequence[str], class_names: Sequence[str] | None = None) -> None:
        """Raise ``ValueError`` naming the first of the prompts (and its class) that the tokenizer would cut."""
        texts = [str(self.maybe_convert_prompt(prompt, self.tokenizer)) for prompt in prompts]
        check_prompt_lengths(self.tokenizer, texts, prompts if class_names is None else class_names)

    def blacken_flagged(self, images: torch.Tensor) -> tuple[torch.Tensor, list[bool]]:
        """Run the model's safety checker, if any, on ``images (B, 3, H, W)`` in [0, 1]; flagged ones become black."""
        if self.safety_checker is None:
            return images, []
        # the checker reads [-1, 1] and writes into what it is given
        _, flagged = self.run_safety_checker(images * 2 - 1, images.device, images.dtype)
        flagged = [bool(flag) for flag in flagged or []]
        images[torch.tensor(flagged, device=images.device)] = 0
        return images, flagged
