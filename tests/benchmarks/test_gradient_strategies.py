"""The benchmark of gradient strategies: one process each, and cosines with the exact gradient."""

import json
import sys

import pytest
import torch

from benchmarks.gradient_strategies import BenchmarkSettings, main, mean_cosine
from support.warm_python import warm_programs
from ubgen_training.sampler.gradient_steps import GradientSteps, drtune


def test_each_strategy_is_set_against_the_exact_gradient(tmp_path, monkeypatch):
    # what its processes are started with
    monkeypatch.setattr(sys, "executable", str(warm_programs() / "python"))
    flags = ["--strategies", "refl", "--steps", "3", "--gradient-steps", "1", "--batch-size", "1", "--repeats", "1"]
    assert main([*flags, "--device", "cpu", "--json", str(tmp_path / "rows.json")]) == 0
    rows = {row["strategy"]: row for row in json.loads((tmp_path / "rows.json").read_text())["rows"]}
    assert rows.keys() == {"refl", "full"}
    assert rows["full"]["cosine"] == pytest.approx(1.0) and -1 < rows["refl"]["cosine"] < 0.999
    assert all(row["peak_bytes"] > 10**8 and row["seconds"] > 0 for row in rows.values())


def test_an_equalised_strategy_chooses_the_same_steps():
    settings = BenchmarkSettings(steps=6, gradient_steps=2, strategies=["drtune", "drtune+equalised"])
    plain, equalised = (
        settings.choose_gradient_steps(name, 6, torch.Generator().manual_seed(1)) for name in settings.strategies
    )
    assert plain == drtune(6, 2, torch.Generator().manual_seed(1))
    assert equalised == GradientSteps(plain.steps, detach_inputs=True, equalise=True)


def test_cosines_are_averaged_over_the_repeats():
    one = {"0": torch.tensor([1.0, 0.0]), "1": torch.tensor([1.0, 0.0])}
    assert mean_cosine(one, {"0": torch.tensor([2.0, 0.0]), "1": torch.tensor([0.0, 1.0])}) == pytest.approx(0.5)
    assert mean_cosine({}, one) is None


def test_a_bad_setting_is_named(capsys):
    assert main(["--repeats", "0"]) == 2 and "repeats is 0" in capsys.readouterr().err
    assert main(["--strategies", "leap+equalised"]) == 2
    assert "strategies holds 'leap+equalised'" in capsys.readouterr().err
