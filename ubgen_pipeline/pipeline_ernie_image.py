"""ERNIE-Image: the family, and its pipeline.

The language model that rewrites prompts before they are read (``use_pe`` of the stock call) is left out: a prompt is
what the dataset's row says.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from diffusers import ErnieImagePipeline

from .batch_norm_latents import BatchNormLatents
from .call_arguments import TextSettings
from .conditioning import Conditioning, unpadded
from .family import Family
from .mask_attention import JointMaskAttention
from .mask_settings import MaskSettings, joint_mask_settings
from .pipeline_call import ClassNameCall
from .scheduler_noise import set_flow_timesteps

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


class ErnieImageParts(BatchNormLatents, Family):
    """What of ERNIE-Image the call is made of; the members are described in :class:`.Family`.

    A latent here is a square of two by two of the VAE's, so C is four times the VAE's channels.
    """

    denoiser_part = "transformer"
    text_encoder_parts = ("text_encoder",)
    lora_targets = ("to_q", "to_k", "to_v", "to_out.0")
    default_num_inference_steps = 50
    default_guidance_scale = 4.0
    text_position = "last"
    # the stock call's number, which is that of the training, and not the configuration's
    batch_norm_eps = 1e-5

    transformer: Any
    text_encoder: Any
    encode_prompt: Any

    def family_misfit(self) -> str | None:
        return self.widths_misfit(
            channels=4 * self.vae.config.latent_channels,
            text=(self.transformer.config.text_in_dim, self.text_encoder.config.get_text_config().hidden_size),
            title="ERNIE-Image",
        )

    def encode_one(self, prompt: str, text: TextSettings, lora_scale: float | None) -> Conditioning:
        """``encoder_hidden_states (L, D)`` and ``encoder_attention_mask (L,)``, L being the prompt's own length."""
        (features,) = self.encode_prompt([prompt], self._execution_device)
        return unpadded(features, torch.ones(len(features), dtype=torch.long, device=features.device))

    @property
    def prompt_tokens(self) -> int:
        # the tokenizer may know of no end
        return min(self.tokenizer.model_max_length, 4096)

    @property
    def own_latent_size(self) -> int:
        # the stock call's own size, which no configuration holds
        return 1024 // self.vae_scale_factor

    def timesteps(self, num_steps: int, shape: tuple[int, int, int]) -> torch.Tensor:
        sigmas = torch.linspace(1.0, 0.0, num_steps + 1)[:-1].tolist()
        return set_flow_timesteps(self.scheduler, num_steps, self._execution_device, sigmas=sigmas)

    def predict(
        self,
        latents: torch.Tensor,
        timestep: torch.Tensor,
        conditioning: Conditioning,
        *,
        attention_kwargs: dict[str, Any] | None = None,
        network: Any | None = None,
    ) -> torch.Tensor:
        dtype = self.transformer.dtype
        with self.scaled_lora(attention_kwargs):
            predicted = (self.transformer if network is None else network)(
                latents.to(dtype),
                timestep.expand(len(latents)).to(dtype),
                conditioning["encoder_hidden_states"].to(dtype),
                conditioning["encoder_attention_mask"].sum(dim=1),
                return_dict=False,
            )[0]
        return predicted.to(latents.dtype)

    @property
    def mask_attention(self) -> JointMaskAttention:
        return JointMaskAttention(
            self,
            [block.self_attention for block in self.transformer.layers],
            readers=[(self.tokenizer, self.prompt_tokens)],
        )

    @classmethod
    def mask_settings_of(cls, config: Mapping[str, Any]) -> MaskSettings:
        """Blocks as deep as those that FLUX.1's masks are made of; which are best was not measured."""
        return joint_mask_settings(config["num_layers"])


class UbGenErnieImagePipeline(ClassNameCall, ErnieImageParts, ErnieImagePipeline):
    """Draws labelled images from class names with an ERNIE-Image checkpoint in diffusers layout."""

    example_model = "baidu/ERNIE-Image"
