"""Datasets that the tests of the Space look into."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from support.space_datasets import NAMES, open_folder, png, write

PICTURE = {"bytes": b"x" * 1000, "path": None}
FEATURES = {
    "label": {"_type": "ClassLabel", "names": NAMES},
    "zero_shot_label": {"_type": "ClassLabel", "names": NAMES},
    "objects": {"category": {"_type": "List", "feature": {"_type": "ClassLabel", "names": NAMES}}},
}


@pytest.fixture()
def view(tmp_path):
    """Two files of six rows in row groups of two; row i of class i mod 3."""
    for number in range(2):
        rows = range(6 * number, 6 * number + 6)
        table = pa.table(
            {
                "image": [PICTURE] * 6,
                "label": [row % 3 for row in rows],
                "prompt": [None if row == 4 else f"a {NAMES[row % 3]}" for row in rows],
                "seed": list(rows),
                "unsafe": [row % 2 == 0 for row in rows],
                "zero_shot_label": [row % 2 for row in rows],
                "clip_score": pa.array([None if row == 3 else row / 10 for row in rows], pa.float32()),
                "classes": [[row % 3] for row in rows],
                "heatmaps": [[PICTURE]] * 6,
                "objects": [
                    {"bbox": [[1, 2, 3, 4]] * (row % 4), "category": [row % 3] * (row % 4), "area": [row] * (row % 4)}
                    for row in rows
                ],
                "attributes": [{"place": "sea"}] * 6,
            }
        )
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": FEATURES}})})
        pq.write_table(table, tmp_path / f"train-{number:05d}-of-00002.parquet", row_group_size=2)
    return open_folder(tmp_path)


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
