"""A dataset to start from: labels in the new classes, images and masks cut to size, and what is refused."""

import numpy as np
import pytest
from datasets import Dataset

from support.source_rows import save_source
from ubgen_pipeline.samples.source_dataset import SourceDataset


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return save_source(tmp_path_factory.mktemp("source") / "scenes")


def test_labels_and_masks_count_in_the_new_classes(source):
    rows = SourceDataset(source, "train", ["ring", "other", "circle"], {"star": "ring"})
    assert rows.labels() == [0, 2, 0, 2] and set(np.unique(rows.row(1, (64, 64)).mask)) == {0, 3}
    # without names, those that the map leads to
    assert SourceDataset(source, "train", None, {"star": "ring"}).new_names == ["ring", "circle"]


def test_a_region_is_grown_and_cut_with_the_image(source):
    rows = SourceDataset(source, "train")
    plain, grown = (rows.row(0, (64, 64), "object", margin).region for margin in (0, 2))
    assert plain is not None and grown is not None
    assert (grown & plain).sum() == plain.sum() < grown.sum()
    cut = rows.row(0, (32, 64))
    assert cut.image.size == (64, 32) and cut.mask is not None and cut.mask.shape == (32, 64)


def test_the_background_is_all_that_is_no_object(source):
    rows = SourceDataset(source, "train")
    inside, outside = (rows.row(0, (64, 64), region).region for region in ("object", "background"))
    assert inside is not None and outside is not None and (inside ^ outside).all()
    assert rows.row(0, (64, 64)).region is None


def test_the_fingerprint_is_of_the_files(source, tmp_path):
    rows = SourceDataset(source, "train")
    same = SourceDataset(save_source(tmp_path / "scenes"), "train")
    other = SourceDataset(save_source(tmp_path / "other", change=lambda mask: mask * 0 + 255), "train")
    assert rows.fingerprint() == same.fingerprint() != other.fingerprint() and len(rows.fingerprint()) == 64
    assert same.public_name() == "scenes"


@pytest.mark.parametrize(
    ("names", "class_map", "message"),
    [
        (["ring", "circle"], None, "'star' is none of the classes ring, circle"),
        (None, {"moon": "star"}, "names 'moon', which the source lacks"),
    ],
)
def test_classes_that_do_not_fit(source, names, class_map, message):
    with pytest.raises(ValueError, match=message):
        SourceDataset(source, "train", names, class_map)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda mask: mask[:32], r"a mask of \(64, 32\)"),
        (lambda mask: mask * 40, "class 40 in its mask"),
        (np.zeros_like, "has no object"),
    ],
)
def test_masks_that_do_not_fit(tmp_path, change, message):
    rows = SourceDataset(save_source(tmp_path / "s", change=change), "train")
    with pytest.raises(ValueError, match=message):
        rows.row(0, (64, 64), "object")


def test_a_dataset_without_images_is_refused(tmp_path):
    from datasets import ClassLabel, Dataset, Features

    features = Features({"label": ClassLabel(names=["star"])})
    Dataset.from_dict({"label": [0]}, features=features).save_to_disk(str(tmp_path / "d"))
    with pytest.raises(ValueError, match="has no column 'image'"):
        SourceDataset(str(tmp_path / "d"), "train")


@pytest.mark.parametrize("without", [None, -1])
def test_a_row_without_a_label_is_named_instead_of_taken_for_the_last_class(tmp_path, without):
    rows = Dataset.load_from_disk(save_source(tmp_path / "all"))
    labels = rows["label"][:]
    labels[2] = without
    rows.remove_columns("label").add_column("label", labels).cast(rows.features).save_to_disk(str(tmp_path / "d"))  # type: ignore
    source = SourceDataset(str(tmp_path / "d"), "train")
    with pytest.raises(ValueError, match=r"row 2 of source '.*' has no label, so nothing says what is drawn of it"):
        source.labels()
    with pytest.raises(ValueError, match="row 2 of source"):
        source.row(2, (64, 64))
    assert source.row(1, (64, 64)).label == labels[1]
