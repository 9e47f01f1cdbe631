"""YOLO, read again by supervision."""

from pathlib import Path

import numpy as np
from supervision.dataset.formats.yolo import load_yolo_annotations

from support.exported import NAMES, inside, pixels
from support.scene_dataset import NUM_ROWS
from ubgen_pipeline.export.export import main


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
    assert (
        main(
            [
                str(folder),
                "--format",
                "yolo",
                "--output-dir",
                str(root),
                "--polygons",
                "--polygon-grid",
                "borders",
                "--accept-loss",
            ]
        )
        == 0
    )
    _, files, found = load_yolo_annotations(
        str(root / "images" / "train"), str(root / "labels" / "train"), str(root / "data.yaml")
    )
    num_rings = 0
    for file in files:
        true = rows[int(Path(file).stem)]
        lines = (root / "labels" / "train" / f"{Path(file).stem}.txt").read_text().splitlines()
        for number, (label, box, region) in enumerate(true.objects):
            assert found[file].class_id[number] == label
            np.testing.assert_allclose(found[file].xyxy[number], box, atol=0.01)
            points = np.array(lines[number].split()[1:], float).reshape(-1, 2) * (128, 64)
            assert np.array_equal(inside(points, region.shape), region)
            num_rings += NAMES[label] == "ring"
    assert num_rings, "no object with a hole was tested"
