"""FLUX.2-dev: its pipeline, which diffusers loads as a ``custom_pipeline`` too."""

from typing import TYPE_CHECKING

from diffusers import Flux2Pipeline
from diffusers.pipelines.flux2.pipeline_flux2 import format_input

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


class Flux2DevParts(Flux2Parts):
    """What FLUX.2-dev has of its own: it reads the guidance, and a processor makes tokens of a prompt and of a
    system message before it."""

    default_num_inference_steps = 50
    default_guidance_scale = 4.0
    licence_note = "FLUX.2-dev has a non-commercial licence, and its outputs may not train competing models."

    system_message: str

    @property
    def guidance(self) -> str:
        return "embedded" if self.transformer.config.guidance_embeds else "none"

    @property
    def prompt_tokenizer(self) -> TemplatedTokenizer:
        def template(prompt: str) -> str:
            (text,) = self.tokenizer.apply_chat_template(format_input([prompt], self.system_message), tokenize=False)
            return text

        # of the processor of texts and images
        return TemplatedTokenizer(self.tokenizer.tokenizer, template, length=self.max_sequence_length)


class UbGenFlux2Pipeline(ClassNameCall, Flux2DevParts, Flux2Pipeline):
    """Draws labelled images from class names with FLUX.2-dev in diffusers layout."""

    example_model = "black-forest-labs/FLUX.2-dev"
