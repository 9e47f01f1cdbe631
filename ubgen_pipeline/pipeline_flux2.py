"""FLUX.2 klein and klein-base: the pipeline, which diffusers loads as a ``custom_pipeline`` too."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from diffusers import Flux2KleinPipeline

from .flux2_parts import Flux2Parts
from .pipeline_call import ClassNameCall
from .templated_prompts import TemplatedTokenizer

if TYPE_CHECKING:
    # what those import, named for diffusers' loader by `make helper-imports`
    from .annotations import SampleAnnotation  # noqa: F401
    from .attention_maps import ClassTexts  # noqa: F401
    from .attention_masks import AttentionMask  # noqa: F401
    from .batch_norm_latents import BatchNormLatents  # noqa: F401
    from .call_arguments import CallEntries  # noqa: F401
    from .class_tokens import append_class_words  # noqa: F401
    from .concept_attention import ConceptTexts  # noqa: F401
    from .conditioning import Conditioning  # noqa: F401
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


class Flux2KleinParts(Flux2Parts):
    """What klein (distilled, without guidance) and klein-base have of their own."""

    @property
    def guidance(self) -> str:
        return "none" if self.config.is_distilled else "classifier-free"

    @property
    def default_num_inference_steps(self) -> int:
        return 4 if self.config.is_distilled else 50

    @property
    def default_guidance_scale(self) -> float:
        return 1.0 if self.config.is_distilled else 4.0

    @classmethod
    def licence_note_of(cls, config: Mapping[str, Any]) -> str | None:
        # the published ones differ in their text encoder, of which features of three layers are read
        if config["joint_attention_dim"] <= 3 * 2560:
            return None
        return "FLUX.2-klein-9B has a non-commercial licence; that of klein-4B is Apache 2.0."

    @property
    def prompt_tokenizer(self) -> TemplatedTokenizer:
        def template(prompt: str) -> str:
            message = {"role": "user", "content": prompt}
            return self.tokenizer.apply_chat_template(
                [message], tokenize=False, add_generation_prompt=True, enable_thinking=False
            )

        return TemplatedTokenizer(self.tokenizer, template, length=self.max_sequence_length)


class UbGenFlux2KleinPipeline(ClassNameCall, Flux2KleinParts, Flux2KleinPipeline):
    """Draws labelled images from class names with FLUX.2 klein or klein-base in diffusers layout."""

    example_model = "black-forest-labs/FLUX.2-klein-4B"
