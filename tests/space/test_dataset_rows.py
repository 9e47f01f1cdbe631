"""Pages of rows with their images and annotations."""

import numpy as np
import pytest
from dataset_rows import read_rows, unread_rows
from PIL import Image

from support.space_datasets import NAMES, open_folder, png, write


def test_counts_and_pages_of_a_class(ours):
    view = open_folder(ours)
    assert (view.num_rows, view.num_files, view.class_names) == (12, 2, tuple(NAMES))
    assert view.counts.tolist() == [4, 4, 4] and not view.missing
    rows = read_rows(view, 1, 1, 2)
    assert [row.fields["index"] for row in rows] == ["4", "7"] and [row.position for row in rows] == [4, 7]
    assert rows[0].fields["label"] == "1 (<b>heart</b>)"
    assert rows[0].image.getpixel((0, 0)) == (40, 0, 0)
    assert rows[0].mask.max() == 2 and rows[0].boxes == [(1, 2, 4, 6)]
    assert [row.position for row in read_rows(view, None, 5, 3)] == [5, 6, 7]
    assert read_rows(view, 1, 4, 5) == []


def test_the_view_agrees_with_a_generated_dataset(tmp_path, mini_model):
    from ubgen_pipeline import generate_dataset

    dataset = generate_dataset(
        ["star", "ring"], tmp_path / "d", samples_per_class=2, num_inference_steps=1, samples_per_shard=3
    )
    view = open_folder(tmp_path / "d")
    assert view.counts.tolist() == [2, 2] and view.class_names == ("star", "ring") and not view.missing
    rows = read_rows(view, None, 0, 10)
    for row, expected in zip(rows, dataset, strict=True):
        assert np.array_equal(np.asarray(row.image), np.asarray(expected["image"]))
        assert row.fields["seed"] == str(expected["seed"])


def test_paths_in_cells_are_never_opened(tmp_path):
    secret = tmp_path / "secret.png"
    Image.new("RGB", (4, 4)).save(secret)
    cells = [{"bytes": None, "path": str(secret)}, {"bytes": b"no image", "path": None}, png(3)]
    write(tmp_path / "d" / "a.parquet", {"image": cells, "label": [0, 0, 0]})
    view = open_folder(tmp_path / "d")
    rows = read_rows(view, None, 0, 9)
    # the page says which images could not be shown
    assert [row.position for row in rows] == [2] and unread_rows(view, None, 0, 9, rows) == [0, 1]


def test_row_groups_that_are_too_large_are_not_read(ours, monkeypatch):
    monkeypatch.setattr("dataset_rows.MAX_GROUP_BYTES", 10)
    with pytest.raises(ValueError, match="row group"):
        read_rows(open_folder(ours), None, 0, 1)
