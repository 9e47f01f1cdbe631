"""Images that next tools would show otherwise, objects without pixels, missing values, names that make no folder."""

import io
import json
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from datasets import ClassLabel, Features, Image, Value
from PIL import Image as PILImage
from torchvision.datasets import ImageFolder, VOCSegmentation

from support.exported import pixels
from support.parts_dataset import write_rows
from support.scene_dataset import png
from ubgen_pipeline.dataset.columns import instances_value, objects_feature, objects_value
from ubgen_pipeline.export.export import ExportSettings, export_dataset
from ubgen_pipeline.export.image_folder import class_folder
from ubgen_pipeline.mask_regions import MaskObject, region_box

PIXELS = np.zeros((24, 32, 3), np.uint8)
PIXELS[2:9, 3:20] = (250, 130, 10)
ON_ITS_SIDE = PILImage.Exif()
ON_ITS_SIDE[0x0112] = 6


def stored(image, form="PNG", **options):
    stream = io.BytesIO()
    image.save(stream, format=form, **options)
    return {"bytes": stream.getvalue(), "path": None}


def write(folder, *rows, columns=("mask", "instances", "objects"), names=("cat", "dog"), more=None):
    """Rows whose object is a block of 5 x 4 pixels of class 0 where they do not say otherwise."""
    kinds = {"mask": Image(), "instances": Image(), "objects": objects_feature(names)}
    features = {"image": Image(), "label": ClassLabel(names=list(names)), "index": Value("int64")}
    features |= {name: kinds[name] for name in columns} | (more or {})
    made = []
    for index, row in enumerate(rows):
        shape = row.pop("shape", (24, 32))
        region = np.zeros(shape, bool)
        region[3:7, 4:9] = True
        found = [MaskObject(1, region_box(region), 20, 0.5, region)]
        usual = {"image": png(PIXELS), "label": 0, "index": index, "mask": png(region.astype(np.uint8))}
        usual |= {"instances": instances_value(found, shape), "objects": objects_value(found)}
        made.append({name: ({**usual, **row}).get(name) for name in features})
    write_rows(folder, made, Features(features))
    return folder


def export(folder, form, tmp_path, **settings):
    more = {"imagefolder": {"empty_classes": "drop"}, "yolo": {"polygons": True, "accept_loss": True}}.get(form, {})
    export_dataset(folder, ExportSettings(form, str(tmp_path / form), **{**more, **settings}))
    return tmp_path / form


def boxes(*given, **more):
    usual = {"category": [0] * len(given), "area": [4] * len(given), "score": [0.5] * len(given)}
    return {"objects": {"bbox": [list(box) for box in given], **usual, **more}}


@pytest.mark.parametrize("form", ["PNG", "JPEG"])
def test_images_are_upright_as_their_masks_are(tmp_path, form):
    image = stored(PILImage.fromarray(PIXELS), form, exif=ON_ITS_SIDE.tobytes())
    folder = write(tmp_path / "d", {"image": image, "shape": (32, 24)})
    upright = np.rot90(PIXELS, -1)
    for name, place in (
        ("imagefolder", "train/images/00_cat/00000000.png"),
        ("coco", "images/00000000.png"),
        ("yolo", "images/train/00000000.png"),
        ("voc", "VOCdevkit/VOC2012/JPEGImages/00000000.jpg"),
    ):
        found = PILImage.open(export(folder, name, tmp_path) / place)
        assert found.size == (24, 32) and 0x0112 not in found.getexif()
        assert np.abs(np.asarray(found).astype(int) - upright).mean() < 6, name
    about = json.loads((tmp_path / "coco" / "annotations" / "instances_train.json").read_text())
    assert (about["images"][0]["width"], about["images"][0]["height"]) == (24, 32)


def test_images_that_next_tools_would_not_show_are_written_as_png(tmp_path, capsys):
    picture = PILImage.fromarray(PIXELS)
    clear = PILImage.fromarray(np.dstack([PIXELS, np.full((24, 32), 0, np.uint8)]))
    grey = PILImage.fromarray(np.full((24, 32), 32896, np.uint16))
    rows = [
        stored(picture.quantize(4), "GIF", save_all=True, append_images=[picture.quantize(2)]),
        stored(picture, "JPEG2000"), stored(clear), stored(grey),
        # these are left as they are
        stored(picture, "JPEG"), stored(picture.convert("CMYK"), "JPEG"), stored(picture, "BMP"),
        stored(picture, "MPO", save_all=True, append_images=[picture]),
    ]  # fmt: skip
    folder = write(tmp_path / "d", *({"image": image} for image in rows))
    root = export(folder, "imagefolder", tmp_path)
    assert "4 images are written as PNG" in capsys.readouterr().err
    read = ImageFolder(str(root / "train" / "images"))
    assert [name[-4:] for name, _ in read.samples] == [".png"] * 4 + [".jpg", ".jpg", ".bmp", ".jpg"]
    means = [np.asarray(image).mean(axis=(0, 1)) for image, _ in read]
    assert (means[2] == 255).all() and (means[3] == 128).all()
    for place in (0, 1, 4, 5, 6, 7):
        assert np.abs(means[place] - PIXELS.mean(axis=(0, 1))).max() < 8
    for place, image in list(enumerate(rows))[4:]:
        assert Path(read.samples[place][0]).read_bytes() == image["bytes"]


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "BMP"])
def test_an_image_that_was_cut_off_is_named(tmp_path, form):
    noise = PILImage.fromarray(np.random.default_rng(0).integers(0, 255, (24, 32, 3), np.uint8))
    image = stored(noise, form)
    folder = write(tmp_path / "d", {}, {"image": {**image, "bytes": image["bytes"][:-200]}})
    with pytest.raises(ValueError, match="row 1, column 'image', holds a damaged image"):
        export(folder, "coco", tmp_path)


@pytest.mark.parametrize("form", ["coco", "yolo", "voc"])
def test_objects_end_at_the_image_and_those_without_pixels_are_counted(tmp_path, capsys, form):
    folder = write(
        tmp_path / "d", boxes((1, 2, 2, 2), (9, 9, 0, 0), (-5, -5, 20, 50), (40, 2, 3, 3)), columns=["objects"]
    )
    root = export(folder, form, tmp_path, **({"polygons": False} if form == "yolo" else {}))
    assert "2 objects without a pixel in their image are left out" in capsys.readouterr().err
    if form == "coco":
        found = json.loads((root / "annotations" / "instances_train.json").read_text())["annotations"]
        assert [item["bbox"] for item in found] == [[1, 2, 2, 2], [0, 0, 15, 24]]
        assert [item["area"] for item in found] == [4, 360]
    elif form == "yolo":
        lines = (root / "labels" / "train" / "00000000.txt").read_text().splitlines()
        numbers = [list(map(float, line.split())) for line in lines]
        expected = np.array([[0, 2 / 32, 3 / 24, 2 / 32, 2 / 24], [0, 7.5 / 32, 0.5, 15 / 32, 1]])
        assert numbers == pytest.approx(expected)
    else:
        tree = ElementTree.parse(root / "VOCdevkit" / "VOC2012" / "Annotations" / "00000000.xml")
        found = [[int(side.text) for side in box] for box in tree.iter("bndbox")]
        assert found == [[2, 3, 3, 4], [1, 1, 15, 24]]


@pytest.mark.parametrize("form", ["coco", "yolo", "voc"])
def test_an_object_that_the_map_of_objects_does_not_show(tmp_path, capsys, form):
    folder = write(tmp_path / "d", boxes((4, 3, 5, 4), (10, 3, 5, 4), area=[20, 20]))
    export(folder, form, tmp_path)
    assert "1 objects without a pixel" in capsys.readouterr().err


def test_categories_that_are_none_are_refused_and_areas_that_are_missing_are_the_boxes(tmp_path):
    for place, category in enumerate((None, -1)):
        folder = write(tmp_path / f"d{place}", boxes((1, 2, 2, 2), category=[category]), columns=["objects"])
        with pytest.raises(ValueError, match=f"row 0 has an object of the category {category}; labels are 0 to 1"):
            export(folder, "coco", tmp_path)
    folder = write(tmp_path / "d", boxes((1, 2, 3, 2), area=[None]), columns=["objects"])
    found = json.loads((export(folder, "coco", tmp_path) / "annotations" / "instances_train.json").read_text())
    assert found["annotations"][0]["area"] == 6


def test_rows_without_a_mask(tmp_path):
    folder = write(tmp_path / "d", {"mask": None, "instances": None, "objects": None}, {})
    root = export(folder, "voc", tmp_path)
    (only,) = VOCSegmentation(str(root), "2012", "train")
    assert np.asarray(only[1]).sum() == 20
    assert (root / "VOCdevkit" / "VOC2012" / "ImageSets" / "Main" / "train.txt").read_text().split() == [
        "00000000", "00000001",
    ]  # fmt: skip
    with pytest.raises(ValueError, match=r"row 0 has no 'mask'.*leave out the column or such rows, or export to imag"):
        export(folder, "webdataset", tmp_path)
    assert len(pixels(export(folder, "imagefolder", tmp_path) / "train" / "mask" / "00000001.png")) == 24


def test_an_index_that_is_missing_is_the_rows_place(tmp_path):
    folder = write(tmp_path / "d", {"index": None}, {"index": 0})
    with pytest.raises(ValueError, match="index 0 occurs twice"):
        export(folder, "coco", tmp_path)


def test_a_column_with_the_name_of_a_files_place_is_refused(tmp_path):
    folder = write(tmp_path / "d", {"file_name": "x"}, more={"file_name": Value("string")})
    with pytest.raises(ValueError, match="has a column 'file_name'"):
        export(folder, "imagefolder", tmp_path)


def test_long_names_in_any_script_make_folders(tmp_path):
    names = ["漢" * 120, "é" * 300, "cat"]
    assert all(len(class_folder(label, names).encode()) <= 210 for label in range(3))
    root = export(write(tmp_path / "d", {"label": 0}, {"label": 1}, names=names), "imagefolder", tmp_path)
    assert [len(name) for name in ImageFolder(str(root / "train" / "images")).classes] == [3 + 66, 3 + 100]
