"""Stable Diffusion 1.x and 2.x: the family, and the pipeline that diffusers loads as a ``custom_pipeline`` too.

That loader copies this file and the siblings that it names itself, found by a regular expression over the text. So
every helper is named here, flat, and no other module of the package is.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from diffusers import StableDiffusionPipeline

from .call_arguments import TextSettings
from .conditioning import Conditioning
from .family import Family
from .mask_attention import UNetMaskAttention
from .mask_settings import MaskSettings, default_mask_settings
from .pipeline_call import ClassNameCall
from .prompt_encoding import check_prompt_lengths, encode_weighted_prompts

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
    from .prompt_weights import Fragment  # noqa: F401
    from .sample_seeds import sample_seed  # noqa: F401
    from .sampling_features import Walk  # noqa: F401
    from .saved_code import code_files  # noqa: F401
    from .scheduler_noise import is_flow_scheduler  # noqa: F401
    from .source_images import SourceImages  # noqa: F401


class StableDiffusionParts(Family):
    """What of Stable Diffusion the call is made of; the members are described in :class:`.Family`.

    Itself it is no pipeline: the loader takes the one that is alone in its file.
    """

    denoiser_part = "unet"
    text_encoder_parts = ("text_encoder",)
    lora_targets = ("to_q", "to_k", "to_v", "to_out.0")
    default_num_inference_steps = 50
    default_guidance_scale = 2.0
    default_gpu_dtype = "float16"
    has_word_weights = True
    has_textual_inversion = True
    has_kept_features = True

    unet: Any
    text_encoder: Any
    tokenizer: Any
    safety_checker: Any
    encode_prompt: Any
    maybe_convert_prompt: Any
    run_safety_checker: Any

    def with_scheduler(self, scheduler: Any) -> Any:
        # without this diffusers warns of a missing checker, which it cannot tell from one that was left out
        has_checker = {"requires_safety_checker": self.safety_checker is not None}
        return type(self)(**{**self.components, "scheduler": scheduler}, **has_checker)  # pyright: ignore

    def family_misfit(self) -> str | None:
        """Why the parts that were loaded make no Stable Diffusion 1.x or 2.x, to follow the model's name; or None.

        SDXL and inpainting checkpoints have parts of the same names.
        """
        return self.widths_misfit(
            channels=self.vae.config.latent_channels,
            text=(self.unet.config.cross_attention_dim, self.text_encoder.config.hidden_size),
            title="Stable Diffusion 1.x or 2.x",
        )

    def encode(
        self, prompts: Sequence[str], text: TextSettings | None = None, *, lora_scale: float | None = None
    ) -> list[Conditioning]:
        """One record of ``encoder_hidden_states`` for each prompt: ``(L, D)``, or ``(C * L, D)`` of C chunks where
        word weights are read; see :meth:`.Family.encode`."""
        text = text or TextSettings()
        if text.weighted:
            features = self.encode_weighted_prompts(prompts, num_chunks=text.num_chunks, lora_scale=lora_scale)
        else:
            # each distinct prompt once
            distinct = list(dict.fromkeys(prompts))
            features, _ = self.encode_prompt(distinct, self._execution_device, 1, False, lora_scale=lora_scale)
            features = features[[distinct.index(prompt) for prompt in prompts]]
        return [Conditioning({"encoder_hidden_states": row}) for row in features]

    def given_conditioning(self, prompt_embeds: Any) -> Conditioning:
        if isinstance(prompt_embeds, torch.Tensor):
            return Conditioning({"encoder_hidden_states": prompt_embeds})
        return super().given_conditioning(prompt_embeds)

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

    @property
    def mask_attention(self) -> UNetMaskAttention:
        return UNetMaskAttention(self)

    @classmethod
    def mask_settings_of(cls, config: Mapping[str, Any]) -> MaskSettings:
        """The mask settings for a UNet of that configuration."""
        return default_mask_settings(len(config["down_block_types"]))

    def predict(
        self,
        latents: torch.Tensor,
        timestep: torch.Tensor,
        conditioning: Conditioning,
        *,
        attention_kwargs: dict[str, Any] | None = None,
        network: Any | None = None,
    ) -> torch.Tensor:
        return (self.unet if network is None else network)(
            latents,
            timestep,
            **conditioning.tensors,
            cross_attention_kwargs=attention_kwargs,
            return_dict=False,
        )[0]

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


class UbGenPipeline(ClassNameCall, StableDiffusionParts, StableDiffusionPipeline):
    """Draws labelled images from class names with any SD1.x or SD2.x checkpoint in diffusers layout.

    Loading, LoRA, textual inversion, offloading and schedulers are those of ``StableDiffusionPipeline``. A sample is
    set by its prompt, its seed and the settings: equal seeds give equal latents whatever the batch.
    """

    example_model = "stable-diffusion-v1-5/stable-diffusion-v1-5"
