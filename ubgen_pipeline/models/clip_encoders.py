"""CLIP by name, from transformers or open_clip: differentiable image features and fixed text features."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from .clip_preprocessing import (
    ImagePreprocessing,
    Preprocessing,
    open_clip_preprocessing,
    transformers_preprocessing,
)
from .loading_lock import one_at_a_time
from .model_files import loading_fault

MINI_PREFIX = "mini:"
OPEN_CLIP_PREFIX = "open_clip:"
OPEN_CLIP_SOURCES = ("local-dir:", "hf-hub:")


@dataclass(frozen=True)
class ClipEncoder:
    """A frozen CLIP in float32.

    Args:
        model: the CLIP module, moved by :meth:`to`.
        preprocess: images ``(B, 3, H, W)`` in [0, 1] to what ``image_features`` reads, as the model's own image
            processor makes it.
        image_features: keyword arguments, ``pixel_values`` first of all, to features ``(B, F)``.
        text_features: texts to features ``(N, F)``.
    """

    model: nn.Module
    preprocess: Preprocessing
    image_features: Callable[..., torch.Tensor]
    text_features: Callable[[list[str]], torch.Tensor]

    @property
    def logit_scale(self) -> float:
        """What cosines are multiplied with before a softmax over texts: as the model was trained, or CLIP's own 100
        (Radford et al. 2021, section 2.5)."""
        scale = getattr(self.model, "logit_scale", None)
        return 100.0 if scale is None else float(scale.detach().exp())

    def encode_images(self, images: torch.Tensor) -> torch.Tensor:
        """Unnormalised features ``(B, F)`` of ``images (B, 3, H, W)`` nominally in [0, 1]; differentiable."""
        return self.image_features(**self.preprocess(images))

    @torch.no_grad()
    def encode_texts(self, texts: Sequence[str], batch_size: int = 256) -> torch.Tensor:
        """Unnormalised features ``(N, F)`` of N texts."""
        texts = list(texts)
        return torch.cat([self.text_features(texts[i : i + batch_size]) for i in range(0, len(texts), batch_size)])

    def to(self, device: torch.device | str) -> "ClipEncoder":
        """Move the model; the encoder itself is returned."""
        self.model.to(device)
        return self


def picture_pixels(image: Image.Image) -> torch.Tensor:
    """Pixels ``(1, 3, H, W)`` in [0, 1] of an RGB image, as :meth:`ClipEncoder.encode_images` reads them."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 255


@one_at_a_time
def load_clip_encoder(name: str, setting: str = "clip_model") -> ClipEncoder:
    """The CLIP called ``name``.

    Args:
        name: ``mini``, or ``mini:FOLDER`` for another CLIP of its architecture; a transformers model id or folder
            of a CLIP, SigLIP or SigLIP 2, such as ``openai/clip-vit-large-patch14`` or
            ``google/siglip-base-patch16-224``; or an open_clip model:
            ``open_clip:ARCHITECTURE/PRETRAINED`` (``open_clip:ViT-B-32/laion2b_s34b_b79k``),
            ``open_clip:hf-hub:ORGANISATION/MODEL``, or ``open_clip:local-dir:FOLDER``.
        setting: the one that names it, for errors.

    Raises:
        ValueError: it is unknown, cannot be loaded, or has an image processor without gradient.
    """
    try:
        if name == "mini" or name.startswith(MINI_PREFIX):
            encoder = _mini_encoder(name.removeprefix(MINI_PREFIX) if name != "mini" else None)
        elif name.startswith(OPEN_CLIP_PREFIX):
            encoder = _open_clip_encoder(name.removeprefix(OPEN_CLIP_PREFIX))
        else:
            encoder = _transformers_encoder(name)
    except (OSError, RuntimeError, ValueError, KeyError) as error:
        first_line = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(
            f"{setting} {name!r} cannot be loaded ({first_line}); give 'mini', a transformers CLIP or SigLIP such as "
            "'openai/clip-vit-large-patch14' or its folder, or 'open_clip:ViT-B-32/laion2b_s34b_b79k'."
        ) from error
    encoder.model.eval().requires_grad_(False)
    return encoder


def _mini_encoder(folder: str | None = None) -> ClipEncoder:
    from ..mini.clip import IMAGE_MEAN, IMAGE_STD, load_mini_clip

    model, tokenize = load_mini_clip(folder)

    def text_features(texts: list[str]) -> torch.Tensor:
        return model.encode_text(tokenize(texts).to(model.logit_scale.device))

    preprocess = ImagePreprocessing(64, 64, IMAGE_MEAN, IMAGE_STD, resize_mode="squash")
    return ClipEncoder(model, preprocess, lambda pixel_values: model.encode_image(pixel_values), text_features)


def _open_clip_encoder(name: str) -> ClipEncoder:
    import open_clip

    if name.startswith(OPEN_CLIP_SOURCES):
        architecture, pretrained = name, None
    else:
        architecture, _, pretrained = name.partition("/")
        if not pretrained:
            raise ValueError(f"{name!r} names no pretrained weights")
    # open_clip's classes name the same parts differently
    model: Any = open_clip.create_model(architecture, pretrained=pretrained, precision="fp32", require_pretrained=True)
    tokenize = open_clip.get_tokenizer(architecture)
    # normalize is given, because CoCa's default is True
    return ClipEncoder(
        model,
        open_clip_preprocessing(model.visual.preprocess_cfg),
        lambda pixel_values: model.encode_image(pixel_values, normalize=False),
        lambda texts: model.encode_text(tokenize(texts).to(model.logit_scale.device), normalize=False),
    )


def _transformers_encoder(name: str) -> ClipEncoder:
    from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

    try:
        model = AutoModel.from_pretrained(name, dtype=torch.float32, use_safetensors=True)
    except OSError as error:
        raise ValueError(loading_fault(error, name, "AutoModel")) from error
    if not (hasattr(model, "get_image_features") and hasattr(model, "get_text_features")):
        raise ValueError(f"{type(model).__name__} has no image and text features in one space")
    preprocess = transformers_preprocessing(AutoImageProcessor.from_pretrained(name))
    tokenizer = AutoTokenizer.from_pretrained(name)
    # SigLIP reads lower case, padded to full length; its features are of the last position
    siglip = model.config.model_type.startswith("siglip")

    def text_features(texts: list[str]) -> torch.Tensor:
        encoded = tokenizer(
            [text.lower() for text in texts] if siglip else texts,
            padding="max_length" if siglip else True,
            truncation=True,
            max_length=model.config.text_config.max_position_embeddings,
            return_tensors="pt",
        )
        inputs = {key: encoded[key].to(model.device) for key in ("input_ids", "attention_mask") if key in encoded}
        return model.get_text_features(**inputs).pooler_output

    def image_features(**inputs: torch.Tensor) -> torch.Tensor:
        # masks and shapes are made on the CPU whatever the images' device
        return model.get_image_features(**{key: value.to(model.device) for key, value in inputs.items()}).pooler_output

    return ClipEncoder(model, preprocess, image_features, text_features)
