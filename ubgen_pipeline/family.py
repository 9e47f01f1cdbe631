"""What the rest of ubgen asks of a family of models: the members that a file like ``pipeline.py`` gives.

Another family is another file: a class with these members, and a class of a few lines that mixes it and the call into
diffusers' own pipeline of that family, whose loading, LoRA, offloading and saving stay as they are. The loop's state
is a plain grid of latents for every family; one that packs it into tokens does so inside ``predict``.

Shapes: B samples, C x h x w latents, H x W pixels.
"""

from collections.abc import Sequence
from typing import Any

import torch

from .call_arguments import TextSettings
from .conditioning import Conditioning, padded_batch
from .latent_denoising import classifier_free_guidance
from .mask_settings import MaskSettings


class Family:
    """Members of a family, mixed in before diffusers' pipeline; those that raise are the family's own to give.

    Attributes:
        denoiser_part: name of the network that predicts, in diffusers' layout.
        text_encoder_parts: names of the text encoders.
        lora_targets: the layers of the denoiser that a LoRA is attached to.
        default_num_inference_steps, default_guidance_scale: of a call that says nothing of them.
    """

    denoiser_part: str
    text_encoder_parts: tuple[str, ...]
    lora_targets: tuple[str, ...]
    default_num_inference_steps: int
    default_guidance_scale: float

    # of diffusers' pipeline
    scheduler: Any
    vae: Any
    vae_scale_factor: int
    _execution_device: Any
    components: dict[str, Any]

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

    def with_scheduler(self, scheduler: Any) -> Any:
        """A second pipeline on the same networks."""
        return type(self)(**{**self.components, "scheduler": scheduler})

    def family_misfit(self) -> str | None:
        """Why the parts that were loaded are not of this family, to follow the model's name; None where they are."""
        raise NotImplementedError

    def encode(
        self, prompts: Sequence[str], text: TextSettings | None = None, *, lora_scale: float | None = None
    ) -> list[Conditioning]:
        """What the denoiser is conditioned on for each of the prompts, in the text encoder's dtype.

        Where an image must not depend on which other prompts are asked for, encode one at a time: batches of other
        sizes round differently. Differentiable in the text encoder unless the caller switched gradients off.

        Args:
            prompts: texts.
            text: how they are read.
            lora_scale: of a LoRA in the text encoder.

        Raises:
            ValueError: settings that the family does not know, or that a prompt does not fit.
        """
        raise NotImplementedError

    def batch(self, rows: Sequence[Conditioning]) -> Conditioning:
        """Prompts as one record of B rows."""
        return padded_batch(rows)

    def given_conditioning(self, prompt_embeds: Any) -> Conditioning:
        """K prompts' conditioning of what a caller gave as ``prompt_embeds``.

        Raises:
            ValueError: something else than a record, which families of several tensors need.
        """
        if isinstance(prompt_embeds, Conditioning):
            return prompt_embeds
        raise ValueError(f"prompt_embeds is a {type(prompt_embeds).__name__}; give what batch(encode(prompts)) gives.")

    def latent_shape(self, height: int | None = None, width: int | None = None) -> tuple[int, int, int]:
        """``(C, h, w)`` of one sample's latents for an image of that many pixels; None takes the model's own size.

        Raises:
            ValueError: a size that the model cannot draw.
        """
        raise NotImplementedError

    def image_size(self, height: int | None = None, width: int | None = None) -> tuple[int, int]:
        """(H, W) in pixels of an image of the size asked for; None takes the model's own."""
        _, *sides = self.latent_shape(height, width)
        return sides[0] * self.vae_scale_factor, sides[1] * self.vae_scale_factor

    def timesteps(self, num_steps: int, shape: tuple[int, int, int]) -> torch.Tensor:
        """Prepare the scheduler for latents of that shape and give its timesteps ``(T,)``; T may be above
        ``num_steps``. Also clears the history that multistep schedulers keep."""
        self.scheduler.set_timesteps(num_steps, device=self._execution_device)
        return self.scheduler.timesteps

    def predict(
        self,
        latents: torch.Tensor,
        timestep: torch.Tensor,
        conditioning: Conditioning,
        *,
        attention_kwargs: dict[str, Any] | None = None,
        network: Any | None = None,
    ) -> torch.Tensor:
        """The denoiser's prediction ``(B, C, h, w)``, of what the scheduler's ``prediction_type`` names.

        Args:
            latents: ``(B, C, h, w)`` after ``scheduler.scale_model_input``.
            timestep: ``()`` or ``(B,)``.
            conditioning: of B rows.
            attention_kwargs: handed to the attention layers.
            network: called instead of :attr:`denoiser_network`, for example a copy of it that is compiled.
        """
        raise NotImplementedError

    def guide(self, conditional: torch.Tensor, unconditional: torch.Tensor, scale: float) -> torch.Tensor:
        """The guided prediction ``(B, C, h, w)`` of the two that the loop asks for where ``scale`` is above 1."""
        return classifier_free_guidance(conditional, unconditional, scale)

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Images ``(B, 3, H, W)``, nominally in [0, 1] but not clamped, so that no gradient is lost, of latents
        ``(B, C, h, w)``."""
        raise NotImplementedError

    def encode_images(self, images: torch.Tensor) -> torch.Tensor:
        """Latents ``(B, C, h, w)``, scaled as the loop takes them, of ``images (B, 3, H, W)`` in [0, 1]: nothing is
        drawn at random."""
        raise NotImplementedError

    def check_prompt_lengths(self, prompts: Sequence[str], class_names: Sequence[str] | None = None) -> None:
        """Raise ``ValueError`` naming the first of the prompts (and its class) that the tokenizer would cut."""
        raise NotImplementedError

    def default_mask_settings(self) -> MaskSettings:
        """The mask settings for this model's attention."""
        raise NotImplementedError

    def blacken_flagged(self, images: torch.Tensor) -> tuple[torch.Tensor, list[bool]]:
        """Run the model's safety checker, if any, on ``images (B, 3, H, W)`` in [0, 1]; flagged ones become black."""
        return images, []
