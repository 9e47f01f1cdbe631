"""What the benchmarks' arms and references are drawn with, where a GPU makes a difference."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from benchmarks import training_arms
from benchmarks.generation_speed import loop
from benchmarks.machine_limits import exact_float32
from benchmarks.training_arms import BenchmarkSettings
from benchmarks.writer_share import draw
from ubgen_pipeline.inference import attention_kernels as attention_choice
from ubgen_training.rewards.qalign.model import QAlignModel, QAlignSettings
from ubgen_training.rewards.qalign.vision import AbstractorSettings, VisionSettings


@pytest.fixture
def orders(monkeypatch):
    """The attention kernels that were put first, in order."""
    seen = []

    def sdpa_kernel(backends, set_priority=False):
        seen.append(backends[0])
        return attention_choice.contextmanager(lambda: iter([None]))()

    monkeypatch.setattr(attention_choice, "sdpa_kernel", sdpa_kernel)
    return seen


def test_the_loop_is_drawn_with_the_runs_own_attention(orders):
    class Pipeline(SimpleNamespace):
        def __init__(self, **parts):
            super().__init__(components={"scheduler": self, "safety_checker": None}, device=torch.device("cpu"))
            self.scheduler, self.config = self, {}

        from_config = classmethod(lambda cls, config: cls())

        def set_progress_bar_config(self, disable):
            pass

        def __call__(self, names, **arguments):
            return SimpleNamespace(images=torch.zeros(len(names), 1))

    settings = SimpleNamespace(num_inference_steps=1, guidance_scale=1.0)
    run = SimpleNamespace(num_threads=1, pipeline=Pipeline(), settings=settings, batch_size=2, attention="efficient")
    sample = SimpleNamespace(prompt=SimpleNamespace(name="a", prompt="a"), seed=0)
    assert len(loop(run, [sample] * 3)) == 3
    assert orders == [attention_choice.SDPBackend.EFFICIENT_ATTENTION]


def test_shards_that_are_not_written_are_drawn_with_the_runs_own_attention(orders):
    run = SimpleNamespace(
        shards=SimpleNamespace(shards=[SimpleNamespace(start=0, stop=3)]),
        rows=SimpleNamespace(rows=lambda indices, size: [], encode=None),
        batch_size=2,
        num_threads=1,
        attention="math",
    )
    draw(run, 0)
    assert orders == [attention_choice.SDPBackend.MATH]


def test_float32_references_keep_their_digits_in_convolutions():
    before = torch.backends.cudnn.allow_tf32
    with exact_float32():
        assert not torch.backends.cudnn.allow_tf32
    assert torch.backends.cudnn.allow_tf32 == before


def test_the_large_scorer_takes_smaller_batches_unless_told_otherwise(tmp_path):
    sizes = [
        BenchmarkSettings(**settings).filled_in(tmp_path).batch_size
        for settings in ({}, {"quality": "7b"}, {"quality": "7b", "batch_size": 3})
    ]
    assert sizes == [4, 2, 3]


def test_every_weight_of_the_random_scorer_is_drawn(monkeypatch):
    """Memory that a GPU gave before may hold anything, numbers that are none among them."""
    whole = QAlignSettings.from_config({"model_type": "mplug_owl2"})
    small = QAlignSettings(
        VisionSettings(hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2, image_size=28),
        AbstractorSettings(hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2),
        replace(
            whole.language,
            vocab_size=600,
            hidden_size=8,
            intermediate_size=8,
            num_hidden_layers=1,
            num_attention_heads=2,
        ),
    )

    def unwritten(settings):
        model = QAlignModel(small)
        for weight in (*model.parameters(), *model.buffers()):
            weight.data.fill_(torch.nan)
        return model

    monkeypatch.setattr("ubgen_training.rewards.qalign.model.QAlignModel", unwritten)
    reward = training_arms.build_quality(BenchmarkSettings(quality="7b", device="cpu"))
    weights = (*reward.model.parameters(), *reward.model.buffers())
    assert all(torch.isfinite(weight).all() for weight in weights)
