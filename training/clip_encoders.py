"""CLIP by name, from transformers or open_clip: differentiable image features and fixed text features."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.functional import interpolate

OPEN_CLIP_PREFIX = "open_clip:"


@dataclass(frozen=True)
class ClipEncoder:
    """A frozen CLIP in float32.

    Args:
        model: the CLIP module, moved by :meth:`to`.
        image_features: normalised pixels ``(B, 3, S, S)`` to features ``(B, F)``.
        text_features: texts to features ``(N, F)``.
        image_size: S.
        mean, std: of each colour channel, for pixels in [0, 1].
    """

    model: nn.Module
    image_features: Callable[[torch.Tensor], torch.Tensor]
    text_features: Callable[[list[str]], torch.Tensor]
    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def encode_images(self, images: torch.Tensor) -> torch.Tensor:
        """Unnormalised features ``(B, F)`` of ``images (B, 3, H, W)`` nominally in [0, 1]; differentiable."""
        images = images.float()
        if images.shape[-2:] != (self.image_size, self.image_size):
            images = interpolate(images, (self.image_size, self.image_size), mode="bicubic", antialias=True)
        mean, std = (images.new_tensor(values).view(1, -1, 1, 1) for values in (self.mean, self.std))
        return self.image_features((images - mean) / std)

    @torch.no_grad()
    def encode_texts(self, texts: Sequence[str], batch_size: int = 256) -> torch.Tensor:
        """Unnormalised features ``(N, F)`` of N texts."""
        texts = list(texts)
        return torch.cat([self.text_features(texts[i : i + batch_size]) for i in range(0, len(texts), batch_size)])

    def to(self, device: torch.device | str) -> "ClipEncoder":
        """Move the model; the encoder itself is returned."""
        self.model.to(device)
        return self


def load_clip_encoder(name: str) -> ClipEncoder:
    """The CLIP called ``name``.

    Args:
        name: ``mini``; a transformers model id or folder such as ``openai/clip-vit-large-patch14``; or
            ``open_clip:ARCHITECTURE/PRETRAINED`` such as ``open_clip:ViT-B-32/laion2b_s34b_b79k``.

    Raises:
        ValueError: it is unknown or cannot be loaded.
    """
    try:
        if name == "mini":
            encoder = _mini_encoder()
        elif name.startswith(OPEN_CLIP_PREFIX):
            encoder = _open_clip_encoder(name.removeprefix(OPEN_CLIP_PREFIX))
        else:
            encoder = _transformers_encoder(name)
    except (OSError, RuntimeError, ValueError, KeyError) as error:
        first_line = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(
            f"clip_model {name!r} cannot be loaded ({first_line}); give 'mini', a transformers CLIP such as "
            "'openai/clip-vit-large-patch14' or its folder, or 'open_clip:ViT-B-32/laion2b_s34b_b79k'."
        ) from error
    encoder.model.eval().requires_grad_(False)
    return encoder


def _mini_encoder() -> ClipEncoder:
    from ubgen_pipeline.mini.clip import IMAGE_MEAN, IMAGE_STD, load_mini_clip

    model, tokenize = load_mini_clip()

    def text_features(texts: list[str]) -> torch.Tensor:
        return model.encode_text(tokenize(texts).to(model.logit_scale.device))

    return ClipEncoder(model, model.encode_image, text_features, 64, IMAGE_MEAN, IMAGE_STD)


def _open_clip_encoder(name: str) -> ClipEncoder:
    import open_clip

    architecture, _, pretrained = name.partition("/")
    if not pretrained:
        raise ValueError(f"{name!r} names no pretrained weights")
    model = open_clip.create_model(architecture, pretrained=pretrained, precision="fp32")
    tokenize = open_clip.get_tokenizer(architecture)
    size = model.visual.image_size
    return ClipEncoder(
        model,
        model.encode_image,
        lambda texts: model.encode_text(tokenize(texts).to(model.logit_scale.device)),
        size[0] if isinstance(size, tuple) else size,
        tuple(model.visual.image_mean),
        tuple(model.visual.image_std),
    )


def _transformers_encoder(name: str) -> ClipEncoder:
    from transformers import CLIPModel, CLIPTokenizer
    from transformers.utils.constants import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

    model = CLIPModel.from_pretrained(name, dtype=torch.float32, use_safetensors=True)
    tokenizer = CLIPTokenizer.from_pretrained(name)

    def text_features(texts: list[str]) -> torch.Tensor:
        length = model.config.text_config.max_position_embeddings
        encoded = tokenizer(texts, padding=True, truncation=True, max_length=length, return_tensors="pt")
        return model.get_text_features(**encoded.to(model.device)).pooler_output

    return ClipEncoder(
        model,
        lambda pixels: model.get_image_features(pixel_values=pixels).pooler_output,
        text_features,
        model.config.vision_config.image_size,
        tuple(OPENAI_CLIP_MEAN),
        tuple(OPENAI_CLIP_STD),
    )
