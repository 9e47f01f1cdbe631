"""What ``datasets`` has but does not offer in public, in one place, where a test tells when ``datasets`` changes it.

A stream that was made of a generator, or mapped, does not know its columns before its first rows are read.

Its parquet writer puts the features into a file's metadata, and takes nothing else there.
"""

from collections.abc import Mapping
from typing import IO, TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from datasets import Features, IterableDataset
    from datasets.arrow_writer import ParquetWriter


def with_known_features(rows: "IterableDataset") -> "IterableDataset":
    """The same rows with ``features``, which are read off the first ones where nothing states them."""
    return rows if rows.features is not None else rows._resolve_features()


def parquet_writer(stream: IO[bytes], features: "Features", entries: Mapping[str, str]) -> "ParquetWriter":
    """A ``ParquetWriter`` of ``datasets`` that puts further entries into the metadata of its file's schema."""
    from datasets.arrow_writer import ParquetWriter

    class WriterWithMetadata(ParquetWriter):
        @staticmethod
        def _build_metadata(info: Any, fingerprint: str | None = None) -> dict[str, str]:
            return {**ParquetWriter._build_metadata(info, fingerprint), **entries}

    return WriterWithMetadata(stream=cast(Any, stream), features=features)
