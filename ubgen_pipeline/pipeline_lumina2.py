"""Lumina 2: the family, and its pipeline.

diffusers' loader copies this file and the siblings that it names itself, found by a regular expression over the text.
So every helper is named here, flat, and no other module of the package is.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from diffusers import Lumina2Pipeline

from .call_arguments import TextSettings, latent_shape
from .conditioning import Conditioning
from .family import Family
from .pipeline_call import ClassNameCall
from .prompt_encoding import check_token_counts
from .scheduler_noise import resolution_shift, set_flow_timesteps

if TYPE_CHECKING:
    # helpers of those, named for the loader
    from .annotations import attention_annotations  # noqa: F401
    from .attention_maps import AttentionRecorder  # noqa: F401
    from .attention_masks import heat_maps  # noqa: F401
    from .class_tokens import class_texts  # noqa: F401
    from .deep_features import DeepFeatureDenoiser  # noqa: F401
    from .initial_latents import draw_latents  # noqa: F401
    from .joint_attention import JointAttentionRecorder  # noqa: F401
    from .latent_denoising import denoising_steps  # noqa: F401
    from .mask_attention import JointMaskAttention  # noqa: F401
    from .mask_regions import mask_objects  # noqa: F401
    from .mask_settings import MaskSettings  # noqa: F401
    from .pipeline_output import UbGenOutput  # noqa: F401
    from .prompt_weights import parse_weights  # noqa: F401
    from .sample_seeds import sample_seed  # noqa: F401
    from .sampling_features import SamplingFeature  # noqa: F401
    from .saved_code import write_code  # noqa: F401
    from .source_images import SourceImages  # noqa: F401


class Lumina2Parts(Family):
    """What of Lumina 2 the call is made of; the members are described in :class:`.Family`."""

    denoiser_part = "transformer"
    text_encoder_parts = ("text_encoder",)
    lora_targets = ("to_q", "to_k", "to_v", "to_out.0")
    default_num_inference_steps = 30
    default_guidance_scale = 4.0
    # tokens of a prompt, as the stock call takes them
    max_sequence_length = 256

    transformer: Any
    text_encoder: Any
    tokenizer: Any
    system_prompt: str
    encode_prompt: Any
    _get_gemma_prompt_embeds: Any

    def family_misfit(self) -> str | None:
        transformer, vae = self.transformer.config, self.vae.config
        width = self.text_encoder.config.hidden_size
        if transformer.cap_feat_dim == width and transformer.in_channels == vae.latent_channels:
            return None
        return (
            f"whose transformer takes {transformer.in_channels} channels and text features {transformer.cap_feat_dim}"
            f" wide beside a VAE of {vae.latent_channels} and a text encoder of {width}; give a text-to-image"
            " checkpoint of Lumina 2"
        )

    def encode(
        self, prompts: Sequence[str], text: TextSettings | None = None, *, lora_scale: float | None = None
    ) -> list[Conditioning]:
        """One record of ``encoder_hidden_states (L, D)`` and ``encoder_attention_mask (L,)`` for each prompt; see
        :meth:`.Family.encode`."""
        is_negative = text is not None and text.negative
        rows = {prompt: self._encode(prompt, is_negative) for prompt in dict.fromkeys(prompts)}
        return [rows[prompt] for prompt in prompts]

    def _encode(self, prompt: str, is_negative: bool) -> Conditioning:
        # no system prompt stands before a negative one, and encode_prompt would put one before any text
        if is_negative:
            features, mask = self._get_gemma_prompt_embeds([prompt], max_sequence_length=self.max_sequence_length)
        else:
            features, mask, *_ = self.encode_prompt([prompt], False, max_sequence_length=self.max_sequence_length)
        # the padding is left off
        length = int(mask.sum())
        return Conditioning(
            {"encoder_hidden_states": features[0, :length], "encoder_attention_mask": mask[0, :length]}
        )

    def check_prompt_lengths(self, prompts: Sequence[str], class_names: Sequence[str] | None = None) -> None:
        texts = (f"{self.system_prompt} <Prompt Start> {prompt}" for prompt in prompts)
        counts = (len(self.tokenizer(text).input_ids) for text in texts)
        check_token_counts(counts, self.max_sequence_length, prompts if class_names is None else class_names)

    def latent_shape(self, height: int | None = None, width: int | None = None) -> tuple[int, int, int]:
        config = self.transformer.config
        return latent_shape(
            config.in_channels, config.sample_size, self.vae_scale_factor, height, width, patch=config.patch_size
        )

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

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        config = self.vae.config
        unscaled = latents.to(self.vae.dtype) / config.scaling_factor + config.shift_factor
        return self.vae.decode(unscaled, return_dict=False)[0] * 0.5 + 0.5

    def encode_images(self, images: torch.Tensor) -> torch.Tensor:
        posterior = self.vae.encode((images * 2 - 1).to(self._execution_device, self.vae.dtype)).latent_dist
        return (posterior.mode() - self.vae.config.shift_factor) * self.vae.config.scaling_factor


class UbGenLumina2Pipeline(ClassNameCall, Lumina2Parts, Lumina2Pipeline):
    """Draws labelled images from class names with a Lumina 2 checkpoint in diffusers layout.

    Loading, LoRA, offloading and schedulers are those of ``Lumina2Pipeline``.
    """

    example_model = "Alpha-VLLM/Lumina-Image-2.0"
