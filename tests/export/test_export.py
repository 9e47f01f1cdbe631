"""Every export, read again by its format's own reader and compared with the dataset value by value."""

import io
import json
import re
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet as parquet
import pytest
import torchvision
import webdataset
from datasets import ClassLabel, load_dataset
from matplotlib.path import Path as Outline
from PIL import Image
from pycocotools.coco import COCO
from supervision.dataset.formats.yolo import load_yolo_annotations

from support.scene_dataset import NUM_ROWS, png, write_scene_dataset
from ubgen_pipeline.dataset import annotated_rows
from ubgen_pipeline.export.export import FORMATS, ExportSettings, export_dataset, main
from ubgen_pipeline.export.folders import class_folder
from ubgen_pipeline.mini.scenes import CLASS_NAMES

NAMES = list(CLASS_NAMES)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scenes") / "dataset"
    return folder, write_scene_dataset(folder)


@pytest.fixture(scope="module")
def exports(dataset, tmp_path_factory):
    """Folder of each format's export."""
    root = tmp_path_factory.mktemp("exports")
    for name in FORMATS:
        assert export_dataset(dataset[0], ExportSettings(name, str(root / name))) == NUM_ROWS
    return root


def pixels(file):
    return np.asarray(Image.open(file))


def inside(points, shape):
    """``(H, W)`` bool: pixels whose centre lies inside the outline, by matplotlib."""
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    centres = np.stack([columns.ravel() + 0.5, rows.ravel() + 0.5], axis=1)
    # an outline that runs through a point twice, there and back, does not enclose it
    return Outline(np.vstack([points, points[:1]]), closed=True).contains_points(centres).reshape(shape)


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


@pytest.mark.parametrize("polygons", [False, True])
def test_coco_reads_back(dataset, exports, tmp_path, polygons, capsys):
    folder, rows = dataset
    root = exports / "coco"
    if polygons:
        root = tmp_path / "coco"
        export_dataset(folder, ExportSettings("coco", str(root), polygons=True))
    coco = COCO(root / "annotations" / "instances_train.json")
    assert coco.getCatIds() == list(range(1, 11)) and [c["name"] for c in coco.loadCats(coco.getCatIds())] == NAMES
    assert coco.getImgIds() == list(range(NUM_ROWS))
    ids = coco.getAnnIds()
    assert ids == list(range(1, 2 * NUM_ROWS - 1))
    for index, true in enumerate(rows):
        (about,) = coco.loadImgs(index)
        assert (about["width"], about["height"]) == (128, 64)
        assert np.array_equal(pixels(root / "images" / about["file_name"]), true.image)
        assert np.array_equal(pixels(root / "masks" / f"{index:08d}.png"), true.mask)
        found = coco.loadAnns(coco.getAnnIds(imgIds=index))
        assert len(found) == len(true.objects)
        for annotation, (label, (x0, y0, x1, y1), region) in zip(found, true.objects):
            assert annotation["category_id"] == label + 1
            assert annotation["bbox"] == [x0, y0, x1 - x0, y1 - y0]
            assert annotation["area"] == region.sum() and annotation["iscrowd"] == 0
            assert isinstance(annotation["segmentation"], list) == polygons
            drawn = coco.annToMask(annotation).astype(bool)
            if polygons:
                # pycocotools draws polygons on a grid of its own and moves borders by less than a pixel
                assert (drawn & region).sum() / (drawn | region).sum() > 0.9
                outlines = [np.reshape(points, (-1, 2)) for points in annotation["segmentation"]]
                assert np.array_equal(sum(inside(points, region.shape) for points in outlines), region)
            else:
                assert np.array_equal(drawn, region)


def files_of(folder):
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.mark.parametrize("name", ["coco", "yolo"])
def test_outlines_are_exported_as_they_are_stored_and_not_traced_again(tmp_path, name, monkeypatch):
    write_scene_dataset(tmp_path / "without")
    write_scene_dataset(tmp_path / "with", polygons=True)
    export_dataset(tmp_path / "without", ExportSettings(name, str(tmp_path / "a"), polygons=True))

    def traced(region):
        raise AssertionError("a region was traced")

    monkeypatch.setattr(annotated_rows, "region_outlines", traced)
    export_dataset(tmp_path / "with", ExportSettings(name, str(tmp_path / "b"), polygons=True))
    assert files_of(tmp_path / "a") == files_of(tmp_path / "b")
    with pytest.raises(AssertionError, match="was traced"):
        export_dataset(tmp_path / "without", ExportSettings(name, str(tmp_path / "c"), polygons=True))


def test_outlines_alone_say_the_region_exactly(tmp_path):
    rows = write_scene_dataset(tmp_path / "d", polygons=True)
    rewrite(tmp_path / "d", lambda table: table.drop_columns(["mask", "instances"]))
    export_dataset(tmp_path / "d", ExportSettings("coco", str(tmp_path / "coco")))
    coco = COCO(tmp_path / "coco" / "annotations" / "instances_train.json")
    regions = [region for row in rows for *_, region in row.objects]
    assert len(coco.getAnnIds()) == len(regions)
    for annotation, region in zip(coco.loadAnns(coco.getAnnIds()), regions):
        assert np.array_equal(coco.annToMask(annotation), region)


def test_where_outlines_and_pixels_differ_the_pixels_count(tmp_path):
    rows = write_scene_dataset(tmp_path / "d", polygons=True)
    changed = np.where(rows[1].instances == 1, 1, 0).astype(np.uint8)
    ys, xs = np.nonzero(changed)
    changed[ys[0], xs[0]] = 0
    rewrite(tmp_path / "d", lambda table: replaced(table, "instances", 1, png(changed)))
    export_dataset(tmp_path / "d", ExportSettings("coco", str(tmp_path / "coco"), polygons=True))
    coco = COCO(tmp_path / "coco" / "annotations" / "instances_train.json")
    annotation = coco.loadAnns(coco.getAnnIds(imgIds=1))[0]
    assert annotation["area"] == changed.sum() == rows[1].objects[0][2].sum() - 1
    outlines = [np.reshape(points, (-1, 2)) for points in annotation["segmentation"]]
    assert np.array_equal(sum(inside(points, changed.shape) for points in outlines), changed)


def test_yolo_reads_back(dataset, exports):
    _, rows = dataset
    root = exports / "yolo"
    names, files, found = load_yolo_annotations(
        str(root / "images" / "train"), str(root / "labels" / "train"), str(root / "data.yaml")
    )
    assert names == NAMES and sorted(Path(file).stem for file in files) == [f"{i:08d}" for i in range(NUM_ROWS)]
    for file in files:
        true = rows[int(Path(file).stem)]
        assert np.array_equal(pixels(file), true.image)
        assert np.array_equal(pixels(root / "masks" / "train" / Path(file).name), true.mask)
        assert list(found[file].class_id) == [label for label, *_ in true.objects]
        np.testing.assert_allclose(
            found[file].xyxy, np.reshape([box for _, box, _ in true.objects], (-1, 4)), atol=1e-4
        )


def test_yolo_outlines_read_back(dataset, tmp_path):
    folder, rows = dataset
    root = tmp_path / "yolo"
    assert main([str(folder), "--format", "yolo", "--output-dir", str(root), "--polygons"]) == 0
    _, files, found = load_yolo_annotations(
        str(root / "images" / "train"), str(root / "labels" / "train"), str(root / "data.yaml")
    )
    num_rings = 0
    for file in files:
        true = rows[int(Path(file).stem)]
        lines = (root / "labels" / "train" / f"{Path(file).stem}.txt").read_text().splitlines()
        for number, (label, box, region) in enumerate(true.objects):
            assert found[file].class_id[number] == label
            np.testing.assert_allclose(found[file].xyxy[number], box, atol=1e-4)
            points = np.array(lines[number].split()[1:], float).reshape(-1, 2) * (128, 64)
            assert np.array_equal(inside(points, region.shape), region)
            num_rings += NAMES[label] == "ring"
    assert num_rings, "no object with a hole was tested"


def test_voc_reads_back(dataset, exports):
    _, rows = dataset
    detection = torchvision.datasets.VOCDetection(exports / "voc", year="2012", image_set="train")
    segmentation = torchvision.datasets.VOCSegmentation(exports / "voc", year="2012", image_set="trainval")
    assert len(detection) == len(segmentation) == NUM_ROWS
    assert (exports / "voc" / "class_names.json").read_text() == json.dumps(NAMES, indent=2) + "\n"
    for (image, target), (_, mask), true in zip(detection, segmentation, rows):
        # JPEG is not exact
        assert image.size == (128, 64)
        assert np.abs(np.asarray(image, float) - true.image).mean() < 4
        assert np.array_equal(np.asarray(mask), true.mask)
        assert [mask.getpalette()[3 * i : 3 * i + 3] for i in (1, 2, 15, 255)] == [
            [128, 0, 0], [0, 128, 0], [192, 128, 128], [224, 224, 192]
        ]  # fmt: skip
        about = target["annotation"]
        assert about["size"] == {"width": "128", "height": "64", "depth": "3"}
        file = Path(about["filename"]).with_suffix(".png")
        objects = pixels(exports / "voc" / "VOCdevkit" / "VOC2012" / "SegmentationObject" / file)
        found = about.get("object", [])
        assert len(found) == len(true.objects)
        for number, (item, (label, (x0, y0, x1, y1), region)) in enumerate(zip(found, true.objects), 1):
            assert item["name"] == NAMES[label]
            box = [int(item["bndbox"][side]) for side in ("xmin", "ymin", "xmax", "ymax")]
            assert box == [x0 + 1, y0 + 1, x1, y1]
            assert np.array_equal(objects == number, region)


def test_objects_come_from_the_mask_where_the_dataset_lists_none(tmp_path):
    folder = tmp_path / "d"
    rows = write_scene_dataset(folder)
    rewrite(folder, lambda table: table.drop_columns(["objects", "instances"]))
    export_dataset(folder, ExportSettings("coco", str(tmp_path / "coco")))
    coco = COCO(tmp_path / "coco" / "annotations" / "instances_train.json")
    for index, true in enumerate(rows):
        found = coco.loadAnns(coco.getAnnIds(imgIds=index))
        # the ignored stripe may part an object, and two of one class may touch
        for label in {label for label, *_ in true.objects}:
            drawn = [coco.annToMask(item) for item in found if item["category_id"] == label + 1]
            assert np.array_equal(sum(drawn) > 0, true.mask == label + 1)
            assert (
                sum(item["area"] for item in found if item["category_id"] == label + 1)
                == (true.mask == label + 1).sum()
            )


def rewrite(folder, change):
    """Apply a change to the tables of every parquet file."""
    for file in (folder / "data").iterdir():
        parquet.write_table(change(parquet.read_table(file)), file)


def replaced(table, column, row, value):
    values = table[column].to_pylist()
    values[row] = value
    place = table.column_names.index(column)
    return table.set_column(place, table.field(column), pyarrow.array(values, table.field(column).type))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda t: replaced(t, "mask", 1, png(np.zeros((64, 64), np.uint8))),
            r"mask of row \d is 64 x 64",
        ),
        (lambda t: replaced(t, "mask", 1, png(np.full((64, 128), 11, np.uint8))), "holds 11, which is label 10 of 10"),
        (lambda t: replaced(t, "image", 1, None), "has no image"),
        (lambda t: replaced(t, "index", 1, t["index"][0].as_py()), "occurs twice"),
        (lambda t: t.drop_columns(["mask", "objects"]), "neither masks nor objects"),
        (lambda t: t.drop_columns(["label"]), "no column 'label'"),
    ],
)
def test_a_dataset_that_does_not_fit_leaves_nothing_behind(tmp_path, change, message, capsys):
    write_scene_dataset(tmp_path / "d")
    rewrite(tmp_path / "d", change)
    assert main([str(tmp_path / "d"), "--format", "voc", "--output-dir", str(tmp_path / "out")]) == 2
    assert re.search(message, capsys.readouterr().err)
    assert [item.name for item in tmp_path.iterdir()] == ["d"]


def test_bad_arguments(dataset, tmp_path, capsys):
    folder = dataset[0]

    def error(*arguments):
        assert main([str(argument) for argument in arguments]) == 2
        return capsys.readouterr().err

    assert "holds no data" in error(tmp_path, "--format", "coco", "--output-dir", tmp_path / "o")
    assert "choose one of imagefolder" in error(folder, "--format", "csv", "--output-dir", tmp_path / "o")
    assert "has no polygons" in error(folder, "--format", "voc", "--output-dir", tmp_path / "o", "--polygons")
    assert "dataset is missing" in error("--format", "coco", "--output-dir", tmp_path / "o")
    assert "inside the dataset" in error(folder, "--format", "coco", "--output-dir", folder / "o")
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "file").write_text("mine")
    assert "holds something" in error(folder, "--format", "coco", "--output-dir", tmp_path / "kept")
    assert (tmp_path / "kept" / "file").read_text() == "mine"
    (tmp_path / "d").mkdir()
    write_scene_dataset(tmp_path / "d")
    (tmp_path / "d" / "data" / "train-00001-of-00003.parquet").unlink()
    assert "unfinished: 2 of 00003" in error(tmp_path / "d", "--format", "coco", "--output-dir", tmp_path / "o")
    assert not (tmp_path / "o").exists()


def test_flagged_images_are_left_out_and_counted(dataset, tmp_path, capsys):
    write_scene_dataset(tmp_path / "d")
    rewrite(
        tmp_path / "d",
        lambda t: t.append_column("nsfw_content_detected", pyarrow.array([i == 1 for i in range(len(t))])),
    )
    assert export_dataset(tmp_path / "d", ExportSettings("yolo", str(tmp_path / "o"))) == NUM_ROWS - 3
    assert "3 flagged" in capsys.readouterr().err
    assert export_dataset(tmp_path / "d", ExportSettings("yolo", str(tmp_path / "p"), keep_flagged=True)) == NUM_ROWS


def test_command_on_a_full_disk_leaves_nothing(dataset, tmp_path):
    command = [sys.executable, "-m", "ubgen_pipeline", "export", str(dataset[0]), "--format", "webdataset"]
    command += ["--output-dir", str(tmp_path / "o")]

    def limit_file_size():
        resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))

    done = subprocess.run(command, capture_output=True, text=True, preexec_fn=limit_file_size)
    assert done.returncode == 2 and "no space left" in done.stderr and not list(tmp_path.iterdir())
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f"{NUM_ROWS} images of 10 classes" in done.stderr and list((tmp_path / "o").glob("*.tar"))
