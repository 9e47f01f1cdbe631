"""What watches a run for reward hacking: held-out rewards, diversity and grids on fixed samples, and an alarm.

An evaluation draws the fixed samples once, without gradient, and takes every figure from them. It logs
``heldout/<reward>`` for rewards that are never trained on, ``heldout/diversity`` and ``heldout/diversity/<class>`` for
how far the images of a class differ, and ``fixed_samples/<reward>`` for those that are trained on.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import normalize
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ubgen_pipeline.commands.console import say_warning
from ubgen_pipeline.models.clip_encoders import ClipEncoder

from ..rewards.reward_functions import RewardFunction, call_reward, reward_name
from .alarm import Evaluation, RewardAlarm
from .fixed_samples import FixedSamples, log_images, save_grid

# the name of the diversity among the held-out figures
DIVERSITY = "diversity"


class RewardGuards(TrainerCallback):
    """Evaluates before the first update, after every ``every_steps`` and after the last, and raises the alarm.

    Args:
        samples: the fixed samples.
        class_names: all N, in label order.
        trained: rewards that the loss holds.
        heldout: rewards that it does not; they need not be differentiable.
        encoder: the CLIP in whose features diversity is measured, and which rewards may use; None measures none.
        log: where figures go, a trainer's ``log``.
        callbacks: gives the trainer's callbacks, among which the grids' trackers are.
        alarm: None never raises one.
        every_steps: updates between evaluations.
        grid_steps: updates between grids, ``samples/step_NNNNNN.png`` in the output folder; 0 draws none, None one
            at every evaluation.
        stop_on_alarm: whether an alarm ends the run, after a checkpoint.
        on_evaluation: called with every regular evaluation.

    Raises:
        ValueError: one name twice among the rewards, or a held-out one called ``diversity``.
    """

    def __init__(
        self,
        samples: FixedSamples,
        class_names: Sequence[str],
        trained: Sequence[RewardFunction],
        heldout: Sequence[RewardFunction] = (),
        encoder: ClipEncoder | None = None,
        *,
        log: Callable[[dict[str, float]], None],
        callbacks: Callable[[], Sequence[Any]] = list,
        alarm: RewardAlarm | None = None,
        every_steps: int = 0,
        grid_steps: int | None = None,
        stop_on_alarm: bool = False,
        on_evaluation: Callable[[Evaluation], None] | None = None,
    ):
        check_heldout_names([reward_name(reward) for reward in trained], [reward_name(reward) for reward in heldout])
        self.samples = samples
        self.class_names = list(class_names)
        self.trained = list(trained)
        self.heldout = list(heldout)
        self.encoder = encoder
        self.alarm = alarm
        self.every_steps = every_steps
        self.grid_steps = every_steps if grid_steps is None else grid_steps
        self.stop_on_alarm = stop_on_alarm
        self.on_evaluation = on_evaluation
        self._log = log
        self._callbacks = callbacks

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.global_step == 0:
            self._look(args, state, control)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._look(args, state, control)

    def evaluate(self, step: int, grid: Path | None = None) -> Evaluation:
        """Draw the samples and measure them; every rank must call it, and gets the same.

        Args:
            step: of the evaluation, named in errors.
            grid: where this rank saves a grid of all samples; None saves none.
        """
        columns: dict[str, list[torch.Tensor]] = defaultdict(list)
        for batch in self.samples.batches():
            names = [self.class_names[label] for label in batch.labels.tolist()]
            features = None if self.encoder is None else self.encoder.encode_images(batch.images)
            for reward in (*self.trained, *self.heldout):
                # the keyword arguments that the loss passes, too
                own = {"step": step, "image_features": features, "seeds": batch.seeds}
                values = call_reward(reward, batch.images, names, batch.labels.to(batch.images.device), **own)
                columns[f"reward/{reward_name(reward)}"].append(values.float())
            if features is not None:
                columns["features"].append(features.float())
            columns["images"].append((batch.images * 255).round().to(torch.uint8))
        figures = {name: self.samples.collect(torch.cat(column)) for name, column in columns.items()}
        means = {name: values.mean().item() for name, values in figures.items() if name.startswith("reward/")}
        trained = {name: means[f"reward/{name}"] for name in map(reward_name, self.trained)}
        heldout = {name: means[f"reward/{name}"] for name in map(reward_name, self.heldout)}
        logs = {f"fixed_samples/{name}": value for name, value in trained.items()}
        if "features" in figures and (diversity := class_diversity(figures["features"], self.samples.labels)):
            heldout[DIVERSITY] = sum(diversity.values()) / len(diversity)
            logs |= {f"heldout/{DIVERSITY}/{self.class_names[label]}": value for label, value in diversity.items()}
        logs |= {f"heldout/{name}": value for name, value in heldout.items()}
        if grid is not None:
            image = save_grid(figures["images"], grid, self.samples.num_per_class)
            log_images(self._callbacks(), "samples", image, step)
        if logs:
            self._log(logs)
        return Evaluation(step, trained, heldout)

    def state_dict(self) -> dict[str, Any]:
        """What the alarm has seen."""
        return {"alarm": None if self.alarm is None else self.alarm.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what :meth:`state_dict` gave."""
        if self.alarm is not None and state["alarm"] is not None:
            self.alarm.load_state_dict(state["alarm"])

    def _look(self, args: TrainingArguments, state: TrainerState, control: TrainerControl) -> None:
        step, should_log = state.global_step, control.should_log
        is_grid_due = _is_due(step, state.max_steps, self.grid_steps)
        if not (is_grid_due or _is_due(step, state.max_steps, self.every_steps)):
            return
        path = Path(str(args.output_dir)) / "samples" / f"step_{step:06d}.png"
        evaluation = self.evaluate(step, path if is_grid_due and state.is_world_process_zero else None)
        # the alarm sees regular evaluations only: one that only a grid or the run's end asked for is nearer to its
        # neighbours, and a run that is resumed beyond its end would have seen one more
        is_regular = self.every_steps > 0 and step % self.every_steps == 0
        if self.on_evaluation is not None and is_regular:
            self.on_evaluation(evaluation)
        if self.alarm is not None and is_regular and (messages := self.alarm.update(evaluation)):
            self._raise_alarm(messages, state, control)
        # logging here has cleared should_log, but the loss of this update still has to be logged
        control.should_log = should_log

    def _raise_alarm(self, messages: list[str], state: TrainerState, control: TrainerControl) -> None:
        """Every rank has the same figures, so all of them stop."""
        if state.is_world_process_zero:
            ending = (
                "stop_on_alarm is set: saving, then stopping" if self.stop_on_alarm else "stop_on_alarm would stop"
            )
            advice = "look at the sample grids; reference_weight or a lower learning_rate holds the model closer"
            say_warning(f"reward alarm: {'; '.join(messages)}. {ending}; {advice}.")
        self._log({"heldout/alarm": float(len(messages))})
        if self.stop_on_alarm:
            control.should_save = True
            control.should_training_stop = True


def class_diversity(features: torch.Tensor, labels: torch.Tensor) -> dict[int, float]:
    """For each label the mean of 1 - cosine over all pairs of different images that carry it.

    0 where all its images have one feature direction, 1 where the directions are orthogonal on average. For m unit
    vectors with sum s, the cosines of all ordered pairs of different ones sum to |s|^2 - m, so no pair is formed.

    Args:
        features: ``(S, F)`` of S images, not necessarily normalised.
        labels: ``(S,)`` integer.

    Returns:
        A number in [0, 2] for each label that two or more images carry, in the labels' order.

    Raises:
        ValueError: the lengths differ.
    """
    if len(features) != len(labels):
        raise ValueError(f"features holds {len(features)} rows for {len(labels)} labels; give one each.")
    # in float64, because |s|^2 - m loses its digits where the images are nearly alike
    directions = normalize(features.double(), dim=1)
    diversity: dict[int, float] = {}
    for label in sorted(set(labels.tolist())):
        own = directions[labels == label]
        count = len(own)
        if count > 1:
            cosines = own.sum(dim=0).square().sum() - own.square().sum()
            diversity[label] = 1 - cosines.item() / (count * (count - 1))
    return diversity


def check_heldout_names(trained: Sequence[str], heldout: Sequence[str]) -> None:
    """Raise ``ValueError`` where a held-out reward is also trained on, is there twice, or is called ``diversity``."""
    if both := sorted(set(trained) & set(heldout)):
        raise ValueError(
            f"heldout_reward_funcs holds {both}, also in reward_funcs; "
            "a held-out reward must not be trained on: name it in one of them."
        )
    if len(set(heldout)) != len(heldout) or DIVERSITY in heldout:
        raise ValueError(f"heldout_reward_funcs holds {list(heldout)}; name each once, and none {DIVERSITY!r}.")


def default_interval(num_samples: int, images_per_update: float, share: float = 0.05) -> int:
    """Updates between evaluations of ``num_samples`` so that they draw at most ``share`` of what training draws.

    The share of time is lower: a training image also carries gradient.
    """
    return max(1, math.ceil(num_samples / (share * images_per_update)))


def _is_due(step: int, last_step: int, every: int) -> bool:
    return every > 0 and (step % every == 0 or step == last_step)
