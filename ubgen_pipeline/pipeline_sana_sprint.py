"""Sana-Sprint, which draws in one to four steps: the family, and its pipeline."""

from typing import TYPE_CHECKING, Any

import torch
from diffusers import SanaSprintPipeline

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


class SanaSprintParts(SanaParts):
    """What of Sana-Sprint the call is made of; the members are described in :class:`.Family`.

    The scheduler walks along the angles of TrigFlow (Lu and Song 2025), x = cos(t) x0 + sin(t) noise, the denoiser
    along a flow's times (Chen et al. 2025, section 3.1). The scheduler's data have deviation 1 here, as the loop's
    latents do, instead of ``sigma_data``: the same walk, all of it divided by that number.
    """

    default_num_inference_steps = 2
    guidance = "embedded"

    def timesteps(self, num_steps: int, shape: tuple[int, int, int]) -> torch.Tensor:
        if self.scheduler.config.sigma_data != 1:
            self.scheduler = type(self.scheduler).from_config(self.scheduler.config, sigma_data=1.0)
        # the middle of the two steps that the stock call takes
        middle = 1.3 if num_steps == 2 else None
        self.scheduler.set_timesteps(num_steps, device=self._execution_device, intermediate_timesteps=middle)
        # the last is where the walk ends
        return self.scheduler.timesteps[:-1]

    def noise_time(self, timestep: torch.Tensor) -> float:
        return float(_flow_time(timestep))

    def predict(
        self,
        latents: torch.Tensor,
        timestep: torch.Tensor,
        conditioning: Conditioning,
        *,
        attention_kwargs: dict[str, Any] | None = None,
        network: Any | None = None,
    ) -> torch.Tensor:
        angle = timestep.expand(len(latents))
        time = _flow_time(angle)
        guidance = conditioning["guidance"].to(self.transformer.dtype) * self.transformer.config.guidance_embeds_scale
        share = time.view(-1, 1, 1, 1)
        length = (share**2 + (1 - share) ** 2).sqrt()
        read = latents * length
        velocity = self.velocity(read, time, conditioning, attention_kwargs, network, guidance=guidance)
        return ((1 - 2 * share) * read + length**2 * velocity) / length


def _flow_time(angle: torch.Tensor) -> torch.Tensor:
    """The time of a flow that has as much noise beside the image as TrigFlow at that angle."""
    return angle.sin() / (angle.cos() + angle.sin())


class UbGenSanaSprintPipeline(ClassNameCall, SanaSprintParts, SanaSprintPipeline):
    """Draws labelled images from class names with a Sana-Sprint checkpoint in diffusers layout.

    Loading, LoRA, offloading and schedulers are those of ``SanaSprintPipeline``.
    """

    example_model = "Efficient-Large-Model/Sana_Sprint_1.6B_1024px_diffusers"
