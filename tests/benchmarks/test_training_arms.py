"""The arms of the training benchmark: what they take where a GPU makes a difference."""

from dataclasses import replace

import torch

from benchmarks import training_arms
from benchmarks.training_arms import BenchmarkSettings
from ubgen_training.rewards.qalign.model import QAlignModel, QAlignSettings
from ubgen_training.rewards.qalign.vision import AbstractorSettings, VisionSettings


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
