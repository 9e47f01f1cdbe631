"""Where a dataset is written: a local folder, or a store behind an address of fsspec. Both commit whole files.

    LocalFolder     a file is written under a temporary name and renamed (``whole_files.py``)
    AddressStore    nothing is renamed, since most stores cannot: a file is made on this machine's disk and sent under
                    its own name. Who reads must not count a file that no commit mark tells of (``dataset/shards.py``)

Names of files are relative to the place, with ``/`` between folders.
"""

import errno
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from .folder_lock import STATE_FOLDER, writing_into
from .places import Place, as_place, first_line
from .process_folder import process_folder
from .whole_files import whole_file, write_whole_text

if TYPE_CHECKING:
    from upath import UPath

Result = TypeVar("Result")
Pause = Callable[[float, str], None]

PROBE = f"{STATE_FOLDER}/may-write"
# seconds between the attempts while a store does not answer: about a minute in all
WAITS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
# faults of the caller, or of the account; all other faults may pass
_LASTING = (
    ValueError, TypeError, ImportError, NotImplementedError,
    FileNotFoundError, FileExistsError, PermissionError, NotADirectoryError, IsADirectoryError,
)  # fmt: skip
# faults of this program, whatever the store does
_DEFECTS = (LookupError, AttributeError, ArithmeticError, AssertionError)
_LASTING_NUMBERS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM}


class LocalFolder:
    """A folder of this machine, or one that several machines share.

    Args:
        place: the folder.
    """

    # whether others see a file in a listing as soon as it is written, and files are there whole or not at all
    is_address = False

    def __init__(self, place: Path):
        self.place = place
        self._state_folder = place / STATE_FOLDER

    def held(self, rank: int) -> AbstractContextManager[None]:
        """While the body runs, no other run writes here; see :func:`.folder_lock.writing_into`."""
        return writing_into(self.place, rank)

    def children(self, folder: str = "") -> list[str]:
        """Names of files and folders in a folder; none where it is missing."""
        path = self.place / folder
        return [item.name for item in path.iterdir()] if path.is_dir() else []

    def read_text(self, name: str) -> str:
        """A file's text; ``FileNotFoundError`` where there is none."""
        return (self.place / name).read_text(encoding="utf-8")

    def write_text(self, name: str, text: str) -> None:
        """Write or replace a file, whole or not at all."""
        write_whole_text(self.place / name, text, self._state_folder)

    def create_text(self, name: str, text: str) -> None:
        """Write a file that is not there yet."""
        self.write_text(name, text)

    @contextmanager
    def whole_file(self, name: str) -> Iterator[Path]:
        """A path to write to in the body; when the body ends, the file of that name has what was written there."""
        with whole_file(self.place / name, self._state_folder) as temporary:
            yield temporary

    def size(self, name: str) -> int | None:
        """Of a file in bytes; None where there is none."""
        file = self.place / name
        try:
            return file.stat().st_size
        except (FileNotFoundError, NotADirectoryError):
            return None

    def delete(self, name: str) -> None:
        """Delete a file, if it is there."""
        (self.place / name).unlink(missing_ok=True)

    def make(self) -> None:
        """Make the folder and the two in it.

        Raises:
            ValueError: it cannot be made.
        """
        try:
            for folder in ("data", STATE_FOLDER):
                (self.place / folder).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ValueError(
                f"output_dir is {str(self.place)!r}, which cannot be made ({error.strerror or error});"
                " give a directory that you may write to."
            ) from error

    def check_may_write(self) -> None:
        """Nothing: :meth:`make` says what is wrong."""

    def reading(self, request: Callable[[], Result]) -> Result:
        """What the request gives, which reads files here."""
        return request()

    def clear(self) -> None:
        """Remove what killed runs left under temporary names."""
        for leftover in self._state_folder.glob("*.tmp"):
            leftover.unlink(missing_ok=True)


class AddressStore:
    """A folder of a store that fsspec reaches. A store that does not answer is asked again for about a minute.

    Every method raises ``ValueError`` where the account has no right to do it or the bucket is missing, and
    ``OSError`` where the store does not answer at last.

    Args:
        place: the folder.
        pause: called with seconds and what is waited for, while the store does not answer; sleeps, and may say so.
    """

    is_address = True

    def __init__(self, place: "UPath", pause: "Pause"):
        self.place, self.fs, self._pause = place, place.fs, pause

    def held(self, rank: int) -> AbstractContextManager[None]:
        """Nothing is held: there are no locks. Shards tell which settings they were drawn with instead."""
        return nullcontext()

    def children(self, folder: str = "") -> list[str]:
        """Names of files and folders in a folder; none where it is missing. A store may list a new file late."""
        return sorted(self.sizes(folder))

    def sizes(self, folder: str = "") -> dict[str, int]:
        """By name, the size in bytes of what is in a folder, as the store lists it."""

        def listed() -> list[dict[str, Any]]:
            self.fs.invalidate_cache()
            try:
                return self.fs.ls(self._path(folder), detail=True)
            except (FileNotFoundError, NotADirectoryError):
                return []

        entries = self._asked(listed, "listing")
        own = self._path(folder).rstrip("/")
        # some stores keep an empty object for the folder itself
        return {
            name: int(entry.get("size") or 0)
            for entry in entries
            if (name := entry["name"].rstrip("/").rpartition("/")[2]) and entry["name"].rstrip("/") != own
        }

    def read_text(self, name: str) -> str:
        """A file's text, asked for by its name; ``FileNotFoundError`` where there is none."""
        content: Any = self._asked(lambda: self.fs.cat_file(self._path(name)), "reading", missing_is_error=False)
        return content.decode()

    def read_texts(self, names: Iterable[str]) -> dict[str, str]:
        """The texts of those files that are there, many at a time where the store's library can."""
        paths = {self._path(name): name for name in names}
        if not paths:
            return {}
        # `return` and not `omit`, which would take a fault for a missing file
        found = self._asked(lambda: _without_missing(self.fs.cat(list(paths), on_error="return")), "reading")
        by_end = {path.lstrip("/"): name for path, name in paths.items()}
        return {by_end[path.lstrip("/")]: text.decode() for path, text in found.items()}

    def write_text(self, name: str, text: str) -> None:
        """Write or replace a file in one request."""
        self._asked(lambda: self.fs.pipe_file(self._path(name), text.encode()), "writing")

    def create_text(self, name: str, text: str) -> None:
        """Write a file that is not there yet; where one is, it stays. Read it afterwards to see whose it is."""

        def create() -> None:
            try:
                self.fs.pipe_file(self._path(name), text.encode(), mode="create")
            except FileExistsError:
                return
            except (NotImplementedError, TypeError):
                # stores without such a request
                self.fs.pipe_file(self._path(name), text.encode())

        self._asked(create, "writing")

    @contextmanager
    def whole_file(self, name: str) -> Iterator[Path]:
        """A path to write to in the body; when the body ends, the file is sent. It may be there in part if that fails.

        Raises:
            OSError: the store says that it holds another number of bytes than were sent.
        """
        with process_folder() as folder:
            file = folder / Path(name).name
            yield file
            self._asked(lambda: self.fs.put_file(str(file), self._path(name)), "writing")
            sent, there = file.stat().st_size, self.size(name)
            if there != sent:
                raise OSError(f"{self.place} holds {there} bytes of {name!r}, of which {sent} were sent; run again.")

    def size(self, name: str) -> int | None:
        """Of a file in bytes, asked for by its name; None where there is none."""

        def ask() -> int | None:
            self.fs.invalidate_cache()
            try:
                return self.fs.info(self._path(name))["size"]
            except (FileNotFoundError, NotADirectoryError):
                return None

        return self._asked(ask, "reading")

    def delete(self, name: str) -> None:
        """Delete a file, if it is there."""

        def delete() -> None:
            try:
                self.fs.rm_file(self._path(name))
            except FileNotFoundError:
                return

        self._asked(delete, "deleting")

    def make(self) -> None:
        """Make the folder, where the store has folders. A bucket is not made: that is for the user to do."""
        if "file" in _protocols(self.fs):
            for folder in ("data", STATE_FOLDER):
                self._asked(lambda folder=folder: self.fs.makedirs(self._path(folder), exist_ok=True), "writing")

    def check_may_write(self) -> None:
        """Write a small file, read it back and delete it, before anything is drawn.

        Raises:
            ValueError: no credentials, no right to write, or no such bucket.
        """
        self.make()
        # of each process its own, since several may ask at once
        probe = f"{PROBE}-{uuid.uuid4().hex}"
        self.write_text(probe, "ubgen asks whether it may write here\n")
        # one that has ended meanwhile may have cleared it
        with suppress(FileNotFoundError):
            self.read_text(probe)
        self._delete_if_allowed(probe)

    def reading(self, request: Callable[[], Result]) -> Result:
        """What the request gives, which reads files here, once the store answers; it may be called several times."""
        return self._asked(request, "reading")

    def clear(self) -> None:
        """Delete the small files of processes that were killed while they asked whether they may write."""
        for name in self.children(STATE_FOLDER):
            if f"{STATE_FOLDER}/{name}".startswith(f"{PROBE}-"):
                self._delete_if_allowed(f"{STATE_FOLDER}/{name}")

    def _delete_if_allowed(self, name: str) -> None:
        # an account that may add but not delete is enough
        with suppress(ValueError, OSError):
            self.delete(name)

    def _path(self, name: str) -> str:
        return str((self.place / name).path) if name else str(self.place.path)

    def _asked(self, request: Callable[[], Result], what: str, *, missing_is_error: bool = True) -> Result:
        """The request's answer; faults that may pass are waited for, the others are told as the user can mend them."""
        waits = iter(WAITS)
        while True:
            try:
                return request()
            except Exception as error:
                if isinstance(error, _DEFECTS) or (isinstance(error, FileNotFoundError) and not missing_is_error):
                    raise
                told = self._with_reason(error)
                if _is_lasting(told):
                    raise self._refusal(told, what) from error
                wait = next(waits, None)
                if wait is None:
                    raise OSError(
                        f"{what} at {self.place} failed {len(WAITS) + 1} times, the last time with"
                        f" {first_line(told)}; nothing finished is lost: run the same command again later and it"
                        " resumes."
                    ) from error
                why = f"{self.place}, where {what} failed ({first_line(told)})"
            self._pause(wait, why)

    def _with_reason(self, error: Exception) -> Exception:
        """The error, or that of a listing: of one file S3 says only that a request is bad or forbidden."""
        if isinstance(error, PermissionError) or getattr(error, "errno", None) == errno.EINVAL:
            try:
                self.fs.invalidate_cache()
                self.fs.ls(self._path(""))
            except Exception as other:
                if _is_lasting(other) and not isinstance(other, FileNotFoundError):
                    return other
        return error

    def _refusal(self, error: Exception, what: str) -> Exception:
        name = f"output_dir is {str(self.place)!r}"
        if isinstance(error, FileNotFoundError):
            return ValueError(
                f"{name}, whose bucket or repository does not exist ({first_line(error)}); make it first."
            )
        if _is_of_another_time(error):
            return ValueError(
                f"{name}, which refuses requests of this machine's clock ({first_line(error)}); set the clock, and run"
                " again."
            )
        if isinstance(error, PermissionError) or getattr(error, "errno", None) in (errno.EACCES, errno.EPERM):
            return ValueError(
                f"{name}, where {what} is not allowed ({first_line(error)}); use credentials that may list, read and"
                " write."
            )
        if _lacks_credentials(error):
            return ValueError(
                f"{name}, and there are no credentials ({first_line(error)}); set them where the store's library looks"
                " for them, such as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY."
            )
        if isinstance(error, OSError):
            return error
        return ValueError(f"{name}, where {what} failed ({first_line(error)}).")


OutputStore = LocalFolder | AddressStore


def output_store(place: "str | Place", pause: Pause, argument: str = "output_dir") -> OutputStore:
    """What writes to that folder or address; nothing is asked of it yet. See :func:`.places.as_place` for errors."""
    found = as_place(place, argument)
    return LocalFolder(found) if isinstance(found, Path) else AddressStore(found, pause)


def is_of_one_process(store: OutputStore) -> bool:
    """Whether no other process sees what is written there."""
    return isinstance(store, AddressStore) and "memory" in _protocols(store.fs)


def _protocols(fs: Any) -> tuple[str, ...]:
    return (fs.protocol,) if isinstance(fs.protocol, str) else tuple(fs.protocol)


def _without_missing(found: Any) -> dict[str, bytes]:
    kept = {}
    for path, content in found.items():
        if isinstance(content, Exception):
            if not isinstance(content, FileNotFoundError):
                raise content
        else:
            kept[path] = content
    return kept


def _is_lasting(error: Exception) -> bool:
    if _lacks_credentials(error) or isinstance(error, _LASTING):
        return True
    return isinstance(error, OSError) and error.errno in _LASTING_NUMBERS


def _lacks_credentials(error: Exception) -> bool:
    # of the libraries of several stores, none of which needs to be installed
    return "Credential" in type(error).__name__ or "Unauthorized" in type(error).__name__


def _is_of_another_time(error: Exception) -> bool:
    """Whether the request was refused since this machine's clock and the store's differ, as S3 and others tell it."""
    cause = error.__cause__ or error
    return getattr(cause, "response", {}).get("Error", {}).get("Code") == "RequestTimeTooSkewed"
