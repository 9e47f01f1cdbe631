"""Lumina 2: the family, and its pipeline."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from diffusers import Lumina2Pipeline

from .call_arguments import TextSettings
from .conditioning import Conditioning, unpadded
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


class Lumina2Parts(Family):
    """What of Lumina 2 the call is made of; the members are described in :class:`.Family`."""

    denoiser_part = "transformer"
    text_encoder_parts = ("text_encoder",)
    title = "Lumina 2"
    text_width_name = "cap_feat_dim"
    lora_targets = ("to_q", "to_k", "to_v", "to_out.0")
    default_num_inference_steps = 30
    default_guidance_scale = 4.0
    text_position = "first"
    # tokens of a prompt, as the stock call takes them
    max_sequence_length = 256

    transformer: Any
    text_encoder: Any
    tokenizer: Any
    system_prompt: str
    encode_prompt: Any
    _get_gemma_prompt_embeds: Any

    def encode_one(self, prompt: str, text: TextSettings, lora_scale: float | None) -> Conditioning:
        """``encoder_hidden_states (L, D)`` and ``encoder_attention_mask (L,)``."""
        # no system prompt stands before a negative one, and encode_prompt would put one before any text
        if text.negative:
            features, mask = self._get_gemma_prompt_embeds([prompt], max_sequence_length=self.max_sequence_length)
        else:
            features, mask, *_ = self.encode_prompt([prompt], False, max_sequence_length=self.max_sequence_length)
        return unpadded(features[0], mask[0])

    @property
    def prompt_tokenizer(self) -> TemplatedTokenizer:
        template = f"{self.system_prompt} <Prompt Start> "
        return TemplatedTokenizer(self.tokenizer, lambda prompt: template + prompt, with_marks=True)

    @property
    def mask_attention(self) -> JointMaskAttention:
        return JointMaskAttention(
            self,
            [block.attn for block in self.transformer.layers],
            readers=[(self.prompt_tokenizer, self.prompt_tokens)],
            text_lengths="own",
        )

    @classmethod
    def mask_settings_of(cls, config: Mapping[str, Any]) -> MaskSettings:
        """Blocks as deep as those that FLUX.1's masks are made of; which are best was not measured."""
        return joint_mask_settings(config["num_layers"])

    def timesteps(self, num_steps: int, shape: tuple[int, int, int]) -> torch.Tensor:
        return set_flow_timesteps(
            self.scheduler,
            num_steps,
            self._execution_device,
            sigmas=np.linspace(1.0, 1 / num_steps, num_steps).tolist(),
            # the stock call takes the number of channels for the number of tokens
            mu=resolution_shift(self.scheduler, shape[0]),
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
        # the model counts time from noise to image, and its velocity points from noise to image, too
        time = 1 - timestep.expand(len(latents)) / self.scheduler.config.num_train_timesteps
        return -(self.transformer if network is None else network)(
            latents,
            timestep=time,
            **conditioning.tensors,
            attention_kwargs=attention_kwargs,
            return_dict=False,
        )[0]

    def guide(self, conditional: torch.Tensor, unconditional: torch.Tensor, scale: float) -> torch.Tensor:
        """Classifier-free guidance, rescaled: each row of the grid keeps the conditional prediction's norm."""
        guided = super().guide(conditional, unconditional, scale)
        return guided * (conditional.norm(dim=-1, keepdim=True) / guided.norm(dim=-1, keepdim=True))


class UbGenLumina2Pipeline(ClassNameCall, Lumina2Parts, Lumina2Pipeline):
    """Draws labelled images from class names with a Lumina 2 checkpoint in diffusers layout.

    Loading, LoRA, offloading and schedulers are those of ``Lumina2Pipeline``.
    """

    example_model = "Alpha-VLLM/Lumina-Image-2.0"
