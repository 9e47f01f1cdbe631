"""Whether a model's files hold all weights of its networks; loaders give those that are missing random values."""

from math import prod
from pathlib import Path
from typing import Any

from safetensors import safe_open

from .model_files import loaded_files


def lacking_weights(pipeline: Any, folder: Path, variant: str | None = None) -> str | None:
    """What of a network stands in no file, to follow the model's name; None where all of it does.

    Numbers are counted, since names change between versions of the libraries; a name is told where it is known.

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
        # a weight that several layers share counts once
        own = {name: weight.numel() for name, weight in network.named_parameters()}
        if sizes and sum(sizes.values()) < sum(own.values()):
            missing = [name for name in own if name not in sizes]
            # where most names are others, the file is of another version, and names say nothing
            named = f", such as {missing[0]!r}" if 0 < len(missing) < len(own) / 2 else ""
            wanted = sum(own.values())
            return (
                f"whose {part} lacks {wanted - sum(sizes.values()):,} of {wanted:,} numbers of its weights{named};"
                " they would be random. Fetch the model anew"
            )
    return None
