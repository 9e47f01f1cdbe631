"""Fixtures of the benchmarks."""

import pytest

from ubgen_pipeline.inference import attention_kernels


@pytest.fixture
def orders(monkeypatch):
    """The attention kernels that were put first, in order."""
    seen = []

    def sdpa_kernel(backends, set_priority=False):
        seen.append(backends[0])
        return attention_kernels.contextmanager(lambda: iter([None]))()

    monkeypatch.setattr(attention_kernels, "sdpa_kernel", sdpa_kernel)
    return seen
