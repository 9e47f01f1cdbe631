"""The trainer base on a model that it does not know: three methods are all that a trainer must have."""

import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file, save_file
from torch import nn

from ubgen_training.checkpoints.config import ResumableConfig
from ubgen_training.checkpoints.trainer import CheckpointingTrainer


class Line(nn.Module):
    """Fits a slope; as small as a model can be."""

    def __init__(self):
        super().__init__()
        self.slope = nn.Parameter(torch.zeros(1))

    def forward(self, x, labels):
        return {"loss": (self.slope * x - labels).square().mean()}


class LineTrainer(CheckpointingTrainer):
    settings_file = "line_config.json"

    def __init__(self, **kwargs):
        self.class_names = []
        super().__init__(**kwargs)

    def initial_modules(self):
        return {"line": self.accelerator.unwrap_model(self.model)}

    def save_weights(self, folder, *, write=True):
        if write:
            save_file({"slope": self.model.slope.detach().clone()}, folder / "line.safetensors")

    def load_weights(self, folder):
        with torch.no_grad():
            self.model.slope.copy_(load_file(folder / "line.safetensors")["slope"])


def trainer(folder, **settings):
    values = {"max_steps": 4, "save_steps": 1, "logging_steps": 1, "learning_rate": 0.1, "seed": 3}
    config = ResumableConfig(
        output_dir=str(folder), use_cpu=True, report_to="none", disable_tqdm=True, **{**values, **settings}
    )
    rows = Dataset.from_dict({"x": [[1.0], [2.0], [3.0], [4.0]] * 8, "labels": [[2.0], [4.0], [6.0], [8.0]] * 8})
    return LineTrainer(model=Line(), args=config, train_dataset=rows)


def test_a_trainer_that_says_nothing_of_its_model_cannot_be_made():
    class Silent(CheckpointingTrainer):
        settings_file = "silent.json"

    with pytest.raises(TypeError, match="abstract methods? .*initial_modules.*load_weights.*save_weights"):  # noqa: RUF043
        Silent(model=Line())


@pytest.mark.parametrize("step", [1, 3])
def test_three_methods_make_checkpoints_that_resume_to_the_last_bit(tmp_path, step):
    straight = trainer(tmp_path / "straight")
    straight.train()
    assert straight.model.slope.item() != 0
    resumed = trainer(tmp_path / "resumed")
    resumed.train(resume_from_checkpoint=str(tmp_path / "straight" / f"checkpoint-{step}"))
    assert torch.equal(resumed.model.slope, straight.model.slope)
    losses = [[entry["loss"] for entry in run.state.log_history if "loss" in entry] for run in (straight, resumed)]
    assert losses[0] == losses[1] and len(losses[0]) == 4


def test_another_seed_is_refused_and_more_steps_are_not(tmp_path):
    trainer(tmp_path).train()
    with pytest.raises(ValueError, match="other settings: seed was 3 and is 4"):
        trainer(tmp_path, seed=4).train(resume_from_checkpoint="last")
    longer = trainer(tmp_path, max_steps=6)
    longer.train(resume_from_checkpoint="last")
    assert longer.state.global_step == 6


def test_weights_and_settings_lie_in_the_folder_at_the_end_and_no_token(tmp_path):
    folder = trainer(tmp_path, save_strategy="no").train_and_save(None)
    assert folder == tmp_path and {"line.safetensors", "line_config.json"} <= {path.name for path in folder.iterdir()}
    assert '"seed": 3' in (folder / "line_config.json").read_text()
