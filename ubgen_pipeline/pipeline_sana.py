"""Sana: the family, and its pipeline."""

from typing import TYPE_CHECKING, Any

import torch
from diffusers import SanaPipeline

from .conditioning import Conditioning
from .pipeline_call import ClassNameCall
from .sana_parts import SanaParts

if TYPE_CHECKING:
    # what those import, named for diffusers' loader by `make helper-imports`
    from .annotations import SampleAnnotation  # noqa: F401
    from .attention_maps import ClassTexts  # noqa: F401
    from .attention_masks import AttentionMask  # noqa: F401
    from .call_arguments import CallEntries  # noqa: F401
    from .class_tokens import append_class_words  # noqa: F401
    from .concept_attention import ConceptTexts  # noqa: F401
    from .deep_features import DeepFeatureDenoiser  # noqa: F401
    from .diversity import AnnealedConditioning  # noqa: F401
    from .diversity_settings import Cads  # noqa: F401
    from .family import Family  # noqa: F401
    from .initial_latents import draw_latents  # noqa: F401
    from .joint_attention import JointAttention  # noqa: F401
    from .latent_denoising import DenoisingStep  # noqa: F401
    from .mask_attention import Recorder  # noqa: F401
    from .mask_regions import MaskObject  # noqa: F401
    from .mask_settings import MaskSettings  # noqa: F401
    from .pipeline_output import UbGenOutput  # noqa: F401
    from .prompt_encoding import token_chunks  # noqa: F401
    from .prompt_weights import Fragment  # noqa: F401
    from .sample_seeds import sample_seed  # noqa: F401
    from .sampling_features import Walk  # noqa: F401
    from .saved_code import code_files  # noqa: F401
    from .scheduler_noise import is_flow_scheduler  # noqa: F401
    from .source_images import SourceImages  # noqa: F401
    from .templated_prompts import TemplatedTokenizer  # noqa: F401


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
