"""Browsing datasets in parts: counts, pages, datasets that are not ours, and what visitors may not open."""

import io
import json
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from dataset_rows import find_rows, read_rows
from dataset_view import MAX_COUNTED_FILES, read_view
from parquet_files import ParquetFiles, find_parquet_files
from PIL import Image

NAMES = ["star", "<b>heart</b>", "ring"]


def png(colour: int, size: int = 8, mode: str = "RGB") -> dict:
    stream = io.BytesIO()
    Image.new(mode, (size, size), colour if mode == "L" else (colour, 0, 0)).save(stream, format="PNG")
    return {"bytes": stream.getvalue(), "path": None}


def write(file, columns: dict, features: dict | None = None, rows_per_group: int = 4):
    table = pa.table(columns)
    if features is not None:
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, file, row_group_size=rows_per_group)


@pytest.fixture()
def ours(tmp_path):
    """Two files of six rows, classes taking turns, as ubgen writes them."""
    features = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": NAMES}}
    for number in range(2):
        indices = list(range(6 * number, 6 * number + 6))
        columns = {
            "image": [png(10 * index) for index in indices],
            "label": [index % 3 for index in indices],
            "prompt": [f"a {NAMES[index % 3]}" for index in indices],
            "seed": indices,
            "index": indices,
            "model": ["mini"] * 6,
            "mask": [png(index % 3 + 1, mode="L") for index in indices],
            "objects": [{"bbox": [[1, 2, 3, 4]], "category": [index % 3]} for index in indices],
        }
        write(tmp_path / "shapes" / "data" / f"train-{number:05d}-of-00002.parquet", columns, features)
    return tmp_path / "shapes"


def open_folder(folder):
    return read_view(find_parquet_files(str(folder), (str(folder),)))


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


def test_only_labels_and_the_groups_of_a_page_are_read(ours, monkeypatch):
    read = []
    columns_of, group_of = pq.ParquetFile.read, pq.ParquetFile.read_row_group
    monkeypatch.setattr(
        pq.ParquetFile, "read", lambda self, columns=None: read.append(columns) or columns_of(self, columns=columns)
    )
    monkeypatch.setattr(
        pq.ParquetFile, "read_row_group", lambda self, group: read.append(group) or group_of(self, group)
    )
    view = open_folder(ours)
    assert read == [["label"], ["label"]]
    read_rows(view, 2, 1, 1)
    assert read[2:] == [1]


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


def test_a_dataset_that_is_not_ours_is_shown_as_far_as_it_goes(tmp_path):
    write(tmp_path / "a.parquet", {"picture": [png(1), png(2)], "class_name": ["x", None]})
    view = open_folder(tmp_path)
    assert view.class_names == ("x",) and view.counts.tolist() == [1] and view.num_rows == 2
    assert any("ubgen did not make it" in text for text in view.missing)
    assert len(read_rows(view, None, 0, 9)) == 2
    write(tmp_path / "b" / "c.parquet", {"image": [png(1)]})
    view = open_folder(tmp_path / "b")
    assert view.class_names == () and any("no column of labels" in text for text in view.missing)
    assert len(read_rows(view, None, 0, 9)) == 1
    write(tmp_path / "d" / "e.parquet", {"label": [0, 2, -1]})
    view = open_folder(tmp_path / "d")
    assert view.counts.tolist() == [1, 0, 1] and any("no column of images" in text for text in view.missing)
    with pytest.raises(ValueError, match="no column of images"):
        read_rows(view, None, 0, 9)


def test_paths_in_cells_are_never_opened(tmp_path):
    secret = tmp_path / "secret.png"
    Image.new("RGB", (4, 4)).save(secret)
    cells = [{"bytes": None, "path": str(secret)}, {"bytes": b"no image", "path": None}, png(3)]
    write(tmp_path / "d" / "a.parquet", {"image": cells, "label": [0, 0, 0]})
    assert [row.position for row in read_rows(open_folder(tmp_path / "d"), None, 0, 9)] == [2]


def test_unreadable_files_are_errors_without_paths(tmp_path):
    (tmp_path / "a.parquet").write_bytes(b"PAR1 but not really")
    with pytest.raises(ValueError, match="could not be read") as caught:
        open_folder(tmp_path)
    assert str(tmp_path) not in str(caught.value)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no parquet file"):
        open_folder(tmp_path / "empty")


@pytest.mark.parametrize(
    "source",
    ["/etc", "../x", "a/../b", "~", "", "name", "a/b/c", "a//b", "https://x/y", "a/b@c", "a/b\n", "x" * 99 + "/y"],
)
def test_visitors_open_nothing_but_hub_ids_and_what_is_offered(source, ours):
    with pytest.raises(ValueError, match="choose one from the list"):
        find_parquet_files(source, (str(ours),))
    with pytest.raises(ValueError, match="choose one from the list"):
        find_parquet_files(str(ours), ())


def test_links_out_of_the_folder_are_not_followed(ours, tmp_path):
    write(tmp_path / "private.parquet", {"label": [0]})
    (ours / "data" / "link.parquet").symlink_to(tmp_path / "private.parquet")
    assert len(find_parquet_files(str(ours), (str(ours),)).files) == 2


def test_counting_stops_after_so_many_files(tmp_path):
    write(tmp_path / "a.parquet", {"label": [0, 1]})
    files = ParquetFiles("many", (str(tmp_path / "a.parquet"),) * 1000, partial(open, mode="rb"))
    seen = []
    view = read_view(files, lambda done, total: seen.append((done, total)))
    assert view.num_files == MAX_COUNTED_FILES and view.counts.tolist() == [64, 64] and seen[-1] == (64, 64)
    assert find_rows(view, 1, 62, 9) == [(62, 1), (63, 1)]


def test_row_groups_that_are_too_large_are_not_read(ours, monkeypatch):
    monkeypatch.setattr("dataset_rows.MAX_GROUP_BYTES", 10)
    with pytest.raises(ValueError, match="row group"):
        read_rows(open_folder(ours), None, 0, 1)
