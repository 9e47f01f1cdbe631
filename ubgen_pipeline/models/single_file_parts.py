"""The parts of a transformer's checkpoint in one file: which it holds, and whether all of their weights are there."""

from collections.abc import Mapping
from importlib import import_module
from typing import Any

import torch

_AUTOENCODER = ("first_stage_model.", "vae.")
_CLIP, _OPEN_CLIP, _T5 = ("text_encoders.clip_l.",), ("text_encoders.clip_g.",), ("text_encoders.t5xxl.",)
# by family: what the names of a part's weights begin with, of those that many files lack
_PARTS = {
    "sd3": {"vae": _AUTOENCODER, "text_encoder": _CLIP, "text_encoder_2": _OPEN_CLIP, "text_encoder_3": _T5},
    "flux": {"vae": _AUTOENCODER, "text_encoder": _CLIP, "text_encoder_2": _T5},
}
# the weight by which diffusers knows that a text encoder is there
_KNOWN_BY = {
    **dict.fromkeys((*_CLIP, *_OPEN_CLIP), "transformer.text_model.embeddings.position_embedding.weight"),
    **dict.fromkeys(_T5, "transformer.shared.weight"),
}


def lacking_parts(
    pipeline_class: Any,
    shapes: Mapping[str, torch.Tensor],
    family: str,
    model: str,
    dtype: torch.dtype,
    revision: str | None = None,
) -> dict[str, Any]:
    """The networks that a file has no weights of, loaded from another model.

    Args:
        pipeline_class: of the family.
        shapes: the file's weights by name, without memory.
        family: the registry's name; nothing is loaded for those whose files' parts are not known.
        model: folder or Hub id in diffusers layout.
        dtype: to load them in.
        revision: of that model on the Hub.

    Raises:
        OSError: no such model, or it lacks the part.
    """
    parts = _absent(shapes, family)
    index = pipeline_class.load_config(model, revision=revision) if parts else {}
    found = {}
    for part in parts:
        library, name = index[part]
        found[part] = name and getattr(import_module(library), name).from_pretrained(
            model, subfolder=part, revision=revision, torch_dtype=dtype, use_safetensors=True
        )
    return found


def weights_misfit(
    pipeline_class: Any, shapes: Mapping[str, torch.Tensor], family: str, model: str, revision: str | None = None
) -> str | None:
    """Which weight only the file has, or only the other model; the text follows the file's name.

    diffusers leaves a weight that is missing without memory, and one without a place out. Of text encoders only the
    weight is looked for that diffusers knows them by; whether the others are there shows once they are loaded.
    Arguments as of :func:`lacking_parts`.

    Raises:
        KeyError: a weight that the conversion asks for by its name in the file.
        OSError: no such model.
        RuntimeError: layers of other widths than the conversion knows.
    """
    from diffusers.loaders.single_file_model import SINGLE_FILE_LOADABLE_CLASSES

    if family not in _PARTS:
        return None
    for begin, name in _KNOWN_BY.items():
        if begin + name not in shapes and any(key.startswith(begin) for key in shapes):
            return f"which lacks the weights {begin + name!r}"
    index = pipeline_class.load_config(model, revision=revision)
    for part in sorted({"transformer", "vae"}.difference(_absent(shapes, family))):
        library, name = index[part]
        network_class = getattr(import_module(library), name)
        config = network_class.load_config(model, subfolder=part, revision=revision)
        with torch.device("meta"):
            own = network_class.from_config(config).state_dict()
        held = SINGLE_FILE_LOADABLE_CLASSES[name]["checkpoint_mapping_fn"](config=config, checkpoint=dict(shapes))
        if (missing := next((name for name in own if name not in held), None)) is not None:
            return f"which lacks the weights of {missing!r} of its {part}, as diffusers calls it"
        if (more := next((name for name in held if name not in own), None)) is not None:
            return (
                f"whose {part} has the layer {more!r}, as diffusers calls it, and that of {model} has none: its layers"
                " are others; give a folder in diffusers layout, whose settings say which they are"
            )
    return None


def _absent(shapes: Mapping[str, torch.Tensor], family: str) -> list[str]:
    """The parts that a file has no weights of."""
    parts = _PARTS.get(family, {})
    return [part for part, begin in parts.items() if not any(name.startswith(begin) for name in shapes)]
