"""A stream learns its columns from its first rows; a change of ``datasets`` fails here first."""

import io

import pyarrow.parquet as parquet
from datasets import Dataset, Features, IterableDataset, Value

from ubgen_pipeline.dataset.library_internals import parquet_writer, with_known_features

ROWS = [{"label": 1, "name": "a"}, {"label": 2, "name": "b"}]


def test_a_stream_that_states_no_columns_gets_those_of_its_rows():
    stream = IterableDataset.from_generator(lambda: iter(ROWS))
    assert stream.features is None
    known = with_known_features(stream)
    assert known.features == Features({"label": Value("int64"), "name": Value("string")})
    # nothing was used up
    assert list(known) == ROWS and list(known) == ROWS


def test_one_that_states_them_stays_as_it_is():
    stream = Dataset.from_list(ROWS).to_iterable_dataset()
    assert with_known_features(stream) is stream


def test_a_file_says_more_than_its_features():
    stream, features = io.BytesIO(), Features({"label": Value("int64"), "name": Value("string")})
    writer = parquet_writer(stream, features, {"mine": "more"})
    for row in ROWS:
        writer.write(row)
    writer.finalize(close_stream=False)
    schema = parquet.read_schema(stream)
    assert schema.metadata[b"mine"] == b"more" and Features.from_arrow_schema(schema) == features
    assert parquet.read_table(stream).to_pylist() == ROWS
