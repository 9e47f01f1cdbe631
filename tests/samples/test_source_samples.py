"""``ubgen generate`` on a source dataset: what it writes for both tasks, carries over and refuses."""

import json
from pathlib import Path

import numpy as np
import pytest
from datasets import ClassLabel, load_dataset

from support.source_rows import NAMES, save_source
from ubgen_pipeline.generation.generate import main
from ubgen_pipeline.samples.source_dataset import SourceDataset

QUICK = ["--num-inference-steps", "2", "--seed", "7", "--samples-per-shard", "3"]


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return save_source(tmp_path_factory.mktemp("source") / "scenes")


def arguments(model, source, folder, *more):
    return ["--model", model, "--source", source, "--output-dir", str(folder), *QUICK, *more]


def test_image_to_image_carries_label_mask_and_lineage(random_mini_model, source, tmp_path):
    more = ["--task", "image-to-image", "--strength", "0.5", "--samples-per-source", "2", "--template", "a {name}"]
    assert main(arguments(random_mini_model, source, tmp_path / "d", *more)) == 0
    rows, old = load_dataset(str(tmp_path / "d"), split="train"), SourceDataset(source, "train").rows
    assert rows.features["label"] == ClassLabel(names=NAMES)
    assert rows["source_index"][:] == [0, 1, 2, 3] * 2 and rows["label"][:] == [0, 1] * 4
    assert set(rows["prompt"]) == {"a star", "a circle"} and len(set(rows["seed"])) == 8
    assert set(rows["source_dataset"]) == {"scenes"} and set(rows["strength"]) == {0.5}
    assert set(rows["task"]) == {"image-to-image"}
    for row in rows:
        original = old[row["source_index"]]
        assert np.array_equal(np.asarray(row["mask"]), np.asarray(original["mask"]))
        assert not np.array_equal(np.asarray(row["image"]), np.asarray(original["image"]))
    # run again with another source: refused, nothing touched
    other = save_source(tmp_path / "scenes", change=lambda mask: np.where(mask > 0, mask, 255).astype(np.uint8))
    assert main(arguments(random_mini_model, other, tmp_path / "d", *more)) == 2


@pytest.mark.parametrize("region", ["object", "background"])
def test_inpainting_keeps_the_rest(random_mini_model, source, tmp_path, region):
    more = ["--task", "inpaint", "--region", region, "--strength", "1"]
    assert main(arguments(random_mini_model, source, tmp_path / "d", *more)) == 0
    rows, old = load_dataset(str(tmp_path / "d"), split="train"), SourceDataset(source, "train").rows
    for row, original in zip(rows, old):
        drawn = (np.asarray(row["mask"]) > 0) == (region == "object")
        before, after = np.asarray(original["image"]), np.asarray(row["image"])
        assert np.array_equal(after[~drawn], before[~drawn]) and not np.array_equal(after[drawn], before[drawn])
    assert set(rows["region"]) == {region}


def test_classes_are_mapped(random_mini_model, source, tmp_path, capsys):
    more = ["--task", "image-to-image", "--class-names", "ring", "circle", "--dry-run"]
    assert main(arguments(random_mini_model, source, tmp_path / "d", *more)) == 2
    assert "'star' is none of the classes ring, circle" in capsys.readouterr().err
    assert main(arguments(random_mini_model, source, tmp_path / "d", *more, "--source-class-map", "star=ring")) == 0
    shown = capsys.readouterr()
    lines = [json.loads(line) for line in shown.out.splitlines()]
    assert [line["label"] for line in lines] == [0, 1, 0, 1]
    assert [line["source_index"] for line in lines] == [0, 1, 2, 3]
    assert "no image is drawn" not in shown.err
    more[more.index("circle")] = "rod"
    more += ["--source-class-map", "star=ring", "circle=ring"]
    assert main(arguments(random_mini_model, source, tmp_path / "d", *more)) == 0
    assert "of 1 of 2 classes no image is drawn: rod" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--task", "image-to-image", "--strength", "0"], "strength is 0"),
        (["--task", "inpaint", "--region", "sky"], "region is 'sky'"),
        (["--task", "colourise"], "task is 'colourise'"),
        ([], "source"),
        (["--task", "inpaint", "--samples-per-class", "3"], "samples_per_source"),
        (["--task", "inpaint", "--source", "/nonexistent"], "could not be read"),
        (["--task", "inpaint", "--source-class-map", "star"], "write NAME=CLASS"),
        (["--task", "inpaint", "--source-class-map", "moon=star"], "which the source lacks"),
        (["--task", "inpaint", "--embeddings", "/nonexistent"], "is no file"),
    ],
)
def test_bad_input(random_mini_model, source, tmp_path, capsys, more, message):
    assert main(arguments(random_mini_model, source, tmp_path / "d", *more)) == 2
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error and not (tmp_path / "d").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda mask: mask[:32], "a mask of (64, 32)"),
        (lambda mask: np.stack([mask] * 3, axis=-1), "mode RGB"),
        (lambda mask: mask * 40, "class 40 in its mask"),
        (np.zeros_like, "has no object"),
    ],
)
def test_bad_masks(random_mini_model, tmp_path, capsys, change, message):
    source = save_source(tmp_path / "s", change=change)
    assert main(arguments(random_mini_model, source, tmp_path / "d", "--task", "inpaint")) == 2
    assert message in capsys.readouterr().err
    assert not list(Path(tmp_path / "d").glob("data/*")) and not list(tmp_path.rglob("*.tmp"))


def test_inpainting_needs_masks(random_mini_model, tmp_path, capsys):
    source = save_source(tmp_path / "s", masks=False)
    assert main(arguments(random_mini_model, source, tmp_path / "d", "--task", "inpaint")) == 2
    assert "no column 'mask'" in capsys.readouterr().err
