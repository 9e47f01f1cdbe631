"""What ``datasets`` has but does not offer in public, in one place, where a test tells when ``datasets`` changes it.

A stream that was made of a generator, or mapped, does not know its columns before its first rows are read.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datasets import IterableDataset


def with_known_features(rows: "IterableDataset") -> "IterableDataset":
    """The same rows with ``features``, which are read off the first ones where nothing states them."""
    return rows if rows.features is not None else rows._resolve_features()
