"""The policy gradient end to end: ratio, advantages, KL, exact resume, a rising reward, the command and its export."""

import json
import shutil

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline

from support import ROOT
from support.checkpoint_equality import assert_equal_checkpoints
from support.mini_layout import build_random_mini_pipeline
from support.training_worker import DDPO_SETTINGS, NAMES, ByteBrightness, build_trainer
from ubgen_pipeline.initial_latents import draw_latents, step_generators
from ubgen_pipeline.models.loading import load_pipeline
from ubgen_training.checkpoints.folders import newest_checkpoint
from ubgen_training.checkpoints.state import load_state
from ubgen_training.ddpo.policy_sampler import PolicySampler, Transitions
from ubgen_training.lora.adapter import LoraSettings

SCRIPT = ROOT / "training" / "train_ddpo.py"
LORA = "pytorch_lora_weights.safetensors"
LAST = 6
# nothing but rollouts is drawn and scored
RUN = {"kind": "ddpo", "max_steps": LAST, "logging_steps": 1, "heldout_steps": 0, "sample_steps": 0}


@pytest.fixture(scope="module")
def straight(tiny_model, tmp_path_factory):
    """Six updates: a rollout lasts for four, two in each of its inner epochs."""
    folder = tmp_path_factory.mktemp("ddpo")
    reward = ByteBrightness()
    trainer = build_trainer(tiny_model, folder, None, reward, **RUN)
    trainer.train()
    trainer.save_model()
    return folder, trainer, reward


def _history(folder):
    state = json.loads((folder / f"checkpoint-{LAST}" / "trainer_state.json").read_text())
    return [entry for entry in state["log_history"] if "policy/max_ratio_deviation" in entry]


def test_ratio_is_exactly_one_on_the_first_inner_step(straight):
    """Both batches of a rollout's first update are judged by the weights that drew it, and by no others after."""
    deviations = {entry["step"]: entry["policy/max_ratio_deviation"] for entry in _history(straight[0])}
    assert deviations[1] == 0 and deviations[5] == 0
    assert all(deviations[step] > 0 for step in (2, 3, 4, 6))


def test_kl_to_the_untrained_model_starts_at_zero(straight):
    kl = {entry["step"]: entry["policy/kl"] for entry in _history(straight[0])}
    assert kl[1] == 0 and all(kl[step] > 0 for step in range(2, LAST + 1))


def test_kl_is_that_to_a_separately_loaded_untrained_model(straight, tiny_model):
    """No second model is kept; the adapter switched off must be the model that training started from."""
    trained = straight[1].model
    untrained = PolicySampler(load_pipeline(tiny_model, scheduler="ddpm"), NAMES, LoraSettings(2), trained.sampling)
    generator = torch.Generator().manual_seed(0)
    before, after = torch.randn(2, 2, 4, 8, 8, generator=generator)
    steps, labels = Transitions(torch.tensor([0, 2]), before, after), torch.tensor([1, 2])
    with torch.no_grad():
        _, kl, excess = trained(labels, transitions=steps, with_reference=True)
        (mean, deviation), (reference, _) = (
            model._log_probs(steps.index, before, after, model._predict(labels, steps.index, before))[1:]
            for model in (trained, untrained)
        )
    expected = ((mean - reference) ** 2 / (2 * deviation[:, None, None, None] ** 2)).mean(dim=(1, 2, 3))
    assert (kl > 0).all()
    predictions = [
        model._predict(labels, steps.index, before).flatten(1).norm(dim=1) for model in (trained, untrained)
    ]
    torch.testing.assert_close(excess, (predictions[0] / predictions[1] - 1).clamp(min=0) ** 2, rtol=1e-3, atol=1e-9)
    torch.testing.assert_close(kl, expected, rtol=1e-4, atol=0)


def test_advantages_are_those_of_each_classs_recent_rewards(straight):
    """Recomputed from the rewards seen, with the window and the least count of the settings."""
    folder, _, reward = straight
    windows = {label: [] for label in range(len(NAMES))}
    expected = []
    # two rollouts of two batches each
    for first, second in zip(reward.seen[::2], reward.seen[1::2]):
        labels, values = first[0] + second[0], np.float32(first[1] + second[1]).astype(np.float64)
        for label, value in zip(labels, values):
            windows[label].append(value)
        recent = [windows[label][-DDPO_SETTINGS["statistics_window"] :] for label in labels]
        peers = [own if len(own) >= DDPO_SETTINGS["statistics_min_count"] else values for own in recent]
        expected = [(value - np.mean(own)) / (np.std(own) + 1e-6) for value, own in zip(values, peers)]
    assert len(reward.seen) == 4
    second = load_state(folder / "checkpoint-5" / "rank_state_0.safetensors")["rollout"]
    np.testing.assert_allclose(second["advantages"].numpy(), expected, rtol=1e-4)


def test_group_advantages_compare_samples_of_one_class(tiny_model, tmp_path):
    reward = ByteBrightness()
    settings = {**RUN, "max_steps": 1, "advantages": "group", "group_size": 2, "save_strategy": "no"}
    trainer = build_trainer(tiny_model, tmp_path, None, reward, **settings)
    trainer.train()
    rollout = trainer._rollout
    assert all(labels[0] == labels[1] for labels in rollout.labels.view(2, 2).tolist())
    values = np.array([own for _, own in reward.seen])
    expected = (values - values.mean(1, keepdims=True)) / (values.std(1, keepdims=True) + 1e-6)
    np.testing.assert_allclose(rollout.advantages.view(2, 2).numpy(), expected, rtol=1e-2)
    assert not torch.equal(rollout.latents[0], rollout.latents[1])


def test_a_reward_without_gradient_rises(tmp_path):
    """On samples of the same noise before and after."""
    settings = {
        **{**RUN, "max_steps": 5, "save_strategy": "no", "heldout_steps": 5, "num_sample_classes": 3},
        **{"num_samples_per_class": 4, "num_inference_steps": 2, "num_trained_steps": 1, "num_inner_epochs": 1},
        **{"rollout_size": 32, "per_device_train_batch_size": 32, "gradient_accumulation_steps": 1, "lora_rank": 4},
        **{"statistics_window": 64, "clip_range": 1e-2, "kl_weight": 0.0, "max_grad_norm": 1.0, "guidance_scale": 1.0},
        "learning_rate": 2e-3,
    }
    reward = ByteBrightness()
    model = build_random_mini_pipeline(tmp_path / "model", full_width=True, latent_size=8)
    trainer = build_trainer(model, tmp_path / "out", None, reward, **settings)
    trainer.train()
    logged = trainer.state.log_history
    curve = [entry["fixed_samples/brightness"] for entry in logged if "fixed_samples/brightness" in entry]
    drawn = [values for labels, values in reward.seen if len(labels) == 32]
    assert len(curve) == 2 and curve[1] > curve[0] + np.std(drawn[0])
    assert np.mean(drawn[-1]) > np.mean(drawn[0])


@pytest.mark.parametrize("step", range(1, LAST))
def test_resume_from_any_step_is_bit_equal(straight, tiny_model, tmp_path, step):
    """In either inner epoch, and between two rollouts; statistics, rollout and moments are in the checkpoint."""
    shutil.copytree(straight[0] / f"checkpoint-{step}", tmp_path / f"checkpoint-{step}")
    build_trainer(tiny_model, tmp_path, None, ByteBrightness(), **RUN).train(resume_from_checkpoint="last")
    assert_equal_checkpoints(tmp_path / f"checkpoint-{LAST}", straight[0] / f"checkpoint-{LAST}")


@pytest.mark.parametrize("settings, named", [({"clip_range": 0.5}, "clip_range was"), ({"eta": 0.5}, "eta was")])
def test_resume_with_other_settings_names_them(straight, tiny_model, tmp_path, settings, named):
    trainer = build_trainer(tiny_model, tmp_path, None, ByteBrightness(), kind="ddpo", **settings)
    with pytest.raises(ValueError, match=named):
        trainer.train(resume_from_checkpoint=str(straight[0] / "checkpoint-2"))


def test_the_other_trainers_checkpoint_is_refused(straight, tiny_model, tmp_path):
    trainer = build_trainer(tiny_model, tmp_path, max_steps=LAST)
    with pytest.raises(ValueError, match="another trainer wrote it"):
        trainer.train(resume_from_checkpoint=str(straight[0] / "checkpoint-2"))


def test_other_rewards_are_refused(straight, tiny_model, tmp_path):
    def darkness(images, class_names, labels, **kwargs):
        return 1 - images.mean(dim=(1, 2, 3))

    trainer = build_trainer(tiny_model, tmp_path, None, darkness, kind="ddpo", max_steps=LAST)
    with pytest.raises(ValueError, match=r"rewards \['brightness'\], and reward_funcs now holds \['darkness'\]"):
        trainer.train(resume_from_checkpoint=str(straight[0] / "checkpoint-2"))


def test_a_nan_names_step_reward_and_last_good_checkpoint(tiny_model, tmp_path):
    def brightness(images, class_names, labels, step, **kwargs):
        return images.mean(dim=(1, 2, 3)) * (float("nan") if step == 4 else 1.0)

    with pytest.raises(FloatingPointError, match=r"step 4: brightness .* last good checkpoint is .*checkpoint-4\."):
        build_trainer(tiny_model, tmp_path, None, brightness, **RUN).train()
    assert newest_checkpoint(tmp_path) == tmp_path / "checkpoint-4"


def test_a_reward_of_the_wrong_shape_is_named_before_the_first_update(tiny_model, tmp_path):
    def beauty(images, class_names, labels, **kwargs):
        return images.mean()

    trainer = build_trainer(tiny_model, tmp_path, None, beauty, kind="ddpo", max_steps=1)
    with pytest.raises(ValueError, match=r"'beauty' returned \(\) for 2 images"):
        trainer.train()
    assert trainer.state.global_step == 0


def test_lora_in_plain_diffusers_gives_what_the_policy_saw(straight, tiny_model):
    sampler = straight[1].model
    pipeline = StableDiffusionPipeline.from_pretrained(tiny_model, safety_checker=None)
    pipeline.scheduler = type(sampler.pipeline.scheduler).from_config(sampler.pipeline.scheduler.config)
    pipeline.set_progress_bar_config(disable=True)
    arguments = {"num_inference_steps": 4, "guidance_scale": 2.0, "output_type": "pt"}

    def plain():
        latents, generators = draw_latents([5, 6], (4, 8, 8)), step_generators([5, 6])
        return pipeline(["star", "ring"], latents=latents, generator=generators, **arguments).images

    with torch.no_grad():
        seen = sampler(torch.tensor([1, 2]), [5, 6]).clamp(0, 1)
    base = plain()
    pipeline.load_lora_weights(straight[0])
    assert (plain() - seen).abs().max() < 1e-5
    assert (base - seen).abs().max() > 1e-3
