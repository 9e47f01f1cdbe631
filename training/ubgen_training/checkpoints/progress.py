"""What a user sees of a training: one line of progress, and at its end a table of the figures it began and ended with.

The figures themselves go to the trackers and into ``trainer_state.json``, as those of any ``transformers.Trainer``.
"""

from collections.abc import Sequence
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ubgen_pipeline.commands.console import Progress, say, table

# a reward's mean over the classes is shown, not each class's
_GROUPS = ("rewards/", "fixed_samples/", "heldout/", "eval_")
_NO_FIGURES = ("runtime", "per_second")


class ProgressLine(TrainerCallback):
    """Says on rank 0 which update it is, with the loss, the mean reward, the rate and the time left."""

    def __init__(self) -> None:
        self._progress: Progress | None = None
        self._note = ""

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.is_world_process_zero:
            say(f"training: {state.max_steps - state.global_step} updates")

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        # not before: what comes before the first update, such as an evaluation, would make the rate too low
        if state.is_world_process_zero and self._progress is None:
            self._progress = Progress(state.max_steps, "updates", done=state.global_step)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self._progress is not None:
            self._progress.advance(state.global_step - self._progress.done, self._note)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if logs and "loss" in logs:
            self._note = progress_note(logs)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self._progress is not None and (figures := first_and_last(state.log_history)):
            say(f"{state.global_step} updates; the first and the last of each figure:")
            print(table(("", "first", "last"), figures))
        self._progress = None


def progress_note(logs: dict[str, Any]) -> str:
    """The loss and, where there are rewards, their mean."""
    rewards = [float(value) for name, value in logs.items() if name.startswith("rewards/")]
    reward = f", reward {sum(rewards) / len(rewards):.4f}" if rewards else ""
    return f"loss {float(logs['loss']):.4f}{reward}"


def first_and_last(history: Sequence[dict[str, Any]]) -> list[tuple[str, str, str]]:
    """Name, first and last value of each figure of a training's log that a user would look at."""
    names = dict.fromkeys(name for logs in history for name in logs if _is_shown(name))
    rows = []
    for name in names:
        values = [float(logs[name]) for logs in history if name in logs]
        rows.append((name, f"{values[0]:.4f}", f"{values[-1]:.4f}"))
    return rows


def _is_shown(name: str) -> bool:
    if name == "loss":
        return True
    return name.startswith(_GROUPS) and name.count("/") <= 1 and not name.endswith(_NO_FIGURES)
