"""Whether the CPU computes in bfloat16, as torch knows without saying so in public; a change of torch fails here."""

from pathlib import Path

import pytest
import torch

from ubgen_training.mini.library_internals import computes_in_bfloat16
from ubgen_training.mini.scene_batches import mixed_precision

CPU = Path("/proc/cpuinfo")


@pytest.mark.skipif(not CPU.is_file() or torch.backends.cpu.get_cpu_capability() == "DEFAULT", reason="no x86 Linux")
def test_it_is_what_the_cpus_instructions_allow():
    (flags,) = {line.partition(":")[2] for line in CPU.read_text().splitlines() if line.startswith("flags")}
    # oneDNN has bfloat16 from these on
    needed = {"avx512bw", "avx512vl", "avx512dq"}
    assert computes_in_bfloat16() == (torch.backends.mkldnn.is_available() and needed <= set(flags.split()))


def test_without_onednn_it_does_not(monkeypatch):
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert computes_in_bfloat16() is False


@pytest.mark.parametrize(("is_there", "dtype"), [(True, torch.bfloat16), (False, torch.float32)])
def test_mixed_precision_is_used_where_it_is_computed(monkeypatch, is_there, dtype):
    monkeypatch.setattr("ubgen_training.mini.scene_batches.computes_in_bfloat16", lambda: is_there)
    with mixed_precision():
        assert torch.nn.functional.linear(torch.ones(2, 4), torch.ones(3, 4)).dtype == dtype
