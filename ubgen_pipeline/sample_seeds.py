"""The seed of each sample, as a function of the sample alone; importable without torch, so that a dry run is quick."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from numbers import Integral

SEED_LIMIT = 2**63


def sample_seed(run_seed: int, class_key: str, index_in_class: int) -> int:
    """Seed in [0, 2**63) of one sample: a hash of the run's seed, the class (its id, else its name) and the index.

    Raises:
        ValueError: ``run_seed`` or ``index_in_class`` is not an integer in [0, 2**63).
    """
    for argument, value in {"seed": run_seed, "index_in_class": index_in_class}.items():
        if isinstance(value, bool) or not isinstance(value, Integral) or not 0 <= value < SEED_LIMIT:
            raise ValueError(f"{argument} is {value!r}; give an integer from 0 to {SEED_LIMIT - 1} (2**63 - 1).")
    # the numbers come first and hold no "/", so no two different triples spell the same text
    digest = hashlib.sha256(f"{run_seed}/{index_in_class}/{class_key}".encode()).digest()
    return int.from_bytes(digest[:8], "big") % SEED_LIMIT


def default_seeds(seed: int, names: Sequence[str]) -> list[int]:
    """A seed for each of the samples' class names; a name that occurs again counts on, so no image is drawn twice."""
    num_seen: Counter[str] = Counter()
    seeds = []
    for name in names:
        seeds.append(sample_seed(seed, name, num_seen[name]))
        num_seen[name] += 1
    return seeds
