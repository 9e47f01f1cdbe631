"""Near-duplicates: a perceptual hash of each image, and groups of images whose hashes differ in few bits. No torch.

Hashes that differ in at most d of 64 bits agree in at least one of d + 1 pieces, so only hashes that share a piece are
compared. Memory is a few numbers per image, one block of distances and a bounded number of pairs.
Shapes: N images, U different hashes, P pairs.
"""

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
from PIL import Image

HASH_BITS = 64
# different bits up to which two images are near-duplicates, where nothing else is said
MAX_HASH_DISTANCE = 4
_HASH_SIDE, _IMAGE_SIDE = 8, 32
# hashes on each side of a block that is compared at once, which bounds the memory
_BLOCK = 2048
# pairs that are kept before they are merged into groups
_MOST_PAIRS = 4_000_000


def perceptual_hash(image: Image.Image) -> int:
    """The 64 bits of the DCT hash (pHash), equal to those of the library imagehash.

    The image in grey is brought to 32 x 32 pixels; a bit says whether one of its 8 x 8 lowest frequencies (DCT-II, row
    by row, the mean first) is above their median. See Zauner, "Implementation and benchmarking of perceptual image
    hash functions" (2010), section 3.2.1.

    Args:
        image: of any size and mode.
    """
    # imported where they are needed, like those below: `ubgen score --help` imports this module
    from scipy.fft import dctn

    pixels = np.asarray(image.convert("L").resize((_IMAGE_SIDE, _IMAGE_SIDE), Image.Resampling.LANCZOS), np.float64)
    frequencies = np.asarray(dctn(pixels, type=2))[:_HASH_SIDE, :_HASH_SIDE]
    # in an image without structure these are rounding errors, which must not decide
    frequencies[np.abs(frequencies) < 1e-6] = 0
    bits = (frequencies > np.median(frequencies)).flatten()
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def hash_text(value: int) -> str:
    """A hash as 16 hexadecimal digits, which is how datasets hold it."""
    return f"{value:016x}"


def hashes_from_texts(texts: list[str | None]) -> tuple[np.ndarray, np.ndarray]:
    """Hashes ``(N,)`` uint64 of their texts, 0 for None, and ``(N,)`` bool: which of them there are.

    Raises:
        ValueError: a text that is no hash.
    """
    try:
        values = np.array([0 if text is None else int(text, 16) for text in texts], dtype=np.uint64)
    except (ValueError, OverflowError) as error:
        raise ValueError(
            f"column perceptual_hash holds something that is no hash of {HASH_BITS // 4} hexadecimal digits ({error});"
            " make it anew with `ubgen score DIR --scores duplicates`."
        ) from error
    return values, np.array([text is not None for text in texts], dtype=bool)


def check_hash_distance(value: int) -> None:
    """Raise ``ValueError`` for a number of bits that makes no sense, or groups images that are not alike."""
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= HASH_BITS // 4:
        raise ValueError(f"max_hash_distance is {value!r}; give a number of bits from 0 to {HASH_BITS // 4}.")


def duplicate_groups(hashes: np.ndarray, max_distance: int) -> np.ndarray:
    """The group of each image, ``(N,)`` int64: the position of the first image in it. An image alone is its own group.

    Groups are the connected parts of the graph whose edges are pairs of at most ``max_distance`` different bits. So
    which images belong together does not depend on their order, and two members may differ in more bits than that.

    Args:
        hashes: ``(N,)`` uint64.
        max_distance: different bits, from 0 to 16.

    Raises:
        ValueError: a distance out of range.
    """
    check_hash_distance(max_distance)
    distinct, first, inverse = np.unique(hashes, return_index=True, return_inverse=True)
    groups, pairs, num_pairs = np.arange(len(distinct)), [], 0
    for found in _close_pairs(distinct, max_distance):
        pairs.append(found)
        num_pairs += len(found)
        if num_pairs > _MOST_PAIRS:
            groups, pairs, num_pairs = _merged(groups, pairs), [], 0
    groups = _merged(groups, pairs)
    earliest = np.full(len(distinct), len(hashes), dtype=np.int64)
    np.minimum.at(earliest, groups, first)
    return earliest[groups][inverse]


def row_groups(indices: np.ndarray, hashes: np.ndarray, is_known: np.ndarray, max_distance: int) -> np.ndarray:
    """``(N,)`` int64: the index of the first row of each row's group; a row without a hash is alone.

    Args:
        indices: ``(N,)`` int64, of the rows.
        hashes: ``(N,)`` uint64.
        is_known: ``(N,)`` bool: which rows have a hash.
        max_distance: different bits, from 0 to 16.
    """
    groups, known = indices.copy(), np.flatnonzero(is_known)
    groups[known] = indices[known[duplicate_groups(hashes[known], max_distance)]]
    return groups


def _merged(groups: np.ndarray, pairs: list[np.ndarray]) -> np.ndarray:
    """The groups ``(U,)``, each called after a member, once those that the pairs link are one."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    links = np.concatenate([np.stack([np.arange(len(groups)), groups], axis=1), *pairs])
    graph = coo_array((np.ones(len(links), bool), (links[:, 0], links[:, 1])), shape=(len(groups), len(groups)))
    _, numbers = connected_components(graph, directed=False)
    _, members = np.unique(numbers, return_index=True)
    return members[numbers]


def _close_pairs(distinct: np.ndarray, max_distance: int) -> Iterator[np.ndarray]:
    """Positions ``(P, 2)`` of pairs of different hashes within the distance: all pairs in all, some more than once."""
    if max_distance == 0:
        return
    edges = np.linspace(0, HASH_BITS, max_distance + 2).round().astype(np.uint64)
    for low, high in pairwise(edges):
        pieces = (distinct >> low) & ((np.uint64(1) << (high - low)) - np.uint64(1))
        order = np.argsort(pieces, kind="stable")
        starts = np.flatnonzero(np.diff(pieces[order], prepend=pieces[order[:1]] + np.uint64(1)))
        stops = np.append(starts[1:], len(order))
        for start, stop in zip(starts[stops - starts > 1], stops[stops - starts > 1]):
            yield from _close_in_bucket(distinct, order[start:stop], max_distance)


def _close_in_bucket(distinct: np.ndarray, bucket: np.ndarray, max_distance: int) -> Iterator[np.ndarray]:
    for start in range(0, len(bucket), _BLOCK):
        rows = bucket[start : start + _BLOCK]
        for other in range(start, len(bucket), _BLOCK):
            columns = bucket[other : other + _BLOCK]
            close = np.bitwise_count(distinct[rows, None] ^ distinct[None, columns]) <= max_distance
            if other == start:
                close = np.triu(close, 1)
            row, column = np.nonzero(close)
            if len(row):
                yield np.stack([rows[row], columns[column]], axis=1)
