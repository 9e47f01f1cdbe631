"""FLUX.2: what the pipelines of klein and of dev have in common.

Each of the two stands in a file of its own, since diffusers' loader takes one pipeline from a file.

Shapes: B samples, C x h x w latents, L tokens of a prompt. A latent here is a square of two by two of the VAE's, so C
is four times the VAE's channels.
"""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from diffusers.pipelines.flux2.pipeline_flux2 import compute_empirical_mu

from .call_arguments import TextSettings, latent_shape
from .conditioning import Conditioning
from .family import Family
from .mask_attention import JointMaskAttention
from .mask_settings import MaskSettings, joint_mask_settings
from .prompt_encoding import check_token_counts
from .scheduler_noise import set_flow_timesteps
from .templated_prompts import TemplatedTokenizer


class Flux2Parts(Family):
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
    _patchify_latents: Any
    _unpatchify_latents: Any

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
        width, channels = self.text_encoder.config.get_text_config().hidden_size, self.vae.config.latent_channels
        network = self.transformer.config
        if network.joint_attention_dim % width == 0 and network.in_channels == 4 * channels:
            return None
        return (
            f"whose transformer takes {network.in_channels} channels and text features {network.joint_attention_dim}"
            f" wide beside a VAE of {channels} and a text encoder of {width}; give a checkpoint of FLUX.2"
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

    def encode(
        self, prompts: Sequence[str], text: TextSettings | None = None, *, lora_scale: float | None = None
    ) -> list[Conditioning]:
        """One record of ``encoder_hidden_states (L, D)`` for each prompt; see :meth:`.Family.encode`."""
        encoded = {}
        for prompt in dict.fromkeys(prompts):
            (features,), _ = self.encode_prompt(
                [prompt], max_sequence_length=self.max_sequence_length, text_encoder_out_layers=self.text_layers()
            )
            encoded[prompt] = Conditioning({"encoder_hidden_states": features})
        return [encoded[prompt] for prompt in prompts]

    @property
    def prompt_tokenizer(self) -> TemplatedTokenizer:
        """Tokenizes a prompt in the chat template that the text encoder reads it in."""
        raise NotImplementedError

    @property
    def prompt_tokens(self) -> int:
        return self.max_sequence_length - self.prompt_tokenizer.count("")

    def check_prompt_lengths(self, prompts: Sequence[str], class_names: Sequence[str] | None = None) -> None:
        counts = map(self.prompt_tokenizer.count, prompts)
        check_token_counts(counts, self.max_sequence_length, class_names or prompts)

    @property
    def mask_attention(self) -> JointMaskAttention:
        blocks = [*self.transformer.transformer_blocks, *self.transformer.single_transformer_blocks]
        return JointMaskAttention(
            self,
            [block.attn for block in blocks],
            latents_per_token=1,
            readers=[(self.prompt_tokenizer, self.max_sequence_length)],
        )

    @classmethod
    def mask_settings_of(cls, config: Mapping[str, Any]) -> MaskSettings:
        """Of the blocks of two streams those as deep as in FLUX.1; which are best was not measured."""
        return joint_mask_settings(config["num_layers"])

    def latent_shape(self, height: int | None = None, width: int | None = None) -> tuple[int, int, int]:
        channels, own_size = self.transformer.config.in_channels, self.default_sample_size // 2
        return latent_shape(channels, own_size, self.pixels_per_latent, height, width)

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

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        mean, std = self._latent_statistics()
        latents = self._unpatchify_latents(latents.to(self.vae.dtype) * std + mean)
        return self.vae.decode(latents, return_dict=False)[0] * 0.5 + 0.5

    def encode_images(self, images: torch.Tensor) -> torch.Tensor:
        mean, std = self._latent_statistics()
        posterior = self.vae.encode((images * 2 - 1).to(self._execution_device, self.vae.dtype)).latent_dist
        return (self._patchify_latents(posterior.mode()) - mean) / std

    def _latent_statistics(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and standard deviation ``(1, C, 1, 1)`` of the latents, which the VAE keeps as a batch norm does."""
        norm, eps = self.vae.bn, self.vae.config.batch_norm_eps
        mean, std = norm.running_mean, torch.sqrt(norm.running_var + eps)
        like = {"device": self._execution_device, "dtype": self.vae.dtype}
        return mean.view(1, -1, 1, 1).to(**like), std.view(1, -1, 1, 1).to(**like)
