"""The command of the evidence: what it refuses, that it goes on after a kill, and its lanes."""

import fcntl
import json
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest

from benchmarks.evidence import command, figures, lanes, stage_work, stages
from support import ROOT
from support.tiny_evidence import tiny
from support.warm_python import warm_programs
from ubgen_evaluation import mini_sets


def flags(settings) -> list[str]:
    """The command line that gives these settings."""
    given = []
    for name, value in vars(settings).items():
        if value is not None:
            given += [f"--{name}", *map(str, value if isinstance(value, list) else [value])]
    return given


def test_validation_scenes_are_none_of_the_test():
    for draw in (
        lambda split: mini_sets.validation_scenes(30, split=split).images,
        lambda split: mini_sets.cue_conflict_arrays(90, split=split)[0].images,
        lambda split: mini_sets.context_arrays(40, split=split)[0].images,
        lambda split: mini_sets.background_swap_arrays(30, "random", split=split).images,
        lambda split: np.concatenate([part.images for part in mini_sets.transfer_arrays(30, 30, split=split)]),
    ):
        test, validation = ({image.tobytes() for image in draw(split)} for split in ("test", "validation"))
        assert not test & validation
    assert command.EvidenceSettings(split="validation").run_seeds == [1000, 1001, 1002]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"seeds": [1000]}, "seeds are"),
        ({"split": "validation", "seeds": [0]}, "1000 or more"),
        ({"split": "training"}, "split is 'training'"),
        ({"model": "sdxl"}, "model is 'sdxl'; choose one of mini, mini-flow"),
        ({"arms": ["ubgen", "no_clip"]}, "arms is"),
        ({"seeds": [0, 0]}, "each once"),
        ({"workers": 0}, "workers is 0"),
        ({"dtype": "half"}, "dtype is 'half'"),
        ({"variety_weight": 0.0}, "variety_weight is 0"),
        ({"min_probability": 1.5}, "min_probability is 1.5; give a share from 0 to 1"),
        (
            {"arms": ["ubgen_variety"], "set": ["reward_funcs=[class_variety]", "reward_weights=[1.0]"]},
            "adds the reward 'class_variety'",
        ),
        ({"set": ["adversarial_weight"]}, "--set holds 'adversarial_weight'; write name=value"),
        ({"set_variety": ["max_steps"]}, "--set-variety holds 'max_steps'; write name=value"),
        ({"set_backbone": ["=3"]}, "--set-backbone holds '=3'; write name=value"),
        ({"set": ["adversarial_wait=1"]}, "nearest is 'adversarial_weight'"),
        (
            {"arms": ["no_q"], "set": ["reward_funcs=[clip_alignment]", "reward_weights=[1.0]"]},
            "leaves out the reward 'quality'",
        ),
        ({"training_config": "nowhere.yaml"}, "could not be read"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_runs(tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        command.list_runs(tiny(tmp_path, **settings))
    assert not (tmp_path / "evidence").exists()


@pytest.mark.slow
def test_an_interrupted_command_goes_on_and_ends_with_figures(tmp_path, capsys):
    settings = tiny(tmp_path)
    (run,) = command.list_runs(settings)
    lora = run.stages[0]
    argv = [warm_programs() / "python", "-m", "benchmarks.evidence", *flags(settings)]
    process = subprocess.Popen(argv, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    checkpoint = lora.folder / "lora" / "checkpoint-1" / "trainer_state.json"
    deadline = time.monotonic() + 240
    try:
        while not checkpoint.is_file():
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.02)
    finally:
        # not SIGINT, which a shell lets the commands that it runs in the background ignore
        process.terminate()
        _, said = process.communicate(timeout=60)
    assert process.returncode == 130 and said.endswith("ubgen: interrupted\n")
    # the stage's own process holds this as long as it lives
    with open(lora.folder / "lock") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    was_cut_short = not lora.is_done
    for stage in run.stages:
        stage.prepare()
        stage_work.run_stage(stage.folder)
        assert stage.is_done
    history = json.loads((lora.folder / "lora" / "trainer_state.json").read_text("utf-8"))
    assert was_cut_short and history["global_step"] == 2
    # nothing left to run: figures and page are written from what is there
    assert command.run_evidence(settings) == 0
    assert "4 of 4 stages are done already" in capsys.readouterr().out
    results = json.loads((tmp_path / "evidence" / "results.json").read_text("utf-8"))
    (found,) = results["runs"]
    assert (found["arm"], found["seed"]) == ("ubgen", 0)
    needed = figures.all_figures(results)
    missing = {figure.key for figure in needed} - found["figures"].keys()
    assert not missing
    text = (tmp_path / "results" / "evidence_tables.md").read_text("utf-8")
    assert "| transfer, 20% (20 images) ↑ |" in text
    picture = tmp_path / "results" / "images" / "evidence_tables_samples.jpg"
    assert picture.is_file()
    # on another machine, of the other precision, the figures are those of the file, and nothing is made again
    (other,) = (dtype for dtype in command.DTYPES if dtype != settings.image_dtype)
    (run,) = command.list_runs(tiny(tmp_path / "there"), other)
    (record,) = json.loads(Path(settings.figures_file).read_text("utf-8")).values()
    Path(settings.figures_file).write_text(json.dumps({run.measures.key: record}), "utf-8")
    picture.write_bytes(b"of before")
    elsewhere = tiny(tmp_path / "there", page=settings.page, figures_file=settings.figures_file)
    assert command.run_evidence(elsewhere) == 0
    said = capsys.readouterr().out
    assert "1 of 1 runs are in" in said and "the picture of samples was left as it is" in said
    assert picture.read_bytes() == b"of before"
    again = json.loads((tmp_path / "there" / "evidence" / "results.json").read_text("utf-8"))
    assert [run["figures"] for run in again["runs"]] == [found["figures"]] and again["clip"] == results["clip"]
    assert f"drawn in {other}" in Path(settings.page).read_text("utf-8")


def test_a_failed_stage_leaves_the_others_running(tmp_path, capsys):
    images = {"samples_per_class": 1, "bias": 0.95, "threads": 1}
    good = stages.Stage("images", "good", tmp_path, images | {"seed": 0})
    wrong = stages.Stage("images", "wrong", tmp_path, images)
    after = stages.Stage("backbone", "after", tmp_path, {"config": {}}, {"images": wrong})
    failed = lanes.Lanes(2, 1).run([wrong, good, after])
    assert failed == [wrong] and good.is_done and not after.folder.exists()
    assert "KeyError: 'seed'" in (wrong.folder / "log.txt").read_text("utf-8")
    said = capsys.readouterr().out
    assert f"failed (exit code 1), see {wrong.folder / 'log.txt'}" in said
    assert "1/3 stages" in said


def test_the_command_says_what_is_wrong_and_exits_with_2(tmp_path, capsys):
    assert command.main(["--arms", "all", "--output_dir", str(tmp_path / "e")]) == 2
    assert "arms is ['all']" in capsys.readouterr().err and not (tmp_path / "e").exists()
