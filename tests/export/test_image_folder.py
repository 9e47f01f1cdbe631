"""ImageFolder, read again by datasets and torchvision."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torchvision
from datasets import ClassLabel, load_dataset

from support.exported import NAMES
from support.parts_dataset import write_labelled
from support.scene_dataset import NUM_ROWS
from ubgen_pipeline.export import export, image_folder
from ubgen_pipeline.export.export import ExportSettings, export_dataset, main
from ubgen_pipeline.export.image_folder import class_folder


def test_imagefolder_reads_back_every_column(dataset, exports):
    _, rows = dataset
    read = load_dataset("imagefolder", data_dir=str(exports / "imagefolder"), split="train")
    assert read.features["label"] == ClassLabel(names=NAMES)
    assert read.features["objects"]["category"].feature == ClassLabel(names=NAMES)
    assert len(read) == NUM_ROWS
    written = load_dataset(str(dataset[0]), split="train")
    for name in ("label", "class_name", "prompt", "seed", "index", "objects"):
        assert read[name][:] == written[name][:], name
    for row, true in zip(read, rows):
        assert np.array_equal(np.asarray(row["image"]), true.image)
        assert np.array_equal(np.asarray(row["mask"]), true.mask)
        assert np.array_equal(np.asarray(row["instances"]), true.instances)
        assert [np.asarray(image).max() for image in row["heatmaps"]] == [255] * len(true.objects)
        for image, (*_, region) in zip(row["heatmaps"], true.objects):
            assert np.array_equal(np.asarray(image) == 255, region)


def test_imagefolder_without_its_table_keeps_the_class_order(dataset, exports):
    _, rows = dataset
    read = torchvision.datasets.ImageFolder(exports / "imagefolder" / "train" / "images")
    labels = {int(Path(file).stem): int(read.classes[label].partition("_")[0]) for file, label in read.samples}
    assert labels == {i: row.objects[0][0] if row.objects else 0 for i, row in enumerate(rows)}
    assert [name.partition("_")[2] for name in read.classes] == [
        NAMES[label] for label in sorted(set(labels.values()))
    ]


def test_class_folders_sort_by_label_and_hold_no_name_of_a_split():
    names = [f"class {i}" for i in range(12)]
    names[3:6] = ["train", "test tube/x", "../etc"]
    folders = [class_folder(label, names) for label in range(12)]
    assert folders == sorted(folders)
    assert folders[3:6] == ["03", "04", "05_etc"]


def labels_by_torchvision(root, **arguments):
    read = torchvision.datasets.ImageFolder(root / "train" / "images", **arguments)
    return {int(Path(file).stem): label for file, label in read.samples}


def labels_by_datasets(root):
    read = load_dataset("imagefolder", data_dir=str(root), split="train")
    return dict(zip(read["index"], read["label"]))


def test_a_class_without_images_needs_a_choice(tmp_path, capsys):
    labels = [0, 2, 0, 2]
    write_labelled(tmp_path / "d", labels, ["circle", "star", "ring", "drop"])
    flags = [str(tmp_path / "d"), "--format", "imagefolder", "--output-dir"]
    assert main([*flags, str(tmp_path / "o")]) == 2
    assert "1 classes have no image (star); torchvision's" in capsys.readouterr().err
    assert not (tmp_path / "o").exists()
    expected = dict(enumerate(labels))
    assert main([*flags, str(tmp_path / "keep"), "--empty-classes", "keep"]) == 0
    assert labels_by_torchvision(tmp_path / "keep", allow_empty=True) == expected
    with pytest.raises(FileNotFoundError, match="01_star"):
        labels_by_torchvision(tmp_path / "keep")
    assert main([*flags, str(tmp_path / "drop"), "--empty-classes", "drop"]) == 0
    assert labels_by_torchvision(tmp_path / "drop") == {0: 0, 1: 1, 2: 0, 3: 1}
    for name in ("keep", "drop"):
        assert labels_by_datasets(tmp_path / name) == expected
        assert json.loads((tmp_path / name / "class_names.json").read_text()) == ["circle", "star", "ring", "drop"]


def test_classes_without_images_at_the_end_shift_nothing(tmp_path):
    write_labelled(tmp_path / "d", [1, 0], ["circle", "star", "ring"])
    export_dataset(tmp_path / "d", ExportSettings("imagefolder", str(tmp_path / "o")))
    assert labels_by_torchvision(tmp_path / "o") == labels_by_datasets(tmp_path / "o") == {0: 1, 1: 0}


def test_flagged_images_are_not_counted(tmp_path):
    write_labelled(tmp_path / "d", [0, 1, 2], ["circle", "star", "ring"], flagged=[1])
    with pytest.raises(ValueError, match=r"1 classes have no image \(star\)"):
        export_dataset(tmp_path / "d", ExportSettings("imagefolder", str(tmp_path / "o")))
    export_dataset(tmp_path / "d", ExportSettings("imagefolder", str(tmp_path / "o"), keep_flagged=True))
    assert labels_by_torchvision(tmp_path / "o") == {0: 0, 1: 1, 2: 2}


@pytest.mark.parametrize("settings", [{"format": "coco", "empty_classes": "keep"}, {"empty_classes": "leave"}])
def test_other_choices_are_refused(settings):
    with pytest.raises(ValueError, match=f"empty_classes is '{settings['empty_classes']}'"):
        ExportSettings(**{"format": "imagefolder", "output_dir": "o", **settings})


def test_no_folder_holds_more_files_than_the_hub_takes(dataset, tmp_path, monkeypatch, capsys):
    for module in (image_folder, export):
        monkeypatch.setattr(module, "FILES_PER_FOLDER", 3)
    labels = [i % 2 for i in range(14)]
    write_labelled(tmp_path / "d", labels, ["circle", "star"])
    export_dataset(tmp_path / "d", ExportSettings("imagefolder", str(tmp_path / "o")))
    assert "a folder holds" not in capsys.readouterr().err
    files = Counter(file.parent for file in (tmp_path / "o" / "train").rglob("*") if file.is_file())
    assert max(files.values()) == 3
    assert labels_by_torchvision(tmp_path / "o") == labels_by_datasets(tmp_path / "o") == dict(enumerate(labels))
    # without the table
    bare = load_dataset("imagefolder", data_dir=str(tmp_path / "o" / "train" / "images"), split="train")
    assert bare.features["label"].names == ["00_circle", "01_star"] and bare["label"][:] == sorted(labels)
    # masks and heat maps, too
    export_dataset(dataset[0], ExportSettings("imagefolder", str(tmp_path / "m"), empty_classes="drop"))
    files = Counter(file.parent for file in (tmp_path / "m" / "train").rglob("*") if file.is_file())
    assert max(files.values()) == 3
    read = load_dataset("imagefolder", data_dir=str(tmp_path / "m"), split="train")
    for row, true in zip(read, dataset[1], strict=True):
        assert np.array_equal(np.asarray(row["mask"]), true.mask) and len(row["heatmaps"]) == len(true.objects)


@pytest.mark.parametrize("name", ["coco", "yolo", "voc"])
def test_readers_follow_numbered_folders(dataset, tmp_path, monkeypatch, capsys, name):
    for module in (image_folder, export):
        monkeypatch.setattr(module, "FILES_PER_FOLDER", 4)
    root, rows = tmp_path / "o", dataset[1]
    export_dataset(dataset[0], ExportSettings(name, str(root), polygons=name == "yolo", accept_loss=True))
    assert "a folder holds" not in capsys.readouterr().err
    files = Counter(file.parent for file in root.rglob("*") if file.is_file() and file.suffix in (".png", ".jpg"))
    assert max(files.values()) == 4
    numbers = [len(row.objects) for row in rows]
    if name == "voc":
        read = torchvision.datasets.VOCSegmentation(str(root), "2012", "train")
        for (_, mask), row in zip(read, rows, strict=True):
            assert np.array_equal(np.asarray(mask), row.mask)
        boxes = torchvision.datasets.VOCDetection(str(root), "2012", "train")
        assert [len(told["annotation"].get("object", [])) for _, told in boxes] == numbers
    elif name == "coco":
        coco = torchvision.datasets.CocoDetection(str(root / "images"), str(root / "annotations/instances_train.json"))
        assert [len(annotations) for _, annotations in coco] == numbers
    else:
        # Ultralytics puts `labels` in place of the last `images` of an image's path
        for image in sorted((root / "images").rglob("*.png")):
            label = Path("/labels/".join(str(image).rsplit("/images/", 1))).with_suffix(".txt")
            assert len(label.read_text().splitlines()) == numbers[int(image.stem)]
