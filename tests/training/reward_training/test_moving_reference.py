"""The reference that follows: when it moves, where to, in each trainer, and what a checkpoint keeps of it."""

import json
import shutil

import pytest
import torch
from torch import nn

from support.checkpoint_equality import assert_equal_checkpoints
from support.tiny_clip import build_tiny_clip
from support.training_worker import BrightnessReward, build_trainer
from ubgen_training.checkpoints.state import load_state
from ubgen_training.reward_training import guards
from ubgen_training.reward_training.moving_reference import MovingReference
from ubgen_training.ubgen.ubgen_config import UbGenConfig


def test_it_moves_where_quality_and_diversity_are_above_those_of_its_last_move():
    network = nn.Linear(1, 1, bias=False)
    reference, places = MovingReference(network, 0.75), []
    evaluations = [(0.5, 0.5), (0.6, 0.4), (0.6, 0.6), (0.55, 0.7), (0.7, 0.7)]
    for number, (quality, diversity) in enumerate(evaluations):
        nn.init.constant_(network.weight, float(number))
        reference.look({"quality": quality, "diversity": diversity})
        places.append(reference.weights["weight"].item())
    # from 0 by a quarter of the way to 2, and by a quarter of the way to 4
    assert places == [0.0, 0.0, 0.5, 0.5, 0.5 + 0.25 * 3.5] and reference.num_updates == 2
    other = MovingReference(nn.Linear(1, 1, bias=False), 0.75)
    other.load_state_dict(reference.state_dict())
    assert torch.equal(other.weights["weight"], reference.weights["weight"])
    assert other.best == {"quality": 0.7, "diversity": 0.7} and other.has_moved


class Steps:
    """A held-out figure that is the number of updates, and so always rises."""

    __name__ = "steps"
    differentiable = True
    step = 0

    def __call__(self, images, class_names, labels, *, step, **kwargs):
        self.step = step
        return images.mean(dim=(1, 2, 3)) * 0 + float(step)


WATCHED = {"heldout_steps": 1, "num_sample_classes": 1, "num_samples_per_class": 2, "reward_weights": [1.0, 0.0]}
TRAINERS = [
    {"kind": "ubgen", "adversarial_weight": 0.0, "reference_weight": 0.5},
    {"kind": "ddpo", "kl_weight": 0.1},
    {"kind": "nft", "kl_weight": 0.0, "norm_guard_weight": 0.5},
]


@pytest.mark.parametrize("settings", TRAINERS, ids=lambda settings: settings["kind"])
def test_each_trainer_follows_and_resumes_bit_for_bit(tiny_model, tmp_path, monkeypatch, settings):
    clip = build_tiny_clip(tmp_path / "clip")

    def train(folder, resume=None):
        steps = Steps()
        monkeypatch.setattr(guards, "class_diversity", lambda *_: {0: float(steps.step)})
        own = {**WATCHED, **settings, "reference_decay": 0.25, "max_steps": 3, "logging_steps": 1}
        trainer = build_trainer(tiny_model, folder, clip, [BrightnessReward(), steps], **own)
        before = {name: value.detach().clone() for name, value in trained(trainer)}
        trainer.train(resume_from_checkpoint=resume)
        return trainer, before

    def trained(trainer):
        named = trainer._sampler.denoiser_network.named_parameters()
        return [(name, value) for name, value in named if value.requires_grad]

    trainer, expected = train(tmp_path / "straight")
    logged = trainer.state.log_history
    moves = [entry["heldout/reference_moves"] for entry in logged if "heldout/reference_moves" in entry]
    assert moves == [0, 1, 2, 3]
    for step in (1, 2, 3):
        trainer.load_weights(tmp_path / "straight" / f"checkpoint-{step}")
        expected = {name: 0.25 * expected[name] + 0.75 * value.detach() for name, value in trained(trainer)}
        state = load_state(tmp_path / "straight" / f"checkpoint-{step}" / "extra_state.safetensors")
        for name, value in state["moving_reference"]["weights"].items():
            torch.testing.assert_close(value, expected[name], rtol=1e-5, atol=1e-7)
    # it is what the loss compares with: all of it moves with the trained weights
    assert trainer._sampler.reference_weights is trainer.moving_reference.weights
    resumed = tmp_path / "resumed"
    shutil.copytree(tmp_path / "straight" / "checkpoint-2", resumed / "checkpoint-2")
    train(resumed, resume="last")
    assert_equal_checkpoints(resumed / "checkpoint-3", tmp_path / "straight" / "checkpoint-3")
    # other evaluations would move it elsewhere
    monkeypatch.setitem(WATCHED, "num_samples_per_class", 3)
    with pytest.raises(ValueError, match="num_samples_per_class was 2 and is 3"):
        train(resumed, resume="last")
    names = {"ubgen": "losses/norm_excess"}
    name = names.get(settings["kind"], "policy/norm_excess")
    assert any(
        name in entry
        for entry in json.loads((tmp_path / "straight" / "checkpoint-3" / "trainer_state.json").read_text())[
            "log_history"
        ]
    )


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"norm_guard_weight": -1.0}, "norm_guard_weight is -1.0; choose 0 or more"),
        ({"norm_guard_weight": 1.0, "train_method": "full"}, "leaves no untrained model to compare with"),
        ({"reference_decay": 1.0}, "reference_decay is 1.0; choose one from 0"),
        ({"reference_decay": 0.5}, "no term of the loss compares with the reference model"),
        ({"reference_decay": 0.5, "reference_weight": 1.0, "heldout_steps": 0}, "heldout_steps is 0"),
        ({"reference_decay": 0.5, "norm_guard_weight": 1.0, "num_samples_per_class": 1}, "num_samples_per_class 1"),
    ],
)
def test_what_cannot_work_is_named(settings, message):
    with pytest.raises(ValueError, match=message):
        UbGenConfig(output_dir="unused", use_cpu=True, **settings)


def test_without_held_out_figures_nothing_could_move(tiny_model, tmp_path):
    with pytest.raises(ValueError, match=r"held-out rewards are \[\] and diversity is not measured"):
        build_trainer(tiny_model, tmp_path, kind="ddpo", reference_decay=0.5, heldout_steps=1)
