"""Objects of several parts, with holes, of one pixel, touching: through every format and its readers."""

import warnings
from pathlib import Path

import numpy as np
import pyarrow
import pytest
import supervision
from datasets import load_dataset
from pycocotools.coco import COCO
from torchvision.datasets import VOCDetection

from support.exported import pixels, rewrite
from support.parts_dataset import NAMES, write_parts_dataset
from ubgen_pipeline.export.export import ExportSettings, export_dataset, main
from ubgen_pipeline.export.outlines import num_parts
from ubgen_pipeline.mask_regions import region_box, region_outlines


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("parts") / "d"
    return folder, write_parts_dataset(folder)


def coco_file(folder):
    return str(folder / "annotations" / "instances_train.json")


@pytest.mark.parametrize("columns", [
    ("mask", "instances", "objects"), ("instances", "objects"), ("objects", "polygons"),
    ("mask", "objects", "polygons"), ("mask", "instances", "objects", "polygons"),
])  # fmt: skip
@pytest.mark.parametrize("polygons", [False, True])
def test_coco_holds_every_object(tmp_path, columns, polygons):
    images = write_parts_dataset(tmp_path / "d", columns)
    export_dataset(tmp_path / "d", ExportSettings("coco", str(tmp_path / "o"), polygons=polygons))
    coco = COCO(coco_file(tmp_path / "o"))
    assert coco.getImgIds() == list(range(len(images)))
    for index, objects in enumerate(images):
        found = coco.loadAnns(coco.getAnnIds(imgIds=index))
        assert len(found) == len(objects)
        for annotation, (label, region) in zip(found, objects):
            x0, y0, x1, y1 = region_box(region)
            assert annotation["iscrowd"] == 0 and annotation["category_id"] == 1 + label
            assert annotation["area"] == region.sum() and annotation["bbox"] == [x0, y0, x1 - x0, y1 - y0]
            assert np.array_equal(coco.annToMask(annotation), region)


@pytest.mark.parametrize(("flags", "exact"), [
    ([], True), (["--polygons", "--polygon-grid", "pixels"], True), (["--polygons"], False),
])  # fmt: skip
def test_supervision_reads_coco(parts, tmp_path, flags, exact):
    folder, images = parts
    assert main([str(folder), "--format", "coco", "--output-dir", str(tmp_path / "o"), *flags]) == 0
    read = supervision.DetectionDataset.from_coco(
        str(tmp_path / "o" / "images"), coco_file(tmp_path / "o"), force_masks=True
    )
    for file, _, found in read:
        objects = images[int(Path(file).stem)]
        assert len(found) == len(objects)
        for mask, (_, region) in zip(found.mask if objects else (), objects):
            # supervision rounds corners: along borders it takes a pixel too much
            assert np.array_equal(mask, region) or (not exact and mask[region].all())


def test_yolo_says_what_it_loses(parts, tmp_path, capsys):
    folder, images = parts
    root = tmp_path / "o"
    flags = [str(folder), "--format", "yolo", "--output-dir", str(root), "--polygons"]
    assert main(flags) == 2 and not root.exists()
    assert "Set accept_loss to export it nevertheless" in capsys.readouterr().err
    assert main([*flags, "--accept-loss"]) == 0
    several = [num_parts(region_outlines(region)) > 1 for objects in images for _, region in objects]
    assert f"{sum(several)} objects have several parts" in capsys.readouterr().err and sum(several) >= 4
    read = supervision.DetectionDataset.from_yolo(
        str(root / "images" / "train"), str(root / "labels" / "train"), str(root / "data.yaml"), force_masks=True
    )
    assert read.classes == NAMES
    for file, _, found in read:
        for number, (label, region) in enumerate(images[int(Path(file).stem)]):
            assert found.class_id[number] == label
            np.testing.assert_allclose(found.xyxy[number], region_box(region), atol=0.6)
            mask = found.mask[number]
            assert mask[region].all()
            assert num_parts(region_outlines(region)) > 1 or np.array_equal(mask, region)
    # boxes hold no outlines
    flags = [str(folder), "--format", "yolo", "--output-dir", str(tmp_path / "b")]
    assert main(flags) == 2 and not (tmp_path / "b").exists()
    assert "of every object the outline will be lost" in capsys.readouterr().err
    assert main([*flags, "--accept-loss"]) == 0
    assert "several parts" not in capsys.readouterr().err


def test_voc_holds_every_object(parts, tmp_path):
    folder, images = parts
    export_dataset(folder, ExportSettings("voc", str(tmp_path / "o")))
    root = tmp_path / "o" / "VOCdevkit" / "VOC2012"
    for index, (_, target) in enumerate(VOCDetection(tmp_path / "o", year="2012", image_set="train")):
        instances = pixels(root / "SegmentationObject" / f"{index:08d}.png")
        assert len(target["annotation"].get("object", [])) == len(images[index])
        for number, (_, region) in enumerate(images[index], 1):
            assert np.array_equal(instances == number, region)


@pytest.mark.parametrize("name", ["imagefolder", "webdataset"])
def test_folders_and_tars_hold_every_object(parts, tmp_path, name):
    folder, images = parts
    export_dataset(folder, ExportSettings(name, str(tmp_path / "o")))
    read = load_dataset(name, data_dir=str(tmp_path / "o"), split="train")
    column = "instances" if name == "imagefolder" else "instances.png"
    for row, objects in zip(read, images, strict=True):
        for number, (_, region) in enumerate(objects, 1):
            assert np.array_equal(np.asarray(row[column]) == number, region)


def test_objects_that_the_masks_do_not_tell_apart_are_counted(tmp_path, capsys):
    images = write_parts_dataset(tmp_path / "d", ("mask", "objects"))
    export_dataset(tmp_path / "d", ExportSettings("coco", str(tmp_path / "o")))
    # two that touch
    assert "2 objects are not in the masks" in capsys.readouterr().err
    coco = COCO(coco_file(tmp_path / "o"))
    for index, objects in enumerate(images[:7]):
        for annotation, (_, region) in zip(coco.loadAnns(coco.getAnnIds(imgIds=index)), objects, strict=True):
            assert np.array_equal(coco.annToMask(annotation), region)


def test_outlines_whose_holes_run_the_wrong_way_are_traced_again(tmp_path):
    images = write_parts_dataset(tmp_path / "d", ("objects", "polygons"))

    def turned(table):
        values = table["objects"].to_pylist()
        for value in values:
            value["polygons"] = [
                [np.reshape(flat, (-1, 2))[::-1].reshape(-1).tolist() for flat in outlines]
                for outlines in value["polygons"]
            ]
        place = table.column_names.index("objects")
        field = table.field(place)
        return table.set_column(place, field, pyarrow.array(values, field.type))

    rewrite(tmp_path / "d", turned)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        export_dataset(tmp_path / "d", ExportSettings("coco", str(tmp_path / "o"), polygons=True))
    coco = COCO(coco_file(tmp_path / "o"))
    for index, objects in enumerate(images):
        for annotation, (_, region) in zip(coco.loadAnns(coco.getAnnIds(imgIds=index)), objects, strict=True):
            assert np.array_equal(coco.annToMask(annotation), region)


def test_a_grid_needs_polygons_and_a_known_name():
    with pytest.raises(ValueError, match="polygons is not set"):
        ExportSettings("coco", "o", polygon_grid="pixels")
    with pytest.raises(ValueError, match="polygon_grid is 'centre'; choose one of borders, pixels"):
        ExportSettings("coco", "o", polygons=True, polygon_grid="centre")
