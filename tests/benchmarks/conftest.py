"""Fixtures of the benchmarks."""

import pytest

from benchmarks.evidence import lanes, stage_work
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


@pytest.fixture
def stages_here(monkeypatch):
    """Stages of the evidence run one by one in this process: each one's own would load every library anew."""

    def run(self, stages):
        for stage in stages:
            if not stage.is_done:
                stage.prepare()
                stage_work.run_stage(stage.folder)
        return []

    monkeypatch.setattr(lanes.Lanes, "run", run)
