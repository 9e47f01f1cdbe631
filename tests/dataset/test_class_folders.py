"""Folders of class folders: as torchvision reads them, with the columns that ``datasets`` reads beside."""

import json

import numpy as np
import pandas
import pytest
from torchvision.datasets import ImageFolder

from support.image_folders import save_class_folders, save_image
from ubgen_pipeline.dataset.class_folders import check_class_folders
from ubgen_pipeline.dataset.reader import label_names_of, open_rows

NAMES = ("apple", "pear")


def write_metadata(file, lines):
    """Lines as CSV, JSON lines or parquet, by the file's name."""
    table = pandas.DataFrame(lines)
    if file.suffix == ".csv":
        table.to_csv(file, index=False)
    elif file.suffix == ".jsonl":
        file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    else:
        table.to_parquet(file)


@pytest.mark.parametrize("below", ["", "train"])
def test_class_folders_are_opened_with_their_names(tmp_path, below):
    save_class_folders(tmp_path / below, NAMES, 2)
    rows = open_rows(str(tmp_path))
    assert rows["label"][:] == [0, 0, 1, 1] and label_names_of(rows, "dataset's") == list(NAMES)
    (tmp_path / below / "plum").mkdir()
    with pytest.raises(ValueError, match="class 'plum' has no images"):
        open_rows(str(tmp_path))


@pytest.mark.parametrize(
    "files",
    [
        # words by which datasets knows splits, as classes and in names of files
        ["train/0.png", "car/0.png", "car/1.png"],
        ["test tube/0.png", "car/0.png"],
        ["car/train.png", "car/test_1.png", "dog/val-3.png", "dog/10.png", "dog/2.png"],
        # folders of other depths, one class alone, and names that datasets passes over
        ["cat/a/0.png", "cat/b/0.png", "dog/0.png"],
        ["cat/0.png"],
        ["__x__/0.png", "b/0.png", "b/1.PNG"],
    ],
)
@pytest.mark.parametrize("streaming", [False, True])
def test_class_folders_are_read_as_torchvision_reads_them(tmp_path, files, streaming):
    for number, file in enumerate(files):
        save_image(tmp_path / "train" / file, 0, number)
    (tmp_path / "train" / "notes.txt").write_text("of mine")
    expected = ImageFolder(str(tmp_path / "train"))
    rows = open_rows(str(tmp_path), streaming=streaming)
    assert rows.features["label"].names == expected.classes
    found = [(np.asarray(row["image"]).tolist(), row["label"]) for row in rows]
    assert found == [(np.asarray(image).tolist(), label) for image, label in expected]


def test_class_folders_must_be_those_that_are_asked_for(tmp_path):
    save_class_folders(tmp_path, NAMES, 1)
    assert check_class_folders(tmp_path, NAMES) == NAMES
    with pytest.raises(ValueError, match=r"lacks the class 'plum' \(1 classes are missing\)"):
        check_class_folders(tmp_path, (*NAMES, "plum"))
    with pytest.raises(ValueError, match="holds 'pear', which is none of the 1 classes"):
        check_class_folders(tmp_path, NAMES[:1])
    with pytest.raises(ValueError, match="does not exist"):
        check_class_folders(tmp_path / "nothing")


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
@pytest.mark.parametrize("at", ["class folders", "split's folder", "each class"])
def test_further_columns_do_not_cost_the_labels(tmp_path, monkeypatch, suffix, at):
    monkeypatch.chdir(tmp_path)
    # a folder name that is a pattern to fsspec
    root = tmp_path / "my[1]"
    folder = root / "train" if at == "split's folder" else root
    save_class_folders(folder, NAMES, 2)
    below = "train/" if at == "split's folder" else ""
    # in another order than the images'
    lines = [{"file_name": f"{below}{name}/{k}.png", "note": f"{name} {k}"} for k in (1, 0) for name in NAMES]
    if at == "each class":
        for name in NAMES:
            own = [{**line, "file_name": line["file_name"].split("/")[1]} for line in lines if name in line["note"]]
            write_metadata(folder / name / f"metadata.{suffix}", own)
    else:
        write_metadata(root / f"metadata.{suffix}", lines)
    expected = ImageFolder(str(folder))
    # also by a relative path
    for rows in (open_rows(str(root)), open_rows("my[1]", streaming=True)):
        assert rows.features["label"].names == expected.classes
        found = list(rows)
        assert [row["note"] for row in found] == ["apple 0", "apple 1", "pear 0", "pear 1"]
        for row, (image, label) in zip(found, expected, strict=True):
            assert row["label"] == label and np.array_equal(np.asarray(row["image"]), np.asarray(image))


@pytest.mark.parametrize("told", [{"apple": "apple", "pear": "pear"}, {"apple": 0, "pear": 1}])
def test_labels_that_say_what_the_folders_say_are_the_folders(tmp_path, told):
    save_class_folders(tmp_path, NAMES, 1)
    lines = [{"file_name": f"{name}/0.png", "label": told[name]} for name in NAMES]
    write_metadata(tmp_path / "metadata.csv", lines)
    rows = open_rows(str(tmp_path))
    assert label_names_of(rows, "its") == list(NAMES) and rows["label"][:] == [0, 1]


def test_what_a_file_says_of_labels_or_of_folders_that_are_no_classes_stands(tmp_path):
    save_class_folders(tmp_path / "told", NAMES, 1)
    lines = [{"file_name": f"{name}/0.png", "label": "fruit"} for name in NAMES]
    write_metadata(tmp_path / "told" / "metadata.csv", lines)
    assert open_rows(str(tmp_path / "told"))["label"][:] == ["fruit", "fruit"]
    # images of one folder, with masks in another
    save_class_folders(tmp_path / "parts", ("images", "masks"), 2)
    lines = [{"file_name": f"images/{k}.png", "mask_file_name": f"masks/{k}.png"} for k in range(2)]
    write_metadata(tmp_path / "parts" / "metadata.csv", lines)
    assert open_rows(str(tmp_path / "parts")).column_names == ["image", "mask"]


def test_images_without_a_line_are_left_out_and_counted(tmp_path, capsys):
    save_class_folders(tmp_path, (*NAMES, "plum"), 2)
    write_metadata(tmp_path / "metadata.csv", [{"file_name": f"{name}/0.png", "note": "a"} for name in NAMES])
    rows = open_rows(str(tmp_path))
    assert rows["label"][:] == [0, 1] and label_names_of(rows, "its") == list(NAMES)
    assert "4 of 6 images have no line in metadata.csv, such as" in capsys.readouterr().err
