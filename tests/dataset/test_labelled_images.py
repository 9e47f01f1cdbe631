"""Labelled datasets by name, whatever their layout."""

import pytest
from datasets import ClassLabel, Dataset, Features, Image, Value
from PIL import Image as Pillow

from support.image_folders import save_class_folders
from ubgen_pipeline.dataset.labelled_images import load_labelled_images

NAMES = ("apple", "pear")


def rows(names=NAMES, **columns):
    data = {"image": [Pillow.new("RGB", (4, 4), (40 * i, 0, 0)) for i in range(4)], "label": [0, 1, 0, 1], **columns}
    features = {"image": Image(), "label": ClassLabel(names=list(names))}
    return Dataset.from_dict(data, features=Features(features | {name: Value("string") for name in columns}))


@pytest.mark.parametrize("below", ["", "train"])
@pytest.mark.parametrize("streaming", [False, True])
def test_class_folders(tmp_path, below, streaming):
    save_class_folders(tmp_path / below, NAMES, 2)
    found = load_labelled_images(tmp_path, streaming=streaming)
    assert found.class_names == NAMES and found.is_streamed == streaming
    read = list(found.rows)
    assert [row["label"] for row in read] == [0, 0, 1, 1] and set(read[0]) == {"image", "label"}
    assert read[0]["image"].size == (20, 16)


@pytest.mark.parametrize("streaming", [False, True])
def test_parquet_shards(tmp_path, streaming):
    (tmp_path / "data").mkdir()
    rows(prompt=["a"] * 4).to_parquet(tmp_path / "data" / "train-00000-of-00001.parquet")
    found = load_labelled_images(tmp_path, streaming=streaming)
    assert found.class_names == NAMES and [row["label"] for row in found.rows] == [0, 1, 0, 1]
    with pytest.raises(ValueError, match=r"could not be read with split 'test'"):
        load_labelled_images(tmp_path, split="test")


def test_other_columns_and_plain_labels():
    data = rows().rename_columns({"image": "img", "label": "fine_label"})
    assert load_labelled_images(data).class_names == NAMES
    plain = rows().cast_column("label", Value("int64")).rename_column("label", "kind")
    with pytest.raises(ValueError, match="no label column; it has image, kind"):
        load_labelled_images(plain)
    assert load_labelled_images(plain, label_column="kind").class_names == ("0", "1")
    with pytest.raises(ValueError, match="its 'kind' has no class names"):
        load_labelled_images(plain.to_iterable_dataset(), label_column="kind")
    with pytest.raises(ValueError, match="image_column is 'photo'"):
        load_labelled_images(plain, image_column="photo")


def test_bad_sources(tmp_path):
    with pytest.raises(ValueError, match="could not be read with split 'train'"):
        load_labelled_images(tmp_path)
    with pytest.raises(ValueError, match="no rows"):
        load_labelled_images(rows().select([]))
    with pytest.raises(ValueError, match="dataset is a list"):
        load_labelled_images([1, 2])
    save_class_folders(tmp_path, NAMES, 1)
    (tmp_path / "plum").mkdir()
    with pytest.raises(ValueError, match="class 'plum' has no images"):
        load_labelled_images(tmp_path)


@pytest.mark.parametrize("without", [None, -1])
def test_rows_without_a_label_are_counted_and_the_first_is_named(without):
    """A measure would count -1 as a mistake, and a training count it as the last class."""
    data = rows()
    odd = data.remove_columns("label").add_column("label", [0, without, 1, without]).cast(data.features)  # type: ignore
    with pytest.raises(ValueError, match="has 2 rows without a label, such as row 1; leave them out"):
        load_labelled_images(odd)
