"""What trainers on images share: the average in checkpoint and export, and a dataset that is too small."""

from pathlib import Path

import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file, save_file
from torch import nn

from ubgen_pipeline.dataset.labelled_images import LabelledImages
from ubgen_training.checkpoints.weight_average import WeightAverage
from ubgen_training.images.config import ImageTrainingConfig
from ubgen_training.images.epoch_rows import EpochRows
from ubgen_training.images.image_trainer import ImageTrainer


class LineTrainer(ImageTrainer):
    """Fits a line to labels."""

    settings_file = "line_config.json"

    def compute_loss(self, model, inputs, return_outputs=False, **kwargs):
        return (model(inputs["x"]) - 3).square().mean()

    def initial_modules(self):
        return {"line": self.accelerator.unwrap_model(self.model)}

    def save_weights(self, folder: Path, *, write: bool = True) -> None:
        if write:
            save_file(self.accelerator.unwrap_model(self.model).state_dict(), folder / "line.safetensors")

    def load_weights(self, folder: Path) -> None:
        self.accelerator.unwrap_model(self.model).load_state_dict(load_file(folder / "line.safetensors"))

    def save_beside_weights(self, folder: Path) -> None:
        (folder / "beside.txt").write_text("here")


def train(folder: Path, *, decay: float = 0.5, export_average: bool = True, batch_size: int = 2, resume=None):
    config = ImageTrainingConfig(
        dataset="memory", output_dir=str(folder), use_cpu=True, disable_tqdm=True, max_steps=3, save_steps=1,
        learning_rate=0.1, per_device_train_batch_size=batch_size,
    )  # fmt: skip
    images = LabelledImages(Dataset.from_dict({"label": [0, 1, 2, 3]}), ("a", "b"), "memory")
    rows = EpochRows(images, lambda row, index, epoch: {"x": float(row["label"])})
    torch.manual_seed(0)
    line = nn.Linear(1, 1)
    trainer = LineTrainer(
        line, config, images, rows,
        average=WeightAverage(line, decay) if decay else None, export_average=export_average,
        data_collator=lambda batch: {"x": torch.tensor([[row["x"]] for row in batch])},
    )  # fmt: skip
    trainer.train_and_save(resume)
    return trainer


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "line.safetensors")


def test_the_average_is_exported_and_checkpoints_hold_the_trained_weights(tmp_path):
    trainer = train(tmp_path)
    trained = weights(tmp_path / "checkpoint-3")
    assert all(torch.equal(trained[name], value) for name, value in trainer.model.state_dict().items())
    assert all(torch.equal(weights(tmp_path)[name], value) for name, value in trainer.average.weights.items())
    assert not torch.equal(weights(tmp_path)["bias"], trained["bias"]) and trainer.class_names == ["a", "b"]
    assert [file.parent.name for file in tmp_path.rglob("beside.txt")] == [tmp_path.name]


@pytest.mark.parametrize("settings", [{"decay": 0.0}, {"export_average": False}])
def test_without_an_average_the_trained_weights_are_exported(tmp_path, settings):
    train(tmp_path, **settings)
    assert torch.equal(weights(tmp_path)["bias"], weights(tmp_path / "checkpoint-3")["bias"])


def test_the_average_goes_on_where_a_checkpoint_left_it(tmp_path):
    train(tmp_path)
    expected = weights(tmp_path)
    train(tmp_path, resume=str(tmp_path / "checkpoint-1"))
    assert all(torch.equal(weights(tmp_path)[name], value) for name, value in expected.items())


def test_fewer_images_than_a_batch(tmp_path):
    with pytest.raises(ValueError, match="per_device_train_batch_size is 5, but memory has 4 rows"):
        train(tmp_path, batch_size=5)
