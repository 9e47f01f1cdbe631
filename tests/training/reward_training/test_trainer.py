"""What the trainers of a sampler share: figures and grids for TensorBoard, class names, and what a run starts from."""

import json

import pytest
from PIL import Image

from support.training_worker import build_trainer

SETTINGS = {"max_steps": 2, "save_strategy": "no", "logging_steps": 1, "sample_steps": 2, "report_to": "tensorboard"}


def test_tensorboard_gets_figures_settings_and_grids(tiny_model, tmp_path, monkeypatch):
    accumulators = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "runs"))
    trainer = build_trainer(tiny_model, tmp_path, **SETTINGS)
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


def test_a_trainer_that_is_asked_to_push_says_how(tiny_model, tmp_path):
    trainer = build_trainer(tiny_model, tmp_path, max_steps=1, save_strategy="no")
    with pytest.raises(ValueError, match=r"call TrainingPush of .* or train by the command with push_to_hub"):
        trainer.push_to_hub()


@pytest.mark.parametrize("kind", ["ubgen", "ddpo"])
def test_class_names_must_be_those_of_the_sampler(tiny_model, tmp_path, kind):
    trainer = build_trainer(tiny_model, tmp_path, kind=kind, max_steps=1, save_strategy="no")
    for names, message in (([], "class_names is empty"), (["circle"], "holds 1 names, the sampler 3 prompts")):
        with pytest.raises(ValueError, match=message):
            type(trainer)(trainer.model, trainer.args, names, trainer.reward_funcs)


def test_what_a_run_starts_from_has_the_names_of_the_first_version(tiny_model, tmp_path):
    """They are hashed into the model's fingerprint, which a checkpoint is held against."""
    trainer = build_trainer(tiny_model, tmp_path, max_steps=1, save_strategy="no")
    assert set(trainer.initial_modules()) == {"unet", "vae", "text_encoder"}
