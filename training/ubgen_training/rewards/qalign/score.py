"""Q-Align (arXiv 2312.17090) as a reward: the expected level of an image's quality (paper Eq. 10, 11), differentiable.

The model is asked how good the image is; the logits of the five words at the answer give the score. What stands before
the image is the same for every image, so its keys and values are computed once.

Deliberate deviations from the released scorer, which rates PIL images without gradient: images stay floating-point
tensors, not clamped and not rounded to 8 bits; the softmax is in float32; in half precision, gradients are brought
into its range on the way through the model.
"""

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.autograd.function import once_differentiable
from torch.nn.functional import interpolate, pad

from ..quality_levels import QUALITY_LEVELS, quality_score
from .checkpoint import PREPROCESSOR_FILE, fetch_checkpoint, load_qalign_model, read_json
from .language import KeyValue
from .model import QAlignModel

IMAGE_MARK = "<|image|>"
PROMPT = f"USER: How would you rate the quality of this image?\n{IMAGE_MARK}\nASSISTANT: The quality of the image is"
# largest gradient of a logit on its way into a model of half precision
_GRADIENT_PEAK = 16.0


@dataclass(frozen=True)
class QAlignPrompt:
    """Token ids of the text around the image, and of the five words that answer it, bad to excellent."""

    prefix_ids: tuple[int, ...]
    suffix_ids: tuple[int, ...]
    level_ids: tuple[int, ...]


@dataclass(frozen=True)
class PixelSettings:
    """Size of the square that the model sees, and mean and deviation of each colour channel in [0, 1]."""

    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]


class QAlignReward:
    """Q / 5, in [0.2, 1], of the five-level quality that Q-Align gives an image.

    Args:
        model: frozen here.
        prompt: its tokens.
        pixels: how images are prepared for it.
        dtype: of the model; None for float16 on an accelerator and float32 on the CPU.
    """

    __name__ = "quality"
    differentiable = True

    def __init__(
        self, model: QAlignModel, prompt: QAlignPrompt, pixels: PixelSettings, dtype: torch.dtype | None = None
    ):
        self.model = model.eval().requires_grad_(False)
        self.prompt = prompt
        self.pixels = pixels
        self.dtype = dtype
        self._prefix: list[KeyValue] | None = None

    def to(self, device: torch.device | str) -> "QAlignReward":
        """Move the model, in the precision that device gets; the reward itself is returned."""
        device = torch.device(device)
        self.model.to(device, self.dtype or (torch.float32 if device.type == "cpu" else torch.float16))
        self._prefix = None
        return self

    def __call__(
        self, images: torch.Tensor, class_names: Sequence[str], labels: torch.Tensor, **_: Any
    ) -> torch.Tensor:
        """Rewards ``(B,)`` of ``images (B, 3, H, W)`` nominally in [0, 1]."""
        return quality_score(self.level_logits(images)) / 5

    def level_logits(self, images: torch.Tensor) -> torch.Tensor:
        """Logits ``(B, 5)`` in float32, bad to excellent, of ``images (B, 3, H, W)`` nominally in [0, 1]."""
        weight = self.model.language.token_head.weight
        if self._prefix is None:
            # weights are stored in half precision; a reward that was never moved has not chosen its precision yet
            weight = self.to(weight.device).model.language.token_head.weight
        ids = {name: torch.tensor(value, device=weight.device) for name, value in vars(self.prompt).items()}
        # this class chooses the precision itself, whatever autocast is on around it
        with torch.autocast(weight.device.type, enabled=False):
            if self._prefix is None:
                self._prefix = self.model.language.read_prefix(ids["prefix_ids"])
            scale = _GradientScale()
            pixels = _LeaveScale.apply(square_pixels(images, self.pixels), scale)
            logits = self.model(pixels.to(weight.dtype), self._prefix, ids["suffix_ids"], ids["level_ids"])
            return _EnterScale.apply(logits.float(), scale)


def load_qalign(name_or_path: str, *, dtype: torch.dtype | None = None) -> QAlignReward:
    """The quality reward of a Q-Align checkpoint; no code comes with it, and no pickle is read.

    Args:
        name_or_path: a folder, or a Hub repository such as ``q-future/one-align``, with ``@revision`` if need be.
        dtype: of the weights; None for float16 on an accelerator and float32 on the CPU.

    Raises:
        ValueError: it cannot be fetched or read, is another model, or its tokenizer does not fit the prompt.
    """
    folder = fetch_checkpoint(name_or_path)
    model = load_qalign_model(folder)
    prompt = read_prompt(folder)
    if (
        largest := max(prompt.prefix_ids + prompt.suffix_ids + prompt.level_ids)
    ) >= model.settings.language.vocab_size:
        raise ValueError(
            f"the tokenizer in {str(folder)!r} gives token {largest}, but the model knows "
            f"{model.settings.language.vocab_size}; use the tokenizer that was published with it."
        )
    return QAlignReward(model, prompt, read_pixel_settings(folder, model.settings.vision.image_size), dtype)


def read_prompt(folder: Path) -> QAlignPrompt:
    """The prompt in tokens of the tokenizer in ``folder``; the two texts around the image are tokenized apart.

    Raises:
        ValueError: the tokenizer cannot be read, or two of the five words begin with the same token.
    """
    from transformers import LlamaTokenizer

    if not (folder / "tokenizer.json").is_file() and importlib.util.find_spec("sentencepiece") is None:
        raise ValueError(
            f"{str(folder)!r} holds no tokenizer.json, and tokenizer.model needs two more libraries: "
            "pip install sentencepiece protobuf."
        )
    try:
        tokenizer = LlamaTokenizer.from_pretrained(str(folder))
    except (OSError, ValueError, ImportError) as error:
        raise ValueError(f"the tokenizer in {str(folder)!r} could not be read: {error}") from error

    def tokens(text: str) -> tuple[int, ...]:
        return tuple(tokenizer(text, add_special_tokens=False)["input_ids"])

    before, _, after = PROMPT.partition(IMAGE_MARK)
    # words of several tokens are told apart by their first
    level_ids = tuple(tokens(word)[0] for word in QUALITY_LEVELS)
    if len(set(level_ids)) < len(QUALITY_LEVELS):
        raise ValueError(
            f"the tokenizer in {str(folder)!r} begins the words {', '.join(QUALITY_LEVELS)} with tokens {level_ids}, "
            "which do not tell them apart; use the tokenizer that was published with the model."
        )
    return QAlignPrompt((tokenizer.bos_token_id, *tokens(before)), tokens(after), level_ids)


def read_pixel_settings(folder: Path, image_size: int) -> PixelSettings:
    """Mean and deviation from ``preprocessor_config.json``, or CLIP's where there is none."""
    from transformers.utils.constants import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

    config = read_json(folder / PREPROCESSOR_FILE) if (folder / PREPROCESSOR_FILE).is_file() else {}
    mean, std = config.get("image_mean", OPENAI_CLIP_MEAN), config.get("image_std", OPENAI_CLIP_STD)
    return PixelSettings(image_size, tuple(mean), tuple(std))


def square_pixels(images: torch.Tensor, settings: PixelSettings) -> torch.Tensor:
    """Normalised float32 pixels ``(B, 3, S, S)`` of ``images (B, 3, H, W)`` nominally in [0, 1]; differentiable.

    The image is centred on a square of the mean colour (rounded down to 8 bits) and resized as PIL's bicubic does.
    """
    images = images.float()
    mean, std = (images.new_tensor(values).view(1, -1, 1, 1) for values in (settings.mean, settings.std))
    height, width = images.shape[-2:]
    if height != width:
        background = (mean * 255).floor() / 255
        missing = (max(height, width) - width, max(height, width) - height)
        left, top = missing[0] // 2, missing[1] // 2
        images = pad(images - background, (left, missing[0] - left, top, missing[1] - top)) + background
    size = (settings.image_size, settings.image_size)
    if images.shape[-2:] != size:
        images = interpolate(images, size, mode="bicubic", antialias=True)
    return (images - mean) / std


class _GradientScale:
    """The power of two that one call's gradients are multiplied by between the model's logits and its pixels.

    A reward's gradient at a logit is small, and smaller still behind 32 blocks: in half precision most of it would be
    lost below 6e-8. A power of two changes no digit; drawn from the gradient itself, it fits any weight of the reward.
    """

    factor: torch.Tensor | float = 1.0


class _EnterScale(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: torch.Tensor, scale: _GradientScale) -> torch.Tensor:
        ctx.scale = scale
        return logits.view_as(logits)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        peak = gradient.abs().amax().clamp_min(torch.finfo(torch.float32).tiny)
        ctx.scale.factor = torch.exp2(torch.log2(_GRADIENT_PEAK / peak).floor().clamp(-100, 100))
        return gradient * ctx.scale.factor, None


class _LeaveScale(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, pixels: torch.Tensor, scale: _GradientScale) -> torch.Tensor:
        ctx.scale = scale
        return pixels.view_as(pixels)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        return gradient / ctx.scale.factor, None
