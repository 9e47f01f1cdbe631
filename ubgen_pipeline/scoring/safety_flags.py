"""Stable Diffusion's safety checker on images that are there: it flags them, and blackens nothing."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image


class SafetyFlagger:
    """Asks a checker about images one at a time, so that a flag depends on no other image.

    Args:
        source: folder or Hub id of a ``StableDiffusionSafetyChecker``, or of a model that has one.
        device: where it runs.

    Raises:
        ValueError: no checker there.
    """

    def __init__(self, source: str, device: str = "cpu"):
        place = str(Path(source).expanduser()) if Path(source).expanduser().exists() else source
        try:
            try:
                model, self._processor = _load(place, "safety_checker", "feature_extractor")
            except OSError:
                model, self._processor = _load(place, "", "")
        # transformers raises several kinds for what is not there or of another kind
        except (OSError, RuntimeError, ValueError, KeyError) as error:
            first_line = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise ValueError(
                f"safety_checker is {source!r}, which could not be loaded ({first_line}); give the folder or Hub id of"
                " a StableDiffusionSafetyChecker in safetensors, or of a model that has one."
            ) from error
        self._model, self._device = model.eval().to(device), device

    @torch.no_grad()
    def __call__(self, image: Image.Image) -> bool:
        """Whether the checker flags an RGB image."""
        pixels = self._processor(images=image, return_tensors="pt")["pixel_values"].to(self._device)
        # the checker blackens a flagged image in what it is given: one pixel that nobody looks at
        _, flags = self._model(clip_input=pixels, images=np.ones((1, 1, 1, 3), np.float32))
        return bool(flags[0])


def _load(place: str, checker_folder: str, processor_folder: str) -> tuple[Any, Any]:
    """The checker and its image processor in these folders of a model."""
    from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
    from transformers import CLIPImageProcessor

    # asked for its report, the call gives a pair
    loaded: Any = StableDiffusionSafetyChecker.from_pretrained(
        place, subfolder=checker_folder, use_safetensors=True, dtype=torch.float32, output_loading_info=True
    )
    model, report = loaded
    # the weights of another kind of model would leave the checker's own at random
    if report["missing_keys"]:
        raise ValueError(f"its weights lack {sorted(report['missing_keys'])[0]!r}")
    return model, CLIPImageProcessor.from_pretrained(place, subfolder=processor_folder)
