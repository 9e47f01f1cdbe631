"""The seed of each sample, as a function of the sample alone.

A sample's seed depends on the run's seed, the key of its class and its number within the class, and on nothing else: not on the
batch, the shard, the process or the position of the class in the list. Only the standard library is imported here, so that a
dry run can print seeds without loading torch.
"""

import hashlib
import json


SEED_LIMIT = 2**63


def check_run_seed(run_seed: int) -> int:
    """Return `run_seed` when it is an integer in [0, 2**63), and raise `ValueError` otherwise."""
    if isinstance(run_seed, bool) or not isinstance(run_seed, int) or not 0 <= run_seed < SEED_LIMIT:
        raise ValueError(f"`seed` must be an integer from 0 to 2**63 - 1, got {run_seed!r}; choose a seed in that range.")
    return run_seed


def sample_seed(run_seed: int, class_key: str, index_in_class: int) -> int:
    """Return the seed of sample number `index_in_class` of the class `class_key`.

    The three values are encoded as a JSON list (which no two different triples share), hashed with SHA-256, and the first eight
    bytes, less one bit, are the seed.

    Args:
        run_seed: The seed of the whole run, in [0, 2**63).
        class_key: The identifier of the class, or its name where it has no identifier.
        index_in_class: The number of the sample within its class, from 0.

    Returns:
        An integer s with 0 <= s < 2**63, the range of a signed 64-bit column and of `torch.Generator.manual_seed`.

    Raises:
        ValueError: If `run_seed` is outside [0, 2**63) or `index_in_class` is negative.
    """
    check_run_seed(run_seed)
    if index_in_class < 0:
        raise ValueError(f"`index_in_class` must be zero or more, got {index_in_class}; number samples from 0.")
    encoded = json.dumps([int(run_seed), str(class_key), int(index_in_class)], ensure_ascii=True)
    return int.from_bytes(hashlib.sha256(encoded.encode("ascii")).digest()[:8], "big") >> 1
