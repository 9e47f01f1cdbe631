"""The search for variety: what its arms change, that they share trainings, and its table."""

import json

import pytest
import yaml

from benchmarks import variety_search
from benchmarks.evidence.command import FIRST_VALIDATION_SEED
from benchmarks.evidence.kept_figures import gather_figures
from benchmarks.evidence.lanes import Lanes
from benchmarks.variety_search import SearchSettings, list_search_runs, read_arms, search_table


def arms_file(folder, **content):
    file = folder / "arms.yaml"
    file.write_text(yaml.safe_dump({"seeds": [1000], "arms": [{"name": "one"}]} | content), encoding="utf-8")
    return str(file)


def lora(found):
    (stage,) = (stage for stage in found.run.stages if stage.kind == "lora")
    return stage


def test_the_shipped_arms_are_on_validation_seeds_and_share_trainings(tmp_path):
    runs = list_search_runs(SearchSettings(output_dir=str(tmp_path)))
    assert runs and all(found.run.seed >= FIRST_VALIDATION_SEED for found in runs)
    by_settings = {}
    for found in runs:
        trained = json.dumps(lora(found).settings, sort_keys=True)
        by_settings.setdefault(trained, set()).add(lora(found).key)
        assert lora(found).settings["config"] | dict(found.arm.changes) == lora(found).settings["config"]
    assert all(len(keys) == 1 for keys in by_settings.values())
    assert len(by_settings) < len(runs)


def test_an_arms_changes_and_seeds_are_its_own(tmp_path):
    file = arms_file(
        tmp_path,
        common={"max_steps": 4},
        arms=[{"name": "one"}, {"name": "two", "set": {"max_steps": 8}, "seeds": [1001, 1002], "lora_step": 4}],
    )
    runs = list_search_runs(SearchSettings(output_dir=str(tmp_path), arms_file=file))
    assert [(found.arm.name, found.run.seed) for found in runs] == [("one", 1000), ("two", 1001), ("two", 1002)]
    assert [lora(found).settings["config"]["max_steps"] for found in runs] == [4, 8, 8]
    asked = SearchSettings(output_dir=str(tmp_path), arms_file=file, arms=["two"], seeds=[1003])
    assert [(arm.name, arm.seeds) for arm in read_arms(asked)] == [("two", [1003])]


def test_arms_on_captions_take_their_own_settings_in_place_of_the_common_ones(tmp_path):
    arm = {"name": "one", "begins": "captioned", "set": {"max_steps": 8}}
    surer = arm | {"name": "surer", "min_probability": 0.7}
    file = arms_file(tmp_path, common={"class_repeats": 4}, arms=[arm, surer])
    found, other = list_search_runs(SearchSettings(output_dir=str(tmp_path), arms_file=file))
    config = lora(found).settings["config"]
    # the two differ in what is left out alone
    assert lora(found).key == lora(other).key and found.run.measures.key != other.run.measures.key
    rules = [stage.settings for run in (found, other) for stage in run.run.stages if stage.kind == "kept"]
    assert rules[1] == rules[0] | {"min_zero_shot_probability": 0.7}
    assert config["captions"] == "{captions}" and config["max_steps"] == 8 and "class_repeats" not in config


def test_the_table_has_a_row_for_each_run_that_is_done(tmp_path):
    file = arms_file(tmp_path, arms=[{"name": "one"}, {"name": "two", "set": {"max_steps": 8}}])
    runs = list_search_runs(SearchSettings(output_dir=str(tmp_path), arms_file=file))
    figures = {"transfer novel silhouettes": 0.654, "hue entropy": 3.2, "accuracy": 0.5}
    folder = runs[1].run.measures.folder
    folder.mkdir(parents=True)
    (folder / "done.json").write_text(json.dumps({"seconds": 1, "figures": figures}), encoding="utf-8")
    head, _, row = search_table(runs, gather_figures([found.run.measures for found in runs], {})).splitlines()
    cells = dict(zip(head.strip("| ").split(" | "), row.strip("| ").split(" | "), strict=True))
    assert cells["arm"] == "two" and cells["transfer, 1,000"] == "65.4%" and cells["hue, bits"] == "3.20"
    assert cells["recognised"] == "-"


def test_runs_whose_figures_are_known_are_not_made_again(tmp_path, monkeypatch):
    file = arms_file(tmp_path, arms=[{"name": "one"}, {"name": "two", "set": {"max_steps": 8}}])
    settings = SearchSettings(
        output_dir=str(tmp_path / "out"),
        arms_file=file,
        page=str(tmp_path / "page.md"),
        figures_file=str(tmp_path / "figures.json"),
        workers=1,
    )
    first, second = list_search_runs(settings)
    known = {first.run.measures.key: {"accuracy": 0.25}}
    (tmp_path / "figures.json").write_text(json.dumps(known), encoding="utf-8")

    def end(lanes, stages):
        assert {stage.key for stage in stages} == {stage.key for stage in second.run.stages}
        second.run.measures.folder.mkdir(parents=True)
        done = {"seconds": 1, "figures": {"accuracy": 0.75}}
        (second.run.measures.folder / "done.json").write_text(json.dumps(done), encoding="utf-8")
        return []

    monkeypatch.setattr(Lanes, "run", end)
    assert variety_search.run_search(settings) == 0
    page = (tmp_path / "page.md").read_text(encoding="utf-8")
    assert "| one | 1000 |" in page and "25.0%" in page and "| two | 1000 |" in page and "75.0%" in page
    assert first.dtype in page
    kept = json.loads((tmp_path / "figures.json").read_text(encoding="utf-8"))
    assert kept == known | {second.run.measures.key: {"accuracy": 0.75}}
    # asked for one arm alone, the page keeps the other's row
    monkeypatch.setattr(Lanes, "run", lambda lanes, stages: [] if not stages else 1 / 0)
    assert variety_search.run_search(SearchSettings(**vars(settings) | {"arms": ["two"]})) == 0
    assert (tmp_path / "page.md").read_text(encoding="utf-8") == page
    (tmp_path / "figures.json").write_text("[1]", encoding="utf-8")
    with pytest.raises(ValueError, match=r"figures_file .*; move it away"):
        variety_search.run_search(settings)


# a run of one update fills no memory, which it rightly says
@pytest.mark.filterwarnings("ignore:variety_memory is")
def test_the_command_stops_at_the_training_where_asked(tmp_path, stages_here):
    changes = {
        "max_steps": 1,
        "save_steps": 1,
        "per_device_train_batch_size": 4,
        "images_per_class_in_batch": 2,
        "class_repeats": 2,
        "num_inference_steps": 2,
        "num_gradient_steps": 1,
        "lora_rank": 2,
        "heldout_steps": 0,
        "discriminator_warmup_steps": 1,
        "reward_funcs": ["clip_alignment", "quality", "logdet_variety"],
        "reward_weights": [1.0, 0.1, 0.5],
    }
    file, page = arms_file(tmp_path, common=changes), tmp_path / "page.md"
    flags = ["--output_dir", str(tmp_path / "out"), "--arms_file", file, "--page", str(page), "--workers", "1"]
    flags += ["--figures_file", str(tmp_path / "figures.json")]
    assert variety_search.main([*flags, "--stages_only", "lora"]) == 0
    (found,) = list_search_runs(SearchSettings(output_dir=str(tmp_path / "out"), arms_file=file))
    assert lora(found).is_done and not found.run.measures.is_done
    assert "benchmarks.variety_search" in page.read_text("utf-8")


def test_what_was_made_in_the_other_precision_is_a_row_and_not_made_again(tmp_path, monkeypatch):
    """Machines differ in whether they compute in bfloat16; the table is of all of them."""
    settings = SearchSettings(
        output_dir=str(tmp_path / "out"),
        arms_file=arms_file(tmp_path),
        page=str(tmp_path / "page.md"),
        figures_file=str(tmp_path / "figures.json"),
    )
    (here,) = list_search_runs(settings)
    ((there, other),) = (
        (found.run.measures.key, dtype)
        for dtype in ("bfloat16", "float32")
        if dtype != here.dtype
        for found in list_search_runs(settings, dtype)
    )
    assert there != here.run.measures.key
    (tmp_path / "figures.json").write_text(json.dumps({there: {"accuracy": 0.25}}), encoding="utf-8")
    monkeypatch.setattr(Lanes, "run", lambda lanes, stages: [] if not stages else 1 / 0)
    assert variety_search.run_search(settings) == 0
    assert f"| one | 1000 | {other} |" in (tmp_path / "page.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("content", "settings", "message"),
    [
        ({"arms": [{"name": "one"}, {"name": "one"}]}, {}, "name each once"),
        ({"arms": [{"set": {}}]}, {}, "with a name each"),
        ({"arms": 3}, {}, "could not be read"),
        ({}, {"arms": ["other"]}, "arms holds 'other'"),
        ({}, {"seeds": [3]}, "seeds are"),
    ],
)
def test_bad_input_is_named(tmp_path, content, settings, message):
    asked = SearchSettings(output_dir=str(tmp_path), arms_file=arms_file(tmp_path, **content), **settings)
    with pytest.raises(ValueError, match=message):
        list_search_runs(asked)
