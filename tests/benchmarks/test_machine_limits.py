"""The limits of the machine: medians on a given clock, and float32 without short cuts."""

from importlib.metadata import version

import torch

from benchmarks.machine_limits import exact_float32, machine_line, seconds_of


def test_float32_references_keep_their_digits_in_convolutions():
    before = torch.backends.cudnn.allow_tf32
    with exact_float32():
        assert not torch.backends.cudnn.allow_tf32
    assert torch.backends.cudnn.allow_tf32 == before


def test_seconds_are_the_median_on_the_given_clock():
    ticks = iter([0.0, 5.0, 10.0, 11.0, 20.0, 22.0])
    calls = []
    assert seconds_of(lambda: calls.append(1), "cpu", 3, lambda: next(ticks)) == 2.0
    assert len(calls) == 3


def test_a_tables_head_names_the_versions():
    assert f"torch {version('torch')}, " in machine_line("cpu") and "threads; Python 3." in machine_line("cpu")
