"""Stable Diffusion 3 and 3.5: the family, and the pipeline that diffusers loads as a ``custom_pipeline`` too.

As for ``pipeline.py``, the loader copies the siblings that this file names itself. Follows diffusers'
``StableDiffusion3Pipeline``, whose images the tests compare with. Skip-layer guidance and image prompts are left out.

Shapes: B samples, C x h x w latents, H x W pixels; L tokens of text, D width of their features.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from diffusers import StableDiffusion3Pipeline

from .call_arguments import TextSettings
from .conditioning import Conditioning
from .family import Family
from .mask_attention import JointMaskAttention
from .mask_settings import MaskSettings, small_joint_settings
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


# blocks of 3.5 large and of its turbo
LARGE_NUM_LAYERS = 38


class StableDiffusion3Parts(Family):
    """What of Stable Diffusion 3 the call is made of; the members are described in :class:`.Family`.

    The third text encoder, a T5 larger than the denoiser, may be left out (``text_encoder_3=None,
    tokenizer_3=None``); its features are zeros then, as in training (Esser et al. 2024, section 5.3).

    Attributes:
        max_sequence_length: tokens that the T5 reads of a prompt, or zeros in their place.
    """

    denoiser_part = "transformer"
    text_encoder_parts = ("text_encoder", "text_encoder_2", "text_encoder_3")
    optional_parts = ("text_encoder_3", "tokenizer_3")
    text_position = "last"
    licence_note = (
        "Stable Diffusion 3 and 3.5 are under Stability's community licence: free below a yearly revenue of one"
        " million US dollars, and not for training a foundational generative model on their images."
    )
    max_sequence_length = 256

    transformer: Any
    text_encoder: Any
    text_encoder_2: Any
    text_encoder_3: Any
    tokenizer: Any
    tokenizer_2: Any
    tokenizer_3: Any
    tokenizer_max_length: int
    encode_prompt: Any

    @property
    def is_distilled(self) -> bool:
        """Whether this is 3.5 large turbo, by the model's name alone: its configurations are those of 3.5 large."""
        return "turbo" in self.model_name.lower()

    def defaults_note(self) -> str | None:
        name, num_layers = self.model_name.lower(), self.transformer.config.num_layers
        # both of 3.5 large are as deep, and no other model is
        if num_layers != LARGE_NUM_LAYERS or "turbo" in name or "large" in name:
            return None
        return (
            "this model is configured as Stable Diffusion 3.5 large and its turbo are, and its name says neither:"
            " steps and guidance are large's. For turbo give num_inference_steps 4 and guidance_scale 1."
        )

    @property
    def default_num_inference_steps(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return 4 if self.is_distilled else 28

    @property
    def default_guidance_scale(self) -> float:  # pyright: ignore[reportIncompatibleVariableOverride]
        # of Stability's examples for 3.5 medium
        return 1.0 if self.is_distilled else 4.5

    @property
    def lora_targets(self) -> tuple[str, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        # the last block drops what its text queries find, so a LoRA on those would stay what it is
        queries = [
            f"transformer_blocks.{row}.attn.add_q_proj" for row in range(self.transformer.config.num_layers - 1)
        ]
        return ("to_q", "to_k", "to_v", "to_out.0", "add_k_proj", "add_v_proj", "to_add_out", *queries)

    @classmethod
    def without_part(cls, part: str) -> str:
        return f"which has no {part}; only text_encoder_3, the T5, may be left out, with its tokenizer"

    def family_misfit(self) -> str | None:
        """Why the parts that were loaded make no Stable Diffusion 3, to follow the model's name; or None."""
        for name in ("text_encoder", "text_encoder_2"):
            if getattr(self, name) is None:
                return self.without_part(name)
        transformer, channels = self.transformer.config, self.vae.config.latent_channels
        if transformer.in_channels != channels:
            return f"whose transformer takes {transformer.in_channels} channels beside a VAE of {channels}"
        pooled = self.text_encoder.config.projection_dim + self.text_encoder_2.config.projection_dim
        if transformer.pooled_projection_dim != pooled:
            return (
                f"whose transformer takes {transformer.pooled_projection_dim} pooled features beside CLIPs of {pooled}"
            )
        width = self.text_encoder.config.hidden_size + self.text_encoder_2.config.hidden_size
        if transformer.joint_attention_dim < width:
            return (
                f"whose transformer takes text features {transformer.joint_attention_dim} wide beside CLIPs of {width}"
            )
        if self.text_encoder_3 is not None and self.text_encoder_3.config.d_model != transformer.joint_attention_dim:
            t5 = self.text_encoder_3.config.d_model
            return f"whose transformer takes text features {transformer.joint_attention_dim} wide beside a T5 of {t5}"
        return None

    def encode_one(self, prompt: str, text: TextSettings, lora_scale: float | None) -> Conditioning:
        """``encoder_hidden_states (L, D)``, both CLIPs' tokens before the T5's, and ``pooled_projections``."""
        embeds, _, pooled, _ = self.encode_prompt(
            [prompt],
            None,
            None,
            device=self._execution_device,
            do_classifier_free_guidance=False,
            max_sequence_length=self.max_sequence_length,
            lora_scale=lora_scale,
        )
        return Conditioning({"encoder_hidden_states": embeds[0], "pooled_projections": pooled[0]})

    @property
    def prompt_tokenizer(self) -> Any:
        return self.tokenizer if self.text_encoder_3 is None else self.tokenizer_3

    @property
    def prompt_tokens(self) -> int:
        return self.tokenizer_max_length if self.text_encoder_3 is None else self.max_sequence_length

    def latent_shape(self, height: int | None = None, width: int | None = None) -> tuple[int, int, int]:
        """``(C, h, w)`` of one sample's latents for an image of that many pixels; None takes the model's own size.

        Raises:
            ValueError: a size that is no multiple of the patches', or larger than the grid of learned positions.
        """
        config, factor = self.transformer.config, self.vae_scale_factor
        shape = super().latent_shape(height, width)
        largest = config.pos_embed_max_size * config.patch_size
        for name, asked, side in (("height", height, shape[1]), ("width", width, shape[2])):
            if side > largest:
                raise ValueError(f"{name} is {asked}; the model knows positions up to {largest * factor} pixels.")
        return shape

    def timesteps(self, num_steps: int, shape: tuple[int, int, int]) -> torch.Tensor:
        _, height, width = shape
        patch = self.transformer.config.patch_size
        mu = resolution_shift(self.scheduler, (height // patch) * (width // patch))
        return set_flow_timesteps(self.scheduler, num_steps, self._execution_device, mu=mu)

    def predict(
        self,
        latents: torch.Tensor,
        timestep: torch.Tensor,
        conditioning: Conditioning,
        *,
        attention_kwargs: dict[str, Any] | None = None,
        network: Any | None = None,
    ) -> torch.Tensor:
        return (self.transformer if network is None else network)(
            latents,
            timestep=timestep.expand(len(latents)),
            **conditioning.tensors,
            joint_attention_kwargs=attention_kwargs,
            return_dict=False,
        )[0]

    @property
    def mask_attention(self) -> JointMaskAttention:
        clip = (self.tokenizer, self.tokenizer_max_length)
        t5 = [] if self.text_encoder_3 is None else [(self.tokenizer_3, self.max_sequence_length)]
        return JointMaskAttention(
            self,
            [block.attn for block in self.transformer.transformer_blocks],
            readers=[clip, *t5],
            # the last block's text is read by nothing, so what its queries find was never trained
            concept_blocks=self.transformer.transformer_blocks[:-1],
            text_embedding=[self.transformer.context_embedder],
        )

    @classmethod
    def mask_settings_of(cls, config: Mapping[str, Any]) -> MaskSettings:
        """The block of 24 whose text columns are clearest (Seg4Diff, arXiv 2509.18096), or the one at its depth; the
        mini flow model's, which are others, for models as small."""
        if 1 < config["num_layers"] < 12:
            return small_joint_settings(config["num_layers"])
        block = config["num_layers"] * 9 // 24
        return MaskSettings(class_prompt=False, cross_levels=(block,), self_level=block)


class UbGenStableDiffusion3Pipeline(ClassNameCall, StableDiffusion3Parts, StableDiffusion3Pipeline):
    """Draws labelled images from class names with any Stable Diffusion 3 or 3.5 checkpoint in diffusers layout.

    Loading, LoRA, offloading and schedulers are those of ``StableDiffusion3Pipeline``.
    """

    example_model = "stabilityai/stable-diffusion-3.5-medium"

    # a folder that was saved without its T5 loads as it is, and one without a CLIP is refused by name
    _optional_components = [  # noqa: RUF012
        *StableDiffusion3Pipeline._optional_components,
        *StableDiffusion3Parts.text_encoder_parts,
        "tokenizer_3",
    ]
