"""ImageFolder and WebDataset, read again by datasets, torchvision and webdataset."""

import io
import json
from pathlib import Path

import numpy as np
import torchvision
import webdataset
from datasets import ClassLabel, load_dataset

from support.exported import NAMES, pixels
from support.scene_dataset import NUM_ROWS
from ubgen_pipeline.export.folders import class_folder


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


def test_webdataset_reads_back(dataset, exports):
    _, rows = dataset
    (tar,) = (exports / "webdataset").glob("*.tar")
    samples = list(webdataset.WebDataset(str(tar), shardshuffle=False, empty_check=False))
    assert [sample["__key__"] for sample in samples] == [f"{i:08d}" for i in range(NUM_ROWS)]
    for i, (sample, true) in enumerate(zip(samples, rows)):
        assert np.array_equal(pixels(io.BytesIO(sample["png"])), true.image)
        assert np.array_equal(pixels(io.BytesIO(sample["mask.png"])), true.mask)
        assert np.array_equal(pixels(io.BytesIO(sample["instances.png"])), true.instances)
        for number, (*_, region) in enumerate(true.objects):
            assert np.array_equal(pixels(io.BytesIO(sample[f"heatmaps.{number}.png"])) == 255, region)
        values = json.loads(sample["json"])
        assert int(sample["cls"]) == values["label"] and values["seed"] == 2**62 + i and values["index"] == i
        assert values["prompt"] == f"a “{NAMES[values['label']]}”\nwith more"
        assert [(item["label"], tuple(item["box"]), item["area"]) for item in values["objects"]] == [
            (label, box, region.sum()) for label, box, region in true.objects
        ]
