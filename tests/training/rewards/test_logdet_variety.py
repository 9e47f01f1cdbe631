"""The log-determinant reward: its definition in numpy, its gradient, its memory, its centre, and two processes."""

import copy
import shutil
import subprocess

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from support import ROOT
from support.checkpoint_equality import assert_equal_checkpoints
from support.training_worker import NAMES as TRAINED_NAMES
from support.training_worker import build_trainer
from support.warm_python import warm_programs
from ubgen_pipeline.models.clip_encoders import load_clip_encoder
from ubgen_training.checkpoints.state import load_state
from ubgen_training.reward_training.build_rewards import probe_rewards
from ubgen_training.rewards.class_variety import ClassVarietyReward
from ubgen_training.rewards.logdet_variety import LogDetVarietyReward

NAMES = ["circle", "star", "ring"]
WIDTH = 8
LABELS = [0, 1, 0, 2, 1, 0]


class _Encoder:
    """Texts with fixed random features; images are their own."""

    texts = torch.randn(3, WIDTH, generator=torch.Generator().manual_seed(5))

    def encode_images(self, images):
        return images.flatten(1)[:, :WIDTH]

    def encode_texts(self, texts):
        return self.texts[: len(texts)]


def _reward(**settings):
    return LogDetVarietyReward(_Encoder(), NAMES, **settings)


def _features(count, seed=0):
    return torch.randn(count, WIDTH, generator=torch.Generator().manual_seed(seed))


def _call(reward, features, labels=LABELS):
    return reward(None, (), torch.tensor(labels), image_features=features)


def _rest(features, labels):
    found = []
    for feature, label in zip(features.double().numpy(), labels):
        text = _Encoder.texts[label].double().numpy()
        text = text / np.linalg.norm(text)
        feature = feature / np.linalg.norm(feature)
        found.append(feature - (feature @ text) * text)
    return np.stack(found)


def _by_definition(features, labels, across, noise, known=(), known_labels=(), centre=None):
    """The docstring's formula with numpy's determinant, on float64."""
    rest = _rest(features, labels)
    centre = rest.mean(axis=0) if centre is None else centre

    def units_of(rows):
        rows = np.asarray(rows).reshape(-1, WIDTH) - centre
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    def gain(new, old):
        alpha = WIDTH / ((len(new) + len(old)) * noise)
        both = np.concatenate([new, old])
        volumes = [np.linalg.slogdet(np.eye(len(u)) + alpha * u @ u.T)[1] for u in (both, old)]
        return (volumes[0] - volumes[1]) / (len(new) * np.log1p(alpha))

    units, nothing = units_of(rest), np.zeros((0, WIDTH))
    values = []
    for label in labels:
        new = units[[i for i, other in enumerate(labels) if other == label]]
        old = [row for row, other in zip(known, known_labels) if other == label]
        values.append(gain(new, units_of(old)) + across * gain(units, nothing))
    return np.array(values)


@pytest.mark.parametrize("across, noise", [(0.0, 0.5), (0.2, 0.5), (1.0, 0.05)])
def test_values_are_those_of_the_definition(across, noise):
    values = _call(_reward(across=across, noise=noise), _features(6))
    np.testing.assert_allclose(values.double(), _by_definition(_features(6), LABELS, across, noise), rtol=2e-5)


def test_what_is_remembered_counts_and_what_was_centre_stays():
    reward, first, second = _reward(across=0.2, memory=2, centre_batches=1), _features(6), _features(6, seed=1)
    _call(reward, first)
    reward.remember()
    rest = _rest(first, LABELS)
    kept = [1, 2, 3, 4, 5]  # the newest two of each class
    expected = _by_definition(
        second, LABELS, 0.2, 0.5, rest[kept], [LABELS[i] for i in kept], centre=rest.mean(axis=0)
    )
    np.testing.assert_allclose(_call(reward, second).double(), expected, rtol=2e-5)


@pytest.mark.parametrize("across, noise", [(0.0, 0.5), (0.7, 0.1)])
def test_the_marginal_is_what_is_lost_without_an_image(across, noise):
    """Each image's row is left out of the matrices, whose determinants numpy takes."""
    reward = _reward(across=across, noise=noise, memory=2, centre_batches=1)
    first, second = _features(6), _features(6, seed=1)
    _call(reward, first)
    reward.remember()
    rest, known = _rest(second, LABELS), _rest(first, LABELS)
    centre = known.mean(axis=0)

    def without(own, others):
        rows = np.stack([own, *others]) - centre
        units = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        alpha = WIDTH / (len(units) * noise)
        volumes = [np.linalg.slogdet(np.eye(len(u)) + alpha * u @ u.T)[1] for u in (units, units[1:])]
        return (volumes[0] - volumes[1]) / np.log1p(alpha)

    expected = []
    for i, label in enumerate(LABELS):
        fellows = [rest[j] for j, other in enumerate(LABELS) if other == label and j != i]
        newest = [known[j] for j, other in enumerate(LABELS) if other == label][-2:]
        expected.append(
            without(rest[i], fellows + newest)
            + across * without(rest[i], [row for j, row in enumerate(rest) if j != i])
        )
    found = reward.marginal(None, (), torch.tensor(LABELS), image_features=second)
    np.testing.assert_allclose(found.double(), expected, rtol=2e-4)
    # equal values would tell a training without gradient nothing
    assert len(set(_call(_reward(across=0.0), second).tolist())) == 3 and len(set(found.tolist())) == 6


def test_orthogonal_images_have_all_and_equal_ones_hardly_any():
    reward = _reward(across=0.0, memory=0)
    text = normalize(_Encoder.texts[0], dim=-1)
    basis = torch.linalg.svd(text[None]).Vh[1:]
    # opposite pairs of two orthogonal directions: the mean is zero, and stays the centre
    spread = torch.cat([basis[:2], -basis[:2]])
    assert (
        _call(reward, torch.cat([spread, spread]), [0] * 8)[0] < _call(reward, torch.cat([basis, -basis]), [0] * 14)[0]
    )
    reward._centre, reward._num_batches = torch.zeros(WIDTH), 1
    torch.testing.assert_close(_call(reward, basis[:4], [0] * 4), torch.ones(4))
    equal = _call(reward, basis[:1].repeat(4, 1), [0] * 4)
    alpha = WIDTH / (4 * 0.5)
    torch.testing.assert_close(equal, torch.full((4,), np.log1p(4 * alpha) / (4 * np.log1p(alpha))).float())


def test_the_gradient_is_that_of_finite_differences_and_never_along_the_class_text():
    reward = _reward()
    reward._centre, reward._num_batches = 0.1 * _features(1, seed=3)[0], 8
    features = _features(6).requires_grad_()
    weights = torch.arange(1.0, 7.0)
    (_call(reward, features) * weights).sum().backward()
    step = 1e-2
    for row, column in ((0, 0), (3, 2), (5, 7)):
        moved = []
        for sign in (1, -1):
            shifted = features.detach().clone()
            shifted[row, column] += sign * step
            moved.append((_call(reward, shifted) * weights).sum().item())
        assert (moved[0] - moved[1]) / (2 * step) == pytest.approx(
            features.grad[row, column].item(), rel=0.03, abs=2e-3
        )
    # a class is not fitted less, nor is a feature's length of use
    along = normalize(_Encoder.texts, dim=-1)[LABELS]
    unit = normalize(features.detach(), dim=-1)
    tangent = along - (along * unit).sum(-1, keepdim=True) * unit
    moved = (unit + 1e-3 * tangent) * torch.linspace(0.5, 2, 6)[:, None]
    direction = features.grad * features.detach().norm(dim=-1, keepdim=True)
    assert (direction * unit).sum(-1).abs().max() < 1e-4
    assert _call(reward, 3 * features.detach()).allclose(_call(reward, features.detach()), atol=1e-5)
    assert moved.isfinite().all()


def test_nearly_equal_images_part_faster_than_by_pairwise_distances():
    reward, pairwise = _reward(across=0.0, memory=0), ClassVarietyReward(_Encoder(), NAMES)
    reward._centre, reward._num_batches = torch.zeros(WIDTH), 8
    pulls = []
    for measure in (reward, pairwise):
        features = (_features(1, seed=2) + 0.02 * _features(4, seed=4)).requires_grad_()
        _call(measure, features, [0] * 4).mean().backward()
        pulls.append(features.grad.norm().item())
    assert pulls[0] > 1.5 * pulls[1] > 0


def test_a_move_that_all_classes_make_together_costs():
    """The centre is of the first batches: a common surrounding that comes later is seen as what all share."""
    reward = _reward(centre_batches=2)
    for seed in (0, 1):
        _call(reward, _features(6, seed))
        reward.remember()
    frozen = reward.state_dict()["centre"].clone()
    apart = normalize(_features(6, seed=2), dim=-1)
    together = apart + 4 * normalize(_features(1, seed=9), dim=-1)
    assert _call(reward, together).mean() < 0.8 * _call(reward, apart).mean()
    # with the images' own mean as the centre the same move is hardly seen
    assert _call(_reward(), together).mean() > 0.9 * _call(_reward(), apart).mean()
    reward.remember()
    assert torch.equal(reward.state_dict()["centre"], frozen)


def test_a_call_changes_nothing_and_the_state_restores_all():
    reward = _reward(memory=3)
    for seed in range(4):
        before = copy.deepcopy(reward.state_dict())
        first, second = (_call(reward, _features(6, seed)) for _ in range(2))
        assert torch.equal(first, second)
        after = reward.state_dict()
        assert torch.equal(before["centre"], after["centre"]) and before["num_batches"] == after["num_batches"]
        reward.remember()
        reward.remember()  # of one call once
    assert {label: len(rows) for label, rows in reward.state_dict()["remembered"].items()} == {0: 3, 1: 3, 2: 3}
    other = _reward(memory=3)
    other.load_state_dict(copy.deepcopy(reward.state_dict()))
    assert torch.equal(_call(other, _features(6, 9)), _call(reward, _features(6, 9)))


@pytest.mark.parametrize("labels", [[0, 0, 1, 1], [0, 1, 0, 1], [0, 0, 0, 1]])
def test_two_processes_have_the_values_and_gradients_of_one(labels):
    features = _features(4)
    whole = features.clone().requires_grad_()
    (1 - _call(_reward(), whole, labels)).mean().backward()
    rows = [slice(0, 2), slice(2, 4)]
    gradients, values = torch.zeros_like(features), []
    for rank in range(2):
        reward, own = _reward(), features[rows[rank]].clone().requires_grad_()
        all_rest = torch.tensor(_rest(features, labels)).float()

        def gather(share, all_rest=all_rest):
            return all_rest if share.is_floating_point() else torch.tensor(labels)

        reward.over_processes(gather, rank)
        answer = reward(None, (), torch.tensor(labels)[rows[rank]], image_features=own)
        values.append(answer.detach())
        (1 - answer).mean().backward()
        # the launcher averages over processes
        gradients[rows[rank]] = own.grad / 2
    torch.testing.assert_close(torch.cat(values), _call(_reward(), features, labels), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(gradients, whole.grad, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"memory": -1}, "memory is -1; give 0 or more"),
        ({"centre_batches": 0}, "centre_batches is 0; give 1 or more"),
        ({"noise": 0.0}, "noise is 0.0; give more than 0"),
        ({"across": -0.1}, "across is -0.1; give 0 or more"),
    ],
)
def test_settings_out_of_range_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        _reward(**settings)


# a rollout of either lasts for two updates, so that a resumed run enters in the middle of the second
ROLLOUTS = {"rollout_size": 4, "num_inner_epochs": 1, "per_device_train_batch_size": 2, "advantages": "group"}
ROLLOUTS |= {"group_size": 2, "reward_normalisation": "each", "num_trained_steps": 2}


@pytest.mark.parametrize(
    "settings",
    [
        {"class_repeats": 4, "images_per_class_in_batch": 2, "per_device_train_batch_size": 4},
        {"kind": "ddpo", **ROLLOUTS},
        {"kind": "nft", **ROLLOUTS},
    ],
)
def test_a_resumed_run_remembers_bit_for_bit(tiny_model, tmp_path, settings):
    encoder = load_clip_encoder("mini")

    def train(folder, resume=None):
        reward = LogDetVarietyReward(encoder, TRAINED_NAMES, memory=2, centre_batches=2)
        trainer = build_trainer(tiny_model, folder, reward=reward, max_steps=4, save_steps=1, **settings)
        trainer.train(resume_from_checkpoint=resume)
        return reward.state_dict()

    straight = train(tmp_path / "straight")
    # the centre is closed at the second batch or rollout, so one resumes before and one after that
    for step in (1, 3):
        folder = tmp_path / f"resumed{step}"
        shutil.copytree(tmp_path / "straight" / f"checkpoint-{step}", folder / f"checkpoint-{step}")
        state = train(folder, resume="last")
        assert torch.equal(state["centre"], straight["centre"]) and state["num_batches"] == 2
        assert state["remembered"].keys() == straight["remembered"].keys()
        assert all(torch.equal(rows, straight["remembered"][label]) for label, rows in state["remembered"].items())
        assert_equal_checkpoints(folder / "checkpoint-4", tmp_path / "straight" / "checkpoint-4")


@pytest.mark.parametrize("script", ["train_ubgen.py", "train_ddpo.py", "train_nft.py"])
def test_the_commands_train_with_it_by_name(script, random_mini_model, tmp_path):
    flags = ["--model_name_or_path", random_mini_model, "--clip_model", "mini", "--class_names", *NAMES]
    flags += ["--reward_funcs", "logdet_variety", "--variety_memory", "2", "--max_steps", "1", "--lora_rank", "2"]
    flags += ["--guidance_scale", "1", "--heldout_steps", "0", "--use_cpu", "--output_dir", str(tmp_path / "out")]
    flags += ["--class_repeats", "2", "--per_device_train_batch_size", "2"]
    if script == "train_ubgen.py":
        flags += ["--num_inference_steps", "2", "--num_gradient_steps", "1", "--adversarial_weight", "0"]
        flags += ["--images_per_class_in_batch", "2"]
    else:
        flags += ["--num_inference_steps", "4", "--num_trained_steps", "2", "--rollout_size", "2", "--group_size", "2"]
        flags += ["--advantages", "group"]
    command = [warm_programs() / "python", str(ROOT / "training" / script), *flags]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    state = load_state(tmp_path / "out" / "checkpoint-1" / "extra_state.safetensors")["rewards"]["logdet_variety"]
    assert state["num_batches"] == 1 and all(len(rows) == 2 for rows in state["remembered"].values())


def test_two_classes_with_one_text_are_warned_about_by_name():
    class _SameTexts(_Encoder):
        def encode_texts(self, texts):
            features = self.texts[: len(texts)].clone()
            # longer, and of the same direction
            features[2] = 3 * features[0]
            return features

    with pytest.warns(UserWarning, match="classes 'circle' and 'ring' have the same text .* another clip_prompt"):
        LogDetVarietyReward(_SameTexts(), NAMES)


def test_a_memory_that_the_run_never_fills_is_warned_about(random_mini_model, tmp_path):
    reward = LogDetVarietyReward(load_clip_encoder("mini"), TRAINED_NAMES, memory=50)
    settings = {"class_repeats": 4, "images_per_class_in_batch": 2, "per_device_train_batch_size": 4, "max_steps": 6}
    settings["gradient_accumulation_steps"] = 1
    shown = f"{6 * 4 / len(TRAINED_NAMES):.1f}"
    with pytest.warns(UserWarning, match=f"variety_memory is 50, but the run shows only about {shown} images"):
        build_trainer(random_mini_model, tmp_path, reward=reward, **settings)


def test_an_encoder_with_constant_features_is_refused():
    class _Constant(_Encoder):
        def encode_images(self, images):
            return images.flatten(1)[:, :WIDTH] * 0 + 1

    with pytest.raises(ValueError, match="clip_model gives different images of noise the same features"):
        probe_rewards([_reward()], NAMES, height=16, width=16, encoder=_Constant())
    probe_rewards([_reward()], NAMES, height=16, width=16, encoder=_Encoder())
