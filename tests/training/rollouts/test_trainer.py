"""What a training on rollouts asks of a subclass, and when: seen by one that does nothing but take notes."""

from dataclasses import dataclass

import pytest
import torch

from support.training_worker import NAMES, NFT_SETTINGS, SETTINGS
from ubgen_pipeline.models.loading import load_pipeline
from ubgen_training.lora.adapter import LoraSettings
from ubgen_training.nft.nft_config import NFTConfig
from ubgen_training.rollouts.trainer import RolloutTensors, RolloutTrainer
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


@pytest.fixture
def trainer(tiny_model, tmp_path):
    def brightness(images, class_names, labels, **kwargs):
        return images.mean(dim=(1, 2, 3))

    config = NFTConfig(
        **{**SETTINGS, **NFT_SETTINGS},
        output_dir=str(tmp_path),
        use_cpu=True,
        max_steps=6,
        save_strategy="no",
    )
    sampler = SamplerModel(load_pipeline(tiny_model), NAMES, LoraSettings(2), SamplingSettings(4, 1.0))
    return Notes(sampler, config, NAMES, brightness)


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
