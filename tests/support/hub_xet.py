"""Xet's content store beside the loopback Hub: one that hf_xet itself keeps on the disk, or one over HTTP.

A file is cut into chunks; chunks are packed into xorbs; shards say which chunks of which xorbs make which file.
"""

import re
import time
from collections.abc import Iterator
from pathlib import Path

from hf_xet import XetFileInfo
from huggingface_hub.utils._xet import get_xet_session
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response

# of a shard's records, and of what comes before them
_RECORD = 48
TOKEN = "loopback"


class LocalStore:
    """The store at a ``local://`` address, which hf_xet writes and reads without a server.

    Args:
        folder: of the store.
    """

    def __init__(self, folder: Path):
        self.folder, self.url = folder, f"local://{folder}"

    def hashes(self) -> dict[str, str]:
        """SHA-256 to Xet hash of every file."""
        shards = self.folder.rglob("xorbs/shards/*.mdb")
        return {sha256: name for shard in shards for name, sha256, _ in _files(shard.read_bytes()) if sha256}

    def restore(self, xet_hash: str, size: int, file: Path) -> None:
        """Put a file together, for clients that read without Xet."""
        expiry = int(time.time()) + 3600
        group = get_xet_session().new_file_download_group(
            endpoint=self.url, token=TOKEN, token_expiry_unix_secs=expiry
        )
        with group as downloads:
            downloads.start_download_file(XetFileInfo(xet_hash, size), str(file))


class HttpStore:
    """The store behind Xet's HTTP interface, version 1; later versions are answered with 404, and clients go back.

    Args:
        folder: where xorbs are kept.
        endpoint: address of the loopback Hub; the store's is below it.
    """

    PREFIX = "/cas"

    def __init__(self, folder: Path, endpoint: str):
        self.folder, self.url = folder, endpoint + self.PREFIX
        self.folder.mkdir(parents=True, exist_ok=True)
        # by Xet hash: the file's SHA-256 and its segments (xorb, bytes, first chunk, chunk after the last)
        self.files: dict[str, tuple[str, list[tuple[str, int, int, int]]]] = {}

    def hashes(self) -> dict[str, str]:
        """SHA-256 to Xet hash of every file."""
        return {sha256: name for name, (sha256, _) in self.files.items() if sha256}

    def restore(self, xet_hash: str, size: int, file: Path) -> None:
        """Nothing: chunks are compressed, and unpacking them is the client's business."""

    def answer(self, request: Request, path: str, body: bytes) -> Response:
        """The response to a request below ``PREFIX``."""
        path = path.removeprefix(self.PREFIX)
        if match := re.fullmatch(r"/xorb/([0-9a-f]{64})", path):
            # a signed address: no token
            return FileResponse(self.folder / match[1])
        if request.headers.get("authorization") != f"Bearer {TOKEN}":
            return Response(status_code=401)
        if request.method == "POST" and (match := re.fullmatch(r"/v1/xorbs/default/([0-9a-f]{64})", path)):
            (self.folder / match[1]).write_bytes(body)
            return JSONResponse({"was_inserted": True})
        if request.method == "POST" and path == "/v1/shards":
            found = {name: (sha256, segments) for name, sha256, segments in _files(body)}
            if not all((self.folder / xorb).is_file() for _, parts in found.values() for xorb, *_ in parts):
                return JSONResponse({"error": "a shard names a xorb that was not uploaded"}, 400)
            self.files |= found
            return JSONResponse({"result": 1})
        if match := re.fullmatch(r"/v1/reconstructions/([0-9a-f]{64})", path):
            return self._reconstruction(request, match[1])
        return Response(status_code=404)

    def _reconstruction(self, request: Request, name: str) -> Response:
        """Which chunks make the asked bytes of a file, and where they lie in the xorbs."""
        if name not in self.files:
            return Response(status_code=404)
        segments = self.files[name][1]
        size = sum(num_bytes for _, num_bytes, _, _ in segments)
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("range", "bytes=0-"))
        assert asked is not None
        first, last = int(asked[1]), min(int(asked[2] or size), size - 1)
        if first >= size:
            return Response(status_code=416)
        terms, places, start, skipped = [], {}, 0, 0
        for xorb, num_bytes, first_chunk, end_chunk in segments:
            stop = start + num_bytes
            if stop > first and start <= last:
                skipped = first - start if not terms and first > start else skipped
                chunks = {"start": first_chunk, "end": end_chunk}
                terms.append({"hash": xorb, "unpacked_length": num_bytes, "range": chunks})
                offsets = list(_chunk_offsets((self.folder / xorb).read_bytes()))
                where = {"start": offsets[first_chunk], "end": offsets[end_chunk] - 1}
                place = {"range": chunks, "url": f"{self.url}/xorb/{xorb}", "url_range": where}
                places.setdefault(xorb, []).append(place)
            start = stop
        return JSONResponse({"offset_into_first_range": skipped, "terms": terms, "fetch_info": places})


def _files(shard: bytes) -> Iterator[tuple[str, str, list[tuple[str, int, int, int]]]]:
    """Xet hash, SHA-256 (or nothing) and segments of every file in a shard.

    Files are blocks of records: a header with the hash (four little-endian words), flags and the number of segments;
    the segments; with flag 31 as many verification records; with flag 30 the SHA-256.
    """
    position = _RECORD
    while shard[position : position + 32] != b"\xff" * 32 and position + _RECORD <= len(shard):
        name = _hash_text(shard[position : position + 32])
        flags, number = _word(shard, position + 32), _word(shard, position + 36)
        segments = []
        for record in range(position + _RECORD, position + _RECORD * (1 + number), _RECORD):
            numbers = (_word(shard, record + 36), _word(shard, record + 40), _word(shard, record + 44))
            segments.append((_hash_text(shard[record : record + 32]), *numbers))
        position += _RECORD * (1 + number * (2 if flags >> 31 & 1 else 1))
        sha256 = ""
        if flags >> 30 & 1:
            sha256 = _hash_text(shard[position : position + 32])
            position += _RECORD
        yield name, sha256, segments


def _chunk_offsets(xorb: bytes) -> Iterator[int]:
    """Where each chunk of a xorb begins, and where the last one ends; what follows is a footer.

    A chunk's header: version (1 byte), compressed size (3), compression (1), size (3).
    """
    position = 0
    while position + 8 <= len(xorb) and xorb[position] == 0:
        yield position
        position += 8 + int.from_bytes(xorb[position + 1 : position + 4], "little")
    yield position


def _word(data: bytes, position: int) -> int:
    return int.from_bytes(data[position : position + 4], "little")


def _hash_text(raw: bytes) -> str:
    """A hash as its 64 hexadecimal digits: Xet writes each eight bytes as one little-endian number."""
    return "".join(f"{int.from_bytes(raw[i : i + 8], 'little'):016x}" for i in range(0, 32, 8))
