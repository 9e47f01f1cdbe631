"""The trainer of one word: what chooses a batch, what is saved, and where a resumed run goes on."""

import pytest
import torch

from ubgen_pipeline.models.loading import load_pipeline
from ubgen_pipeline.models.text_embeddings import read_embedding
from ubgen_training.checkpoints.trainer import CheckpointingTrainer
from ubgen_training.textual_inversion.textual_inversion_config import TextualInversionConfig
from ubgen_training.textual_inversion.textual_inversion_trainer import TextualInversionTrainer
from ubgen_training.textual_inversion.token_model import TokenModel


@pytest.fixture
def build(random_mini_model, tmp_path):
    """Builds a trainer on four latents with a seed."""

    def trainer(seed: int) -> TextualInversionTrainer:
        model = TokenModel(load_pipeline(random_mini_model), "<frame>", "star", 1, ["a {token}", "{token}"], seed=1)
        config = TextualInversionConfig(
            output_dir=str(tmp_path / "out"), use_cpu=True, seed=seed, per_device_train_batch_size=2, max_steps=1
        )
        latents = torch.randn(4, 4, 16, 16, generator=torch.Generator().manual_seed(0))
        return TextualInversionTrainer(model, config, latents)

    return trainer


def losses(trainer: TextualInversionTrainer, count: int) -> list[float]:
    return [trainer.compute_loss(trainer.model, {"labels": torch.tensor(2)}).item() for _ in range(count)]


def test_seed_and_number_choose_a_batch_and_a_resumed_run_goes_on_with_the_next(build, monkeypatch):
    straight = losses(build(3), 3)
    assert len(set(straight)) == 3 and straight != losses(build(4), 3)
    first, second = build(3), build(3)
    losses(first, 2)
    # the base's own part needs a loop that runs
    monkeypatch.setattr(CheckpointingTrainer, "rank_state", lambda trainer: {"base": 1})
    monkeypatch.setattr(CheckpointingTrainer, "load_rank_state", lambda trainer, state: None)
    second.load_rank_state(first.rank_state())
    assert losses(second, 1) == straight[2:]


def test_the_vectors_are_saved_for_diffusers_and_read_back(build, tmp_path):
    trainer = build(3)
    with torch.no_grad():
        trainer.model.vectors.add_(0.25)
    trained = trainer.model.vectors.detach().clone()
    (tmp_path / "saved").mkdir()
    trainer.save_weights(tmp_path / "saved", write=False)
    assert not list((tmp_path / "saved").iterdir())
    trainer.save_weights(tmp_path / "saved")
    token, vectors = read_embedding(tmp_path / "saved")
    assert token == "<frame>" and torch.equal(vectors, trained)
    other = build(4)
    other.load_weights(tmp_path / "saved")
    assert torch.equal(other.model.vectors, trained)


def test_a_run_starts_from_all_networks(build):
    trainer = build(3)
    assert set(trainer.initial_modules()) == {"unet", "vae", "text_encoder"} and trainer.class_names == ["<frame>"]
