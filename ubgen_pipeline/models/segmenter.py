"""Semantic segmenters: DeepLabV3 of torchvision, SegFormer, Mask2Former and their kin of transformers, a small U-Net.

One module hides what they differ in. Class 0 is the background and class 1 + c the dataset's label c, as in the masks
that ubgen writes. A saved segmenter of transformers is an ordinary folder that ``from_pretrained`` reads.

Shapes: B images of H x W pixels, K classes, background included.
"""

import json
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn
from torchvision.models import segmentation
from transformers import (
    AutoConfig,
    AutoModelForSemanticSegmentation,
    AutoModelForUniversalSegmentation,
    Mask2FormerForUniversalSegmentation,
    PretrainedConfig,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING

from ..files.tensor_files import give_ordinary_permissions, save_tensors
from ..mini.networks import UNetSegmenter
from .loading_lock import one_at_a_time
from .model_files import loading_fault

BACKGROUND_NAME = "background"
DEEPLAB_NAMES = ("deeplabv3_resnet50", "deeplabv3_resnet101", "deeplabv3_mobilenet_v3_large")
# the architectures that are built here, not by transformers
BUILT_NAMES = ("mini", *DEEPLAB_NAMES)
# mean and deviation of ImageNet's pixels, which all of these models are pretrained with
PIXEL_MEAN, PIXEL_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"


class Prediction(NamedTuple):
    """``masks (B, H, W)`` uint8 classes, and ``confidence (B, H, W)`` float32 in [0, 1]: the class's probability."""

    masks: torch.Tensor
    confidence: torch.Tensor


class Segmenter(nn.Module):
    """A network with the names of its classes.

    Args:
        network: the model of torchvision or transformers, with K = 1 + C output classes.
        class_names: C names without the background.
        kind: what the network is called in ``build_segmenter``; written beside the weights of what it builds itself.
    """

    def __init__(self, network: nn.Module, class_names: Sequence[str], kind: str):
        super().__init__()
        self.network, self.class_names, self.kind = network, list(class_names), kind
        # transformers' Trainer reads a config off its model
        self.config = getattr(network, "config", None) or PretrainedConfig()
        self.mean: torch.Tensor
        self.std: torch.Tensor
        self.register_buffer("mean", torch.tensor(PIXEL_MEAN)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(PIXEL_STD)[:, None, None], persistent=False)

    @property
    def num_classes(self) -> int:
        """K, the background included."""
        return 1 + len(self.class_names)

    def forward(self, images: torch.Tensor) -> Any:
        """The network's own output for ``images (B, 3, H, W)`` in [0, 1]."""
        return self.network((images - self.mean) / self.std)

    def class_scores(self, output: Any, size: Sequence[int]) -> torch.Tensor:
        """Logits ``(B, K, *size)`` float32 of a network's output, up to a constant for each pixel.

        Mask2Former scores class c by the sum over queries of p(class = c) p(pixel in mask) (Cheng et al. 2022,
        semantic inference); its logarithm is a logit.
        """
        if isinstance(self.network, Mask2FormerForUniversalSegmentation):
            # upsampled before the sigmoid, as transformers' own post-processing does
            masks = _resized(output.masks_queries_logits.float(), size).sigmoid()
            classes = output.class_queries_logits.float().softmax(dim=-1)[..., :-1]
            return torch.einsum("bqc,bqhw->bchw", classes, masks).clamp_min(1e-6).log()
        # torchvision's give a plain dict
        logits: torch.Tensor = output["out"] if type(output) in (dict, OrderedDict) else output.logits
        return _resized(logits.float(), size)

    @torch.no_grad()
    def predict(self, images: torch.Tensor) -> Prediction:
        """Most probable class of every pixel of ``images (B, 3, H, W)`` in [0, 1], at their own size."""
        probabilities = self.class_scores(self(images), images.shape[-2:]).softmax(dim=1)
        confidence, masks = probabilities.max(dim=1)
        return Prediction(masks.to(torch.uint8), confidence)

    def save(self, folder: str | Path) -> None:
        """Write weights and configuration; safetensors and JSON only."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        if self.kind not in BUILT_NAMES:
            self.network.save_pretrained(folder)  # pyright: ignore[reportCallIssue]
            give_ordinary_permissions(*folder.glob("*.safetensors"))
            return
        weights = {name: value.detach().cpu().contiguous() for name, value in self.network.state_dict().items()}
        save_tensors(weights, folder / WEIGHTS_FILE, metadata={"format": "pt"})
        config = {"model_type": self.kind, "class_names": self.class_names}
        (folder / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def build_segmenter(model: str, class_names: Sequence[str], *, seed: int = 0) -> Segmenter:
    """A segmenter to be trained: its classes are the background and ``class_names``.

    Args:
        model: ``mini`` (a small U-Net), one of ``DEEPLAB_NAMES``, or a folder or Hub id of transformers: SegFormer,
            Mask2Former or another semantic segmenter, or SegFormer's backbone. Its weights are kept but for the last
            layer's where the number of classes differs. A folder with a ``config.json`` alone gives untrained weights;
            one that train_segmenter.py wrote goes on with its own.
        class_names: C names without the background.
        seed: of the weights that are chosen at random.

    Raises:
        ValueError: no such model, or one that does not segment.
    """
    if not class_names:
        raise ValueError("class_names is empty; give at least one class beside the background.")
    labels = dict(enumerate([BACKGROUND_NAME, *class_names]))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if model in BUILT_NAMES:
            return Segmenter(_built_network(model, len(labels)), class_names, model)
        if read_config(model).get("model_type") in BUILT_NAMES:
            segmenter = load_segmenter(model)
            if segmenter.class_names != list(class_names):
                raise ValueError(
                    f"model is {model!r}, which was trained on {', '.join(segmenter.class_names[:20])}; a segmenter of"
                    " this kind can only go on with the same classes in the same order."
                )
            return segmenter.train()
        return Segmenter(_transformers_network(model, labels), class_names, model)


@one_at_a_time
def load_segmenter(model: str | Path) -> Segmenter:
    """A trained segmenter in eval mode: a folder that :meth:`Segmenter.save` wrote, or a model of transformers.

    The background must be its class 0, as in every segmenter trained here; others are run by ``ubgen annotate`` with a
    class map.

    Raises:
        ValueError: nothing there, or its class 0 is no background.
    """
    config = read_config(model)
    if config.get("model_type") in BUILT_NAMES:
        network = _built_network(config["model_type"], 1 + len(config["class_names"]))
        try:
            network.load_state_dict(load_file(Path(model) / WEIGHTS_FILE))
        except (OSError, SafetensorError, RuntimeError) as error:
            raise ValueError(f"model is {str(model)!r}, whose weights could not be read: {error}") from error
        return Segmenter(network, config["class_names"], config["model_type"]).eval()
    network: Any = _transformers_network(str(model), None)
    labels = [network.config.id2label[index] for index in range(network.config.num_labels)]
    if labels[0] != BACKGROUND_NAME:
        raise ValueError(
            f"model is {str(model)!r}, whose class 0 is {labels[0]!r} and no background; give one trained by"
            " train_segmenter.py, or use `ubgen annotate` with a class map."
        )
    return Segmenter(network, labels[1:], str(network.config.model_type)).eval()


def _built_network(name: str, num_classes: int) -> nn.Module:
    if name == "mini":
        return UNetSegmenter(num_classes)
    return getattr(segmentation, name)(weights=None, weights_backbone=None, num_classes=num_classes)


def _transformers_network(model: str, labels: dict[int, str] | None) -> nn.Module:
    """A model of transformers, with these classes or with its own."""
    settings = {} if labels is None else _label_settings(labels)
    folder = Path(model).expanduser()
    try:
        config = AutoConfig.from_pretrained(model, **settings)
        is_semantic = type(config) in MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING
        kind = AutoModelForSemanticSegmentation if is_semantic else AutoModelForUniversalSegmentation
        if labels is not None and folder.is_dir() and not list(folder.glob("*.safetensors*")):
            return kind.from_config(config)
        return kind.from_pretrained(
            model, config=config, use_safetensors=True, ignore_mismatched_sizes=labels is not None
        )
    except (OSError, ValueError, KeyError) as error:
        first = loading_fault(error, str(folder) if folder.is_dir() else model, "AutoModelForSemanticSegmentation")
        raise ValueError(
            f"model is {model!r}, which could not be loaded as a segmenter; give one of"
            f" {', '.join(BUILT_NAMES)}, or a folder or Hub id of a semantic segmenter. {first}"
        ) from error


def _label_settings(labels: dict[int, str]) -> dict[str, Any]:
    return {"id2label": labels, "label2id": {name: index for index, name in labels.items()}}


def read_config(model: str | Path) -> dict[str, Any]:
    """What ``config.json`` in a model's folder says; empty where there is none."""
    file = Path(model).expanduser() / CONFIG_FILE
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}


def _resized(maps: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    if tuple(maps.shape[-2:]) == tuple(size):
        return maps
    return nn.functional.interpolate(maps, size=tuple(size), mode="bilinear", align_corners=False)
