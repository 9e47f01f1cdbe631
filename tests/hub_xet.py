"""What the loopback Hub reads of the local content store that hf_xet writes for a ``local://`` address."""

import time
from pathlib import Path

from hf_xet import XetFileInfo
from huggingface_hub.utils._xet import get_xet_session


def xet_hashes(cas: Path) -> dict[str, str]:
    """SHA-256 to Xet hash of every file in the shards of a local content store.

    A shard lists files as blocks of 48-byte records: a header with the hash (four little-endian words), flags and
    the number of segments; the segments; with flag 31 as many verification records; with flag 30 the SHA-256.
    """
    hashes = {}
    for shard in cas.rglob("xorbs/shards/*.mdb"):
        data = shard.read_bytes()
        position = 48
        while data[position : position + 32] != b"\xff" * 32 and position + 48 <= len(data):
            file_hash, flags = (
                data[position : position + 32],
                int.from_bytes(data[position + 32 : position + 36], "little"),
            )
            segments = int.from_bytes(data[position + 36 : position + 40], "little")
            position += 48 * (1 + segments * (2 if flags >> 31 & 1 else 1))
            if flags >> 30 & 1:
                hashes[_hash_text(data[position : position + 32])] = _hash_text(file_hash)
                position += 48
    return hashes


def restore(cas: Path, xet_hash: str, size: int, file: Path) -> None:
    """Put a file together from the store, for clients that read without Xet."""
    group = get_xet_session().new_file_download_group(
        endpoint=f"local://{cas}", token="loopback", token_expiry_unix_secs=int(time.time()) + 3600
    )
    with group as downloads:
        downloads.start_download_file(XetFileInfo(xet_hash, size), str(file))


def _hash_text(raw: bytes) -> str:
    """A hash as its 64 hexadecimal digits: Xet writes each eight bytes as one little-endian number."""
    return "".join(f"{int.from_bytes(raw[i : i + 8], 'little'):016x}" for i in range(0, 32, 8))
