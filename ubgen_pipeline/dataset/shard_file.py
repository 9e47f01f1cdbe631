"""One shard's rows as a parquet file, whose row groups the Hub's viewer can show."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from .columns import column_values
from .library_internals import parquet_writer

# The Hub's viewer refuses row groups of more than 300 MB, and asks for 100 MB; datasets begins a new one after a
# hundred rows with images, which at 1024 x 1024 pixels with all annotations may be 500 MB.
ROW_GROUP_BYTES = 80_000_000
# of what the file's own metadata says of the columns
METADATA_KEY = "ubgen"


def write_rows(file: Path, rows: Iterable[Mapping[str, Any]], features: Any) -> int:
    """Write the rows as they come, and give their number.

    Args:
        file: the parquet file.
        rows: dictionaries of the features' columns.
        features: ``datasets.Features``; what the numbers in its masks mean goes into the file's metadata.
    """
    num_rows = num_bytes = 0
    values = column_values(features)
    metadata = {METADATA_KEY: json.dumps({"column_values": values})} if values else {}
    with open(file, "wb") as stream:
        writer = parquet_writer(stream, features, metadata)
        for row in rows:
            writer.write(dict(row))
            num_rows += 1
            num_bytes += _num_bytes(row)
            if num_bytes >= ROW_GROUP_BYTES:
                writer.write_examples_on_file()
            if not writer.current_examples:
                num_bytes = 0
        writer.finalize(close_stream=False)
    return num_rows


def _num_bytes(value: Any) -> int:
    """Size of a row, or of a value in one, about as parquet writes it."""
    if isinstance(value, Mapping):
        return sum(map(_num_bytes, value.values()))
    if isinstance(value, (list, tuple)):
        return sum(map(_num_bytes, value))
    return len(value) if isinstance(value, (bytes, str)) else 8
