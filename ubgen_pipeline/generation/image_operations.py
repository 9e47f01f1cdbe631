"""What an image of a run costs by count, and what the machine computes at most: for the figures at the run's end."""

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from .settings import GenerateSettings

if TYPE_CHECKING:
    from ..conditioning import Conditioning
    from ..pipeline import UbGenPipeline


class RunOperations:
    """Counts with a copy of the denoiser and VAE that has no numbers, made before the pipeline is made fast.

    A report is no reason to stop a run, so what cannot be counted is None, with a warning where that is a surprise.

    Attributes:
        limit: operations per second that the machine computes at most; None before :meth:`measure`, and where an
            image's are not counted.

    Args:
        pipeline: loaded, and not yet changed for the run.
        settings: of the run, whole.
        device: that it draws on.
        dtype: that it draws in.
        quantization: of the denoiser's weights; "none" or the number of bits.
    """

    def __init__(
        self, pipeline: "UbGenPipeline", settings: GenerateSettings, device: str, dtype: str, quantization: str
    ):
        from ..inference.operations import copy_on_meta

        self.settings, self.device, self.dtype = settings, device, dtype
        self._copy = None
        self.limit: float | None = None
        changes_guidance = settings.true_cfg_scale is not None or settings.guidance_interval is not None
        if settings.source is not None or changes_guidance or quantization != "none":
            return
        try:
            self._copy = copy_on_meta(pipeline)
        except (RuntimeError, NotImplementedError, TypeError) as error:
            _warn(error)

    def of_image(self, pipeline: "UbGenPipeline", drawn: "Conditioning | None") -> float | None:
        """Operations of an image with a prompt that was ``drawn``; None where they cannot be counted.

        The text is one that was drawn, because encoding another could bring text encoders back that have made room.
        """
        from ..inference.operations import ImageOperations

        settings = self.settings
        assert settings.num_inference_steps is not None and settings.guidance_scale is not None
        if self._copy is None or drawn is None:
            return None
        text = pipeline.batch([drawn]).floats(lambda value: value.to("meta"))
        shape = pipeline.latent_shape(settings.height, settings.width)
        try:
            return ImageOperations(self._copy, text, shape).of_calls(
                settings.num_inference_steps, settings.guidance_scale, shortcuts=settings.shortcuts()
            )
        except (RuntimeError, NotImplementedError, TypeError) as error:
            _warn(error)
            return None

    def measure(self, num_threads: int) -> None:
        """Take the limit, which is that of the fastest matrix product, of so many threads on a CPU."""
        if self._copy is None:
            return
        import torch
        from huggingface_hub import constants

        from ..inference.machine_limit import machine_limit

        rate = machine_limit(self.device, getattr(torch, self.dtype), Path(constants.HF_HOME) / "ubgen")
        self.limit = rate if self.device.startswith("cuda") else rate * num_threads


def _warn(error: Exception) -> None:
    warnings.warn(f"operations cannot be counted: {error}", stacklevel=3)
