"""What the rest of ubgen asks of a family of models: the members that a file like ``pipeline.py`` gives.

Another family is another file: a class with these members, and a class of a few lines that mixes it and the call into
diffusers' own pipeline of that family, whose loading, LoRA, offloading and saving stay as they are. The loop's state
is a plain grid of latents for every family; one that packs it into tokens does so inside ``predict``.

Shapes: B samples, C x h x w latents, H x W pixels.
"""

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from diffusers.utils.peft_utils import scale_lora_layers, unscale_lora_layers

from .call_arguments import TextSettings, latent_shape
from .conditioning import Conditioning, padded_batch
from .latent_denoising import classifier_free_guidance
from .mask_settings import MaskSettings
from .prompt_encoding import check_prompt_lengths, count_prompt_chunks
from .scheduler_noise import has_time

GUIDANCE_KINDS = ("classifier-free", "embedded", "none")


class Family:
    """Members of a family, mixed in before diffusers' pipeline; those that raise are the family's own to give.

    What may depend on the configuration that was loaded is a property in the family's file.

    Attributes:
        denoiser_part: name of the network that predicts, in diffusers' layout.
        text_encoder_parts: names of the text encoders.
        optional_parts: of the text encoders and their tokenizers those that a model may come without.
        lora_targets: the layers of the denoiser that a LoRA is attached to.
        lora_file: what a LoRA is saved as; another name than diffusers' own where diffusers loads none for the family.
        default_num_inference_steps, default_guidance_scale: of a call that says nothing of them.
        default_gpu_dtype: precision of the weights on a GPU, by torch's name; elsewhere it is float32.
        guidance: how the guidance scale takes part, one of :data:`GUIDANCE_KINDS`. ``classifier-free``: two
            predictions are combined. ``embedded``: the denoiser reads the number, as ``conditioning["guidance"]``.
            ``none``: of a distilled model, it has no effect.
        has_true_guidance: whether the call's ``true_cfg_scale`` can guide away from a negative prompt beside what
            ``guidance`` says, by a second prediction.
        upcasts_vae: whether a VAE whose configuration says that it overflows in float16 is run in float32 instead.
        has_word_weights: whether ``encode`` reads word weights (``star++``).
        has_textual_inversion: whether its text encoder can learn words (textual inversion).
        has_kept_features: whether deep layers of the denoiser can be left out at some steps.
        text_position: where text lies among the tokens of joint attention, ``first`` or ``last``; None where text has
            attention of its own.
        title: what checkpoints of the family are called, in errors; of families with one text encoder.
        text_width_name: what the denoiser's configuration calls the width of the text features that it takes; of the
            same.
        example_model: Hub id of a checkpoint, for cards and pages.
        licence_note: what to know of the licence of popular checkpoints before their images train other models.
    """

    denoiser_part: str
    text_encoder_parts: tuple[str, ...]
    optional_parts: tuple[str, ...] = ()
    lora_targets: tuple[str, ...]
    lora_file: str = "pytorch_lora_weights.safetensors"
    default_num_inference_steps: int
    default_guidance_scale: float
    default_gpu_dtype: str = "bfloat16"
    guidance: str = "classifier-free"
    has_true_guidance: bool = False
    upcasts_vae: bool = False
    has_word_weights: bool = False
    has_textual_inversion: bool = False
    has_kept_features: bool = False
    text_position: str | None = None
    title: str
    text_width_name: str
    example_model: str
    licence_note: str | None = None

    # of diffusers' pipeline
    safety_checker: Any = None
    tokenizer: Any
    text_encoder: Any
    scheduler: Any
    vae: Any
    vae_scale_factor: int
    _execution_device: Any
    components: dict[str, Any]
    config: Any

    @property
    def denoiser_network(self) -> Any:
        """The network that predicts: what is trained, compiled, and given a LoRA."""
        return getattr(self, self.denoiser_part)

    @property
    def text_networks(self) -> dict[str, Any]:
        """The text encoders by their names in diffusers' layout."""
        parts = {name: getattr(self, name) for name in self.text_encoder_parts}
        return {name: part for name, part in parts.items() if part is not None}

    @property
    def networks(self) -> dict[str, Any]:
        """All networks that an image comes from, by name: denoiser, VAE, text encoders."""
        return {self.denoiser_part: self.denoiser_network, "vae": self.vae, **self.text_networks}

    @property
    def model_name(self) -> str:
        """What the model is called: its folder's name, or its repository's; nothing where it was built of parts."""
        path = Path(str(self.config.get("_name_or_path") or ""))
        # the Hub's cache keeps the files of a model in models--OWNER--NAME/snapshots/COMMIT
        return path.parts[-3] if path.parent.name == "snapshots" else path.name

    def with_scheduler(self, scheduler: Any) -> Any:
        """A second pipeline on the same networks."""
        # numbers and switches of the pipeline itself, such as SDXL's force_zeros_for_empty_prompt
        accepted = inspect.signature(type(self).__init__).parameters
        own = {name: value for name, value in self.config.items() if name in accepted}
        return type(self)(**{**own, **self.components, "scheduler": scheduler})

    @classmethod
    def licence_note_of(cls, config: Mapping[str, Any]) -> str | None:
        """:attr:`licence_note`, for a family whose checkpoints differ by their denoiser's configuration."""
        return cls.licence_note

    def defaults_note(self) -> str | None:
        """What to say once of steps and guidance where the model's configuration and name leave open whether it is
        made for a few steps; None where they do not."""
        return None

    @classmethod
    def lacking_part(cls, index: Mapping[str, Any]) -> str | None:
        """Why a model is not whole whose ``model_index.json`` holds this, to follow its name; None where it is."""
        tokenizers = (name.replace("text_encoder", "tokenizer") for name in cls.text_encoder_parts)
        for part in (cls.denoiser_part, "vae", "scheduler", *cls.text_encoder_parts, *tokenizers):
            named = index.get(part)
            if part not in cls.optional_parts and not (isinstance(named, (list, tuple)) and all(named)):
                return cls.without_part(part)
        return None

    @classmethod
    def without_part(cls, part: str) -> str:
        """What is said of a model that lacks a part which the family needs, to follow its name."""
        return f"which has no {part}; give a complete checkpoint"

    def family_misfit(self) -> str | None:
        """Why the parts that were loaded are not of this family, to follow the model's name; None where they are.

        Here of families with one text encoder, by :attr:`title` and :attr:`text_width_name`."""
        taken = self.denoiser_network.config[self.text_width_name]
        return self.widths_misfit(
            channels=self.vae.config.latent_channels,
            text=(taken, self.text_encoder.config.get_text_config().hidden_size),
            title=self.title,
        )

    def widths_misfit(self, *, channels: int, text: tuple[int, int], title: str) -> str | None:
        """:meth:`family_misfit` by what the denoiser takes: ``channels`` beside the VAE's, and ``text``: the width of
        its text features beside that of the text encoder. ``title`` is what checkpoints of the family are called."""
        taken = self.denoiser_network.config.in_channels
        if taken == channels and text[0] == text[1]:
            return None
        network = "UNet" if self.denoiser_part == "unet" else self.denoiser_part
        return (
            f"whose {network} takes {taken} channels and text features {text[0]} wide beside a VAE that gives"
            f" {channels} and text features of {text[1]}; give a text-to-image checkpoint of {title}"
        )

    def encode(
        self, prompts: Sequence[str], text: TextSettings | None = None, *, lora_scale: float | None = None
    ) -> list[Conditioning]:
        """What the denoiser is conditioned on for each of the prompts, in the text encoder's dtype.

        Each distinct prompt is encoded once, and alone, since batches of other sizes round differently, and an image
        must not depend on which other prompts are asked for. Differentiable in the text encoder unless the caller
        switched gradients off.

        Args:
            prompts: texts.
            text: how they are read.
            lora_scale: of a LoRA in the text encoder.

        Raises:
            ValueError: settings that the family does not know, or that a prompt does not fit.
        """
        text = text or TextSettings()
        if text.weighted and not self.has_word_weights:
            raise ValueError(
                f"weighted_prompts is True, and {type(self).__name__} reads no word weights; leave it out."
            )
        rows = {prompt: self.encode_one(prompt, text, lora_scale) for prompt in dict.fromkeys(prompts)}
        return [rows[prompt] for prompt in prompts]

    def count_prompt_chunks(self, prompts: Sequence[str]) -> int:
        """Tokenizer lengths that the longest of the prompts takes, where word weights are read."""
        return count_prompt_chunks(self, prompts)

    def encode_one(self, prompt: str, text: TextSettings, lora_scale: float | None) -> Conditioning:
        """The record of one prompt, for :meth:`encode`."""
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
        channels, own_size, factor = self.num_latent_channels, self.own_latent_size, self.pixels_per_latent
        return latent_shape(channels, own_size, factor, height, width, patch=self.latents_per_token)

    @property
    def num_latent_channels(self) -> int:
        """C of the loop's latents."""
        return self.denoiser_network.config.in_channels

    @property
    def own_latent_size(self) -> int | tuple[int, int]:
        """(h, w) of the model's own size, or the side of a square."""
        return self.denoiser_network.config.sample_size

    @property
    def latents_per_token(self) -> int:
        """Latents a side of what the denoiser reads as one token."""
        return self.denoiser_network.config.get("patch_size", 1)

    def image_size(self, height: int | None = None, width: int | None = None) -> tuple[int, int]:
        """(H, W) in pixels of an image of the size asked for; None takes the model's own."""
        _, *sides = self.latent_shape(height, width)
        return sides[0] * self.pixels_per_latent, sides[1] * self.pixels_per_latent

    @property
    def pixels_per_latent(self) -> int:
        """Pixels a side of what one latent of :meth:`latent_shape` becomes."""
        return self.vae_scale_factor

    @property
    def latents_dtype(self) -> torch.dtype:
        """Precision of the loop's latents."""
        return self.denoiser_network.dtype

    def timesteps(self, num_steps: int, shape: tuple[int, int, int]) -> torch.Tensor:
        """Prepare the scheduler for latents of that shape and give its timesteps ``(T,)``; T may be above
        ``num_steps``. Also clears the history that multistep schedulers keep. A family of flow matching gives sigmas
        and the shift with :func:`.scheduler_noise.set_flow_timesteps`."""
        self.scheduler.set_timesteps(num_steps, device=self._execution_device)
        return self.scheduler.timesteps

    def noise_time(self, timestep: torch.Tensor) -> float:
        """How far ``timestep ()`` is from a clean image, from 0 to 1, noise alone."""
        return float(timestep) / self.scheduler.config.num_train_timesteps

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
            latents: ``(B, C, h, w)`` as :func:`.scheduler_noise.model_input` gives them.
            timestep: ``()`` or ``(B,)``.
            conditioning: of B rows; its ``guidance (B,)`` is the number of a model whose guidance is embedded.
            attention_kwargs: handed to the attention layers.
            network: called instead of :attr:`denoiser_network`, for example a copy of it that is compiled.
        """
        raise NotImplementedError

    @contextmanager
    def scaled_lora(self, attention_kwargs: dict[str, Any] | None) -> Iterator[dict[str, Any] | None]:
        """The other ``attention_kwargs`` where ``scale`` is that of the denoiser's LoRA inside the ``with``; for
        denoisers that do not scale it themselves, as most of diffusers' do."""
        kwargs = dict(attention_kwargs or {})
        scale = kwargs.pop("scale", 1.0)
        scale_lora_layers(self.denoiser_network, scale)
        try:
            yield kwargs or None
        finally:
            unscale_lora_layers(self.denoiser_network, scale)

    def with_guidance(self, conditioning: Conditioning, scale: float) -> tuple[Conditioning, float]:
        """B rows with the number that the denoiser itself reads, and the scale that the loop guides with: 1 where it
        combines no predictions."""
        if self.guidance == "classifier-free":
            return conditioning, scale
        if self.guidance == "none":
            return conditioning, 1.0
        numbers = torch.full((conditioning.num_rows,), float(scale), device=self._execution_device)
        return conditioning.with_tensor("guidance", numbers), 1.0

    @classmethod
    def stock_guidance(cls, scale: float) -> dict[str, Any]:
        """Arguments that diffusers' own call of this family takes for guidance of that scale, which counts from 1."""
        return {"guidance_scale": scale}

    def guide(self, conditional: torch.Tensor, unconditional: torch.Tensor, scale: float) -> torch.Tensor:
        """The guided prediction ``(B, C, h, w)`` of the two that the loop asks for where ``scale`` is above 1."""
        return classifier_free_guidance(conditional, unconditional, scale)

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Images ``(B, 3, H, W)``, nominally in [0, 1] but not clamped, so that no gradient is lost, of latents
        ``(B, C, h, w)``."""
        self._widen_vae()
        decoded = self.vae.decode(self.unscaled_latents(latents.to(self.vae.dtype)), return_dict=False)[0]
        images = decoded * 0.5 + 0.5
        return images.to(latents.dtype) if self.upcasts_vae else images

    def encode_images(self, images: torch.Tensor) -> torch.Tensor:
        """Latents ``(B, C, h, w)``, scaled as the loop takes them, of ``images (B, 3, H, W)`` in [0, 1]: the means of
        the VAE's posterior, so that nothing is drawn at random."""
        self._widen_vae()
        encoded = self.vae.encode((images * 2 - 1).to(self._execution_device, self.vae.dtype))
        # an autoencoder without a posterior gives the latents themselves
        latents = encoded.latent_dist.mode() if hasattr(encoded, "latent_dist") else encoded.latent
        return self.scaled_latents(latents)

    def _widen_vae(self) -> None:
        if self.upcasts_vae and self.vae.dtype == torch.float16 and self.vae.config.force_upcast:
            self.vae.to(torch.float32)

    def unscaled_latents(self, latents: torch.Tensor) -> torch.Tensor:
        """The VAE's latents of the loop's ``(B, C, h, w)``."""
        config = self.vae.config
        return latents / config.scaling_factor + (config.get("shift_factor") or 0)

    def scaled_latents(self, latents: torch.Tensor) -> torch.Tensor:
        """The loop's latents ``(B, C, h, w)`` of the VAE's."""
        config = self.vae.config
        return (latents - (config.get("shift_factor") or 0)) * config.scaling_factor

    @property
    def prompt_tokenizer(self) -> Any:
        """Tokenizes a prompt for the text encoder that reads the most of it, as the family does, its template included
        if it has one; gives ``offset_mapping`` in the prompt."""
        return self.tokenizer

    @property
    def prompt_tokens(self) -> int:
        """Its tokens that the model reads, start and end and a template included."""
        return getattr(self, "max_sequence_length", None) or self.tokenizer.model_max_length

    def check_prompt_lengths(self, prompts: Sequence[str], class_names: Sequence[str] | None = None) -> None:
        """Raise ``ValueError`` naming the first of the prompts (and its class) that the tokenizer would cut."""
        names = prompts if class_names is None else class_names
        check_prompt_lengths(self.prompt_tokenizer, prompts, names, limit=self.prompt_tokens)

    @property
    def mask_attention(self) -> Any:
        """How masks are made of this model's attention: a :class:`.MaskAttention`.

        Raises:
            ValueError: no masks are made of this family's attention.
        """
        raise _no_masks(type(self))

    @classmethod
    def mask_settings_of(cls, config: Mapping[str, Any]) -> MaskSettings:
        """The mask settings for the attention of a denoiser of that configuration.

        Raises:
            ValueError: no masks are made of this family's attention.
        """
        raise _no_masks(cls)

    def default_mask_settings(self) -> MaskSettings:
        """:meth:`mask_settings_of` the denoiser that was loaded."""
        return self.mask_settings_of(self.denoiser_network.config)

    def blacken_flagged(self, images: torch.Tensor) -> tuple[torch.Tensor, list[bool]]:
        """Run the model's safety checker, if any, on ``images (B, 3, H, W)`` in [0, 1]; flagged ones become black."""
        return images, []


def _no_masks(family: type[Family]) -> ValueError:
    return ValueError(
        f"annotations from attention are not there for {family.__name__}; leave annotations out, and label the"
        " finished dataset with `ubgen annotate`."
    )


def check_effects(
    family: Family,
    *,
    guidance_scale: float | None = None,
    negative_prompt: str | Sequence[str] | None = None,
    weighted_prompts: bool = False,
    guidance_until: float = 1.0,
    deep_features_every: int = 1,
    eta: float = 0.0,
    true_cfg_scale: float | None = None,
    diversity: object = None,
    guidance_interval: Sequence[float] | None = None,
) -> None:
    """Refuse by name what has no effect on a model, instead of drawing the images without it.

    Args:
        family: the loaded pipeline.
        guidance_scale: None was not given.
        negative_prompt, weighted_prompts, guidance_until, deep_features_every, eta, diversity, guidance_interval: as
            the call takes them.
        true_cfg_scale: None was not given.

    Raises:
        ValueError: naming the first that has no effect.
    """
    model, guidance = type(family).__name__, family.guidance
    if true_cfg_scale is not None and not family.has_true_guidance:
        instead = "give guidance_scale instead" if guidance == "classifier-free" else "leave it out"
        raise ValueError(f"true_cfg_scale is {true_cfg_scale}, which {model} does not read; {instead}.")
    is_guided = guidance == "classifier-free" or (true_cfg_scale is not None and true_cfg_scale > 1)
    or_truly = ", or give true_cfg_scale above 1" if family.has_true_guidance else ""
    if guidance == "none" and guidance_scale is not None and guidance_scale > 1:
        raise ValueError(
            f"guidance_scale is {guidance_scale}, which has no effect on this distilled model; leave it out."
        )
    if not is_guided and negative_prompt and any(negative_prompt):
        raise ValueError(
            f"negative_prompt is {negative_prompt!r}, and this model is not guided away from anything; leave it"
            f" out{or_truly}."
        )
    if not is_guided and guidance_until < 1:
        raise ValueError(
            f"guidance_until is {guidance_until}, and this model has no second prediction to leave out; give"
            f" 1{or_truly}."
        )
    if guidance_interval is not None:
        scale = family.default_guidance_scale if guidance_scale is None else guidance_scale
        if not is_guided or (guidance == "classifier-free" and scale <= 1):
            why = f"guidance_scale is {scale}" if is_guided else "this model is not guided by a second prediction"
            raise ValueError(f"guidance_interval is {list(guidance_interval)}, and {why}; leave it out{or_truly}.")
        if guidance_until < 1:
            raise ValueError(
                f"guidance_interval is {list(guidance_interval)} beside guidance_until {guidance_until}; give one of"
                " them."
            )
    if diversity is not None and not has_time(family.scheduler):
        raise ValueError(
            f"diversity is {diversity!r}, and the timesteps of {type(family.scheduler).__name__} are no share of its"
            " noise; leave it out, or take another scheduler."
        )
    if weighted_prompts and not family.has_word_weights:
        raise ValueError(f"weighted_prompts is True, and {model} reads no word weights; give prompts without them.")
    if deep_features_every > 1 and not family.has_kept_features:
        raise ValueError(
            f"deep_features_every is {deep_features_every}, and the layers of {model} cannot be left out; give 1."
        )
    if eta and "eta" not in inspect.signature(family.scheduler.step).parameters:
        raise ValueError(
            f"eta is {eta}, which {type(family.scheduler).__name__} does not read; leave it out, or take DDIM."
        )
