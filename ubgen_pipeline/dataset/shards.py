"""A dataset written shard by shard, so that it can be stopped anywhere and resumed. Only this module resumes.

    data/train-KKKKK-of-NNNNN.parquet    rows of one contiguous range of sample indices
    .ubgen/manifest.json                 the settings that a resume must match, and their hash
    .ubgen/shard-KKKKK.json              written last: the shard's statistics (its batch size among them), and the
                                         mark that it is complete
    .ubgen/rank-R.log                    what libraries said while a command wrote here, where they said anything
    README.md                            the dataset card, written when all shards are there

In a local folder every file is whole or not there (``files/whole_files.py``); temporary ones lie in ``.ubgen``, where
``datasets`` does not look. At an address (``files/output_store.py``) a parquet file counts once its mark is there,
tells its size, and names the settings of the manifest. A store may list a file late: what a listing lacks is asked for
by its name before it is drawn again.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from ..commands.console import pause
from ..commands.library_log import log_into
from ..files.folder_lock import STATE_FOLDER
from ..files.output_store import AddressStore, output_store
from ..files.places import Place, as_place
from ..models.fingerprints import in_earlier_words, is_earlier
from .shard_file import write_rows

Result = TypeVar("Result")

MANIFEST = f"{STATE_FOLDER}/manifest.json"
CARD = "README.md"
# what file systems, file managers and git leave in a folder that is otherwise empty
_OF_THE_SYSTEM = {"lost+found", ".DS_Store", "Thumbs.db", "desktop.ini", ".git", ".gitattributes", ".gitignore"}


@dataclass(frozen=True)
class Shard:
    """Number of a shard and its sample indices, ``start`` to ``stop`` exclusive."""

    number: int
    start: int
    stop: int


class DatasetShards:
    """The shards of one dataset, and which of them are complete.

    Args:
        folder: the dataset's folder, or an address that fsspec knows; created with the first write.
        manifest: settings (JSON values) that decide the content; a resume must match each.
        num_samples: rows of the whole dataset.
        samples_per_shard: rows of each shard but the last.
    """

    def __init__(self, folder: Place | str, manifest: Mapping[str, Any], num_samples: int, samples_per_shard: int):
        self.store = output_store(folder, pause)
        self.folder = self.store.place
        self.manifest = json.loads(json.dumps(manifest))
        starts = range(0, num_samples, samples_per_shard)
        self.shards = [
            Shard(number, start, min(start + samples_per_shard, num_samples)) for number, start in enumerate(starts)
        ]
        # at an address, what the marks say that were read once: they do not change
        self._known: dict[int, dict[str, Any]] = {}
        # at an address, whether marks were asked for by their names, since a listing can be late
        self._asked_by_name = False

    def settle(self, manifest: Mapping[str, Any]) -> None:
        """Take these settings instead, where they were not all known before."""
        self.manifest = json.loads(json.dumps(manifest))

    def check(self) -> None:
        """Raise ``ValueError`` unless the folder is new, empty, or holds this very dataset; nothing is written."""
        if isinstance(self.folder, Path) and self.folder.exists() and not self.folder.is_dir():
            raise ValueError(f"output_dir is {str(self.folder)!r}, which is a file; give a directory.")
        text = self._text(MANIFEST)
        if text is None:
            others = [name for name in self.store.children() if name not in (STATE_FOLDER, "data")]
            others += self.store.children("data")
            others = [name for name in others if name not in _OF_THE_SYSTEM]
            if others:
                raise ValueError(
                    f"output_dir is {str(self.folder)!r}, which holds something else ({sorted(others)[0]!r});"
                    " give an empty or new directory."
                )
            return
        try:
            found = json.loads(text)["settings"]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{str(self.folder / MANIFEST)!r} is no manifest; give an empty or new directory."
            ) from error
        if not self.accepts(found):
            raise ValueError(self.difference(found, f"output_dir is {str(self.folder)!r}"))

    def accepts(self, found: Mapping[str, Any]) -> bool:
        """Whether a dataset with those settings in its manifest is this one.

        Where an earlier version hashed the models in another way, its hashes of the same files are taken over.
        """
        made = in_earlier_words(self.manifest, found)
        if settings_hash(found) != settings_hash(made):
            return False
        self.manifest = made
        return True

    def difference(self, found: Mapping[str, Any], place: str) -> str:
        """The message that names the first setting of the manifest ``found`` at ``place`` that differs from this."""
        made = in_earlier_words(self.manifest, found)
        for name in sorted(set(found) | set(made)):
            there, here = found.get(name, "not set"), made.get(name, "not set")
            if there != here:
                break
        if isinstance(there, dict) and isinstance(here, dict):
            # of many entries, such as the versions of libraries, the one that differs
            entry = next(key for key in sorted({*there, *here}) if there.get(key) != here.get(key))
            name, there, here = f"{name}[{entry!r}]", there.get(entry, "not set"), here.get(entry, "not set")
        earlier = " (as ubgen 0.1 hashed it, with the names of all its files)" if is_earlier(there) else ""
        return (
            f"{place}, a dataset made with other settings: {name} was {_short(there)} there{earlier} and is"
            f" {_short(here)} now; use that value to resume, or give another place."
        )

    def manifest_text(self, batch_sizes: Mapping[int, int] | None = None) -> str:
        """Content of the manifest file, with the batch sizes by shard number that are not the settings' own."""
        content: dict[str, Any] = {"hash": settings_hash(self.manifest), "settings": self.manifest}
        if batch_sizes:
            content["lowered_batch_size"] = min(batch_sizes.values())
            content["batch_sizes"] = {str(number): size for number, size in sorted(batch_sizes.items())}
        return json.dumps(content, indent=2) + "\n"

    def open(self) -> None:
        """Create the folder and its manifest where they are missing."""
        self.check()
        self.store.make()
        if self._text(MANIFEST) is None:
            self.store.create_text(MANIFEST, self.manifest_text())
            if self.store.is_address:
                # of two runs that begin there at once, one has written it
                self.check()
        if isinstance(self.folder, Path):
            log_into(self.folder / STATE_FOLDER)

    def check_may_write(self) -> None:
        """Raise ``ValueError`` where an address cannot be written, before anything is drawn; a small file is tried."""
        self.store.check_may_write()

    def file(self, shard: Shard) -> Place:
        """The shard's parquet file."""
        return self.folder / self._data(shard)

    def is_complete(self, shard: Shard) -> bool:
        """Whether the shard was committed, with a parquet file of the size it had then."""
        if isinstance(self.store, AddressStore):
            self._learn([shard])
            told = self._known.get(shard.number, {}).get("num_bytes")
            return told is not None and self.store.size(self._data(shard)) == told
        size = self.store.size(self._data(shard))
        try:
            return size is not None and size == self._statistics(shard)["num_bytes"]
        except (FileNotFoundError, NotADirectoryError):
            return False

    def num_bytes(self) -> int:
        """Size of the shards' files that are here."""
        if isinstance(self.store, AddressStore):
            # a listing can lack the last ones, and the marks tell, too
            return sum(statistics["num_bytes"] for statistics in self._known.values())
        return sum(self.store.size(self._data(shard)) or 0 for shard in self.shards)

    def missing(self) -> list[Shard]:
        """The shards still to be written."""
        if not isinstance(self.store, AddressStore):
            return [shard for shard in self.shards if not self.is_complete(shard)]
        marks = set(self.store.children(STATE_FOLDER))
        begun = "manifest.json" in marks or self._text(MANIFEST) is not None
        # once by name, since the listing may be late; later calls wait until it has them
        by_name, self._asked_by_name = begun and not self._asked_by_name, True
        self._learn([shard for shard in self.shards if by_name or f"shard-{shard.number:05d}.json" in marks])
        sizes = self.store.sizes("data") if self._known else {}
        missing = []
        for shard in self.shards:
            told = self._known.get(shard.number, {}).get("num_bytes")
            name = self._data(shard)
            if told is None or (sizes.get(self.file(shard).name) != told and self.store.size(name) != told):
                missing.append(shard)
        return missing

    def is_finished(self) -> bool:
        """Whether all shards and the card are there."""
        return self.store.size(CARD) is not None and not self.missing()

    def begun_with(self) -> dict[str, Any] | None:
        """The manifest's settings; None where the folder has none yet, or none that can be read."""
        return self._recorded().get("settings")

    def lowered_batch_size(self) -> int | None:
        """The batch size that the memory turned out to be enough for; None where the first one was."""
        return self._recorded().get("lowered_batch_size")

    def lower_batch_size(self, batch_size: int) -> None:
        """Note beside the settings that the shards still to come are drawn with a smaller batch."""
        content = {**self._recorded(), "lowered_batch_size": batch_size}
        self.store.write_text(MANIFEST, json.dumps(content, indent=2) + "\n")

    def own_batch_size(self, shard: Shard) -> int | None:
        """The batch size of a complete shard here that was drawn with another one than the settings'; else None."""
        try:
            size = self._statistics(shard).get("batch_size")
        except (FileNotFoundError, NotADirectoryError):
            return None
        return size if size != self.manifest.get("batch_size") else None

    def _statistics(self, shard: Shard) -> dict[str, Any]:
        """What the shard's mark says.

        Raises:
            FileNotFoundError: the shard is not complete.
            ValueError: the mark is damaged, as a copy that was cut short leaves it.
        """
        text = self.store.read_text(self._mark(shard))
        try:
            return _statistics_in(text)
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{str(self.folder / self._mark(shard))!r} is damaged; delete it, and the same command draws that"
                " shard again."
            ) from error

    def _learn(self, shards: Sequence[Shard]) -> None:
        """Read the marks at an address that are not known yet; one of other settings, or in part, does not count."""
        assert isinstance(self.store, AddressStore)
        marks = {self._mark(shard): shard.number for shard in shards if shard.number not in self._known}
        # a reader that knows no settings takes those of the manifest
        settings = settings_hash(self.manifest or self.begun_with() or {}) if marks else ""
        for name, text in self.store.read_texts(marks).items():
            try:
                statistics = _statistics_in(text)
            except (ValueError, KeyError, TypeError):
                continue
            if statistics.get("settings") == settings:
                self._known[marks[name]] = statistics

    def write(
        self,
        shard: Shard,
        rows: Iterable[Mapping[str, Any]],
        features: Any,
        statistics: Mapping[str, Any] | None = None,
    ) -> None:
        """Write the rows of a shard and commit it. On any failure nothing of it is left.

        Args:
            shard: one of ``shards``.
            rows: its rows in index order, as dictionaries of the features' columns.
            features: ``datasets.Features``.
            statistics: further JSON values for the shard's mark.
        """
        # not beside the shards, where `datasets` would take it for one
        with self.store.whole_file(self._data(shard)) as temporary:
            num_rows = write_rows(temporary, rows, features)
            mark = {
                **(statistics or {}),
                "start": shard.start,
                "stop": shard.stop,
                "num_rows": num_rows,
                "num_bytes": temporary.stat().st_size,
                "sha256": hashlib.sha256(temporary.read_bytes()).hexdigest(),
            }
            if num_rows == shard.stop - shard.start and self.store.is_address:
                # of runs with other settings that began at the same moment, one goes on
                self.check()
                mark["settings"] = settings_hash(self.manifest)
            if num_rows != shard.stop - shard.start:
                raise RuntimeError(f"shard {shard.number} got {num_rows} rows for {shard.stop - shard.start} samples")
        self.store.write_text(self._mark(shard), json.dumps(mark, indent=2) + "\n")
        if self.store.is_address:
            self._known[shard.number] = mark

    def discard(self, shard: Shard) -> None:
        """Delete a shard's file, and before it the mark, so that a kill in between leaves nothing that looks whole."""
        self._known.pop(shard.number, None)
        self.store.delete(self._mark(shard))
        self.store.delete(self._data(shard))

    def finish(self, card: str) -> None:
        """Write the card, as the last file, and clear what killed runs left under temporary names."""
        self.store.clear()
        self.store.write_text(CARD, card)

    def write_report(self, name: str, text: str) -> None:
        """Write a file of that name beside the card."""
        self.store.write_text(name, text)

    def report(self, name: str) -> str | None:
        """The text of a file of that name beside the card; None where there is none."""
        return self._text(name)

    def is_here(self, shard: Shard) -> bool:
        """Whether there is a parquet file of the shard, complete or not."""
        return shard.number in self._known or self.store.size(self._data(shard)) is not None

    def reading(self, request: Callable[[], Result]) -> Result:
        """What the request gives, which reads the shards' files; a store that does not answer is waited for."""
        return self.store.reading(request)

    def _recorded(self) -> dict[str, Any]:
        try:
            content = json.loads(self._text(MANIFEST) or "{}")
        # a store that refuses or does not answer is no new dataset
        except (json.JSONDecodeError, UnicodeDecodeError):
            return {}
        return content if isinstance(content, dict) else {}

    def _text(self, name: str) -> str | None:
        """A file's text; None where there is none."""
        try:
            return self.store.read_text(name)
        except (FileNotFoundError, NotADirectoryError):
            return None

    def _data(self, shard: Shard) -> str:
        return f"data/train-{shard.number:05d}-of-{len(self.shards):05d}.parquet"

    def _mark(self, shard: Shard) -> str:
        return f"{STATE_FOLDER}/shard-{shard.number:05d}.json"


def open_dataset(folder: str | Place) -> DatasetShards:
    """The finished dataset in a folder or at an address, as its manifest describes it.

    Raises:
        ValueError: none is there, or it is not finished.
    """
    folder = as_place(folder)
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["settings"]
        num_samples = manifest["num_samples"] if "num_samples" in manifest else _marked_samples(folder, manifest)
        shards = DatasetShards(folder, manifest, num_samples, manifest["samples_per_shard"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"folder is {str(folder)!r}, which holds no dataset that ubgen has made.") from error
    if not shards.is_finished():
        raise ValueError(
            f"folder is {str(folder)!r}, of whose {len(shards.shards)} shards {len(shards.missing())} are missing;"
            " run ubgen generate with the same settings again to finish it."
        )
    return shards


def _marked_samples(folder: Place, manifest: Mapping[str, Any]) -> int:
    """Rows of a dataset whose manifest does not tell them, as those of ``ubgen annotate``, by its last shard's mark.

    Raises:
        ValueError: no shard is there.
    """
    files = sorted((folder / "data").glob("train-*-of-*.parquet"), key=str)
    if not files:
        raise ValueError("no shards")
    num_shards = int(files[0].stem.rpartition("-of-")[2])
    try:
        mark = (folder / STATE_FOLDER / f"shard-{num_shards - 1:05d}.json").read_text(encoding="utf-8")
    # the last shard is missing, which is all that is to be known
    except FileNotFoundError:
        return num_shards * manifest["samples_per_shard"]
    return json.loads(mark)["stop"]


def settings_hash(settings: Mapping[str, Any]) -> str:
    """SHA-256 of the settings as canonical JSON."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def _statistics_in(mark: str) -> dict[str, Any]:
    """What a mark's text says; one of the errors of reading where it is damaged."""
    statistics = json.loads(mark)
    int(statistics["num_bytes"])
    return statistics


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
