"""Image preprocessing with gradient, equal to what a model's own image processor does to an 8-bit image.

The processors of transformers are run themselves, on float tensors: their torchvision form is tensor arithmetic from
end to end. open_clip's transforms read PIL images, so their arithmetic is written out here.
What is left between both is the rounding to 8 bits after resizing, at most half a level, and the clipping of bicubic
overshoot.
Shapes: B images of H x W pixels become h x w.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import interpolate, pad

Preprocessing = Callable[[torch.Tensor], dict[str, torch.Tensor]]
RESIZE_MODES = ("shortest", "longest", "squash")


@dataclass(frozen=True)
class ImagePreprocessing:
    """Resize, centre crop or pad, normalise.

    Args:
        height, width: h and w.
        mean, std: of each colour channel, for pixels in [0, 1].
        interpolation: ``bicubic`` or ``bilinear``, both with antialiasing.
        resize_mode: ``shortest`` keeps the aspect until the image covers h x w, then crops; ``longest`` until it fits
            into h x w, then pads; ``squash`` does not keep the aspect.
        fill: value in [0, 1] of what ``longest`` pads with.
    """

    height: int
    width: int
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)
    interpolation: str = "bicubic"
    resize_mode: str = "shortest"
    fill: float = 0.0

    def __post_init__(self) -> None:
        if self.resize_mode not in RESIZE_MODES:
            raise ValueError(f"resize_mode is {self.resize_mode!r}; choose one of {', '.join(RESIZE_MODES)}.")
        if self.interpolation not in ("bicubic", "bilinear"):
            raise ValueError(f"interpolation is {self.interpolation!r}; choose bicubic or bilinear.")

    def __call__(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """``pixel_values (B, 3, h, w)`` of ``images (B, 3, H, W)`` nominally in [0, 1]."""
        images = images.float()
        size = self._resized_size(images.shape[-2], images.shape[-1])
        if images.shape[-2:] != size:
            images = interpolate(images, size, mode=self.interpolation, antialias=True)
        images = self._crop_or_pad(images)
        mean, std = (images.new_tensor(values).view(1, -1, 1, 1) for values in (self.mean, self.std))
        return {"pixel_values": (images - mean) / std}

    def _resized_size(self, height: int, width: int) -> tuple[int, int]:
        if self.resize_mode == "squash":
            return self.height, self.width
        ratios = (height / self.height, width / self.width)
        if self.resize_mode == "longest":
            return round(height / max(ratios)), round(width / max(ratios))
        if self.height != self.width:
            return round(height / min(ratios)), round(width / min(ratios))
        # the square case rounds down, as torchvision's Resize does with one number
        shortest = min(height, width)
        return int(self.height * height / shortest), int(self.width * width / shortest)

    def _crop_or_pad(self, images: torch.Tensor) -> torch.Tensor:
        missing_rows, missing_columns = (
            max(0, self.height - images.shape[-2]),
            max(0, self.width - images.shape[-1]),
        )
        if missing_rows or missing_columns:
            top, left = missing_rows // 2, missing_columns // 2
            images = pad(images, (left, missing_columns - left, top, missing_rows - top), value=self.fill)
        top = round((images.shape[-2] - self.height) / 2)
        left = round((images.shape[-1] - self.width) / 2)
        return images[..., top : top + self.height, left : left + self.width]


def open_clip_preprocessing(preprocess_cfg: dict[str, Any]) -> ImagePreprocessing:
    """The preprocessing that an open_clip model carries as ``model.visual.preprocess_cfg``.

    Non-square sizes resize bicubically in ``shortest`` mode whatever the configuration says, as open_clip does.
    """
    size = preprocess_cfg["size"]
    height, width = (size, size) if isinstance(size, int) else (size[-2], size[-1])
    mode = preprocess_cfg.get("resize_mode") or "shortest"
    bilinear = preprocess_cfg.get("interpolation") == "bilinear" and (mode != "shortest" or height == width)
    return ImagePreprocessing(
        height,
        width,
        tuple(preprocess_cfg["mean"]),
        tuple(preprocess_cfg["std"]),
        "bilinear" if bilinear else "bicubic",
        mode,
        (preprocess_cfg.get("fill_color") or 0) / 255,
    )


def transformers_preprocessing(image_processor: Any, *, nested: bool = False) -> Preprocessing:
    """An image processor of transformers as a function of ``images (B, 3, H, W)`` nominally in [0, 1].

    The function gives what the processor gives: ``pixel_values`` and, of some models, masks and shapes.

    Args:
        nested: hand each image over as a list of one, which is how processors that cut an image into several
            learn that the images belong to different samples.

    Raises:
        ValueError: the processor works on PIL images or arrays, so no gradient passes through it.
    """

    def preprocess(images: torch.Tensor) -> dict[str, torch.Tensor]:
        # on the scale of 8-bit images, because processors rescale, and some pad with 8-bit colours first
        single = list(images.float() * 255)
        return dict(image_processor(images=[[image] for image in single] if nested else single, return_tensors="pt"))

    try:
        with torch.enable_grad():
            differentiable = preprocess(torch.zeros(1, 3, 64, 48, requires_grad=True))["pixel_values"].requires_grad
        reason = "its result has no gradient"
    except (RuntimeError, TypeError, ValueError, KeyError) as error:
        differentiable, reason = False, str(error).splitlines()[0] if str(error) else type(error).__name__
    if not differentiable:
        raise ValueError(
            f"image processor {type(image_processor).__name__} is not differentiable ({reason}); "
            "use a model whose processor has a torchvision form in transformers."
        )
    return preprocess
