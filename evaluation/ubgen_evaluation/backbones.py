"""A frozen image backbone by name, from timm, transformers, or the mini world, with its own preprocessing.

Weights are safetensors only, and no code of a model's repository is run. Images go in by the transfer protocol:
shorter side to the model's size (bicubic), centre crop, the model's mean and deviation.
Shapes: B images, F features, C classes, S pixels a side.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ubgen_pipeline.models.model_files import loading_fault

MINI = "mini"
TIMM_PREFIX, TRANSFORMERS_PREFIX = "timm:", "transformers:"
WEIGHTS_FILE = "model.safetensors"


@dataclass(frozen=True)
class Backbone:
    """A backbone in eval mode and float32.

    ``features`` takes ``(B, 3, S, S)`` to ``(B, F)`` before any head, ``logits`` to ``(B, C)`` or is None;
    ``transform`` makes ``(3, S, S)`` of a PIL image. ``class_names`` is empty where they are not known. ``settings``
    is text on which, with the weights, the features depend.
    """

    name: str
    model: nn.Module
    features: Callable[[torch.Tensor], torch.Tensor]
    logits: Callable[[torch.Tensor], torch.Tensor] | None
    transform: Callable[[Any], torch.Tensor]
    class_names: tuple[str, ...]
    settings: str


def load_backbone(name: str, device: str | torch.device = "cpu") -> Backbone:
    """Load a backbone.

    Args:
        name: ``mini`` (the mini world's CLIP image tower); a folder of timm's layout (``train_backbone.py`` writes
            it) or of transformers'; ``timm:ARCHITECTURE`` or ``transformers:HUB_ID`` with published weights.

    Raises:
        ValueError: it is unknown, cannot be loaded, or has no safetensors weights.
    """
    folder = Path(name).expanduser()
    try:
        if name == MINI:
            backbone = _mini()
        elif name.startswith(TIMM_PREFIX):
            backbone = _timm(name, _timm_files(name.removeprefix(TIMM_PREFIX)))
        elif name.startswith(TRANSFORMERS_PREFIX):
            backbone = _transformers(name, name.removeprefix(TRANSFORMERS_PREFIX))
        elif not (folder / "config.json").is_file():
            raise ValueError("there is no such folder with a config.json")
        elif "architecture" in json.loads((folder / "config.json").read_text(encoding="utf-8")):
            backbone = _timm(name, folder)
        else:
            backbone = _transformers(name, str(folder))
    except (OSError, RuntimeError, ValueError, KeyError) as error:
        first_line = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(
            f"backbone {name!r} cannot be loaded ({first_line}); give 'mini', a folder that train_backbone.py wrote, "
            "'timm:ARCHITECTURE' or 'transformers:HUB_ID'."
        ) from error
    backbone.model.to(device).eval().requires_grad_(False)
    return backbone


def protocol_transform(size: int, mean: Any, std: Any) -> Callable[[Any], torch.Tensor]:
    """PIL image to ``(3, S, S)``: shorter side to S (bicubic), centre crop, normalised."""
    from torchvision.transforms import v2

    return v2.Compose(
        [
            v2.Resize(size, interpolation=v2.InterpolationMode.BICUBIC),
            v2.CenterCrop(size),
            v2.PILToTensor(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(list(mean), list(std)),
        ]
    )


def _timm(name: str, folder: Path) -> Backbone:
    import timm
    from timm.data import resolve_model_data_config

    if not (folder / WEIGHTS_FILE).is_file():
        raise ValueError(f"{folder} holds no {WEIGHTS_FILE}")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    model: Any = timm.create_model(f"local-dir:{folder}", pretrained=True)
    data = resolve_model_data_config(model)
    class_names = config.get("label_names") or config.get("pretrained_cfg", {}).get("label_names") or ()
    size = int(data["input_size"][-1])

    def features(images: torch.Tensor) -> torch.Tensor:
        return model.forward_head(model.forward_features(images), pre_logits=True)

    return Backbone(
        name,
        model,
        features,
        model if model.num_classes else None,
        protocol_transform(size, data["mean"], data["std"]),
        tuple(class_names),
        f"timm {size} {data['mean']} {data['std']}",
    )


def _timm_files(architecture: str) -> Path:
    """The Hub's safetensors and configuration of published weights; timm itself would fall back to pickles."""
    import timm
    from huggingface_hub import snapshot_download

    published = timm.get_pretrained_cfg(architecture)
    if published is None or not published.hf_hub_id:
        raise ValueError(f"timm has no published weights on the Hub for {architecture!r}")
    repo = published.hf_hub_id
    if repo.endswith("/"):
        tag = f".{published.tag}" if published.tag else ""
        repo += f"{published.architecture}{tag}"
    return Path(snapshot_download(repo, allow_patterns=["config.json", WEIGHTS_FILE]))


def _transformers(name: str, source: str) -> Backbone:
    from transformers import AutoImageProcessor, AutoModel

    try:
        loaded: Any = AutoModel.from_pretrained(
            source, dtype=torch.float32, use_safetensors=True, output_loading_info=True
        )
    except OSError as error:
        raise ValueError(loading_fault(error, source, "AutoModel")) from error
    model, report = loaded
    # some architectures get a pooler whether or not it was trained; a random one would make random features
    has_pooler = not any("pooler" in key for key in report["missing_keys"])
    untrained = [key for key in report["missing_keys"] if "pooler" not in key]
    if untrained:
        raise ValueError(f"its weights lack {untrained[0]!r} and {len(untrained) - 1} more")
    processor = AutoImageProcessor.from_pretrained(source)
    sides = getattr(processor, "crop_size", None) or processor.size
    size = next(int(sides[key]) for key in ("height", "shortest_edge") if key in sides)

    def features(images: torch.Tensor) -> torch.Tensor:
        if hasattr(model, "get_image_features"):
            output = model.get_image_features(pixel_values=images)
            return getattr(output, "pooler_output", output)
        output = model(pixel_values=images)
        pooled = getattr(output, "pooler_output", None) if has_pooler else None
        # a ResNet pools to (B, F, 1, 1); a ViT without a pooler gives its class token
        return output.last_hidden_state[:, 0] if pooled is None else pooled.flatten(1)

    return Backbone(
        name,
        model,
        features,
        None,
        protocol_transform(size, processor.image_mean, processor.image_std),
        (),
        f"transformers {size} {processor.image_mean} {processor.image_std}",
    )


def _mini() -> Backbone:
    from ubgen_pipeline.mini.clip import IMAGE_MEAN, IMAGE_STD, load_mini_clip

    model, _ = load_mini_clip()
    return Backbone(
        MINI, model, model.encode_image, None, protocol_transform(64, IMAGE_MEAN, IMAGE_STD), (), "mini CLIP 64"
    )
