"""CogView4: the family, and its pipeline."""

import inspect
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from diffusers import CogView4Pipeline
from diffusers.pipelines.cogview4.pipeline_cogview4 import calculate_shift

from .call_arguments import TextSettings
from .conditioning import Conditioning, listed_batch
from .family import Family
from .mask_attention import JointMaskAttention
from .mask_settings import MaskSettings, joint_mask_settings
from .pipeline_call import ClassNameCall
from .scheduler_noise import set_flow_timesteps
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


class CogView4Parts(Family):
    """What of CogView4 the call is made of; the members are described in :class:`.Family`."""

    denoiser_part = "transformer"
    text_encoder_parts = ("text_encoder",)
    title = "CogView4"
    text_width_name = "text_embed_dim"
    lora_targets = ("to_q", "to_k", "to_v", "to_out.0")
    default_num_inference_steps = 50
    default_guidance_scale = 5.0
    text_position = "first"
    # tokens of a prompt, as the stock call takes them
    max_sequence_length = 1024

    transformer: Any
    text_encoder: Any
    tokenizer: Any
    encode_prompt: Any

    def encode_one(self, prompt: str, text: TextSettings, lora_scale: float | None) -> Conditioning:
        """``encoder_hidden_states (L, D)``, L a multiple of 16."""
        features, _ = self.encode_prompt(
            [prompt], do_classifier_free_guidance=False, max_sequence_length=self.max_sequence_length
        )
        return Conditioning({"encoder_hidden_states": features[0]})

    def batch(self, rows: Sequence[Conditioning]) -> Conditioning:
        """Prompts as one record of B rows, each of its own length: this transformer has no mask that would hide what
        shorter ones were filled up with."""
        return listed_batch(rows)

    @property
    def prompt_tokenizer(self) -> TemplatedTokenizer:
        # as the stock call fills prompts up
        return TemplatedTokenizer(self.tokenizer, str, with_marks=True, length_unit=16)

    @property
    def mask_attention(self) -> JointMaskAttention:
        return JointMaskAttention(
            self,
            [block.attn1 for block in self.transformer.transformer_blocks],
            readers=[(self.prompt_tokenizer, self.prompt_tokens)],
            text_lengths="calls",
        )

    @classmethod
    def mask_settings_of(cls, config: Mapping[str, Any]) -> MaskSettings:
        """Blocks as deep as those that FLUX.1's masks are made of; which are best was not measured."""
        return joint_mask_settings(config["num_layers"])

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
        if not {"timesteps", "sigmas"} <= inspect.signature(self.scheduler.set_timesteps).parameters.keys():
            # others know this shift, which is a linear one, as their own that does not depend on the size
            name = "flow_shift" if "flow_shift" in config else "shift"
            if config[name] != mu:
                static = {name: mu, "use_dynamic_shifting": False}
                self.scheduler = type(self.scheduler).from_config(config, **static)
            return set_flow_timesteps(self.scheduler, num_steps, self._execution_device)
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


class UbGenCogView4Pipeline(ClassNameCall, CogView4Parts, CogView4Pipeline):
    """Draws labelled images from class names with a CogView4 checkpoint in diffusers layout.

    Loading, LoRA, offloading and schedulers are those of ``CogView4Pipeline``.
    """

    example_model = "THUDM/CogView4-6B"
