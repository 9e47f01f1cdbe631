"""Features and predictions of a frozen backbone for many images, batched and kept on the disk.

A cached file is named by a hash of the backbone's weights, its preprocessing and every image's content, so it is never
used for anything else. Shapes: N images, F features, C classes.
"""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from ubgen_pipeline.dataset.damaged_images import read_rows
from ubgen_pipeline.files.image_codecs import DECODER_ERRORS, rgb_image
from ubgen_pipeline.files.whole_files import whole_file

from .backbones import Backbone


@dataclass(frozen=True)
class FeatureSet:
    """``features (N, F)`` and, of a classifier, ``probabilities (N, C)``, else None; float32."""

    features: np.ndarray
    probabilities: np.ndarray | None


@torch.no_grad()
def extract_features(
    backbone: Backbone, images: Iterable[Any], *, batch_size: int = 64, cache_dir: str | Path | None = None
) -> FeatureSet:
    """Run a backbone on images.

    Args:
        backbone: see :func:`ubgen_evaluation.backbones.load_backbone`.
        images: PIL images, files, ``(H, W, 3)`` uint8 arrays, or rows with an ``image``, as of a ``datasets.Dataset``;
            iterated over twice with a cache, once to hash them.
        batch_size: images at a time.
        cache_dir: where results are kept; None keeps none.

    Raises:
        ValueError: no images, one that cannot be read, or features that are not finite.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}; give 1 or more.")
    file = None
    if cache_dir is not None:
        # a generator would be used up by the hash
        images = images if hasattr(images, "__len__") else list(images)
        file = Path(cache_dir).expanduser() / f"{_cache_key(backbone, images)}.safetensors"
        if file.is_file():
            return _read(file)
    device = next(backbone.model.parameters()).device
    features, probabilities, logits = [], [], backbone.logits
    for batch in _batches(images, batch_size):
        pixels = torch.stack([backbone.transform(image) for image in batch]).to(device)
        features.append(backbone.features(pixels).float().cpu())
        if logits is not None:
            probabilities.append(logits(pixels).float().softmax(dim=1).cpu())
    if not features:
        raise ValueError("images is empty; give at least one.")
    result = FeatureSet(torch.cat(features).numpy(), torch.cat(probabilities).numpy() if probabilities else None)
    wrong = np.flatnonzero(~np.isfinite(result.features).all(axis=1))
    if len(wrong):
        raise ValueError(f"backbone {backbone.name!r} gives NaN or infinite features for image {wrong[0]}.")
    if file is not None:
        _write(result, file)
    return result


def weights_fingerprint(model: nn.Module) -> str:
    """SHA-256 of all parameters and buffers, with their names."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def open_image(item: Any, number: int = 0) -> Image.Image:
    """An RGB image of a PIL image, a file, an array, or a row with an ``image``.

    Raises:
        ValueError: it cannot be read; its file or number is named.
    """
    if isinstance(item, dict):
        item = item["image"]
    what = f"file {item}" if isinstance(item, (str, Path)) else f"image {number}"
    try:
        if isinstance(item, np.ndarray):
            item = Image.fromarray(item)
        if isinstance(item, (str, Path)):
            with Image.open(item) as opened:
                return rgb_image(opened, what)
        return rgb_image(item, what)
    except (*DECODER_ERRORS, AttributeError, TypeError) as error:
        raise ValueError(f"{what} could not be read as an image: {error}") from error


def _batches(images: Iterable[Any], size: int) -> Iterator[list[Image.Image]]:
    batch: list[Image.Image] = []
    for number, item in enumerate(read_rows(images, "the dataset")):
        batch.append(open_image(item, number))
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def _cache_key(backbone: Backbone, images: Iterable[Any]) -> str:
    digest = hashlib.sha256(f"{weights_fingerprint(backbone.model)} {backbone.settings}".encode())
    for number, item in enumerate(read_rows(images, "the dataset")):
        if isinstance(item, (str, Path)):
            try:
                digest.update(hashlib.sha256(Path(item).read_bytes()).digest())
            except OSError as error:
                raise ValueError(f"file {item} could not be read as an image: {error}") from error
        else:
            image = open_image(item, number)
            digest.update(f"{image.size}".encode() + image.tobytes())
    return digest.hexdigest()[:32]


def _read(file: Path) -> FeatureSet:
    from safetensors.numpy import load_file

    arrays = load_file(file)
    return FeatureSet(arrays["features"], arrays.get("probabilities"))


def _write(result: FeatureSet, file: Path) -> None:
    from safetensors.numpy import save_file

    arrays = {"features": result.features}
    if result.probabilities is not None:
        arrays["probabilities"] = result.probabilities
    with whole_file(file) as temporary:
        save_file({name: np.ascontiguousarray(value) for name, value in arrays.items()}, temporary)
