"""Training by the forward process end to end: the old weights, the loss, exact resume, a rising reward, the export."""

import json
import shutil

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline

from support.checkpoint_equality import assert_equal_checkpoints
from support.mini_layout import build_random_mini_pipeline
from support.training_worker import ByteBrightness, build_trainer
from ubgen_pipeline.initial_latents import draw_latents
from ubgen_training.checkpoints.state import load_state

LAST = 6
# nothing but rollouts is drawn and scored
RUN = {"kind": "nft", "max_steps": LAST, "logging_steps": 1, "heldout_steps": 0, "sample_steps": 0}


@pytest.fixture(scope="module")
def straight(tiny_model, tmp_path_factory):
    """Six updates: a rollout lasts for four, two in each of its inner epochs."""
    folder = tmp_path_factory.mktemp("nft")
    trainer = build_trainer(tiny_model, folder, None, ByteBrightness(), **RUN)
    trainer.train()
    trainer.save_model()
    return folder, trainer


def history(folder, name):
    state = json.loads((folder / f"checkpoint-{LAST}" / "trainer_state.json").read_text())
    return {entry["step"]: entry[name] for entry in state["log_history"] if name in entry}


def test_the_first_update_starts_from_the_weights_that_drew(straight):
    """The second rollout is drawn with an average of the first weights and the trained ones."""
    distances = history(straight[0], "policy/old_distance")
    assert distances[1] == 0 and all(distances[step] > 0 for step in range(2, LAST + 1))
    assert history(straight[0], "policy/kl")[1] == 0


def test_the_old_weights_follow_once_a_rollout(straight):
    folder, trainer = straight
    states = {step: load_state(folder / f"checkpoint-{step}" / "extra_state.safetensors") for step in (1, 4, 5)}
    first, last, after = (states[step]["old_weights"]["weights"] for step in (1, 4, 5))
    assert all(torch.equal(first[name], last[name]) for name in first)
    trained = dict(_trained(trainer, folder / "checkpoint-4"))
    # the share that is kept grows from 1 of 10
    for name, value in after.items():
        torch.testing.assert_close(value, 0.1 * first[name] + 0.9 * trained[name], rtol=1e-5, atol=1e-7)
    assert any(not torch.equal(after[name], first[name]) for name in first)


def _trained(trainer, folder):
    trainer.load_weights(folder)
    try:
        for name, value in trainer._sampler.denoiser_network.named_parameters():
            if value.requires_grad:
                yield name, value.detach().clone()
    finally:
        trainer.load_weights(folder.parent / f"checkpoint-{LAST}")


def test_only_finished_latents_are_kept(straight):
    rollout = load_state(straight[0] / "checkpoint-5" / "rank_state_0.safetensors")["rollout"]
    assert {name: tuple(value.shape) for name, value in rollout.items()} == {
        "labels": (4,),
        "advantages": (4,),
        "latents": (4, 4, 8, 8),
    }


@pytest.mark.parametrize("step", [1, 3, 4, 5])
def test_resume_is_bit_equal(straight, tiny_model, tmp_path, step):
    """In either inner epoch, and between two rollouts; the old weights and the rollout are in the checkpoint."""
    shutil.copytree(straight[0] / f"checkpoint-{step}", tmp_path / f"checkpoint-{step}")
    build_trainer(tiny_model, tmp_path, None, ByteBrightness(), **RUN).train(resume_from_checkpoint="last")
    assert_equal_checkpoints(tmp_path / f"checkpoint-{LAST}", straight[0] / f"checkpoint-{LAST}")


@pytest.mark.parametrize("settings, named", [({"beta": 0.5}, "beta was"), ({"old_decay": 0.1}, "old_decay was")])
def test_resume_with_other_settings_names_them(straight, tiny_model, tmp_path, settings, named):
    trainer = build_trainer(tiny_model, tmp_path, None, ByteBrightness(), kind="nft", **settings)
    with pytest.raises(ValueError, match=named):
        trainer.train(resume_from_checkpoint=str(straight[0] / "checkpoint-2"))


def test_a_step_along_awms_gradient_lowers_the_loss_of_its_own_pairs(tiny_model, tmp_path):
    """By what the gradient's length promises for a small step; the old weights, latents and noise are the same. The
    loss of nft has weights that follow the step and count as constants, so that it need not fall."""
    settings = RUN | {"objective": "awm", "clip_range": 1.0}
    trainer = build_trainer(tiny_model, tmp_path, None, ByteBrightness(), **settings)
    trainer.before_rollout(0)
    rollout = trainer._collect(0)
    assert rollout.advantages.std() > 0
    pairs = torch.tensor([(sample, step) for sample in range(4) for step in range(2)])

    def loss():
        return trainer.pair_loss(trainer.model, rollout, pairs, torch.Generator().manual_seed(0))[0]

    trained = [value for value in trainer.model.parameters() if value.requires_grad]
    before = loss()
    gradients = torch.autograd.grad(before, trained)
    squared = sum(gradient.square().sum() for gradient in gradients)
    rate = 5e-5 / squared
    with torch.no_grad():
        for value, gradient in zip(trained, gradients):
            value -= rate * gradient
        assert (before - loss()).item() == pytest.approx(5e-5, rel=0.2)


def test_a_reward_without_gradient_rises(tmp_path):
    """On samples of the same noise before and after."""
    settings = {
        **{**RUN, "max_steps": 6, "save_strategy": "no", "heldout_steps": 6, "num_sample_classes": 3},
        **{"num_samples_per_class": 4, "num_inference_steps": 2, "num_trained_steps": 2, "num_inner_epochs": 1},
        **{"rollout_size": 32, "per_device_train_batch_size": 32, "gradient_accumulation_steps": 2, "lora_rank": 4},
        **{"statistics_window": 64, "clip_range": 1e-1, "kl_weight": 0.0, "max_grad_norm": 1.0, "guidance_scale": 1.0},
        **{"learning_rate": 2e-3, "old_decay": 0.0, "objective": "nft"},
    }
    reward = ByteBrightness()
    model = build_random_mini_pipeline(tmp_path / "model", full_width=True, latent_size=8)
    trainer = build_trainer(model, tmp_path / "out", None, reward, **settings)
    trainer.train()
    logged = trainer.state.log_history
    curve = [entry["fixed_samples/brightness"] for entry in logged if "fixed_samples/brightness" in entry]
    drawn = [values for labels, values in reward.seen if len(labels) == 32]
    assert len(curve) == 2 and curve[1] > curve[0] + np.std(drawn[0])


def test_the_other_trainers_checkpoint_is_refused(straight, tiny_model, tmp_path):
    trainer = build_trainer(tiny_model, tmp_path, None, ByteBrightness(), kind="ddpo", max_steps=LAST)
    with pytest.raises(ValueError, match="another trainer wrote it"):
        trainer.train(resume_from_checkpoint=str(straight[0] / "checkpoint-2"))


def test_lora_in_plain_diffusers_gives_what_was_trained(straight, tiny_model):
    pipeline = StableDiffusionPipeline.from_pretrained(tiny_model, safety_checker=None)
    pipeline.scheduler = DDIMScheduler.from_config(straight[1].pipeline.scheduler.config)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.load_lora_weights(straight[0])
    arguments = {"num_inference_steps": 4, "guidance_scale": 2.0, "output_type": "pt"}
    plain = pipeline(["star", "ring"], latents=draw_latents([5, 6], (4, 8, 8)), **arguments).images
    with torch.no_grad():
        seen = straight[1]._sampler(torch.tensor([1, 2]), [5, 6]).clamp(0, 1)
    assert (plain - seen).abs().max() < 1e-5
