"""AuraFlow: the family, and its pipeline."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from diffusers import AuraFlowPipeline

from .call_arguments import TextSettings
from .conditioning import Conditioning
from .family import Family
from .mask_attention import JointMaskAttention
from .mask_settings import MaskSettings, joint_mask_settings
from .pipeline_call import ClassNameCall

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
    from .scheduler_noise import is_flow_scheduler  # noqa: F401
    from .source_images import SourceImages  # noqa: F401


class AuraFlowParts(Family):
    """What of AuraFlow the call is made of; the members are described in :class:`.Family`."""

    denoiser_part = "transformer"
    text_encoder_parts = ("text_encoder",)
    title = "AuraFlow"
    text_width_name = "joint_attention_dim"
    lora_targets = ("to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")
    default_num_inference_steps = 50
    default_guidance_scale = 3.5
    upcasts_vae = True
    text_position = "first"
    # tokens of a prompt, as the stock call takes them
    max_sequence_length = 256

    transformer: Any
    text_encoder: Any
    encode_prompt: Any

    def encode_one(self, prompt: str, text: TextSettings, lora_scale: float | None) -> Conditioning:
        """``encoder_hidden_states (L, D)``, filled up with zeros, which the network reads, too."""
        features, *_ = self.encode_prompt(
            [prompt],
            do_classifier_free_guidance=False,
            max_sequence_length=self.max_sequence_length,
            lora_scale=lora_scale,
        )
        return Conditioning({"encoder_hidden_states": features[0]})

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
            timestep=timestep.expand(len(latents)).to(latents.dtype) / 1000,
            **conditioning.tensors,
            attention_kwargs=attention_kwargs,
            return_dict=False,
        )[0]

    @property
    def mask_attention(self) -> JointMaskAttention:
        network = self.transformer
        return JointMaskAttention(
            self,
            [block.attn for block in (*network.joint_transformer_blocks, *network.single_transformer_blocks)],
            readers=[(self.tokenizer, self.max_sequence_length)],
            # learned tokens stand before the text
            num_before=network.register_tokens.shape[1],
        )

    @classmethod
    def mask_settings_of(cls, config: Mapping[str, Any]) -> MaskSettings:
        """Blocks as deep as those that FLUX.1's masks are made of; which are best was not measured."""
        return joint_mask_settings(config["num_mmdit_layers"] + config["num_single_dit_layers"])


class UbGenAuraFlowPipeline(ClassNameCall, AuraFlowParts, AuraFlowPipeline):
    """Draws labelled images from class names with an AuraFlow checkpoint in diffusers layout."""

    example_model = "fal/AuraFlow-v0.3"
