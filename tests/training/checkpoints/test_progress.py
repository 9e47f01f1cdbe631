"""What a user sees of a training: a line of progress without dictionaries, and a table of first and last figures."""

import pytest
import torch
from torch import nn
from transformers import TrainerControl, TrainerState, TrainingArguments

from ubgen_training.checkpoints.config import ResumableConfig
from ubgen_training.checkpoints.progress import ProgressLine, first_and_last, progress_note
from ubgen_training.checkpoints.trainer import CheckpointingTrainer

LOGS = {"loss": 0.5, "rewards/a": 1.0, "rewards/b": 0.0, "grad_norm": 3.0}


def test_the_note_holds_the_loss_and_the_mean_reward():
    assert progress_note(LOGS) == "loss 0.5000, reward 0.5000"
    assert progress_note({"loss": 0.25}) == "loss 0.2500"


def test_the_table_holds_what_a_user_looks_at():
    history = [
        {"heldout/diversity": 0.1, "heldout/diversity/star": 0.2, "step": 0},
        {**LOGS, "step": 1},
        {**LOGS, "loss": 0.25, "step": 2},
        {"heldout/diversity": 0.3, "eval_accuracy": 0.75, "eval_runtime": 2.0, "step": 2},
    ]
    rows = {name: (first, last) for name, first, last in first_and_last(history)}
    assert rows["loss"] == ("0.5000", "0.2500") and rows["heldout/diversity"] == ("0.1000", "0.3000")
    assert set(rows) == {"loss", "rewards/a", "rewards/b", "heldout/diversity", "eval_accuracy"}


def test_updates_are_counted_on_the_first_rank_only(tmp_path, capsys):
    for is_first in (True, False):
        args = TrainingArguments(output_dir=str(tmp_path), use_cpu=True)
        state = TrainerState(max_steps=3, global_step=1, is_world_process_zero=is_first)
        line, control = ProgressLine(), TrainerControl()
        line.on_train_begin(args, state, control)
        for step in (2, 3):
            line.on_step_begin(args, state, control)
            state.global_step = step
            line.on_step_end(args, state, control)
            line.on_log(args, state, control, logs=LOGS)
            state.log_history.append(LOGS)
        line.on_train_end(args, state, control)
        printed = capsys.readouterr()
        if is_first:
            assert printed.err.splitlines()[0] == "ubgen: training: 2 updates"
            assert "ubgen: 3/3 updates, loss 0.5000, reward 0.5000, " in printed.err
            assert "{" not in printed.err + printed.out and printed.out.splitlines()[1].split()[0] == "loss"
        else:
            assert printed.err == printed.out == ""


class Constant(nn.Module):
    """Its loss is 3 times its weight, which is 1."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, x):
        return {"loss": 3 * self.weight.sum() + 0 * x.sum()}


class ConstantTrainer(CheckpointingTrainer):
    settings_file = "constant.json"
    class_names = ()

    def initial_modules(self):
        return {"model": self.model}

    def save_weights(self, folder, *, write=True):
        raise NotImplementedError

    def load_weights(self, folder):
        raise NotImplementedError


@pytest.mark.parametrize("is_quiet", [False, True])
def test_a_training_shows_its_updates_and_no_dictionaries(tmp_path, capsys, is_quiet):
    args = ResumableConfig(
        output_dir=str(tmp_path),
        max_steps=3,
        logging_steps=1,
        learning_rate=0.0,
        save_strategy="no",
        report_to="none",
        use_cpu=True,
        per_device_train_batch_size=1,
        disable_tqdm=is_quiet,
    )
    trainer = ConstantTrainer(model=Constant(), args=args, train_dataset=[{"x": torch.zeros(1)}] * 8)
    trainer.train()
    printed = capsys.readouterr()
    assert "{" not in printed.err + printed.out and "it/s" not in printed.err
    assert [logs["loss"] for logs in trainer.state.log_history if "loss" in logs] == [3.0] * 3
    assert ("ubgen: 3/3 updates, loss 3.0000, " in printed.err) is not is_quiet
    assert (printed.out.splitlines()[1:] == ["loss  3.0000  3.0000"]) is not is_quiet
