"""``ubgen evaluate`` end to end: a trained backbone and datasets on the mini world and on folders of real layouts."""

import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features, Image
from PIL import Image as Pillow

from support.image_folders import save_class_folders, save_image
from ubgen_evaluation import mini_sets
from ubgen_evaluation.evaluate import evaluate, main
from ubgen_evaluation.evaluate_settings import EvaluateSettings
from ubgen_evaluation.evaluation_report import ReportTable, write_report
from ubgen_evaluation.intervals import Interval
from ubgen_evaluation.texture_inclination import CUE_CONFLICT_CATEGORIES
from ubgen_pipeline.mini.scenes import CLASS_NAMES, OWN_BACKGROUND, OWN_TEXTURE, scenes
from ubgen_training.backbone.backbone_trainer import build_backbone, save_backbone


def save_scenes(folder, bias, number=60, seed=5):
    (folder / "data").mkdir(parents=True)
    rendered = list(scenes(number, bias=bias, seed=seed))
    data = {
        "image": [Pillow.fromarray(scene.image) for scene in rendered],
        "label": [CLASS_NAMES.index(scene.factors.class_name) for scene in rendered],
    }
    features = Features({"image": Image(), "label": ClassLabel(names=list(CLASS_NAMES))})
    Dataset.from_dict(data, features=features).to_parquet(folder / "data" / "train-00000-of-00001.parquet")
    return str(folder)


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    folder = tmp_path_factory.mktemp("backbone")
    model = build_backbone("resnet10t", 10, 64, {"channels": [8, 8, 16, 16], "stem_width": 8}, seed=1)
    save_backbone(model, folder, list(CLASS_NAMES), 64)
    return str(folder)


@pytest.fixture(scope="module")
def worlds(tmp_path_factory):
    folder = tmp_path_factory.mktemp("worlds")
    return {bias: save_scenes(folder / f"bias{int(100 * bias)}", bias) for bias in (0.95, 0.0)}


def test_the_command(backbone, worlds, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    flags = ["--backbones", backbone, "mini", "--datasets", *worlds.values(), "--mini-world", "--num-scenes", "60"]
    flags += ["--reference", worlds[0.0], "--probe-trials", "2", "--probe-seeds", "2", "--num-resamples", "20"]
    assert main([*flags, "--output-dir", str(tmp_path / "out")]) == 0
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    backbones, datasets = report["tables"]["Backbones"], report["tables"]["Datasets"]
    assert set(backbones["mini"]) == {"transfer novel silhouettes"}
    assert {"accuracy", "texture inclination", "context average", "background gap"} < set(backbones[backbone])
    # a CLIP trained on every combination knows shapes that a random network does not
    transfer = {name: column["transfer novel silhouettes"]["value"] for name, column in backbones.items()}
    assert transfer["mini"] > transfer[backbone] + 0.2
    biased, unbiased = (datasets[worlds[bias]] for bias in (0.95, 0.0))
    assert biased["own background"]["low"] > unbiased["own background"]["high"]
    for figure in ("background entropy", "texture entropy", "pairwise distance"):
        assert biased[figure]["value"] < unbiased[figure]["value"], figure
    # colours are tied to no class in either world
    assert biased["hue entropy"]["value"] > 2 and unbiased["hue entropy"]["value"] > 2
    assert biased["background similarity gap"]["value"] > unbiased["background similarity gap"]["value"] + 0.2
    assert unbiased["FID"]["value"] == pytest.approx(0, abs=1e-3) and biased["FID"]["value"] > 1e-3
    markdown = (tmp_path / "out" / "report.md").read_text()
    assert capsys.readouterr().out.strip() == markdown.strip() and "| background gap ↓ |" in markdown
    for name in ("backbones.png", "datasets.png"):
        with Pillow.open(tmp_path / "out" / name) as plot:
            assert plot.width > 800 and len(plot.getcolors(1 << 20) or range(9)) > 8
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 2 and Path(backbone).name in page


def test_real_layouts(tmp_path):
    """Colours name the classes, so a perfect classifier of colours can be written down."""
    names = ("00_dog", "01_bird", "02_car", "03_reptile", "04_cat", "05_insect", "06_drum", "07_ape", "08_fish")
    for variant in ("mixed_same", "mixed_rand"):
        save_class_folders(tmp_path / "in9" / variant / "val", names, 2)
    for label, shape in enumerate(CUE_CONFLICT_CATEGORIES):
        texture = CUE_CONFLICT_CATEGORIES[(label + 1) % 16]
        save_image(tmp_path / "cues" / shape / f"{shape}1-{texture}2.png", label)
    for part in ("train", "test"):
        save_class_folders(tmp_path / "pets" / part, ("cat", "dog"), 6)
        save_class_folders(tmp_path / "food" / part, ("apple", "pear"), 6)
    (tmp_path / "map.json").write_text(json.dumps([i % 9 if i < 900 else -1 for i in range(1000)]))
    categories = {name: [i, i + 16] for i, name in enumerate(CUE_CONFLICT_CATEGORIES)}
    (tmp_path / "categories.json").write_text(json.dumps(categories))
    model = build_backbone("resnet10t", 1000, 32, {"channels": [8, 8, 16, 16], "stem_width": 8}, seed=1)
    save_backbone(model, tmp_path / "net", [str(i) for i in range(1000)], 32)
    settings = EvaluateSettings(
        backbones=[str(tmp_path / "net")],
        imagenet9=str(tmp_path / "in9"),
        coarse_classes=str(tmp_path / "map.json"),
        cue_conflict=str(tmp_path / "cues"),
        categories=str(tmp_path / "categories.json"),
        transfer=[f"pets={tmp_path / 'pets'}", f"food101={tmp_path / 'food'}"],
        probe_trials=2,
        probe_seeds=2,
        num_resamples=5,
        output_dir=str(tmp_path / "out"),
    )
    (table,) = evaluate(settings)
    (figures,) = table.columns.values()
    assert figures["transfer pets"].value == 1 and figures["transfer average"].value > 0.9
    assert figures["background gap"].value == 0
    assert {"texture shape_fraction", "texture texture_fraction", "texture inclination"} < set(figures)


def test_the_mini_sets_are_what_they_say():
    stimuli, textures = mini_sets.cue_conflict_arrays(100)
    assert len(stimuli.labels) == 180 and (stimuli.labels != textures).all()
    contexts, counts = mini_sets.context_arrays(80)
    assert np.bincount(counts).tolist() == [20] * 4 and np.bincount(contexts.labels).tolist() == [8] * 10
    same, other = (mini_sets.background_swap_arrays(20, kind) for kind in ("same", "random"))
    assert (same.labels == other.labels).all() and (same.images != other.images).any()
    train, test = mini_sets.transfer_arrays(20, 20)
    assert np.bincount(train.labels).tolist() == [2] * 10 and (train.images != test.images).any()


def test_uncommon_attributes_are_counted_from_the_own_ones():
    from ubgen_pipeline.mini.judges import predict_factors
    from ubgen_pipeline.mini.scenes import BACKGROUND_NAMES, TEXTURE_NAMES

    contexts, counts = mini_sets.context_arrays(160)
    judged = predict_factors(contexts.images)
    own = np.array([BACKGROUND_NAMES.index(OWN_BACKGROUND[name]) for name in CLASS_NAMES])[contexts.labels]
    own_texture = np.array([TEXTURE_NAMES.index(OWN_TEXTURE[name]) for name in CLASS_NAMES])[contexts.labels]
    assert (judged["background"] == own)[counts == 0].mean() > 0.95
    assert (judged["background"] == own)[counts == 3].mean() < 0.1
    shares = [
        ((judged["background"] != own) | (judged["texture"] != own_texture))[counts == k].mean() for k in range(4)
    ]
    assert shares[0] < 0.1 and 0.5 < shares[1] < 0.85 and shares[2] > 0.9 and shares[3] > 0.9


def test_a_report_escapes_names_and_writes_json_without_nan(tmp_path):
    columns = {
        "a|b<i>": {
            "accuracy": Interval(0.5, float("nan"), float("nan")),
            "context cb_1": Interval(*[float("nan")] * 3),
        }
    }
    write_report([ReportTable("Backbones", columns)], {}, tmp_path)
    assert "a\\|b<i>" in (tmp_path / "report.md").read_text() and "undefined" in (tmp_path / "report.md").read_text()
    assert "a|b&lt;i&gt;" in (tmp_path / "report.html").read_text()
    record = json.loads((tmp_path / "report.json").read_text(), parse_constant=lambda name: pytest.fail(name))
    assert record["tables"]["Backbones"]["a|b<i>"]["accuracy"] == {"value": 0.5, "low": None, "high": None}
    body = (tmp_path / "report.html").read_text().partition("<body>")[2].partition("</body>")[0]
    ElementTree.fromstring(f"<body>{body.replace('.png', '')}</body>".replace('alt="Backbones">', 'alt="x"/>'))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "nothing to evaluate"),
        (["--backbones", "mini"], "nothing to measure them on"),
        (["--backbones", "mini", "mini", "--mini-world"], "name each once"),
        (["--backbones", "mini", "--imagenet9", "x"], "imagenet9 and coarse_classes go together"),
        (["--backbones", "mini", "--transfer", "pets"], "write NAME=FOLDER_OR_HUB_ID"),
        (["--datasets", "x", "--num-resamples", "1"], "num_resamples is 1"),
        (["--datasets", "no/where"], "could not be read with split"),
        (["--backbones", "nowhere", "--mini-world"], "backbone 'nowhere' cannot be loaded"),
        (
            ["--backbones", "BACKBONE", "--test", "FOLDER", "--test-split", "train"],
            "has 10 classes and .* 2, with other names",
        ),
        (["--datasets", "FOLDER", "--mini-world"], "the class 'apple', which the mini world does not have"),
    ],
)
def test_what_a_user_can_put_right_is_one_line_and_code_2(flags, message, backbone, tmp_path, capsys):
    import re

    save_class_folders(tmp_path / "fruit", ("apple", "pear"), 2)
    names = {"BACKBONE": backbone, "FOLDER": str(tmp_path / "fruit")}
    flags = [names.get(flag, flag) for flag in flags]
    assert main([*flags, "--output-dir", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("ubgen: error: ") and re.search(message, error), error
    assert not (tmp_path / "out" / "report.json").exists()


def test_bias_report_of_a_generated_dataset(mini_model, tmp_path, monkeypatch, capsys):
    from ubgen_pipeline import generate_dataset

    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "drawn"
    generate_dataset(list(CLASS_NAMES), folder, samples_per_class=2, num_inference_steps=2, threads=1)
    card = (folder / "README.md").read_text()
    flags = ["--mini-world", "--num-resamples", "10", "--output-dir", str(tmp_path / "out"), "--write-bias-report"]
    assert main(["--datasets", str(folder), *flags]) == 0
    report = (folder / "bias_report.txt").read_text()
    figures = json.loads((tmp_path / "out" / "report.json").read_text())["tables"]["Datasets"][str(folder)]
    assert f"own background ↓ {figures['own background']['value']:.3f} [" in " ".join(report.split())
    assert str(tmp_path) not in report and "backbone mini" in report
    shown = (folder / "README.md").read_text()
    indented = "".join(f"    {line}\n" if line else "\n" for line in report.splitlines())
    assert shown == card.replace("## Classes", f"## Bias report\n\n{indented}\n## Classes")
    assert sorted(file.name for file in folder.iterdir()) == [".ubgen", "README.md", "bias_report.txt", "data"]
    # of others' datasets nothing is changed
    (folder / ".ubgen" / "manifest.json").unlink()
    capsys.readouterr()
    assert main(["--datasets", str(folder), *flags]) == 2
    assert "no dataset that ubgen has made" in capsys.readouterr().err


def test_a_bias_report_needs_a_dataset(capsys):
    assert main(["--backbones", "mini", "--mini-world", "--write-bias-report"]) == 2
    assert "without datasets" in capsys.readouterr().err
