"""FLUX.2: what the pipelines of klein and of dev have in common.

Each of the two stands in a file of its own, since diffusers' loader takes one pipeline from a file.

Shapes: B samples, C x h x w latents, L tokens of a prompt. A latent here is a square of two by two of the VAE's, so C
is four times the VAE's channels.
"""

import inspect
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from diffusers.pipelines.flux2.pipeline_flux2 import compute_empirical_mu

from .batch_norm_latents import BatchNormLatents
from .call_arguments import TextSettings
from .conditioning import Conditioning
from .family import Family
from .mask_attention import JointMaskAttention
from .mask_settings import MaskSettings, joint_mask_settings
from .scheduler_noise import set_flow_timesteps
from .templated_prompts import TemplatedTokenizer


class Flux2Parts(BatchNormLatents, Family):
    """What of FLUX.2 the call is made of; the members are described in :class:`.Family`.

    Attributes:
        max_sequence_length: tokens that every prompt is filled up to, its chat template included; the stock call's
            default. The network reads the filling, too.
    """

    denoiser_part = "transformer"
    text_encoder_parts = ("text_encoder",)
    text_position = "first"
    max_sequence_length = 512

    transformer: Any
    text_encoder: Any
    tokenizer: Any
    default_sample_size: int
    encode_prompt: Any
    _prepare_text_ids: Any
    _prepare_latent_ids: Any
    _pack_latents: Any

    @property
    def lora_targets(self) -> tuple[str, ...]:
        both_streams = ("to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")
        # In a block of one stream, one matrix makes queries, keys, values and the feed-forward layer. The one behind
        # them is called as a list of layers is in the other blocks, so its block is named, too.
        num_blocks = self.transformer.config.num_single_layers
        one_stream = (f"single_transformer_blocks.{number}.attn.to_out" for number in range(num_blocks))
        return (*both_streams, "to_qkv_mlp_proj", *one_stream)

    @property
    def pixels_per_latent(self) -> int:
        return 2 * self.vae_scale_factor

    def family_misfit(self) -> str | None:
        width = self.text_encoder.config.get_text_config().hidden_size
        features = self.transformer.config.joint_attention_dim
        # features of several layers are joined
        return self.widths_misfit(
            channels=4 * self.vae.config.latent_channels,
            text=(features, features // width * width),
            title="FLUX.2",
        )

    def text_layers(self) -> tuple[int, ...]:
        """The layers of the text encoder whose features are joined: those of the stock call, which lie at a quarter,
        a half and three quarters of the published models; evenly spaced in an encoder of other depth or width."""
        config = self.text_encoder.config.get_text_config()
        num_layers, count = config.num_hidden_layers, self.transformer.config.joint_attention_dim // config.hidden_size
        stock = inspect.signature(self.encode_prompt).parameters["text_encoder_out_layers"].default
        if len(stock) == count and max(stock) <= num_layers:
            return tuple(stock)
        return tuple(round(num_layers * place / (count + 1)) for place in range(1, count + 1))

    def encode_one(self, prompt: str, text: TextSettings, lora_scale: float | None) -> Conditioning:
        """``encoder_hidden_states (L, D)``."""
        (features,), _ = self.encode_prompt(
            [prompt], max_sequence_length=self.max_sequence_length, text_encoder_out_layers=self.text_layers()
        )
        return Conditioning({"encoder_hidden_states": features})

    @property
    def prompt_tokenizer(self) -> TemplatedTokenizer:
        """Tokenizes a prompt in the chat template that the text encoder reads it in."""
        raise NotImplementedError

    @property
    def mask_attention(self) -> JointMaskAttention:
        blocks = [*self.transformer.transformer_blocks, *self.transformer.single_transformer_blocks]
        return JointMaskAttention(
            self,
            [block.attn for block in blocks],
            readers=[(self.prompt_tokenizer, self.max_sequence_length)],
            concept_blocks=self.transformer.transformer_blocks,
            text_embedding=[self.transformer.context_embedder],
        )

    @classmethod
    def mask_settings_of(cls, config: Mapping[str, Any]) -> MaskSettings:
        """Of the blocks of two streams those as deep as in FLUX.1; which are best was not measured."""
        return joint_mask_settings(config["num_layers"])

    @property
    def own_latent_size(self) -> int:
        return self.default_sample_size // 2

    def timesteps(self, num_steps: int, shape: tuple[int, int, int]) -> torch.Tensor:
        _, height, width = shape
        return set_flow_timesteps(
            self.scheduler,
            num_steps,
            self._execution_device,
            sigmas=np.linspace(1.0, 1 / num_steps, num_steps).tolist(),
            mu=compute_empirical_mu(height * width, num_steps),
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
        read = latents.to(self.transformer.dtype)
        features = conditioning["encoder_hidden_states"]
        predicted = (self.transformer if network is None else network)(
            self._pack_latents(read),
            timestep=timestep.expand(len(read)).to(read.dtype) / 1000,
            guidance=conditioning.tensors.get("guidance"),
            encoder_hidden_states=features,
            # equal for all rows
            txt_ids=self._prepare_text_ids(features[:1]).to(read.device),
            img_ids=self._prepare_latent_ids(read[:1]).to(read.device),
            joint_attention_kwargs=attention_kwargs,
            return_dict=False,
        )[0]
        return predicted.mT.reshape(latents.shape).to(latents.dtype)
