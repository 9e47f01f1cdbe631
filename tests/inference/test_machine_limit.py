"""The machine's limit: measured once, and kept."""

import json

import pytest
import torch

from ubgen_pipeline.inference import machine_limit as module
from ubgen_pipeline.inference.machine_limit import machine_limit


def test_it_is_measured_once(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_SIZES", {"cpu": 64})
    rate = machine_limit("cpu", torch.float32, tmp_path)
    assert rate > 0
    monkeypatch.setattr(module, "_measured", lambda *_: 5.0)
    assert machine_limit("cpu", torch.float32, tmp_path) == rate
    assert machine_limit("cpu", torch.bfloat16, tmp_path) == 5.0
    assert len(json.loads((tmp_path / "machine_limit.json").read_text())) == 2


@pytest.mark.parametrize("text", ["", "[]", '{"a": null}'])
def test_a_damaged_file_is_measured_anew(tmp_path, monkeypatch, text):
    monkeypatch.setattr(module, "_measured", lambda *_: 5.0)
    (tmp_path / "machine_limit.json").write_text(text)
    assert machine_limit("cpu", torch.float32, tmp_path) == machine_limit("cpu", torch.float32, tmp_path) == 5.0
