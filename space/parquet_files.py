"""Where a dataset's parquet files lie, on the Hub or in a folder, and how they are opened without being downloaded."""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", re.ASCII)
# read ahead by this many bytes: footers and columns of numbers are small
BLOCK_SIZE = 128 * 1024


@dataclass(frozen=True)
class ParquetFiles:
    """A dataset's parquet files: their names in order, and how one is opened."""

    name: str
    files: tuple[str, ...]
    open: Callable[[str], IO[bytes]]


def find_parquet_files(source: str, offered: Sequence[str] = ()) -> ParquetFiles:
    """The parquet files of a dataset.

    Args:
        source: a Hub id, or one of ``offered``.
        offered: sources that the operator gave; only these may be folders or private on the Hub.

    Raises:
        ValueError: a source that is neither, that cannot be reached, or that holds no parquet file.
    """
    if source in offered and Path(source).is_dir():
        return _of_folder(Path(source))
    if not HUB_ID.fullmatch(source) or ".." in source or "--" in source:
        raise ValueError("Dataset: choose one from the list, or type a Hub id such as owner/name.")
    # the operator's own token opens what he offers and nothing else
    return _of_hub(source, token=None if source in offered else False)


@contextmanager
def open_parquet(source: ParquetFiles, file: str) -> Iterator[pq.ParquetFile]:
    """The open file; what goes wrong with it before it is closed becomes a ``ValueError`` without its path."""
    try:
        with source.open(file) as stream:
            yield pq.ParquetFile(stream)
    except (OSError, pa.ArrowException) as error:
        raise ValueError(f"Dataset: one of its files could not be read ({type(error).__name__}).") from error


def _of_folder(folder: Path) -> ParquetFiles:
    root = folder.resolve()
    # a link out of the folder is not followed
    files = [file for file in sorted(folder.rglob("*.parquet")) if file.resolve().is_relative_to(root)]
    return _checked(ParquetFiles(folder.name, tuple(str(file) for file in files), lambda file: open(file, "rb")))


def _of_hub(repo_id: str, token: bool | None) -> ParquetFiles:
    from huggingface_hub import HfFileSystem

    system = HfFileSystem(token=token, skip_instance_cache=True)
    # the second is where the Hub keeps its own conversion of other formats
    for revision in ("main", "refs/convert/parquet"):
        root = f"datasets/{repo_id}@{revision.replace('/', '%2F')}"
        try:
            files = sorted(name for name in system.find(root) if name.endswith(".parquet"))
        except FileNotFoundError:
            files = []
        except Exception as error:
            # what the Hub says may hold addresses and tokens, so only the kind of it is passed on
            raise ValueError(f"Dataset: the Hub did not answer ({type(error).__name__}); try again later.") from error
        if files:
            break
    else:
        if not _exists(system, repo_id):
            raise ValueError("Dataset: the Hub has no such public dataset.")

    def open_file(file: str) -> IO[bytes]:
        opened: Any = system.open(file, "rb", block_size=BLOCK_SIZE)
        return opened

    return _checked(ParquetFiles(repo_id, tuple(files), open_file))


def _exists(system: Any, repo_id: str) -> bool:
    try:
        return bool(system.exists(f"datasets/{repo_id}"))
    except Exception:
        return False


def _checked(found: ParquetFiles) -> ParquetFiles:
    if not found.files:
        raise ValueError("Dataset: it holds no parquet file, so there is nothing that can be read in parts.")
    return found
