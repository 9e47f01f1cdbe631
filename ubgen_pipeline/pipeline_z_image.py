"""Z-Image and Z-Image-Turbo: the family, and the pipeline that diffusers loads as a ``custom_pipeline`` too.

What the network takes differs from other families: time runs from 0 (noise) to 1 (image), it predicts the negative of
the scheduler's velocity, and prompts come as a list, each of its own length. All that stays inside ``predict``.

The stock pipeline counts the guidance scale from 0. Here, as everywhere in ubgen, it counts from 1: 5 is its 4.

Shapes: B samples, C x h x w latents, L tokens of a prompt.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from diffusers import ZImagePipeline
from diffusers.models.transformers.transformer_z_image import SEQ_MULTI_OF
from diffusers.pipelines.z_image.pipeline_z_image import get_default_z_image_sigmas

from .call_arguments import TextSettings
from .conditioning import Conditioning, listed_batch
from .family import Family
from .mask_attention import JointMaskAttention
from .mask_settings import MaskSettings, joint_mask_settings
from .pipeline_call import ClassNameCall
from .scheduler_noise import resolution_shift, set_flow_timesteps
from .templated_prompts import TemplatedTokenizer

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


class ZImageParts(Family):
    """What of Z-Image the call is made of; the members are described in :class:`.Family`.

    Attributes:
        max_sequence_length: tokens of a prompt with its chat template, at most; the stock call's default.
    """

    denoiser_part = "transformer"
    text_encoder_parts = ("text_encoder",)
    title = "Z-Image"
    text_width_name = "cap_feat_dim"
    lora_targets = ("to_q", "to_k", "to_v", "to_out.0")
    text_position = "last"
    max_sequence_length = 512

    transformer: Any
    text_encoder: Any
    tokenizer: Any
    encode_prompt: Any
    register_to_config: Any

    @property
    def is_distilled(self) -> bool:
        """Whether this is Turbo: as it was loaded or saved with; where that says nothing, by the model's name."""
        if (stated := self.config.get("is_distilled")) is not None:
            return stated
        return "turbo" in self.model_name.lower()

    @property
    def has_turbo_scheduler(self) -> bool:
        """Whether the scheduler's shift is Turbo's, in a model that nothing else is known of. It decides on what is
        left out, and guidance stays possible, since a model trained further may have any shift."""
        is_open = self.config.get("is_distilled") is None and not self.is_distilled
        return is_open and self.scheduler.config.get("shift") == TURBO_SHIFT

    def defaults_note(self) -> str | None:
        if not self.has_turbo_scheduler:
            return None
        return (
            f"this model's scheduler has the shift of Z-Image-Turbo, {TURBO_SHIFT:g}, where Z-Image has 6: 8 steps"
            " without guidance are the defaults. For another model give num_inference_steps and guidance_scale."
        )

    @property
    def guidance(self) -> str:
        return "none" if self.is_distilled else "classifier-free"

    @property
    def default_num_inference_steps(self) -> int:
        return 8 if self.is_distilled or self.has_turbo_scheduler else 50

    @property
    def default_guidance_scale(self) -> float:
        # the base model's card gives 4, counted from 0
        return 1.0 if self.is_distilled or self.has_turbo_scheduler else 5.0

    @property
    def latents_dtype(self) -> torch.dtype:
        return torch.float32

    def with_scheduler(self, scheduler: Any) -> Any:
        stated = True if self.is_distilled else self.config.get("is_distilled")
        return type(self)(**{**self.components, "scheduler": scheduler}, is_distilled=stated)  # pyright: ignore

    def encode_one(self, prompt: str, text: TextSettings, lora_scale: float | None) -> Conditioning:
        """``cap_feats (L, D)``, L being the prompt's own length."""
        # a list of its own, since the chat template is written into it
        (features,), _ = self.encode_prompt(
            [prompt], do_classifier_free_guidance=False, max_sequence_length=self.max_sequence_length
        )
        return Conditioning({"cap_feats": features})

    def batch(self, rows: Sequence[Conditioning]) -> Conditioning:
        return listed_batch(rows)

    @property
    def prompt_tokenizer(self) -> TemplatedTokenizer:
        """Tokenizes a prompt in the chat template that the text encoder reads it in."""

        def template(prompt: str) -> str:
            message = {"role": "user", "content": prompt}
            return self.tokenizer.apply_chat_template(
                [message], tokenize=False, add_generation_prompt=True, enable_thinking=True
            )

        return TemplatedTokenizer(self.tokenizer, template)

    @property
    def mask_attention(self) -> JointMaskAttention:
        return JointMaskAttention(
            self,
            [block.attention for block in self.transformer.layers],
            readers=[(self.prompt_tokenizer, self.max_sequence_length)],
            image_tokens_unit=SEQ_MULTI_OF,
        )

    @classmethod
    def mask_settings_of(cls, config: Mapping[str, Any]) -> MaskSettings:
        """Blocks as deep as those that FLUX.1's masks are made of; which are best was not measured."""
        return joint_mask_settings(config["n_layers"])

    @property
    def own_latent_size(self) -> int:
        # the stock call's own size, which no configuration holds
        return 1024 // self.vae_scale_factor

    @property
    def latents_per_token(self) -> int:
        return _PATCH

    def timesteps(self, num_steps: int, shape: tuple[int, int, int]) -> torch.Tensor:
        _, height, width = shape
        return set_flow_timesteps(
            self.scheduler,
            num_steps,
            self._execution_device,
            sigmas=get_default_z_image_sigmas(num_steps),
            mu=resolution_shift(self.scheduler, (height // _PATCH) * (width // _PATCH)),
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
        # (C, frames, h, w) each
        rows = latents.to(self.transformer.dtype)[:, :, None].unbind()
        time = (1000 - timestep.expand(len(latents))) / 1000
        predicted = (self.transformer if network is None else network)(
            list(rows),
            time,
            list(conditioning.tensors["cap_feats"]),
            joint_attention_kwargs=attention_kwargs,
            return_dict=False,
        )[0]
        return -torch.stack(list(predicted)).squeeze(2).to(latents.dtype)

    @classmethod
    def stock_guidance(cls, scale: float) -> dict[str, Any]:
        # its call counts from 0
        return {"guidance_scale": scale - 1}


# of the published Turbo's scheduler; the base model has 6
TURBO_SHIFT = 3.0
# latents a side of what the network reads as one token, where it is called as here
_PATCH = 2


class UbGenZImagePipeline(ClassNameCall, ZImageParts, ZImagePipeline):
    """Draws labelled images from class names with Z-Image or Z-Image-Turbo in diffusers layout.

    Args:
        is_distilled: whether the model is Turbo, drawn in a few steps without guidance; None: see the property.
    """

    example_model = "Tongyi-MAI/Z-Image-Turbo"

    def __init__(
        self,
        scheduler: Any,
        vae: Any,
        text_encoder: Any,
        tokenizer: Any,
        transformer: Any,
        is_distilled: bool | None = None,
    ):
        super().__init__(scheduler, vae, text_encoder, tokenizer, transformer)
        if is_distilled is not None:
            self.register_to_config(is_distilled=is_distilled)

    def save_config(self, save_directory: str | Path, push_to_hub: bool = False, **kwargs: Any) -> None:
        # the folder's name may not say it
        if self.is_distilled:
            self.register_to_config(is_distilled=True)
        super().save_config(save_directory, push_to_hub, **kwargs)
