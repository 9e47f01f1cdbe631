"""From what a row is drawn with to its pixels, and to the columns that say so.

``ubgen generate`` takes :class:`RowSettings` from its own settings, ``ubgen regenerate`` from a stored row and its
dataset's manifest. All that follows is the same for both: the model is loaded, made ready and called here.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from threading import Lock
from typing import TYPE_CHECKING, Any

import torch

from ..class_tokens import append_class_words, fit_prompt
from ..inference.choice import wanted_quantization
from ..inference.diversity_options import diversity_columns
from ..inference.image_drawer import DrawnImages, ImageDrawer
from ..inference.packed_products import pack_products
from ..inference.prepared_pipeline import is_out_of_memory, prepare_pipeline
from ..inference.prompt_cache import PromptCache
from ..inference.settings import lora_weights
from ..mask_settings import MaskSettings
from ..models.loading import load_pipeline
from ..models.loras import few_step_columns, lora_columns
from ..models.sources import GeneratorSource, public_name
from ..prompt_weights import plain_text
from ..prompts.class_prompts import ClassPrompt
from .settings import GenerateSettings

if TYPE_CHECKING:
    from ..pipeline import UbGenPipeline


@dataclass(frozen=True)
class RowSettings:
    """What the rows of a dataset are drawn with, beside each row's own class, prompt and seed.

    Attributes:
        source: model and LoRAs, and their commits on the Hub.
        scheduler: its short name; None for the model's own.
        num_inference_steps, guidance_scale: as the pipeline's call takes them; None for the family's own.
        negative_prompt: text to guide away from.
        height, width: of the images in pixels; None for the model's own.
        preset: name of the lossy shortcut; None where there is none.
        shortcuts: what the preset adds to the pipeline's call.
        diversity: the call's arguments ``diversity`` and ``guidance_interval``, where they are given.
        embeddings: textual inversions.
        records_attention: whether annotations are made from attention.
        revision: of the model as it was asked for; counts where its commit is not known.
        variant: of the model's weights; None for the plain ones.
        quantization: of the weights, as they load: see :func:`ubgen_pipeline.models.quantization.quantization_config`.
        true_cfg_scale: of a second prediction beside an embedded guidance; None where there is none.
    """

    source: GeneratorSource
    scheduler: str | None
    num_inference_steps: int | None
    guidance_scale: float | None
    negative_prompt: str | None
    height: int | None
    width: int | None
    preset: str | None = None
    shortcuts: Mapping[str, Any] = field(default_factory=dict)
    diversity: Mapping[str, Any] = field(default_factory=dict)
    embeddings: Sequence[str] = ()
    records_attention: bool = False
    revision: str | None = None
    variant: str | None = None
    quantization: str = "none"
    true_cfg_scale: float | None = None

    @classmethod
    def of_run(
        cls, settings: GenerateSettings, source: GeneratorSource, begun: Mapping[str, Any] | None
    ) -> "RowSettings":
        """Those of a dataset.

        Args:
            settings: of the dataset.
            source: model and LoRAs that the settings name.
            begun: the settings in the dataset's manifest, where it was begun.
        """
        return cls(
            source=source,
            scheduler=settings.scheduler,
            num_inference_steps=settings.num_inference_steps,
            guidance_scale=settings.guidance_scale,
            negative_prompt=settings.negative_prompt,
            height=settings.height,
            width=settings.width,
            preset=settings.preset,
            shortcuts=settings.shortcuts(),
            diversity=settings.diversity_arguments(),
            embeddings=settings.embeddings or (),
            records_attention=bool(settings.wanted_annotations()),
            revision=settings.revision,
            variant=settings.variant,
            quantization=wanted_quantization(settings, begun),
            true_cfg_scale=settings.true_cfg_scale,
        )

    def load(self, device: str, dtype: str, check: Callable[[Any], object] | None = None) -> "UbGenPipeline":
        """The model, its LoRAs beside the weights.

        Args:
            device: ``cpu``, ``cuda:0``, ….
            dtype: of the weights: ``float32``, ``float16`` or ``bfloat16``.
            check: of what does not go with the model, before its weights are read; see :func:`.load_pipeline`.

        Raises:
            ValueError: a model or LoRA that cannot be loaded or does not fit.
        """
        source = self.source
        pipeline = load_pipeline(
            source.model,
            lora=source.loras,
            scheduler=self.scheduler,
            revision=source.model_revision or self.revision,
            variant=self.variant,
            few_step_lora=source.few_step_lora,
            embeddings=self.embeddings,
            quantization=self.quantization,
            torch_dtype=getattr(torch, dtype),
            device=device,
            check=check,
        )
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    def prepare(self, pipeline: "UbGenPipeline", dtype: str) -> None:
        """Make the loaded pipeline fast. The CPU threads must be set before: fused weights round by their number."""
        placement = lora_weights(self.source.acts, dtype)
        keeps_projections = self.records_attention or self.quantization != "none"
        prepare_pipeline(pipeline, placement, keeps_projections=keeps_projections)

    def arguments(self) -> dict[str, Any]:
        """What the pipeline is called with for every batch."""
        names = ("num_inference_steps", "guidance_scale", "negative_prompt", "height", "width")
        true = {} if self.true_cfg_scale is None else {"true_cfg_scale": self.true_cfg_scale}
        return {**{name: getattr(self, name) for name in names}, **true, **self.shortcuts, **self.diversity}

    def columns(self, scheduler: str) -> dict[str, Any]:
        """What every row says of how it was drawn. Paths on this machine are left out.

        Args:
            scheduler: name of the scheduler's class.
        """
        columns = {
            "model": public_name(self.source.model),
            "model_revision": self.source.model_revision,
            **lora_columns(self.source.loras, public_name),
            "num_inference_steps": self.num_inference_steps,
            "guidance_scale": self.guidance_scale,
            "scheduler": scheduler,
            "negative_prompt": self.negative_prompt,
        }
        # datasets drawn without one of these have no such columns
        columns |= diversity_columns(self.diversity)
        if self.true_cfg_scale is not None:
            columns["true_cfg_scale"] = self.true_cfg_scale
        if self.preset is not None:
            columns |= {"preset": self.preset, **few_step_columns(self.source.few_step_lora, public_name)}
        return columns


class RowDrawer:
    """Draws batches of rows; several threads may do so at the same time.

    Args:
        pipeline: loaded and prepared by the settings.
        settings: of the rows.
        num_chunks: tokenizer lengths of every prompt, where word weights are read; None where they are not.
        cache: of the prompts, for that number; None makes one.
    """

    def __init__(
        self,
        pipeline: "UbGenPipeline",
        settings: RowSettings,
        num_chunks: int | None,
        cache: PromptCache | None = None,
    ):
        self.pipeline, self.settings, self.num_chunks = pipeline, settings, num_chunks
        self._draw = ImageDrawer(pipeline, num_chunks=num_chunks, cache=cache)
        # On a GPU one batch is drawn after the other. Threads that start at the same time would only interleave their
        # kernels and gain nothing.
        self._device = Lock() if pipeline._execution_device.type != "cpu" else nullcontext()
        self._again: ImageDrawer | None = None
        self._again_lock = Lock()

    def draw(self, class_names: Sequence[str], texts: Sequence[str], seeds: Sequence[int], **more: Any) -> DrawnImages:
        """Draw B rows as one batch.

        Args:
            class_names: B names.
            texts: B prompts as the model reads them: see :func:`drawn_prompt`.
            seeds: B seeds of the initial latents.
            **more: further arguments of :class:`.ImageDrawer`'s call; they win over the settings.
        """
        with self._device:
            return self._draw(class_names, texts, seeds=seeds, **{**self.settings.arguments(), **more})

    def draw_again(
        self, class_names: Sequence[str], texts: Sequence[str], seeds: Sequence[int], **more: Any
    ) -> DrawnImages | None:
        """Draw rows again in float32, which overflows later than 16 bits; arguments as in :meth:`draw`.

        Weights of 16 bits are loaded once more for that, and wait in the CPU's memory afterwards. None where that is
        not possible: weights of fewer bits, or too little memory.
        """
        pipeline = self.pipeline
        if pipeline.denoiser_network.dtype == torch.float32:
            return self.draw(class_names, texts, seeds, **more)
        if self.settings.quantization != "none":
            return None
        device = pipeline._execution_device
        with self._again_lock, self._device:
            try:
                if self._again is None:
                    wide = self.settings.load("cpu", "float32")
                    self.settings.prepare(wide, "float32")
                    pack_products(wide.denoiser_network)
                    self._again = ImageDrawer(wide, num_chunks=self.num_chunks)
                self._again.to(device)
                drawn = self._again(class_names, texts, seeds=seeds, **{**self.settings.arguments(), **more})
                # waits for the device, which the weights leave next
                drawn.images()
                return drawn
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                return None
            finally:
                if self._again is not None:
                    self._again.to("cpu")

    def columns(self) -> dict[str, Any]:
        """What each of the rows says of how it was drawn, beside its own class, prompt and seed."""
        columns = self.settings.columns(type(self.pipeline.scheduler).__name__)
        return columns if self.num_chunks is None else {**columns, "num_prompt_chunks": self.num_chunks}


def drawn_prompt(pipeline: "UbGenPipeline", item: ClassPrompt, masks: MaskSettings | None) -> str:
    """The text that the model reads for a prompt, and that its row holds.

    Args:
        pipeline: the model that reads it.
        item: the prompt. A caption of a file that is too long loses words at its end, as the tokenizer would cut it,
            but before the class words.
        masks: how masks are made; None where no annotation is asked for.
    """
    # a model that reads no weights is given the text without their spelling
    text = plain_text(item.prompt) if item.weighted and not pipeline.has_word_weights else item.prompt
    if masks is not None and masks.append_class_names:
        text = append_class_words(text, item.shown_words)
    if item.is_cut_to_fit:
        text = fit_prompt(pipeline.prompt_tokenizer, text, item.shown_words, pipeline.prompt_tokens)
    return text
