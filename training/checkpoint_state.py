"""Nested Python state (state dicts, random states) as one safetensors file: nothing is pickled, nothing can execute.

Tensors and arrays lie in the file under numbers; the structure around them lies in its metadata as JSON.
"""

import json
import os
import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file


def save_state(state: Any, path: str | Path) -> None:
    """Write ``state`` (dicts, lists, tuples, tensors, arrays and JSON's scalars), replacing ``path`` in one step.

    Raises:
        TypeError: the state holds something else.
    """
    tensors: dict[str, torch.Tensor] = {}
    structure = json.dumps(_describe(state, tensors))
    temporary = Path(path).with_suffix(".tmp")
    save_file(tensors, temporary, metadata={"structure": structure})
    os.replace(temporary, path)


def load_state(path: str | Path) -> Any:
    """Read what :func:`save_state` wrote; tensors come back on the CPU.

    Raises:
        ValueError: the file holds no such state.
    """
    with safe_open(path, framework="pt", device="cpu") as file:
        metadata = file.metadata() or {}
        if "structure" not in metadata:
            raise ValueError(f"{path} holds no saved state; resume from a checkpoint that this trainer wrote.")
        return _rebuild(json.loads(metadata["structure"]), file)


def random_state() -> dict[str, Any]:
    """The state of Python's, numpy's and torch's generators on this process."""
    return {
        "python": random.getstate(),
        "numpy": np.random.get_state(),
        "cpu": torch.random.get_rng_state(),
        "cuda": torch.cuda.random.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def restore_random_state(state: dict[str, Any]) -> None:
    """Restore what :func:`random_state` gave; GPUs only where there are as many."""
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    torch.random.set_rng_state(state["cpu"])
    if torch.cuda.is_available() and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.random.set_rng_state_all(state["cuda"])


def _describe(value: Any, tensors: dict[str, torch.Tensor]) -> Any:
    if isinstance(value, (torch.Tensor, np.ndarray)):
        tensor = torch.from_numpy(value.copy()) if isinstance(value, np.ndarray) else value
        key = str(len(tensors))
        # a copy of its own: safetensors refuses tensors that share memory
        tensors[key] = tensor.detach().cpu().contiguous().clone()
        return {"kind": "array" if isinstance(value, np.ndarray) else "tensor", "key": key}
    if isinstance(value, dict):
        # pairs, because optimizer states are keyed by integers and JSON's keys are strings
        return {"kind": "dict", "items": [[_describe(k, tensors), _describe(v, tensors)] for k, v in value.items()]}
    if isinstance(value, (list, tuple)):
        kind = "tuple" if isinstance(value, tuple) else "list"
        return {"kind": kind, "items": [_describe(item, tensors) for item in value]}
    if isinstance(value, np.generic):
        return value.item()
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f"cannot save a {type(value).__name__} in a checkpoint")


def _rebuild(described: Any, file: Any) -> Any:
    if not isinstance(described, dict):
        return described
    kind = described["kind"]
    if kind == "dict":
        return {_rebuild(key, file): _rebuild(value, file) for key, value in described["items"]}
    if kind in ("list", "tuple"):
        items = [_rebuild(item, file) for item in described["items"]]
        return tuple(items) if kind == "tuple" else items
    tensor = file.get_tensor(described["key"])
    return tensor.numpy() if kind == "array" else tensor
