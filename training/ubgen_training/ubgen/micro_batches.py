"""Gradients of loss terms at a batch of images, a micro-batch at a time, so that rewards see no more than fits.

Terms that read the whole batch (the adversarial term) read its joined features, which are a leaf of the graph; each
micro-batch then takes the gradient there on to its own pixels. By the chain rule that is the whole batch's gradient.
Shapes: B images, M images of a micro-batch, F feature width.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class MicroBatch:
    """``rows`` of the batch: leaves ``pixels (M, 3, H, W)``, and features ``(M, F)`` of them, or None."""

    rows: slice
    pixels: torch.Tensor
    features: torch.Tensor | None


class MicroBatches:
    """Iterates over :class:`MicroBatch` and adds up the gradient of each named term at the pixels.

    ``features (B, F)`` are the joined features, a leaf, or None.

    Args:
        images: ``(B, 3, H, W)``; their own graph is not touched.
        size: M; None is B. The last micro-batch may be smaller.
        encode: images to features; None where nobody needs any. With more than one micro-batch it runs twice on each
            image, first without graph for the joined features.
    """

    def __init__(
        self, images: torch.Tensor, size: int | None, encode: Callable[[torch.Tensor], torch.Tensor] | None = None
    ):
        self.pixels = images.detach()
        self.encode = encode
        size = size or len(images)
        self._rows = [slice(start, start + size) for start in range(0, len(images), size)]
        self._only = self._micro_batch(self._rows[0]) if len(self._rows) == 1 else None
        self.features = self._joined_features()
        self._at_pixels: dict[str, torch.Tensor] = {}
        self._at_features: dict[str, torch.Tensor] = {}

    def whole(self) -> MicroBatch:
        """The whole batch with the joined features, both leaves, for a term that reads all images at once."""
        return MicroBatch(slice(None), self.pixels.clone().requires_grad_(True), self.features)

    def __iter__(self) -> Iterator[MicroBatch]:
        """The micro-batches, for terms that are sums over images; whole terms come before, since their gradient at
        the joined features is taken on to the pixels here, after each micro-batch's turn."""
        for rows in self._rows:
            part = self._only or self._micro_batch(rows)
            yield part
            for name, gradient in self._at_features.items():
                assert part.features is not None
                (at_pixels,) = torch.autograd.grad(part.features, part.pixels, gradient[rows], retain_graph=True)
                self._add(name, rows, at_pixels)

    def differentiate(self, name: str, term: torch.Tensor, part: MicroBatch) -> None:
        """Add the gradient of ``term ()``, computed from ``part``, to that of the term called ``name``."""
        # the features' graph is shared by several terms
        if self.features is None or part.features is not self.features:
            (at_pixels,) = torch.autograd.grad(term, part.pixels, retain_graph=True)
            self._add(name, part.rows, at_pixels)
            return
        inputs = (part.pixels, self.features)
        at_pixels, at_features = torch.autograd.grad(term, inputs, retain_graph=True, allow_unused=True)
        if at_pixels is not None:
            self._add(name, part.rows, at_pixels)
        if at_features is not None:
            self._at_features[name] = at_features

    def gradient(self, name: str) -> torch.Tensor:
        """``(B, 3, H, W)``, what the term called ``name`` has added up; zeros where it was not differentiated."""
        return self._at_pixels.get(name, torch.zeros_like(self.pixels))

    def _add(self, name: str, rows: slice, gradient: torch.Tensor) -> None:
        self._at_pixels.setdefault(name, torch.zeros_like(self.pixels))[rows] += gradient

    def _micro_batch(self, rows: slice) -> MicroBatch:
        # cloned to be a leaf: from a view, the gradient would go on to the batch
        pixels = self.pixels[rows].clone().requires_grad_(True)
        with torch.enable_grad():
            return MicroBatch(rows, pixels, self.encode(pixels) if self.encode is not None else None)

    def _joined_features(self) -> torch.Tensor | None:
        if self.encode is None:
            return None
        if self._only is not None and self._only.features is not None:
            return self._only.features.detach().requires_grad_(True)
        with torch.no_grad():
            features = torch.cat([self.encode(self.pixels[rows]) for rows in self._rows])
        return features.requires_grad_(True)
