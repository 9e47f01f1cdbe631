"""What TensorBoard gets from a run: figures and grids, by the trainer base's own callback."""

import json

import pytest
from PIL import Image

from support.training_worker import build_trainer

SETTINGS = {"max_steps": 2, "save_strategy": "no", "logging_steps": 1, "sample_steps": 2, "report_to": "tensorboard"}


def test_tensorboard_gets_figures_settings_and_grids(random_mini_model, tmp_path, monkeypatch):
    accumulators = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "runs"))
    trainer = build_trainer(random_mini_model, tmp_path, **SETTINGS)
    trainer.train()
    events = accumulators.EventAccumulator(str(tmp_path / "runs"), size_guidance={"images": 0}).Reload()
    losses = {event.step: event.value for event in events.Scalars("train/loss")}
    logged = {entry["step"]: entry["loss"] for entry in trainer.state.log_history if "loss" in entry}
    assert losses == pytest.approx(logged, rel=1e-3) and list(losses) == [1, 2]
    assert {"train/rewards/brightness", "train/reward_grad_norms/brightness"} <= set(events.Tags()["scalars"])
    grids = events.Images("samples")
    assert [grid.step for grid in grids] == [0, 2]
    (tmp_path / "grid.png").write_bytes(grids[1].encoded_image_string)
    own, saved = (Image.open(file) for file in (tmp_path / "grid.png", tmp_path / "samples" / "step_000002.png"))
    assert own.convert("RGB").tobytes() == saved.convert("RGB").tobytes()
    settings = events.Tensors("args/text_summary")[0].tensor_proto.string_val[0]
    assert json.loads(settings)["learning_rate"] == trainer.args.learning_rate


@pytest.mark.parametrize("kind", ["ubgen", "ddpo"])
def test_a_tracker_that_is_not_installed_is_named_before_anything_is_loaded(tmp_path, kind):
    with pytest.raises(ValueError, match=r"report_to holds \['no_such_tracker'\]"):
        build_trainer("no/such/model", tmp_path, kind=kind, report_to="no_such_tracker")
