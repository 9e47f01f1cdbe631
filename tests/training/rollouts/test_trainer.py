"""What a training on rollouts asks of a subclass, and when: seen by one that does nothing but take notes."""

import threading
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from support.training_worker import NAMES, NFT_SETTINGS, SETTINGS
from ubgen_pipeline.models.loading import load_pipeline
from ubgen_training.lora.adapter import LoraSettings
from ubgen_training.nft.nft_config import NFTConfig
from ubgen_training.reward_training import trainer as reward_trainer
from ubgen_training.rollouts.trainer import RolloutTensors, RolloutTrainer
from ubgen_training.sampler.activation_offload import offload_activations
from ubgen_training.sampler.sampler_model import SamplerModel, SamplingSettings


@dataclass(frozen=True)
class Kept(RolloutTensors):
    marks: torch.Tensor


class Notes(RolloutTrainer):
    tags = ()
    rollout_type = Kept
    settings_file = "notes.json"

    def __init__(self, *arguments, **kwargs):
        self.notes = []
        super().__init__(*arguments, **kwargs)

    def before_rollout(self, number):
        self.notes.append(("rollout", number))

    def draw(self, model, labels, seeds):
        self.notes.append(("draw", labels.tolist()))
        return torch.rand(len(labels), 3, 8, 8), {"marks": labels * 10}

    def pair_loss(self, model, rollout, pairs, generator):
        assert torch.equal(rollout.marks, rollout.labels * 10)
        self.notes.append(
            ("pairs", [tuple(pair) for pair in pairs.tolist()], torch.rand((), generator=generator).item())
        )
        weight = next(value for value in model.parameters() if value.requires_grad)
        return weight.square().mean(), {}


def brightness(images, class_names, labels, **kwargs):
    return images.mean(dim=(1, 2, 3))


def brighter(images, class_names, labels, **kwargs):
    return 1000 * images.mean(dim=(1, 2, 3))


class Rank:
    """The place of an image among those of its batch, which it says to read as a whole."""

    __name__ = "rank"
    reads_whole_batch = True

    def __init__(self):
        self.seen, self.num_remembered = [], 0

    def __call__(self, images, class_names, labels, **kwargs):
        raise AssertionError("a reward of sets gives each image its own part")

    def marginal(self, images, class_names, labels, *, seeds, **kwargs):
        self.seen.append((labels.tolist(), list(class_names), len(seeds)))
        return images.mean(dim=(1, 2, 3)).argsort().argsort().float()

    def remember(self):
        self.num_remembered += 1

    def state_dict(self):
        return {}


@pytest.fixture
def trainer(tiny_model, tmp_path):
    return build(tiny_model, tmp_path, brightness)


def build(model, folder, *rewards, **settings):
    config = NFTConfig(
        **{**SETTINGS, **NFT_SETTINGS, "reward_weights": [1.0] * len(rewards), **settings},
        output_dir=str(folder),
        use_cpu=True,
        max_steps=6,
        save_strategy="no",
    )
    sampler = SamplerModel(load_pipeline(model), NAMES, LoraSettings(2), SamplingSettings(4, 1.0))
    return Notes(sampler, config, NAMES, list(rewards))


def test_every_pair_is_trained_on_once_in_each_pass(trainer):
    trainer.train()
    notes = trainer.notes
    # four updates of two batches, then the next rollout
    assert [note[1] for note in notes if note[0] == "rollout"] == [0, 1]
    assert [note[0] for note in notes[:11]] == ["rollout", "draw", "draw", *["pairs"] * 8]
    batches = [note[1] for note in notes[3:11]]
    for epoch in (batches[:4], batches[4:]):
        pairs = [pair for batch in epoch for pair in batch]
        # two steps of each of four samples
        assert len(set(pairs)) == 8 and sorted(sample for sample, _ in pairs) == [0, 0, 1, 1, 2, 2, 3, 3]
    assert {step for batch in batches for _, step in batch} <= set(range(4))
    # what is random in a batch is its own
    assert len({note[2] for note in notes if note[0] == "pairs"}) == sum(note[0] == "pairs" for note in notes)


def test_a_rollout_reads_back_what_a_checkpoint_keeps():
    kept = Kept(torch.tensor([1]), torch.tensor([0.5]), torch.tensor([10]))
    assert all(torch.equal(value, vars(kept)[name]) for name, value in vars(Kept(**kept.state_dict())).items())


def test_a_reward_of_sets_reads_the_whole_rollout_once(tiny_model, tmp_path):
    rank = Rank()
    trainer = build(tiny_model, tmp_path, brightness, rank, reward_weights=[0.0, 1.0], statistics_min_count=4)
    rollout = trainer._collect(0)
    drawn = [note[1] for note in trainer.notes]
    assert len(drawn) == 2 and rank.num_remembered == 1
    assert rank.seen == [(drawn[0] + drawn[1], [NAMES[label] for label in drawn[0] + drawn[1]], 4)]
    values = np.array(sorted(rollout.advantages.tolist()))
    # no class has been seen often enough yet
    np.testing.assert_allclose(values, (np.arange(4) - 1.5) / np.std(np.arange(4)), rtol=1e-4)


class Slow:
    """Its first call ends only when the next images are being drawn."""

    __name__ = "slow"

    def __init__(self):
        self.drawing, self.threads = threading.Event(), set()

    def __call__(self, images, class_names, labels, **kwargs):
        assert self.drawing.wait(30) and not torch.is_grad_enabled()
        self.threads.add(threading.current_thread())
        return images.mean(dim=(1, 2, 3))


def test_rewards_are_scored_beside_the_drawing_with_the_same_advantages(tiny_model, tmp_path):
    found = {}
    for workers in (0, 2):
        slow, rank = Slow(), Rank()
        settings = {"reward_weights": [1.0, 0.5], "reward_workers": workers, "reward_device": "cpu"}
        trainer = build(tiny_model, tmp_path, slow, rank, **settings)
        draw, drawn = trainer.draw, []

        def beside(*arguments, draw=draw, drawn=drawn, slow=slow, workers=workers):
            drawn.append(1)
            if len(drawn) == 2 or not workers:
                slow.drawing.set()
            return draw(*arguments)

        trainer.draw = beside
        torch.manual_seed(0)
        found[workers] = trainer._collect(0).advantages
        assert (threading.current_thread() in slow.threads) == (workers == 0)
        assert len(trainer._metrics["rewards/slow"]) == 2 and len(trainer._metrics["rewards/rank"]) == 1
    assert torch.equal(found[0], found[2])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"reward_workers": -1}, "reward_workers is -1; choose 0 or more"),
        ({"reward_device": "gpu"}, r"reward_device is 'gpu', which cannot be used here .*, or cpu"),
        ({"reward_device": "cuda:31"}, r"reward_device is 'cuda:31', which cannot be used here"),
    ],
)
def test_bad_settings_of_the_scoring_are_named(tiny_model, tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        build(tiny_model, tmp_path, brightness, **settings)


def test_activations_wait_in_main_memory_where_asked_for(trainer, tiny_model, tmp_path, monkeypatch):
    """On a CPU, which has no other, with copies that are made all the same."""
    trainer.train()
    moved = []

    def offload(weights):
        moved.append(len(list(weights)))
        return offload_activations(weights, from_cpu=True)

    monkeypatch.setattr(reward_trainer, "offload_activations", offload)
    with pytest.warns(UserWarning, match="activation_offload has no effect on a CPU"):
        other = build(tiny_model, tmp_path, brightness, activation_offload=True)
    # as a CLIP encoder holds its model: a weight and a bias
    other._loss_components.append(SimpleNamespace(model=torch.nn.Linear(2, 2)))
    other.train()
    sampler = other._sampler
    least = len([*sampler.denoiser_network.parameters(), *sampler.pipeline.vae.parameters()])
    assert len(moved) == 12 and moved[0] == least + 2
    trained = [{k: v for k, v in one._sampler.state_dict().items() if "lora" in k} for one in (trainer, other)]
    assert trained[0] and all(torch.equal(value, trained[1][name]) for name, value in trained[0].items())


@pytest.mark.parametrize("advantages", ["group", "class_statistics"])
def test_each_rewards_advantages_are_its_own(tiny_model, tmp_path, advantages):
    """A reward a thousand times as large weighs no more; recomputed in numpy."""
    settings = {"advantages": advantages, "group_size": 2, "reward_weights": [1.0, 0.5], "advantage_clip": 9.0}
    trainer = build(tiny_model, tmp_path, brightness, brighter, reward_normalisation="each", **settings)
    rewards = torch.tensor([[0.1, 900.0], [0.2, 100.0], [0.4, 200.0], [0.3, 500.0]])
    found = trainer._advantages(rewards, torch.tensor([0, 0, 1, 1]))
    # two of a class are enough for its own statistics
    groups = rewards.double().numpy().reshape(2, 2, 2)
    own = (groups - groups.mean(1, keepdims=True)) / (groups.std(1, keepdims=True) + 1e-6)
    np.testing.assert_allclose(found, (own @ [1.0, 0.5]).reshape(-1), rtol=1e-3)
    if advantages == "class_statistics":
        state = trainer.extra_state()["statistics"]
        assert [sorted(one["rewards"]) for one in state] == [[0, 1], [0, 1]]
        assert state[0]["rewards"][0] == pytest.approx([0.1, 0.2]) and state[1]["rewards"][1] == [200.0, 500.0]
    together = build(tiny_model, tmp_path, brightness, brighter, **settings)
    total = groups @ [1.0, 0.5]
    own = (total - total.mean(1, keepdims=True)) / (total.std(1, keepdims=True) + 1e-6)
    np.testing.assert_allclose(together._advantages(rewards, torch.tensor([0, 0, 1, 1])), own.reshape(-1), rtol=1e-3)


def test_a_rollout_in_which_no_class_has_two_images_is_refused_for_what_compares_them(tiny_model, tmp_path):
    rank = Rank()
    rank.compares_within_class = True
    with pytest.raises(ValueError, match=r"'rank' compares .* rollout_size 3, .* 3 classes no rollout holds"):
        build(tiny_model, tmp_path, rank, rollout_size=3, per_device_train_batch_size=3)
    build(tiny_model, tmp_path, rank, advantages="group", group_size=2)
    with pytest.warns(UserWarning, match="only 17% of the images have another of their class"):
        share(tiny_model, tmp_path, rank)


def test_two_rewards_of_one_name_are_refused(tiny_model, tmp_path):
    """Their figures would be one, and a checkpoint would keep what the last of them remembers for both."""
    with pytest.raises(ValueError, match=r"two rewards of one name among \['rank', 'brightness', 'rank'\]"):
        build(tiny_model, tmp_path, Rank(), brightness, Rank())


def share(model, folder, reward):
    import ubgen_training.rollouts.trainer as module

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "ordered_partner_share", lambda *_: 1 / 6)
        build(model, folder, reward)
