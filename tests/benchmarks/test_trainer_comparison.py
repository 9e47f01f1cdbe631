"""The comparison of trainers: equal numbers of images, its tables, and one real run of each trainer."""

import json
from dataclasses import replace

import pytest
import yaml

from benchmarks.evidence import stage_work
from benchmarks.evidence.lanes import Lanes
from benchmarks.evidence.stages import in_order
from benchmarks.trainer_comparison import (
    ComparisonSettings,
    comparison_table,
    list_compared_runs,
    main,
    read_comparison,
    run_comparison,
)

TINY = {
    "seeds": [0],
    "images": 4,
    "seconds": 600,
    "samples_per_class": 2,
    "common": {
        "class_names": ["circle", "star"],
        "clip_model": "mini",
        "reward_funcs": ["clip_alignment"],
        "reward_weights": [1.0],
        "num_inference_steps": 2,
        "guidance_scale": 1.0,
        "lora_rank": 2,
        "per_device_train_batch_size": 2,
        "heldout_steps": 0,
        "sample_steps": 0,
    },
    "models": {"mini": {"scheduler": "ddim"}},
    "trainers": {
        "ubgen": {"adversarial_weight": 0.0, "num_gradient_steps": 1},
        "ddpo": {"rollout_size": 4, "dynamics": "ddim", "statistics_min_count": 2},
        "nft": {"rollout_size": 4, "num_trained_steps": 1, "statistics_min_count": 2},
    },
    "arms": [{"name": "untuned"}, *({"name": trainer, "trainer": trainer} for trainer in ("ubgen", "ddpo", "nft"))],
}


def settings(folder, content=None, **changes):
    file = folder / "arms.yaml"
    file.write_text(yaml.safe_dump(TINY | (content or {})), encoding="utf-8")
    places = {"output_dir": "out", "page": "page.md", "figures_file": "figures.json"}
    places = {name: str(folder / place) for name, place in places.items()}
    return ComparisonSettings(arms_file=str(file), workers=1, **places | changes)


def trained(run):
    return {stage.kind: stage for stage in in_order(run.judged)}.get("tuned")


def test_the_shipped_arms_draw_equally_many_images_of_the_same_rewards(tmp_path):
    asked = ComparisonSettings(output_dir=str(tmp_path))
    comparison, runs = read_comparison(asked), list_compared_runs(replace(asked, budgets=["images"]))
    assert len(comparison.seeds) >= 3 and {arm.model for arm in comparison.arms} == {"mini", "mini-flow"}
    for model in ("mini", "mini-flow"):
        configs = {
            run.arm.name: trained(run).settings for run in runs if run.arm.model == model and trained(run) is not None
        }
        rewards = {
            json.dumps([one["config"][key] for key in ("reward_funcs", "reward_weights")]) for one in configs.values()
        }
        assert len(rewards) == 1 and {one["trainer"] for one in configs.values()} == {"ubgen", "ddpo", "nft"}
        for name, one in configs.items():
            config = one["config"]
            images = config["max_steps"] * config["per_device_train_batch_size"]
            if one["trainer"] != "ubgen":
                batches = config["rollout_size"] * config["num_trained_steps"] / config["per_device_train_batch_size"]
                images = config["max_steps"] * config["gradient_accumulation_steps"] / batches * config["rollout_size"]
            assert images == comparison.images, name
    assert len({run.judged.key for run in runs}) == len(runs)


def test_seconds_are_the_other_budget_and_an_untuned_model_has_one_run_for_both(tmp_path):
    runs = list_compared_runs(settings(tmp_path, {"arms": TINY["arms"][:2], "seconds": 7}))
    assert [(run.arm.name, run.budget) for run in runs] == [
        ("untuned", "images"), ("ubgen", "images"), ("untuned", "seconds"), ("ubgen", "seconds")
    ]  # fmt: skip
    assert runs[0].judged.key == runs[2].judged.key and runs[1].judged.key != runs[3].judged.key
    by_images, by_seconds = trained(runs[1]).settings, trained(runs[3]).settings
    assert "seconds" not in by_images and by_seconds["seconds"] == 7
    assert by_images["config"] | {"max_steps": by_seconds["config"]["max_steps"]} == by_seconds["config"]


@pytest.mark.filterwarnings("ignore:(?s).*steps_offset:FutureWarning")
def test_a_training_ends_with_the_update_in_which_its_seconds_are_over(tiny_model, tmp_path, monkeypatch):
    config = TINY["common"] | TINY["trainers"]["ubgen"] | {"model_name_or_path": tiny_model, "max_steps": 1000}
    clock = iter(range(0, 1000))
    monkeypatch.setattr(stage_work.time, "process_time", lambda: float(next(clock)))
    # one question of the clock for each update after the one at the beginning
    figures = stage_work.tune(tmp_path, {"trainer": "ubgen", "config": config, "seconds": 3.0}, {})
    assert figures["images drawn"] == 3 * 2 and figures["seconds of one core"] == 4.0
    assert (tmp_path / "lora" / "pytorch_lora_weights.safetensors").is_file()


def test_a_run_of_each_trainer_gives_a_row_which_is_not_made_again(tmp_path, monkeypatch, stages_here):
    asked = settings(tmp_path, {"arms": TINY["arms"][::3]}, budgets=["images"])
    assert run_comparison(asked) == 0
    page = (tmp_path / "page.md").read_text(encoding="utf-8")
    rows = [line.strip("| ").split(" | ") for line in page.splitlines() if line.startswith("| ")]
    head, untuned, tuned = (dict(zip(rows[0], row, strict=True)) for row in rows)
    assert head["arm"] == "arm" and untuned["arm"] == "untuned" and tuned["arm"] == "nft"
    assert (
        (untuned["images"], tuned["images"]) == ("-", "4")
        and untuned["seconds"] == "-"
        and float(tuned["seconds"]) > 0
        and int(tuned["peak memory, MB"]) > 100
    )
    assert all(0 < float(row["`clip_alignment`"]) < 1 and float(row["diversity"]) > 0 for row in (untuned, tuned))
    assert untuned["recognised"].endswith("%") and tuned["own background"].endswith("%")
    monkeypatch.setattr(Lanes, "run", lambda self, stages: [] if not stages else 1 / 0)
    asked = replace(asked, output_dir=str(tmp_path / "elsewhere"))
    assert run_comparison(asked) == 0
    assert (tmp_path / "page.md").read_text(encoding="utf-8") == page


def test_a_row_is_the_mean_over_the_seeds(tmp_path):
    runs = list_compared_runs(settings(tmp_path, {"seeds": [0, 1]}, arms=["untuned"], budgets=["images"]))
    figures = {
        run.judged.key: {"reward r": 0.5 + run.seed, "reward clip_alignment": 0.5, "class accuracy": 0.5}
        for run in runs
    }
    head, _, row = comparison_table(runs, figures).splitlines()
    cells = dict(zip(head.strip("| ").split(" | "), row.strip("| ").split(" | "), strict=True))
    assert cells["seeds"] == "2" and cells["`r`"] == "1.0000 ± 0.7071" and cells["recognised"] == "50.0% ± 0.0%"


def test_the_gain_is_that_of_what_was_trained_on_by_minute(tmp_path):
    common = TINY["common"] | {"reward_funcs": ["clip_alignment", "quality"], "reward_weights": [1.0, 0.1]}
    asked = settings(tmp_path, {"seeds": [0, 1], "common": common}, arms=["untuned", "ddpo"], budgets=["images"])
    runs = list_compared_runs(asked)
    figures = {
        run.judged.key: {"reward clip_alignment": 0.6 + 0.1 * run.seed, "reward quality": 0.7}
        | ({"seconds of one core": 90.0, "reward quality": 0.9} if run.arm.trainer else {})
        for run in runs
    }
    head, _, untuned, tuned = (line.strip("| ").split(" | ") for line in comparison_table(runs, figures).splitlines())
    assert dict(zip(head, untuned, strict=True))["gain a minute"] == "-"
    assert dict(zip(head, tuned, strict=True))["gain a minute"] == "0.0133 ± 0.0000"


@pytest.mark.parametrize(
    ("content", "changes", "message"),
    [
        ({"images": 5}, {}, "images is 5, but an update of the arm 'ubgen' draws 2"),
        ({"arms": [{"name": "one"}, {"name": "one"}]}, {}, "name each once"),
        ({"arms": [{"name": "one", "trainer": "other"}]}, {}, "the trainer 'other'"),
        ({"models": {"other": {}}}, {}, "the model 'other'"),
        ({"arms": 3}, {}, "could not be read"),
        ({"seconds": 0}, {}, "seconds is 0; give more than 0"),
        ({}, {"arms": ["other"]}, "arms holds 'other'"),
        ({}, {"models": ["mini-flow"]}, "models holds 'mini-flow'"),
    ],
)
def test_bad_input_is_named(tmp_path, content, changes, message):
    with pytest.raises(ValueError, match=message):
        list_compared_runs(settings(tmp_path, content, **changes))


def test_a_bad_flag_is_named(capsys):
    assert main(["--stages_only", "backbone"]) == 2 and "stages_only holds 'backbone'" in capsys.readouterr().err
    assert main(["--budgets", "updates"]) == 2 and "budgets holds 'updates'" in capsys.readouterr().err
