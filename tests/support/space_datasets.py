"""Small parquet datasets for the tests of the Space, as ubgen writes them or as others do."""

import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
from dataset_view import DatasetView, read_view
from parquet_files import find_parquet_files
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


def open_folder(folder) -> DatasetView:
    return read_view(find_parquet_files(str(folder), (str(folder),)))
