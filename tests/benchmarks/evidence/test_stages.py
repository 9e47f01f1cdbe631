"""The stages of the evidence: what each depends on, what each arm trains with, and the images that are distilled."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from benchmarks.evidence import command, stage_work, stages
from support import ROOT
from support.tiny_evidence import TINY_TRAINING, tiny
from ubgen_pipeline.dataset.reader import StoredRows
from ubgen_pipeline.mini.scenes import CLASS_NAMES
from ubgen_pipeline.samples.prompt_samples import load_prompt_samples


def keys(folder: Path, **settings) -> dict[str, str]:
    (run,) = command.list_runs(tiny(folder, **settings))
    return {stage.kind: stage.key for stage in run.stages}


@pytest.mark.parametrize(
    ("settings", "changed"),
    [
        ({"set": [*TINY_TRAINING, "adversarial_weight=0.7"]}, {"lora", "images", "backbone", "measures"}),
        ({"seeds": [1]}, {"lora", "images", "backbone", "measures"}),
        ({"guidance_scale": 3.0}, {"images", "backbone", "measures"}),
        ({"lora_step": 1}, {"images", "backbone", "measures"}),
        # of another arm
        ({"variety_weight": 0.5}, set()),
        ({"set_variety": ["max_steps=3"]}, set()),
        ({"set_logdet": ["max_steps=3"]}, set()),
        ({"set_distilling": ["max_steps=3"]}, set()),
        ({"set_captioned": ["max_steps=3"]}, set()),
        ({"min_probability": 0.5}, set()),
        ({"set_backbone": ["num_train_epochs=2"]}, {"backbone", "measures"}),
        ({"num_scenes": 101}, {"measures"}),
        ({"workers": 3, "page": "elsewhere.md", "results": "r.json", "figures_file": "f.json"}, set()),
    ],
)
def test_a_setting_makes_anew_what_depends_on_it(tmp_path, settings, changed):
    before, after = keys(tmp_path), keys(tmp_path, **settings)
    assert {kind for kind in before if before[kind] != after[kind]} == changed


def test_other_weights_of_the_package_make_the_stages_anew(tmp_path, monkeypatch):
    before = keys(tmp_path)
    monkeypatch.setattr(stages, "model_hashes", lambda kind, model: ("other",) if kind == "images" else ())
    assert keys(tmp_path)["images"] != before["images"]


def test_the_generator_is_that_of_every_stage_that_loads_one(tmp_path):
    arms = ["base", "captioned", "captioned_distilled", "ubgen"]
    runs = command.list_runs(tiny(tmp_path, arms=arms, model="mini-flow"))
    found = {stage.key: stage for run in runs for stage in run.stages}.values()
    assert {stage.kind for stage in found if "model" in stage.settings} == {"lora", "images", "distilled"}
    assert {stage.settings.get("model") for stage in found if stage.kind in ("lora", "images")} == {"mini-flow"}
    trained = [stage.settings["config"] for stage in found if stage.kind in ("lora", "distilled")]
    assert len(trained) == 3 and {config["model_name_or_path"] for config in trained} == {"mini-flow"}
    # what is of the usual model stays where it is
    before = {stage.key for run in command.list_runs(tiny(tmp_path, arms=arms)) for stage in run.stages}
    assert not before & {stage.key for stage in found}


def test_both_commands_share_the_stages_they_have_in_common(tmp_path):
    full = yaml.safe_load((ROOT / "benchmarks" / "evidence" / "full.yaml").read_text("utf-8"))
    short = {stage.key for run in command.list_runs(tiny(tmp_path, seeds=None)) for stage in run.stages}
    long = {stage.key for run in command.list_runs(tiny(tmp_path, **full)) for stage in run.stages}
    assert short < long
    assert len(full["seeds"]) >= 5


def test_each_ablation_reaches_the_training_settings(tmp_path):
    runs = command.list_runs(tiny(tmp_path, arms=[*stages.UNTUNED_ARMS, *stages.TUNED_ARMS]))
    configs = {run.arm: stage.settings["config"] for run in runs for stage in run.stages if stage.kind == "lora"}
    assert configs.keys() == set(stages.TUNED_ARMS)
    full = configs["ubgen"]
    differing = {
        arm: {key: value for key, value in config.items() if value != full.get(key)} for arm, config in configs.items()
    }
    alignment, quality = full["reward_weights"]
    assert full["reward_funcs"] == ["clip_alignment", "quality"] and alignment > 0 and quality > 0
    with_variety = {"reward_funcs": ["clip_alignment", "quality", "class_variety"]}
    logdet = {arm: differing.pop(arm) for arm in list(differing) if "logdet" in arm}
    captioned = {arm: config for arm, config in configs.items() if arm.startswith("captioned")}
    differing = {arm: changes for arm, changes in differing.items() if arm not in captioned}
    own = captioned.pop("captioned")
    assert own["reward_funcs"] == ["clip_alignment"] and own["adversarial_weight"] == 0.0
    assert captioned == {
        "captioned_unfiltered": own,
        "captioned_with_en": own | {"adversarial_weight": full["adversarial_weight"]},
        "captioned_with_q": own | {"reward_funcs": ["clip_alignment", "quality"], "reward_weights": [1.0, 0.1]},
        "captioned_weak_clip": own | {"clip_model": "mini:{clip}"},
    }
    own = logdet.pop("ubgen_logdet")
    assert own["reward_funcs"] == ["clip_alignment", "quality", "logdet_variety"] and own["adversarial_weight"] == 0.0
    fit, good, varied = own["reward_weights"]
    assert fit > 0 and good == 0 and varied > 0
    assert {arm: {k: v for k, v in changes.items() if v != own.get(k)} for arm, changes in logdet.items()} == {
        "logdet_with_en": {},
        "logdet_no_in": {"reward_weights": [0.0, good, varied]},
        "logdet_with_q": {"reward_weights": [fit, 0.1, varied]},
        "logdet_no_variety": {"reward_weights": [fit, good, 0.0]},
        "logdet_weak_clip": {"clip_model": "mini:{clip}"},
        "distilled_logdet": {"initial_lora": "{distilled}"},
    }
    assert configs["logdet_with_en"] == configs["ubgen_logdet"] | {"adversarial_weight": full["adversarial_weight"]}
    assert differing == {
        "ubgen": {},
        "ubgen_variety": with_variety | {"reward_weights": [alignment, quality, 0.5]},
        "variety_no_en": with_variety | {"reward_weights": [alignment, quality, 0.5], "adversarial_weight": 0.0},
        "variety_no_in": with_variety | {"reward_weights": [0.0, quality, 0.5]},
        "variety_no_q": with_variety | {"reward_weights": [alignment, 0.0, 0.5]},
        "variety_weak_clip": with_variety | {"reward_weights": [alignment, quality, 0.5], "clip_model": "mini:{clip}"},
        "no_en": {"adversarial_weight": 0.0},
        "no_in": {"reward_weights": [0.0, quality]},
        "no_q": {"reward_weights": [alignment, 0.0]},
        "weak_clip": {"clip_model": "mini:{clip}"},
    }
    other = command.list_runs(tiny(tmp_path, arms=list(stages.TUNED_ARMS), set_variety=["max_steps=3"]))
    changed = {run.arm: s.settings["config"] for run in other for s in run.stages if s.kind == "lora"}
    for arm, config in configs.items():
        has_changed = arm == "ubgen_variety" or arm.startswith("variety_")
        assert changed[arm] == (config | {"max_steps": 3} if has_changed else config)
    # the arms of a seed start from the same noise
    images = [stage.settings["seed"] for run in runs for stage in run.stages if stage.kind == "images"]
    assert len(images) >= len(runs) and {*images} == {0}


def test_what_needs_no_rewards_is_drawn_beside_the_tuned_arms(tmp_path):
    arms = ["real", "unbiased", "base", "cads", "prompted", "prompted_kept", "distilled"]
    runs = command.list_runs(tiny(tmp_path, arms=arms))
    kinds = {run.arm: [stage.kind for stage in run.stages] for run in runs}
    assert kinds["prompted"] == kinds["base"] == ["images", "backbone", "measures"]
    assert kinds["prompted_kept"] == ["images", "kept", "backbone", "measures"]
    # CADS changes how the base's images are drawn, and nothing else
    assert kinds["cads"] == kinds["base"]
    base, cads = (next(run for run in runs if run.arm == arm).stages[0].settings for arm in ("base", "cads"))
    assert cads == base | {"diversity": "cads", "cads_scale": 1.0}
    # the LoRA of `distilled` is trained on the very images of `prompted`
    assert kinds["distilled"] == ["images", "kept", "distilled", "images", "backbone", "measures"]
    stage = {run.arm: run.stages for run in runs}
    assert stage["distilled"][0].key == stage["prompted"][0].key
    # as many images are left as the other arms have, of more that were drawn
    drawn, kept = (stage["prompted_kept"][place].settings for place in (0, 1))
    assert drawn == stage["prompted"][0].settings | {"samples_per_class": 7} and kept["max_per_class"] == 2
    assert stage["real"][0].settings["bias"] == command.REAL_BIAS and stage["unbiased"][0].settings["bias"] == 0
    assert "templates" not in stage["distilled"][3].settings


def test_a_training_that_begins_at_the_distilled_lora_reads_it(tmp_path, monkeypatch):
    distilled, begun, logdet = command.list_runs(
        tiny(tmp_path, arms=["distilled", "distilled_logdet", "ubgen_logdet"], set_logdet=["max_steps=7"])
    )
    kinds = [stage.kind for stage in begun.stages]
    assert kinds == ["images", "kept", "distilled", "lora", "images", "backbone", "measures"]
    assert begun.stages[2].key == distilled.stages[2].key
    settings = begun.stages[3].settings["config"]
    assert settings == logdet.stages[0].settings["config"] | {"initial_lora": stages.DISTILLED_FOLDER}
    begun.stages[3].folder.mkdir(parents=True)
    read = {"distilled": tmp_path / "there"}
    monkeypatch.setattr("ubgen_training.ubgen.command.main", lambda argv: 0)
    stage_work.train_lora(begun.stages[3].folder, begun.stages[3].settings, read)
    written = yaml.safe_load((begun.stages[3].folder / "config.yaml").read_text())
    assert written == settings | {"initial_lora": str(tmp_path / "there" / "lora")}


def test_prompted_images_are_distilled(tmp_path, stages_here):
    distilling = ["max_steps=2", "save_steps=1", "per_device_train_batch_size=2", "lora_rank=2"]
    settings = tiny(tmp_path, arms=["distilled"], set_distilling=distilling, samples_per_class=4)
    # what comes after is the same for every arm
    assert command.run_evidence(replace(settings, stages_only=["images", "kept", "distilled"])) == 0
    (distilled,) = command.list_runs(settings)
    prompts = StoredRows(distilled.stages[0].folder / "dataset").column("prompt")
    assert all(prompt.startswith("a photo of a ") and " on " in prompt for prompt in prompts)
    assert len(set(prompts)) == len(prompts) == 40
    kept = distilled.stages[1]
    share = json.loads((kept.folder / "done.json").read_text("utf-8"))["figures"]["kept"]
    assert len(StoredRows(kept.folder / "dataset")) == round(share * 40) > 0
    drawn = StoredRows(distilled.stages[3].folder / "dataset")
    assert set(drawn.column("prompt")) == set(CLASS_NAMES)
    assert (distilled.stages[2].folder / "lora" / stage_work.LORA_FILE).is_file()


def test_captions_are_trained_on_and_drawn_and_what_shows_another_class_is_left_out(tmp_path, stages_here):
    settings = tiny(tmp_path, arms=["captioned"], set_captioned=TINY_TRAINING, samples_per_class=4)
    assert command.run_evidence(replace(settings, stages_only=["lora", "images", "kept"])) == 0
    (captioned,) = command.list_runs(settings)
    trained, drawn, kept, *_ = captioned.stages
    assert [stage.kind for stage in captioned.stages] == ["lora", "images", "kept", "backbone", "measures"]
    assert all(stage.inputs["images"] is kept for stage in captioned.stages[3:])
    config = json.loads((trained.folder / "lora" / "ubgen_config.json").read_text("utf-8"))
    assert config["captions"] == str(trained.folder / "captions.yaml")
    prompts = StoredRows(drawn.folder / "dataset").column("prompt")
    assert len({*prompts}) == 60 and all(" on " in prompt for prompt in prompts)
    # each of them is one that was trained on
    captions = [prompt.prompt for prompt in load_prompt_samples(config["captions"]).prompts()]
    assert len(captions) == 1000 and {*prompts} < {f"a photo of a {caption}" for caption in captions}
    left = StoredRows(kept.folder / "dataset")
    of_class = Counter(left.column("label"))
    assert of_class and max(of_class.values()) <= 4
    assert left.column("zero_shot_label") == left.column("label")
    assert min(left.column("zero_shot_probability")) >= 0.7
    # where it need not be sure, more are left
    assert "min_zero_shot_probability" not in kept_stage(replace(settings, min_probability=None)).settings


def kept_stage(settings):
    (run,) = command.list_runs(settings)
    (kept,) = (stage for stage in run.stages if stage.kind == "kept")
    return kept


def test_the_ablations_of_captions_differ_in_one_thing_each(tmp_path):
    arms = [arm for arm in stages.ARMS if arm.startswith("captioned")]
    runs = {run.arm: run.stages for run in command.list_runs(tiny(tmp_path, arms=arms))}
    full = runs.pop("captioned")
    unfiltered = runs.pop("captioned_unfiltered")
    distilled = runs.pop("captioned_distilled")
    kinds = [stage.kind for stage in distilled]
    assert kinds == ["lora", "images", "kept", "distilled", "images", "kept", "backbone", "measures"]
    assert [stage.key for stage in distilled[:3]] == [stage.key for stage in full[:3]]
    # under the bare names
    assert distilled[4].settings == {k: v for k, v in full[1].settings.items() if k not in ("templates", "lora_step")}
    # the same LoRA, and as many images as the others keep, drawn with the same prompts
    assert [stage.kind for stage in unfiltered] == ["lora", "images", "backbone", "measures"]
    assert unfiltered[0].key == full[0].key
    assert unfiltered[1].settings | {"samples_per_class": 3} == full[1].settings
    assert unfiltered[1].settings["samples_per_class"] == full[2].settings["max_per_class"] == 2
    for arm, ended in runs.items():
        kinds = [stage.kind for stage in ended if stage.kind != "clip"]
        assert kinds == ["lora", "images", "kept", "backbone", "measures"], arm
        trained, drawn, kept, *_ = (stage for stage in ended if stage.kind != "clip")
        assert trained.key != full[0].key and trained.settings["captions"] == stages.CAPTIONS
        assert (drawn.settings, kept.settings) == (full[1].settings, full[2].settings)


def test_the_shipped_captions_are_those_of_the_arm():
    file = yaml.safe_load((command.CONFIGS / "mini_contexts.yaml").read_text("utf-8"))
    assert file == stages.CAPTIONS
    config = stages.read_config(command.CONFIGS / "mini_captioned.yaml")
    assert config["captions"] == "training/configs/mini_contexts.yaml"
    (template,), (prompted,) = file["templates"], stages.PROMPT_TEMPLATES["templates"]
    assert config["prompt_template"].format(name=template) == prompted


def test_the_packages_loras_have_the_settings_of_their_arms_and_another_seed():
    (run,) = command.list_runs(command.EvidenceSettings(arms=[stages.CAPTIONED_ARM], seeds=[0]))
    (arm,) = (stage.settings["config"] for stage in run.stages if stage.kind == "lora")
    assert arm.pop("bf16") in (True, False)
    package = stages.read_config(command.CONFIGS / "mini_captioned.yaml")
    others = ("seed", "save_steps", "sample_steps", "captions")
    assert {k: v for k, v in package.items() if k not in others} == {k: v for k, v in arm.items() if k not in others}
    assert package["seed"] >= command.FIRST_VALIDATION_SEED
