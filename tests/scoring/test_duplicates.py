"""The hash against a sum of cosines and against values of the library imagehash; groups against all pairs."""

import numpy as np
import pytest
from PIL import Image
from scipy.sparse.csgraph import connected_components

from ubgen_pipeline.scoring import duplicates
from ubgen_pipeline.scoring.duplicates import (
    duplicate_groups,
    hash_text,
    hashes_from_texts,
    perceptual_hash,
    row_groups,
)

# str(imagehash.phash(image)) of ImageHash 4.3.2 for the images of `waves`
IMAGEHASH = [
    "aa55aaff55aa00aa", "83fc0356fc03fc23", "d2f852acf852ad52", "f00bf05af0f00ff1", "b54ab54ab5e04ab5",
    "976a976a3f6ac0c0",
]  # fmt: skip


def waves(number):
    y, x = np.mgrid[: 48 + 10 * number, : 80 - 7 * number]
    channels = [127 + 120 * np.sin(x / (3 + number) + c) * np.cos(y / (5 + c)) for c in range(3)]
    return Image.fromarray(np.stack(channels, -1).clip(0, 255).astype(np.uint8))


def written_out(image):
    pixels = np.asarray(image.convert("L").resize((32, 32), Image.Resampling.LANCZOS), dtype=np.float64)
    cosines = np.array([[np.cos(np.pi * k * (2 * n + 1) / 64) for n in range(32)] for k in range(8)])
    frequencies = cosines @ pixels @ cosines.T
    bits = "".join("1" if value > np.median(frequencies) else "0" for value in frequencies.flatten())
    return int(bits, 2)


@pytest.mark.parametrize("number", range(len(IMAGEHASH)))
def test_the_hash_is_the_librarys_and_the_formulas(number):
    found = perceptual_hash(waves(number))
    assert hash_text(found) == IMAGEHASH[number] and found == written_out(waves(number))


def test_look_alikes_are_near_and_others_far():
    image = waves(1)
    assert (perceptual_hash(image) ^ perceptual_hash(image.resize((160, 130)))).bit_count() <= 4
    assert (perceptual_hash(image) ^ perceptual_hash(waves(4))).bit_count() > 16
    # rounding alone would decide the bits of an image without structure
    plain = {perceptual_hash(Image.new("RGB", (64, 64), colour)) for colour in ("white", "grey", "red", (1, 2, 3))}
    assert len(plain) == 1


def test_texts_give_the_hashes_back():
    values, known = hashes_from_texts(["ffffffffffffffff", None, hash_text(5)])
    assert values.tolist() == [2**64 - 1, 0, 5] and known.tolist() == [True, False, True]
    for text in ("no", "1" * 17):
        with pytest.raises(ValueError, match="perceptual_hash holds"):
            hashes_from_texts([text])


def planted(rng, num_random=300, num_planted=60):
    """Random hashes, and chains of others that differ in one to nine bits from one of them."""
    hashes = list(rng.integers(0, 2**64, num_random, dtype=np.uint64))
    for _ in range(num_planted):
        flips = np.uint64(0)
        for bit in rng.choice(64, rng.integers(1, 10), replace=False):
            flips |= np.uint64(1) << np.uint64(bit)
        hashes.append(hashes[rng.integers(len(hashes))] ^ flips)
    return rng.permutation(np.array([*hashes, *hashes[:20]], dtype=np.uint64))


@pytest.mark.parametrize("max_distance", [0, 1, 2, 4, 7, 16])
def test_groups_are_those_of_all_pairs(max_distance, monkeypatch):
    # so small that buckets take several blocks and pairs are merged in between
    monkeypatch.setattr(duplicates, "_BLOCK", 7)
    monkeypatch.setattr(duplicates, "_MOST_PAIRS", 10)
    hashes = planted(np.random.default_rng(max_distance))
    found = duplicate_groups(hashes, max_distance)
    close = np.bitwise_count(hashes[:, None] ^ hashes[None]) <= max_distance
    _, expected = connected_components(close, directed=False)
    first = [int(np.flatnonzero(expected == number)[0]) for number in expected]
    assert found.tolist() == first
    assert len(set(first)) < len(hashes)


def test_which_rows_belong_together_does_not_depend_on_their_order():
    rng = np.random.default_rng(9)
    hashes = planted(rng)
    order = rng.permutation(len(hashes))
    found, shuffled = duplicate_groups(hashes, 4), duplicate_groups(hashes[order], 4)
    back = np.empty_like(shuffled)
    back[order] = shuffled
    assert np.array_equal(found[:, None] == found[None], back[:, None] == back[None])


def test_groups_are_called_by_index_and_rows_without_hash_are_alone():
    indices = np.array([10, 20, 30, 40])
    groups = row_groups(indices, np.array([7, 0, 7, 0], np.uint64), np.array([True, False, True, False]), 0)
    assert groups.tolist() == [10, 20, 10, 40]
    assert duplicate_groups(np.array([], np.uint64), 4).tolist() == []


@pytest.mark.parametrize("distance", [-1, 17, True, 1.5])
def test_a_distance_out_of_range(distance):
    with pytest.raises(ValueError, match="max_hash_distance is"):
        duplicate_groups(np.array([1], np.uint64), distance)
