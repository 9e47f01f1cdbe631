"""Sana and Sana-Sprint: what the two families have in common."""

import inspect
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from diffusers import SanaPipeline

from .call_arguments import TextSettings
from .conditioning import Conditioning, unpadded
from .family import Family
from .mask_attention import JointMaskAttention
from .mask_settings import MaskSettings, joint_mask_settings
from .templated_prompts import TemplatedTokenizer

# what the stock call puts before a prompt for the language model that reads it, but not before a negative one
INSTRUCTION = "\n".join(inspect.signature(SanaPipeline.__call__).parameters["complex_human_instruction"].default)


class SanaParts(Family):
    """Members that are the same in both; see :class:`.Family`."""

    denoiser_part = "transformer"
    text_encoder_parts = ("text_encoder",)
    title = "Sana"
    text_width_name = "caption_channels"
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

    @property
    def latents_dtype(self) -> torch.dtype:
        return torch.float32

    def encode_one(self, prompt: str, text: TextSettings, lora_scale: float | None) -> Conditioning:
        """``encoder_hidden_states (L, D)`` and ``encoder_attention_mask (L,)``."""
        # Sana-Sprint's own does not know of the second prompt
        no_second = {"do_classifier_free_guidance": False} if self.guidance == "classifier-free" else {}
        features, mask, *_ = self.encode_prompt(
            [prompt],
            clean_caption=False,
            max_sequence_length=self.max_sequence_length,
            complex_human_instruction=None if text.negative else [INSTRUCTION],
            lora_scale=lora_scale,
            **no_second,
        )
        # where the tokenizer makes nothing else of an empty prompt than filling, all of it is read
        return unpadded(features[0], mask[0] if mask.any() else torch.ones_like(mask[0]))

    @property
    def prompt_tokenizer(self) -> TemplatedTokenizer:
        # as the stock call writes prompts
        return TemplatedTokenizer(
            self.tokenizer, lambda prompt: INSTRUCTION + prompt.lower(), with_marks=True, num_dropped=self._num_dropped
        )

    @property
    def prompt_tokens(self) -> int:
        return self._num_dropped + self.max_sequence_length

    @property
    def _num_dropped(self) -> int:
        """Tokens of the instruction whose features are left out: all behind the mark of the begin but the last."""
        return len(self.tokenizer(INSTRUCTION).input_ids) - 2

    @property
    def mask_attention(self) -> JointMaskAttention:
        return JointMaskAttention(
            self,
            [block.attn2 for block in self.transformer.transformer_blocks],
            readers=[(self.prompt_tokenizer, self.max_sequence_length)],
            # among tokens of the image it is linear: there is no softmax to read
            refining_layers=[],
            text_embedding=[self.transformer.caption_projection, self.transformer.caption_norm],
        )

    @classmethod
    def mask_settings_of(cls, config: Mapping[str, Any]) -> MaskSettings:
        """Blocks as deep as those that FLUX.1's masks are made of, unrefined, and the paper's class prompts; which are
        best was not measured."""
        return replace(joint_mask_settings(config["num_layers"]), class_prompt=True, self_power=0)

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
