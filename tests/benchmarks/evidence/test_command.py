"""The evidence: what its stages depend on, that they go on after a kill, lanes, and the page from made-up figures."""

import fcntl
import json
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from benchmarks.evidence import command, figures, lanes, page, stage_work, stages
from support import ROOT
from support.warm_python import warm_programs
from ubgen_evaluation import mini_sets
from ubgen_pipeline.dataset.reader import StoredRows
from ubgen_pipeline.mini.scenes import CLASS_NAMES

TINY_TRAINING = [
    *("max_steps=2", "save_steps=1", "per_device_train_batch_size=2", "num_inference_steps=3", "num_gradient_steps=1"),
    *("discriminator_warmup_steps=1", "heldout_steps=0", "class_repeats=2", "lora_rank=2"),
]


def tiny(folder: Path, **settings):
    return command.EvidenceSettings(
        **{
            "output_dir": str(folder / "evidence"),
            "page": str(folder / "results" / "evidence_tables.md"),
            "figures_file": str(folder / "results" / "evidence_figures.json"),
            "arms": ["ubgen"],
            "seeds": [0],
            "set": TINY_TRAINING,
            "set_backbone": ["num_train_epochs=1", "per_device_train_batch_size=10"],
            "samples_per_class": 2,
            "num_inference_steps": 3,
            "num_scenes": 100,
            "transfer_images": 100,
            "transfer_shares": [1.0, 0.2],
            "probe_seeds": 1,
            "probe_trials": 1,
            "threads": 1,
            "workers": 1,
        }
        | settings
    )


def flags(settings) -> list[str]:
    """The command line that gives these settings."""
    given = []
    for name, value in vars(settings).items():
        if value is not None:
            given += [f"--{name}", *map(str, value if isinstance(value, list) else [value])]
    return given


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
    monkeypatch.setattr(stages, "model_hashes", lambda kind: ("other",) if kind == "images" else ())
    assert keys(tmp_path)["images"] != before["images"]


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
    runs = command.list_runs(tiny(tmp_path, arms=["real", "unbiased", "base", "prompted", "distilled"]))
    kinds = {run.arm: [stage.kind for stage in run.stages] for run in runs}
    assert kinds["prompted"] == kinds["base"] == ["images", "backbone", "measures"]
    # the LoRA of `distilled` is trained on the very images of `prompted`
    assert kinds["distilled"] == ["images", "kept", "distilled", "images", "backbone", "measures"]
    stage = {run.arm: run.stages for run in runs}
    assert stage["distilled"][0].key == stage["prompted"][0].key
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


def test_the_packages_lora_has_the_settings_of_the_arm_with_log_det_and_another_seed():
    (run,) = command.list_runs(command.EvidenceSettings(arms=[stages.LOGDET_ARM], seeds=[0]))
    (arm,) = (stage.settings["config"] for stage in run.stages if stage.kind == "lora")
    assert arm.pop("bf16") in (True, False)
    package = stages.read_config(command.CONFIGS / "mini_logdet.yaml")
    others = ("seed", "save_steps", "sample_steps")
    assert {k: v for k, v in package.items() if k not in others} == {k: v for k, v in arm.items() if k not in others}
    assert package["seed"] >= command.FIRST_VALIDATION_SEED


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
        ({"arms": ["ubgen", "no_clip"]}, "arms is"),
        ({"seeds": [0, 0]}, "each once"),
        ({"workers": 0}, "workers is 0"),
        ({"dtype": "half"}, "dtype is 'half'"),
        ({"variety_weight": 0.0}, "variety_weight is 0"),
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
            "changes the weight of the reward",
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


@pytest.fixture(scope="module")
def results():
    """Five seeds in which ubgen transfers better than base, has no other TI, and a worse background gap."""
    found = {
        "settings": {
            **{
                "arms": ["base", "ubgen", "ubgen_variety", "no_en", "variety_no_en"],
                "samples_per_class": 200,
                "num_inference_steps": 20,
            },
            **{"guidance_scale": 2.0, "num_scenes": 2000, "transfer_images": 1000, "transfer_shares": [1.0, 0.1]},
            **{"set": None, "variety_weight": 0.25, "dtype": "float32", "asked_dtype": "bfloat16", "threads": 1},
        },
        "clip": {},
        "runs": [],
    }
    for seed in range(5):
        for arm in found["settings"]["arms"]:
            values = {figure.key: 0.5 + 0.01 * seed for figure in figures.all_figures(found)}
            if arm == "ubgen":
                values["transfer novel silhouettes"] += 0.05 + 0.001 * seed
                values["texture inclination"] += 0.01 * (-1) ** seed
                values["background gap"] += 0.03 + 0.001 * seed
            if arm == "ubgen_variety":
                values["background entropy"] += 1.0 + 0.01 * seed
            if arm == "variety_no_en":
                values["transfer novel silhouettes"] -= 0.02 + 0.001 * seed
            found["runs"].append({"arm": arm, "seed": seed, "dtype": "float32", "figures": values, "seconds": {}})
    return found


def test_the_page_says_of_each_claim_whether_it_holds(results):
    text = page.page_text(results)
    assert "- **Holds.** transfer, 100% (1000 images): ubgen is 5.2 points higher than base, p < 0.001." in text
    assert "- **Not shown.** texture inclination, TI: ubgen is 0.2 points higher than base, p =" in text
    assert "- **Does not hold.** background gap, BG-gap: ubgen is 3.2 points higher than base, p < 0.001." in text
    assert (
        "| transfer, 100% (1000 images) ↑ | 52.0 ± 0.7 | 57.2 ± 0.8 | 52.0 ± 0.7 | 52.0 ± 0.7 | 49.8 ± 0.6 |" in text
    )
    assert "p = 0.0625" in text


def test_what_is_not_the_papers_is_said_to_be_ours(results):
    text = page.page_text(results)
    claims, own = text.split("### Which claims show here")[1].split("no claim of the paper's")
    assert "variety" not in claims.replace("Of ubgen + variety", "")
    for other in ("base", "ubgen"):
        assert f"### ubgen + variety (not the paper's) against {other}, paired by seed" in text
        fact = f"background entropy, bits: ubgen + variety is 1.020 higher than {other}, p < 0.001."
        assert f"- **Holds.** {fact}" in own
    assert "transfer, 100% (1000 images): ubgen + variety is 5.2 points lower than ubgen" in own
    assert (
        "- **Holds.** transfer, 100% (1000 images): ubgen + variety is 2.2 points higher than no_en + variety" in own
    )
    # an ablation takes something away from its own full loss and from no other
    for heading, rows in (("the full loss", ["| no_en |"] * 2), ("ubgen + variety", ["| no_en + variety |"] * 2)):
        section = text.split(f"### Each ablation against {heading}, paired by seed")[1].split("\n###")[0]
        assert [line[: line.index("|", 1) + 1] for line in section.splitlines() if "no_en" in line] == rows
    assert "- **ubgen + variety**: **not the paper's**" in text and "in ubgen + variety: 0.25." in text
    assert "Each stage ran on 1 thread; generators were tuned and images drawn in float32. bfloat16 was" in text


def test_runs_of_two_machines_are_told_apart_by_their_precision(results):
    runs = [run | {"dtype": ("float32", "bfloat16", None)[i % 3]} for i, run in enumerate(results["runs"])]
    assert "images drawn in bfloat16 (8 runs) and float32 (9 runs)." in page.page_text(results | {"runs": runs})


def test_the_arm_with_log_det_has_tables_and_verdicts_of_its_own(results):
    with_arm = results | {"settings": results["settings"] | {"arms": ["base", "ubgen_variety", "ubgen_logdet"]}}
    with_arm["runs"] = list(results["runs"])
    for seed in range(5):
        values = {figure.key: 0.5 + 0.01 * seed for figure in figures.all_figures(results)}
        values["hue entropy"] += 0.3 + 0.01 * seed
        with_arm["runs"].append(
            {"arm": "ubgen_logdet", "seed": seed, "dtype": "float32", "figures": values, "seconds": {}}
        )
    text = page.page_text(with_arm)
    for other in ("base", "ubgen + variety"):
        assert f"### ubgen + log-det (not the paper's) against {other}, paired by seed" in text
        assert f"- **Holds.** hue entropy, bits: ubgen + log-det is 0.320 higher than {other}, p < 0.001." in text
    assert "- **ubgen + log-det**: **not the paper's**" in text and "against unbiased" not in text


def test_an_arm_with_fewer_seeds_says_so_and_is_compared_on_those(results):
    runs = [run for run in results["runs"] if run["arm"] != "no_en" or run["seed"] in (1, 3, 4)]
    text = page.page_text({**results, "runs": runs})
    assert "the adversarial term (so far seeds 1, 3, 4)\n" in text and "(so far seeds 0" not in text
    section = text.split("### Each ablation against the full loss, paired by seed")[1].split("\n###")[0]
    assert "0 of 3 |" in section and "of 5 |" not in section


def test_the_page_keeps_what_was_written_by_hand(results, tmp_path):
    file = tmp_path / "evidence.md"
    file.write_text(f"# Mine\n\nbefore\n\n{page.BEGIN}\nstale text\n{page.END}\n\nafter\n", encoding="utf-8")
    page.write_page(results, file)
    first = file.read_text("utf-8")
    page.write_page(results, file)
    assert file.read_text("utf-8") == first
    assert (
        first.startswith("# Mine\n\nbefore\n\n") and first.endswith(f"{page.END}\n\nafter\n") and "stale" not in first
    )
    for name in page.PLOTS:
        assert (tmp_path / "images" / f"evidence_{name}.png").stat().st_size > 10_000
        assert f"](images/evidence_{name}.png)" in first
    # another page there has pictures of its own
    other = tmp_path / "other.md"
    page.write_page(results, other)
    assert "](images/other_transfer.png)" in other.read_text("utf-8")
    assert (tmp_path / "images" / "other_transfer.png").is_file()
    file.write_text("# Mine\n", encoding="utf-8")
    with pytest.raises(ValueError, match="lacks the line"):
        page.write_page(results, file)
    assert file.read_text("utf-8") == "# Mine\n"


def test_the_command_says_what_is_wrong_and_exits_with_2(tmp_path, capsys):
    assert command.main(["--arms", "all", "--output_dir", str(tmp_path / "e")]) == 2
    assert "arms is ['all']" in capsys.readouterr().err and not (tmp_path / "e").exists()
