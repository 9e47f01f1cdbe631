"""Drawing what a request asks for, image by image. One model for all visitors; what a visitor asked for stays his."""

import shlex
import threading
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from request_limits import DrawRequest, ModelDefaults
from space_settings import BASE, TUNED_VARIANTS, SpaceSettings

from ubgen_pipeline import load_pipeline
from ubgen_pipeline.mini import mini_lora_path
from ubgen_pipeline.models.families import family_of
from ubgen_pipeline.models.loading import load_family
from ubgen_pipeline.models.loras import as_loras
from ubgen_pipeline.prompts.class_prompts import ClassName
from ubgen_pipeline.sample_seeds import sample_seed

# a preview; a dataset is drawn with as many as the family says
MAX_DEFAULT_STEPS = 20


@dataclass
class Cancellation:
    """A visitor's wish to stop; checked after every denoising step."""

    is_asked: bool = False


@dataclass(frozen=True)
class DrawnSample:
    """One image and all that is known about it.

    Attributes:
        request: what it was drawn for.
        variant: ``base``, or the name of a LoRA's place: ``tuned``, ``second``.
        number: position among the class's samples, from 0.
        prompt: the text that it was drawn from.
        seed: of the sample, in [0, 2**63).
        image: RGB.
        mask: ``(H, W)`` uint8, 0 background, 1 the class, 255 undecided; None where there is none.
        boxes: ``(N, 4)`` integers (x0, y0, x1, y1), end exclusive; None where there are none.
        is_blackened: whether the model's safety checker blackened it.
    """

    request: DrawRequest
    variant: str
    number: int
    prompt: str
    seed: int
    image: Image.Image
    mask: np.ndarray | None = None
    boxes: np.ndarray | None = None
    is_blackened: bool = False


class Sampler:
    """The model, loaded once.

    Args:
        settings: model, LoRA and device.

    Raises:
        ValueError: a model or a LoRA that does not load or fit.
    """

    def __init__(self, settings: SpaceSettings):
        device = settings.device or ("cuda" if torch.cuda.is_available() else "cpu")
        dtype = torch.float32
        if device.startswith("cuda") and not settings.is_mini:
            dtype = getattr(torch, load_family(settings.model).default_gpu_dtype)
        self.settings = settings
        self.pipeline = load_pipeline(
            settings.model, variant=settings.variant, lora=settings.lora, torch_dtype=dtype, device=device
        )
        self.pipeline.set_progress_bar_config(disable=True)
        # LoRAs are switched on and off between calls
        self._lock = threading.Lock()

    @property
    def family(self) -> str | None:
        """The model's family, as the registry of families names it."""
        return family_of(type(self.pipeline).__name__)

    @property
    def num_pixels(self) -> int:
        """Pixels of an image as it is drawn without a size of its own."""
        height, width = self.pipeline.image_size()
        return height * width

    def drawable(self, classes: Mapping[str, ClassName]) -> dict[str, ClassName]:
        """The classes whose names the model can read to their ends.

        Raises:
            ValueError: there is none.
        """
        kept = {}
        for shown, item in classes.items():
            try:
                self.pipeline.check_prompt_lengths([item.name], [item.name])
            except ValueError:
                continue
            kept[shown] = item
        if not kept:
            raise ValueError(f"UBGEN_CLASSES: all {len(classes)} names are longer than the model reads; shorten them.")
        return kept

    @property
    def defaults(self) -> ModelDefaults:
        """What the page offers for this model."""
        try:
            makes_annotations = self.pipeline.mask_attention is not None
        except ValueError:
            makes_annotations = False
        return ModelDefaults(
            min(self.pipeline.default_num_inference_steps, MAX_DEFAULT_STEPS, self.settings.max_steps),
            None if self.pipeline.guidance == "none" else float(self.pipeline.default_guidance_scale),
            makes_annotations,
        )

    def draw(self, request: DrawRequest, cancellation: Cancellation) -> Iterator[DrawnSample]:
        """The samples in turn, each from all asked variants; ends early when the visitor cancels."""
        for number in range(request.num_samples):
            for variant in request.variants:
                sample = self._draw_one(request, variant, number, cancellation)
                if sample is None:
                    return
                yield sample

    def _draw_one(
        self, request: DrawRequest, variant: str, number: int, cancellation: Cancellation
    ) -> DrawnSample | None:
        def stop_if_asked(pipeline: Any, step: int, timestep: Any, state: dict[str, Any]) -> dict[str, Any]:
            pipeline._interrupt = cancellation.is_asked
            return {}

        seed = sample_seed(request.seed, request.class_name, number)
        extra: dict[str, Any] = {"annotations": ["mask", "box"]} if request.annotate else {}
        if request.guidance_scale is not None:
            extra["guidance_scale"] = request.guidance_scale
        with self._lock:
            if cancellation.is_asked:
                return None
            self._switch(variant)
            output = self.pipeline(
                [request.class_name],
                seeds=[seed],
                num_inference_steps=request.num_inference_steps,
                callback_on_step_end=stop_if_asked,
                **extra,
            )
            if cancellation.is_asked:
                return None
        assert not isinstance(output, tuple)
        return DrawnSample(
            request,
            variant,
            number,
            output.prompts[0],
            seed,
            output.images[0],
            mask=None if output.masks is None else output.masks[0],
            boxes=None if output.boxes is None else output.boxes[0],
            is_blackened=bool(output.nsfw_content_detected and output.nsfw_content_detected[0]),
        )

    def _switch(self, variant: str) -> None:
        """Turn the variant's LoRA on, and the other off."""
        if not self.settings.lora:
            return
        if variant == BASE:
            self.pipeline.disable_lora()
            return
        self.pipeline.enable_lora()
        if len(self.settings.lora) > 1:
            number = TUNED_VARIANTS.index(variant)
            strength = as_loras(self.settings.lora[number])[0].strength
            self.pipeline.set_adapters([f"default_{number}"], [strength])


def failure_text(error: Exception) -> str:
    """What a visitor is told when drawing failed; all that is not his to put right goes to the operator's log."""
    if isinstance(error, ValueError):
        return str(error)
    traceback.print_exception(error)
    return f"The model failed ({type(error).__name__}). Try again, with fewer samples or steps."


def regenerate_command(sample: DrawnSample, settings: SpaceSettings) -> str:
    """The shell command whose dataset's last row is this image."""
    request = sample.request
    words = ["ubgen", "generate", "--model", settings.model]
    if settings.variant is not None:
        words += ["--variant", settings.variant]
    lora = ""
    if sample.variant != BASE:
        source = settings.lora[TUNED_VARIANTS.index(sample.variant)]
        if source == mini_lora_path():
            code = "from ubgen_pipeline.mini import mini_lora_path; print(mini_lora_path())"
            lora = f' --lora "$(python -c {shlex.quote(code)})"'
        else:
            words += ["--lora", source]
    # a name that begins like a flag must be joined to its own
    is_flag = request.class_name.startswith("-")
    name = [f"--class-names={request.class_name}"] if is_flag else ["--class-names", request.class_name]
    options = [*name, "--samples-per-class", str(sample.number + 1)]
    options += ["--seed", str(request.seed), "--num-inference-steps", str(request.num_inference_steps)]
    if request.guidance_scale is not None:
        options += ["--guidance-scale", f"{request.guidance_scale:g}"]
    options += ["--batch-size", "1"]
    if sample.mask is not None:
        options += ["--annotations", "mask", "box"]
    return f"{shlex.join(words)}{lora} {shlex.join(options)} --output-dir OUT"
