"""Nested Python state (state dicts, random states) as one safetensors file: nothing is pickled, nothing can execute.

Tensors and arrays lie in the file under numbers; the structure around them lies in its metadata as JSON.
"""

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from torch.distributed.tensor import DTensor, distribute_tensor

from ubgen_pipeline.files.tensor_files import save_tensors


def save_state(state: Any, path: str | Path) -> None:
    """Write ``state`` (dicts, lists, tuples, tensors, arrays and JSON's scalars), replacing ``path`` in one step.

    Raises:
        TypeError: the state holds something else.
    """
    tensors: dict[str, torch.Tensor] = {}
    structure = json.dumps(_describe(state, tensors))
    save_tensors(tensors, path, metadata={"structure": structure})


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


def whole_state(state: Any) -> Any:
    """``state`` with every sharded tensor gathered into a whole one; every rank must call it, with the same state."""
    if isinstance(state, dict):
        return {key: whole_state(value) for key, value in state.items()}
    if isinstance(state, (list, tuple)):
        return type(state)(whole_state(value) for value in state)
    return state.full_tensor() if isinstance(state, DTensor) else state


def shard_like(whole: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """``whole`` on the device of ``reference`` and, where that is sharded, cut the same way; equal on every rank."""
    whole = whole.to(reference.device)
    if not isinstance(reference, DTensor):
        return whole
    # every rank has read the whole file, so none has to send its part
    return distribute_tensor(whole, reference.device_mesh, reference.placements, src_data_rank=None)


def load_optimizer_state(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Load an optimizer's state of whole tensors, cut as its parameters are."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    cut = {
        index: {
            name: shard_like(value, parameters[index])
            if isinstance(value, torch.Tensor) and value.shape == parameters[index].shape
            else value
            for name, value in entry.items()
        }
        for index, entry in state["state"].items()
    }
    optimizer.load_state_dict({**state, "state": cut})


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
        # copied, because safetensors refuses tensors that share memory
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
