"""Seeds of samples: golden values, which must never change, and what they depend on."""

import subprocess
import sys

import numpy as np
import pytest

from ubgen_pipeline.sample_seeds import SEED_LIMIT, default_seeds, sample_seed

# of `printf '0/0/star' | sha256sum` and its like: the first eight bytes, without the highest bit
GOLDEN = {
    (0, "star", 0): 5667833660970413991,
    (7, "n02119789", 12): 5794397748317739515,
    (SEED_LIMIT - 1, "kit fox, großer", 0): 7859251071204762104,
}


@pytest.mark.parametrize(("sample", "expected"), GOLDEN.items())
def test_seeds_are_what_they_always_were(sample, expected):
    assert sample_seed(*sample) == expected


def test_every_part_of_a_sample_counts_and_no_two_spell_the_same():
    # 1/23 and 12/3 would meet if nothing stood between the numbers, and a name may begin like one
    samples = [(run, name, index) for run in (1, 12) for name in ("3/star", "star") for index in (3, 23)]
    seeds = [sample_seed(*sample) for sample in samples]
    assert len(set(seeds)) == len(samples) and all(0 <= seed < SEED_LIMIT for seed in seeds)


def test_a_name_that_occurs_again_counts_on():
    assert default_seeds(5, ["a", "b", "a", "a"]) == [
        sample_seed(5, name, index) for name, index in (("a", 0), ("b", 0), ("a", 1), ("a", 2))
    ]


@pytest.mark.parametrize("value", [-1, SEED_LIMIT, 1.0, True, "1", None])
def test_what_is_no_seed_is_refused_by_name(value):
    with pytest.raises(ValueError, match=r"^seed is .*; give an integer from 0 to 9223372036854775807"):
        sample_seed(value, "star", 0)
    with pytest.raises(ValueError, match=r"^index_in_class is "):
        sample_seed(0, "star", value)


def test_whole_numbers_of_numpy_are_numbers():
    assert sample_seed(np.int64(3), "star", np.uint8(2)) == sample_seed(3, "star", 2)


def test_it_is_known_without_torch():
    code = "import sys, ubgen_pipeline.sample_seeds; print('torch' in sys.modules, 'numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False False\n"
