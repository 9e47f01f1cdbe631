"""Whether a model's files hold all weights of its networks; loaders give those that are missing random values."""

import re
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any

from safetensors import safe_open

from .model_files import loaded_files

# the number of a layer in the name of a weight
_LAYER = re.compile(r"(?<=\.)\d+(?=\.)")


def lacking_weights(pipeline: Any, folder: Path, variant: str | None = None) -> str | None:
    """What of a network stands in no file, to follow the model's name; None where all of it does.

    Args:
        pipeline: loaded from the folder, in whatever precision.
        folder: in diffusers layout.
        variant: of the weights that were loaded.
    """
    files = loaded_files(folder, variant)
    for part, network in pipeline.networks.items():
        sizes: dict[str, int] = {}
        for file in files:
            if file.parent == folder / part and file.suffix == ".safetensors":
                with safe_open(file, framework="pt") as weights:
                    sizes |= {key: prod(weights.get_slice(key).get_shape()) for key in weights.keys()}  # noqa: SIM118
        if sizes and (missing := _missing(network, sizes)):
            number, name = missing
            wanted = sum(weight.numel() for weight in network.parameters())
            named = "" if name is None else f", such as {name!r}"
            return (
                f"whose {part} lacks {number:,} of {wanted:,} numbers of its weights{named}; they would be random."
                " Fetch the model anew"
            )
    return None


def _missing(network: Any, sizes: Mapping[str, int]) -> tuple[int, str | None] | None:
    """How many numbers stand in no file, as far as that is certain, and a weight of them by name where it is known.

    Names change between versions of the libraries, but for all layers at once. So a weight is missing where the same
    one of another layer is there by its name. Of those whose name is not there for any layer, only numbers can be
    counted: what else the files hold, but for buffers, may be they under other names.

    Args:
        network: as it was loaded.
        sizes: of what the files hold, by name.
    """
    # a weight that several layers share has several names, and files have one of them
    names: dict[Any, list[str]] = {}
    for name, weight in network.named_parameters(remove_duplicate=False):
        names.setdefault(weight, []).append(name)
    absent = {own[0]: weight.numel() for weight, own in names.items() if sizes.keys().isdisjoint(own)}
    known = {name for own in names.values() for name in own}
    there = {_of_any_layer(name) for name in known if name in sizes}
    certain = [name for name in absent if _of_any_layer(name) in there]
    if certain:
        return sum(absent[name] for name in certain), certain[0]
    # older files hold buffers that networks make themselves now, some of them below modules of other names
    buffers = {_last(name) for name, _ in network.named_buffers()} - set(map(_last, known))
    others = sum(size for name, size in sizes.items() if name not in known and _last(name) not in buffers)
    number = sum(absent.values()) - others
    if number <= 0:
        return None
    # where most names are others, the file is of another version, and names say nothing
    return number, next(iter(absent)) if len(absent) < len(names) / 2 else None


def _of_any_layer(name: str) -> str:
    return _LAYER.sub("#", name)


def _last(name: str) -> str:
    return name.rpartition(".")[2]
