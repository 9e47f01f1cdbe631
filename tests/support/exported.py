"""What tests of exports share: pixels, outlines drawn by matplotlib, and datasets that are changed on the disk."""

import numpy as np
import pyarrow
import pyarrow.parquet as parquet
from matplotlib.path import Path as Outline
from PIL import Image

from ubgen_pipeline.mini.scenes import CLASS_NAMES

NAMES = list(CLASS_NAMES)


def pixels(file):
    return np.asarray(Image.open(file))


def inside(points, shape):
    """``(H, W)`` bool: pixels whose centre lies inside the outline, by matplotlib."""
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    centres = np.stack([columns.ravel() + 0.5, rows.ravel() + 0.5], axis=1)
    # an outline that runs through a point twice, there and back, does not enclose it
    return Outline(np.vstack([points, points[:1]]), closed=True).contains_points(centres).reshape(shape)


def files_of(folder):
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def rewrite(folder, change):
    """Apply a change to the tables of every parquet file."""
    for file in (folder / "data").iterdir():
        parquet.write_table(change(parquet.read_table(file)), file)


def replaced(table, column, row, value):
    values = table[column].to_pylist()
    values[row] = value
    place = table.column_names.index(column)
    return table.set_column(place, table.field(column), pyarrow.array(values, table.field(column).type))
