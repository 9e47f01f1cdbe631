"""CogView4: the family, and its pipeline.

diffusers' loader copies this file and the siblings that it names itself, found by a regular expression over the text.
So every helper is named here, flat, and no other module of the package is.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from diffusers import CogView4Pipeline
from diffusers.pipelines.cogview4.pipeline_cogview4 import calculate_shift

from .call_arguments import TextSettings, latent_shape
from .conditioning import Conditioning, listed_batch
from .family import Family
from .pipeline_call import ClassNameCall
from .prompt_encoding import check_prompt_lengths

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
    from .scheduler_noise import model_input  # noqa: F401
    from .source_images import SourceImages  # noqa: F401


class CogView4Parts(Family):
    """What of CogView4 the call is made of; the members are described in :class:`.Family`."""

    denoiser_part = "transformer"
    text_encoder_parts = ("text_encoder",)
    lora_targets = ("to_q", "to_k", "to_v", "to_out.0")
    default_num_inference_steps = 50
    default_guidance_scale = 5.0
    # tokens of a prompt, as the stock call takes them
    max_sequence_length = 1024

    transformer: Any
    text_encoder: Any
    tokenizer: Any
    encode_prompt: Any

    def family_misfit(self) -> str | None:
        transformer, vae = self.transformer.config, self.vae.config
        width = self.text_encoder.config.hidden_size
        if transformer.text_embed_dim == width and transformer.in_channels == vae.latent_channels:
            return None
        return (
            f"whose transformer takes {transformer.in_channels} channels and text features"
            f" {transformer.text_embed_dim} wide beside a VAE of {vae.latent_channels} and a text encoder of {width};"
            " give a text-to-image checkpoint of CogView4"
        )

    def encode(
        self, prompts: Sequence[str], text: TextSettings | None = None, *, lora_scale: float | None = None
    ) -> list[Conditioning]:
        """One record of ``encoder_hidden_states (L, D)`` for each prompt, L a multiple of 16; see
        :meth:`.Family.encode`."""
        rows = {prompt: self._encode(prompt) for prompt in dict.fromkeys(prompts)}
        return [rows[prompt] for prompt in prompts]

    def _encode(self, prompt: str) -> Conditioning:
        features, _ = self.encode_prompt(
            [prompt], do_classifier_free_guidance=False, max_sequence_length=self.max_sequence_length
        )
        return Conditioning({"encoder_hidden_states": features[0]})

    def batch(self, rows: Sequence[Conditioning]) -> Conditioning:
        """Prompts as one record of B rows, each of its own length: this transformer has no mask that would hide what
        shorter ones were filled up with."""
        return listed_batch(rows)

    def check_prompt_lengths(self, prompts: Sequence[str], class_names: Sequence[str] | None = None) -> None:
        check_prompt_lengths(
            self.tokenizer, prompts, prompts if class_names is None else class_names, limit=self.max_sequence_length
        )

    def latent_shape(self, height: int | None = None, width: int | None = None) -> tuple[int, int, int]:
        config = self.transformer.config
        return latent_shape(
            config.in_channels, config.sample_size, self.vae_scale_factor, height, width, patch=config.patch_size
        )

    def timesteps(self, num_steps: int, shape: tuple[int, int, int]) -> torch.Tensor:
        """The denoiser reads timesteps as evenly spaced as they are before the shift; the noise is that after it."""
        config = self.scheduler.config
        timesteps = np.linspace(config.num_train_timesteps, 1.0, num_steps).astype(np.int64).astype(np.float32)
        num_tokens = shape[1] * shape[2] // self.transformer.config.patch_size**2
        mu = calculate_shift(
            num_tokens,
            config.get("base_image_seq_len", 256),
            config.get("base_shift", 0.25),
            config.get("max_shift", 0.75),
        )
        self.scheduler.set_timesteps(
            timesteps=timesteps,
            sigmas=timesteps / config.num_train_timesteps,
            mu=mu,
            device=self._execution_device,
        )
        return self.scheduler.timesteps

    def predict(
        self,
        latents: torch.Tensor,
        timestep: torch.Tensor,
        conditioning: Conditioning,
        *,
        attention_kwargs: dict[str, Any] | None = None,
        network: Any | None = None,
    ) -> torch.Tensor:
        prompts = conditioning.tensors["encoder_hidden_states"]
        timestep, dtype = timestep.expand(len(latents)), self.transformer.dtype
        size = [side * self.vae_scale_factor for side in latents.shape[-2:]]
        sizes = torch.tensor([size], dtype=dtype, device=latents.device)
        rows_by_length: dict[int, list[int]] = {}
        for row, prompt in enumerate(prompts):
            rows_by_length.setdefault(len(prompt), []).append(row)
        predictions = {}
        for rows in rows_by_length.values():
            predicted = (self.transformer if network is None else network)(
                latents[rows].to(dtype),
                torch.stack([prompts[row] for row in rows]).to(dtype),
                timestep[rows],
                original_size=sizes.expand(len(rows), -1),
                target_size=sizes.expand(len(rows), -1),
                crop_coords=torch.zeros_like(sizes).expand(len(rows), -1),
                attention_kwargs=attention_kwargs,
                return_dict=False,
            )[0]
            predictions |= dict(zip(rows, predicted))
        return torch.stack([predictions[row] for row in range(len(latents))])

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        decoded = self.vae.decode(latents.to(self.vae.dtype) / self.vae.config.scaling_factor, return_dict=False)[0]
        return decoded * 0.5 + 0.5

    def encode_images(self, images: torch.Tensor) -> torch.Tensor:
        posterior = self.vae.encode((images * 2 - 1).to(self._execution_device, self.vae.dtype)).latent_dist
        return posterior.mode() * self.vae.config.scaling_factor


class UbGenCogView4Pipeline(ClassNameCall, CogView4Parts, CogView4Pipeline):
    """Draws labelled images from class names with a CogView4 checkpoint in diffusers layout.

    Loading, LoRA, offloading and schedulers are those of ``CogView4Pipeline``.
    """

    example_model = "THUDM/CogView4-6B"
