"""Devices that commands are given."""

import re

import pytest
import torch

from ubgen_pipeline.models.devices import usable_device


def test_a_device_that_is_there_is_taken_as_it_is_called(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [usable_device(name) for name in ("cpu", "cpu:0", "cuda", "cuda:1")] == ["cpu", "cpu:0", "cuda", "cuda:1"]
    for is_there, expected in ((True, "cuda"), (False, "cpu")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda is_there=is_there: is_there)
        assert usable_device(None) == expected


@pytest.mark.parametrize(
    ("device", "message"),
    [
        ("gpu", "device is 'gpu', which torch does not know; give cpu, cuda"),
        ("cpu:x", "device is 'cpu:x', which torch does not know"),
        ("cuda", "device is 'cuda', and torch finds 0 GPUs on this machine"),
        ("cuda:3", "device is 'cuda:3', and torch finds 0 GPUs on this machine"),
    ],
)
def test_a_device_that_is_not_there_is_refused(monkeypatch, device, message):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(ValueError, match=re.escape(message)):
        usable_device(device)
