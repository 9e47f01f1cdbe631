"""Nested state survives a file exactly, without pickle."""

import random

import numpy as np
import pytest
import torch

from ubgen_training.checkpoints.state import load_state, random_state, restore_random_state, save_state


def test_nested_state_round_trips(tmp_path):
    shared = torch.arange(3.0)
    state = {
        "optimizer": {"state": {0: {"step": torch.tensor(2.0), "exp_avg": shared}, 1: {"exp_avg": shared[1:]}}},
        "rates": [0.1, 1e-17, 3],
        "betas": (0.9, 0.999),
        "none": None,
        "flag": True,
        "array": np.arange(4, dtype=np.int64),
    }
    save_state(state, tmp_path / "state.safetensors")
    found = load_state(tmp_path / "state.safetensors")
    assert found["rates"] == [0.1, 1e-17, 3] and found["betas"] == (0.9, 0.999)
    assert found["none"] is None and found["flag"] is True
    assert torch.equal(found["optimizer"]["state"][0]["exp_avg"], shared)
    assert torch.equal(found["optimizer"]["state"][1]["exp_avg"], shared[1:])
    assert isinstance(found["array"], np.ndarray) and (found["array"] == np.arange(4)).all()
    assert list(tmp_path.iterdir()) == [tmp_path / "state.safetensors"]


def test_random_state_round_trips(tmp_path):
    kept = random_state()
    save_state(kept, tmp_path / "random.safetensors")
    expected = random.random(), np.random.rand(), torch.rand(2)
    restore_random_state(load_state(tmp_path / "random.safetensors"))
    assert (random.random(), np.random.rand()) == expected[:2]
    assert torch.equal(torch.rand(2), expected[2])


def test_other_objects_are_refused(tmp_path):
    with pytest.raises(TypeError, match="cannot save a object"):
        save_state({"a": object()}, tmp_path / "state.safetensors")
    assert not list(tmp_path.iterdir())
