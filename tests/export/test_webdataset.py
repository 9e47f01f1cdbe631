"""WebDataset, read again by datasets and webdataset."""

import io
import json

import numpy as np
import pytest
import webdataset
from datasets import ClassLabel, Features, List, Value, load_dataset
from datasets import Image as ImageFeature
from PIL import Image

from support.exported import NAMES, pixels
from support.parts_dataset import write_labelled, write_parts_dataset, write_rows
from support.scene_dataset import NUM_ROWS, png
from ubgen_pipeline.export.export import ExportSettings, export_dataset


def samples_of(root):
    files = sorted(map(str, root.glob("*.tar")))
    return list(webdataset.WebDataset(files, shardshuffle=False, empty_check=False))


def test_webdataset_reads_back(dataset, exports):
    _, rows = dataset
    samples = samples_of(exports / "webdataset")
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
        assert [(item["label"], tuple(item["box"]), item["area"]) for item in json.loads(values["objects"])] == [
            (label, box, region.sum()) for label, box, region in true.objects
        ]


def both_ways(root):
    """The rows without the features that were written, and with them."""
    # tar files of equal sizes and features would share a place in the cache of all tests
    own = {"split": "train", "cache_dir": str(root.parent / "cache")}
    inferred = load_dataset("webdataset", data_files={"train": str(root / "*.tar")}, **own)
    return inferred, load_dataset(str(root), **own)


def test_datasets_reads_it_where_the_first_rows_show_nothing(tmp_path):
    """Five rows without objects and heat maps, then rows of one and two classes."""
    shown = [[]] * 5 + [[1], [0, 1], []]
    box = {"bbox": [1, 2, 3, 4], "area": 12, "score": 0.5}
    rows = [
        {
            "image": png(np.full((8, 8, 3), i, np.uint8)), "label": i % 2, "index": i, "lora": "a" if i > 5 else None,
            "classes": labels, "heatmaps": [png(np.full((8, 8), 9 + label, np.uint8)) for label in labels],
            "objects": {name: [box[name]] * len(labels) for name in box} | {"category": labels},
            "preset": None,
        }
        for i, labels in enumerate(shown)
    ]  # fmt: skip
    features = Features(
        {
            "image": ImageFeature(), "label": ClassLabel(names=["cat", "dog"]), "index": Value("int64"),
            "lora": Value("string"), "classes": List(ClassLabel(names=["cat", "dog"])),
            "heatmaps": List(ImageFeature()), "preset": Value("string"),
            "objects": {
                "bbox": List(List(Value("int64"), length=4)), "category": List(ClassLabel(names=["cat", "dog"])),
                "area": List(Value("int64")), "score": List(Value("float32")),
            },
        }
    )  # fmt: skip
    write_rows(tmp_path / "d", rows, features)
    export_dataset(tmp_path / "d", ExportSettings("webdataset", str(tmp_path / "o")))
    assert len({tuple(sample) for sample in samples_of(tmp_path / "o")}) == 1
    inferred, typed = both_ways(tmp_path / "o")
    assert typed.features["cls"] == typed.features["json"]["label"] == ClassLabel(names=["cat", "dog"])
    for read in (inferred, typed):
        assert read["cls"][:] == [i % 2 for i in range(8)]
        for row, labels, written in zip(read, shown, rows, strict=True):
            assert np.asarray(row["png"]).max() == written["index"] == row["json"]["index"]
            assert json.loads(row["json"]["lora"]) == written["lora"] and row["json"]["preset"] is None
            assert json.loads(row["json"]["classes"]) == labels and row["json"]["num_heatmaps"] == len(labels)
            heat_maps = [np.asarray(row[f"heatmaps.{place}.png"]).max() for place in range(2)]
            assert heat_maps == [9 + label for label in labels] + [0] * (2 - len(labels))
            objects = json.loads(row["json"]["objects"])
            assert [item["label"] for item in objects] == labels and all(
                item["box"] == [1, 2, 4, 6] for item in objects
            )


def test_every_row_of_the_scenes_is_read_by_datasets(dataset, exports):
    for read in both_ways(exports / "webdataset"):
        for i, (row, true) in enumerate(zip(read, dataset[1], strict=True)):
            assert row["__key__"] == f"{i:08d}" and np.array_equal(np.asarray(row["mask.png"]), true.mask)
    assert read.features["cls"].names == NAMES


def test_outlines_are_kept(tmp_path):
    images = write_parts_dataset(tmp_path / "d", ("objects", "polygons"))
    export_dataset(tmp_path / "d", ExportSettings("webdataset", str(tmp_path / "o")))
    stored = load_dataset(str(tmp_path / "d"), split="train")
    for sample, row, objects in zip(samples_of(tmp_path / "o"), stored, images, strict=True):
        told = json.loads(json.loads(sample["json"])["objects"])
        assert [item["polygons"] for item in told] == row["objects"]["polygons"] and len(told) == len(objects)


def test_images_of_several_formats_become_png(tmp_path):
    write_labelled(tmp_path / "d", [0, 1, 0], ["cat", "dog"], codecs=["JPEG", "PNG", "JPEG"])
    export_dataset(tmp_path / "d", ExportSettings("webdataset", str(tmp_path / "o")))
    stored = load_dataset(str(tmp_path / "d"), split="train")
    for row, true in zip(both_ways(tmp_path / "o")[0], stored, strict=True):
        assert np.array_equal(np.asarray(row["png"]), np.asarray(true["image"]))
    write_labelled(tmp_path / "j", [0, 1], ["cat", "dog"], codecs=["JPEG", "JPEG"])
    export_dataset(tmp_path / "j", ExportSettings("webdataset", str(tmp_path / "k")))
    assert [Image.open(io.BytesIO(sample["jpg"])).format for sample in samples_of(tmp_path / "k")] == ["JPEG"] * 2


def test_a_row_without_a_mask_that_others_have_is_refused(tmp_path):
    mask = png(np.zeros((8, 8), np.uint8))
    rows = [
        {"image": png(np.zeros((8, 8, 3), np.uint8)), "label": 0, "index": i, "mask": given}
        for i, given in enumerate([mask, None])
    ]
    features = Features(
        {"image": ImageFeature(), "label": ClassLabel(names=["cat"]), "index": Value("int64"), "mask": ImageFeature()}
    )
    write_rows(tmp_path / "d", rows, features)
    with pytest.raises(ValueError, match="row 1 has no 'mask'"):
        export_dataset(tmp_path / "d", ExportSettings("webdataset", str(tmp_path / "o")))
    write_rows(tmp_path / "e", [{**row, "mask": None} for row in rows], features)
    export_dataset(tmp_path / "e", ExportSettings("webdataset", str(tmp_path / "o")))
    assert set(samples_of(tmp_path / "o")[0]) == {"__key__", "__url__", "__local_path__", "png", "cls", "json"}


def strict(text):
    """JSON as the standard has it, without NaN and infinities."""
    return json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


NAN = float("nan")


@pytest.mark.parametrize(
    ("feature", "values", "inferred", "meaning"),
    [
        (Value("float32"), [NAN, 0.5, 0.25], "string", [None, 0.5, 0.25]),
        (Value("float16"), [0.5, float("-inf"), None], "string", [0.5, None, None]),
        (Value("float64"), [NAN, NAN, NAN], None, [None] * 3),
        (Value("float64"), [0.5, 0.25, 2.0], "float64", [0.5, 0.25, 2.0]),
        (Value("binary"), [b"\x00\xff", b"", None], "string", ["AP8=", "", None]),
        (List(Value("float32")), [[NAN, 1.0], [], None], "string", [[None, 1.0], [], None]),
        (List({"a": Value("float32"), "b": Value("binary")}), [[{"a": NAN, "b": b"\xff"}], [], None], "string",
         [[{"a": None, "b": "/w=="}], [], None]),
        ({"bytes": Value("binary"), "path": Value("string")}, [{"bytes": b"\xff", "path": "p"}, None, None], "string",
         [{"bytes": "/w==", "path": "p"}, None, None]),
    ],
)  # fmt: skip
def test_what_json_cannot_hold_is_missing_or_in_base64_in_samples_of_equal_features(
    tmp_path, feature, values, inferred, meaning
):
    rows = [
        {"image": png(np.zeros((8, 8, 3), np.uint8)), "label": 0, "index": index, "extra": value}
        for index, value in enumerate(values)
    ]
    features = {"image": ImageFeature(), "label": ClassLabel(names=["cat"]), "index": Value("int64"), "extra": feature}
    write_rows(tmp_path / "d", rows, Features(features))
    export_dataset(tmp_path / "d", ExportSettings("webdataset", str(tmp_path / "out")))
    told = [strict(sample["json"])["extra"] for sample in samples_of(tmp_path / "out")]
    assert [strict(value) if isinstance(value, str) else value for value in told] == meaning
    for loaded in both_ways(tmp_path / "out"):
        assert [row["json"]["extra"] for row in loaded] == told
        if inferred is not None:
            assert loaded.features["json"]["extra"].dtype == inferred


def test_a_column_in_the_place_of_a_count_is_refused(tmp_path):
    row = {"image": png(np.zeros((8, 8, 3), np.uint8)), "label": 0, "index": 0, "heatmaps": [], "num_heatmaps": 5}
    features = {"image": ImageFeature(), "label": ClassLabel(names=["cat"]), "index": Value("int64")}
    features |= {"heatmaps": List(ImageFeature()), "num_heatmaps": Value("int64")}
    write_rows(tmp_path / "d", [row], Features(features))
    with pytest.raises(ValueError, match="column 'num_heatmaps', where this format writes how many images a row has"):
        export_dataset(tmp_path / "d", ExportSettings("webdataset", str(tmp_path / "out")))
