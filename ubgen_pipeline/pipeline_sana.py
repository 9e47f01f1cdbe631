"""Sana: the family, and its pipeline.

diffusers' loader copies this file and the siblings that it names itself, found by a regular expression over the text.
So every helper is named here, flat, and no other module of the package is.
"""

from typing import TYPE_CHECKING, Any

import torch
from diffusers import SanaPipeline

from .conditioning import Conditioning
from .pipeline_call import ClassNameCall
from .sana_parts import SanaParts

if TYPE_CHECKING:
    # helpers of those, named for the loader
    from .annotations import attention_annotations  # noqa: F401
    from .attention_maps import AttentionRecorder  # noqa: F401
    from .attention_masks import heat_maps  # noqa: F401
    from .call_arguments import TextSettings  # noqa: F401
    from .class_tokens import class_texts  # noqa: F401
    from .deep_features import DeepFeatureDenoiser  # noqa: F401
    from .family import Family  # noqa: F401
    from .initial_latents import draw_latents  # noqa: F401
    from .joint_attention import JointAttentionRecorder  # noqa: F401
    from .latent_denoising import denoising_steps  # noqa: F401
    from .mask_attention import JointMaskAttention  # noqa: F401
    from .mask_regions import mask_objects  # noqa: F401
    from .mask_settings import MaskSettings  # noqa: F401
    from .pipeline_output import UbGenOutput  # noqa: F401
    from .prompt_encoding import check_token_counts  # noqa: F401
    from .prompt_weights import parse_weights  # noqa: F401
    from .sample_seeds import sample_seed  # noqa: F401
    from .sampling_features import SamplingFeature  # noqa: F401
    from .saved_code import write_code  # noqa: F401
    from .scheduler_noise import model_input  # noqa: F401
    from .source_images import SourceImages  # noqa: F401


class SanaFlow(SanaParts):
    """What of Sana the call is made of; the members are described in :class:`.Family`."""

    default_num_inference_steps = 20

    def predict(
        self,
        latents: torch.Tensor,
        timestep: torch.Tensor,
        conditioning: Conditioning,
        *,
        attention_kwargs: dict[str, Any] | None = None,
        network: Any | None = None,
    ) -> torch.Tensor:
        time = timestep.expand(len(latents)) * self.transformer.config.timestep_scale
        return self.velocity(latents, time, conditioning, attention_kwargs, network)


class UbGenSanaPipeline(ClassNameCall, SanaFlow, SanaPipeline):
    """Draws labelled images from class names with a Sana checkpoint in diffusers layout.

    Loading, LoRA, offloading and schedulers are those of ``SanaPipeline``.
    """

    example_model = "Efficient-Large-Model/Sana_1600M_1024px_BF16_diffusers"
