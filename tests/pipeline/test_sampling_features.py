"""Features of a call alone: when each takes part, and what it leaves as it is."""

from types import SimpleNamespace

import pytest
import torch

from ubgen_pipeline.call_arguments import SampleBatch
from ubgen_pipeline.conditioning import Conditioning
from ubgen_pipeline.models.loading import load_pipeline
from ubgen_pipeline.sampling_features import (
    FinishedBatch,
    SafetyCheck,
    SamplingFeature,
    Shortcuts,
    StepCallback,
    Walk,
)

ROW = Conditioning({"encoder_hidden_states": torch.zeros(1, 2, 3)})
BATCH = SampleBatch(slice(0, 1), [0], [3], torch.zeros(1, 4, 2, 2))


def _walk(num_steps=10):
    return Walk(lambda *_: torch.zeros(1), torch.zeros(1, 4, 2, 2), torch.arange(num_steps), ROW)


def test_a_feature_without_methods_changes_nothing():
    feature, walk, finished = SamplingFeature(), _walk(), FinishedBatch(torch.ones(1, 3, 4, 4), True)
    assert feature.start(None, BATCH, walk) is walk and feature.finish(None, finished) is finished


@pytest.mark.parametrize("share, expected", [(1.0, 10), (0.5, 5), (0.0, 0), (0.26, 3)])
def test_guidance_ends_after_its_share_of_the_steps(share, expected):
    walk = _walk()
    started = Shortcuts(guidance_until=share).start(None, BATCH, walk)
    assert started.guided_steps == range(expected) and started.denoiser is walk.denoiser


def test_deep_features_replace_the_denoiser(random_mini_model):
    pipeline, walk = load_pipeline(random_mini_model), _walk()
    assert Shortcuts(deep_features_every=2).start(pipeline, BATCH, walk).denoiser is not walk.denoiser


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"guidance_until": 1.5}, "guidance_until is 1.5; give a share"),
        ({"deep_features_every": 0}, "deep_features_every is 0"),
    ],
)
def test_shortcuts_out_of_range_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        Shortcuts(**settings)


def test_shortcuts_say_what_they_would_spoil():
    shortcuts = Shortcuts(deep_features_every=3)
    with pytest.raises(ValueError, match="deep_features_every is 3, and annotations need"):
        shortcuts.check_beside(annotations=True, attention_kwargs=False)
    with pytest.raises(ValueError, match="takes no cross_attention_kwargs"):
        shortcuts.check_beside(annotations=False, attention_kwargs=True)
    Shortcuts(guidance_until=0.5).check_beside(annotations=True, attention_kwargs=True)


def test_the_callback_sees_every_step_and_may_change_latents():
    seen = []

    def callback(pipeline, step, timestep, state):
        seen.append((pipeline, step, timestep))
        return {"latents": state["latents"] + 1} if step else None

    feature = StepCallback(callback)
    pipeline = SimpleNamespace(_guidance_scale=2.0)
    assert feature.start(pipeline, BATCH, _walk()).guidance_scale == 1
    for index in range(2):
        step = SimpleNamespace(index=index, timestep=9 - index, latents=torch.zeros(2))
        feature.after_step(pipeline, step)
        assert step.latents.tolist() == [index, index]
    assert seen == [(pipeline, 0, 9), (pipeline, 1, 8)]


def test_the_safety_check_leaves_latents_alone():
    pipeline = SimpleNamespace(blacken_flagged=lambda images: (images * 0, [True]))
    latents, images = FinishedBatch(torch.ones(1, 4, 2, 2), False), FinishedBatch(torch.ones(1, 3, 4, 4), True)
    assert SafetyCheck().finish(pipeline, latents) is latents
    checked = SafetyCheck().finish(pipeline, images)
    assert checked.flagged == [True] and not checked.images.any() and images.images.all()


def test_features_stop_though_a_step_fails(random_mini_model, monkeypatch):
    pipeline = load_pipeline(random_mini_model)
    stopped = []
    monkeypatch.setattr(Shortcuts, "stop", lambda self: stopped.append(self))

    def fail(*_):
        raise RuntimeError("in a step")

    with pytest.raises(RuntimeError, match="in a step"):
        pipeline(["circle"], num_inference_steps=2, callback_on_step_end=fail)
    assert len(stopped) == 1
