"""A dataset folder written shard by shard, so that it can be stopped anywhere and resumed. Only this module resumes.

    data/train-KKKKK-of-NNNNN.parquet    rows of one contiguous range of sample indices
    .ubgen/manifest.json                 the settings that a resume must match, and their hash
    .ubgen/shard-KKKKK.json              written last: the shard's statistics (its batch size among them), and the
                                         mark that it is complete
    .ubgen/rank-R.log                    what libraries said while a command wrote here, where they said anything
    README.md                            the dataset card, written when all shards are there

Every file is whole or not there (``files/whole_files.py``); temporary ones lie in ``.ubgen``, where ``datasets`` does
not look.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..commands.library_log import log_into
from ..files.folder_lock import STATE_FOLDER
from ..files.whole_files import whole_file, write_whole_text
from ..models.fingerprints import in_earlier_words, is_earlier

# what file systems, file managers and git leave in a folder that is otherwise empty
_OF_THE_SYSTEM = {"lost+found", ".DS_Store", "Thumbs.db", "desktop.ini", ".git", ".gitattributes", ".gitignore"}


@dataclass(frozen=True)
class Shard:
    """Number of a shard and its sample indices, ``start`` to ``stop`` exclusive."""

    number: int
    start: int
    stop: int


class DatasetShards:
    """The shards of one dataset folder, and which of them are complete.

    Args:
        folder: the dataset's folder; created with the first write.
        manifest: settings (JSON values) that decide the content; a resume must match each.
        num_samples: rows of the whole dataset.
        samples_per_shard: rows of each shard but the last.
    """

    def __init__(self, folder: Path | str, manifest: Mapping[str, Any], num_samples: int, samples_per_shard: int):
        self.folder = Path(folder).expanduser()
        self.manifest = json.loads(json.dumps(manifest))
        starts = range(0, num_samples, samples_per_shard)
        self.shards = [
            Shard(number, start, min(start + samples_per_shard, num_samples)) for number, start in enumerate(starts)
        ]
        self._state_folder = self.folder / STATE_FOLDER
        self._manifest_file = self._state_folder / "manifest.json"

    def settle(self, manifest: Mapping[str, Any]) -> None:
        """Take these settings instead, where they were not all known before."""
        self.manifest = json.loads(json.dumps(manifest))

    def check(self) -> None:
        """Raise ``ValueError`` unless the folder is new, empty, or holds this very dataset; nothing is written."""
        if self.folder.exists() and not self.folder.is_dir():
            raise ValueError(f"output_dir is {str(self.folder)!r}, which is a file; give a directory.")
        if not self._manifest_file.exists():
            data = self.folder / "data"
            others = [item.name for item in _children(self.folder) if item.name not in (STATE_FOLDER, "data")]
            others += [item.name for item in _children(data)]
            others = [name for name in others if name not in _OF_THE_SYSTEM]
            if others:
                raise ValueError(
                    f"output_dir is {str(self.folder)!r}, which holds something else ({sorted(others)[0]!r});"
                    " give an empty or new directory."
                )
            return
        try:
            found = json.loads(self._manifest_file.read_text(encoding="utf-8"))["settings"]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{str(self._manifest_file)!r} is no manifest; give an empty or new directory."
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
        try:
            (self.folder / "data").mkdir(parents=True, exist_ok=True)
            self._state_folder.mkdir(exist_ok=True)
        except OSError as error:
            raise ValueError(
                f"output_dir is {str(self.folder)!r}, which cannot be made ({error.strerror or error});"
                " give a directory that you may write to."
            ) from error
        if not self._manifest_file.exists():
            self._write_text(self._manifest_file, self.manifest_text())
        log_into(self._manifest_file.parent)

    def file(self, shard: Shard) -> Path:
        """The shard's parquet file."""
        return self.folder / "data" / f"train-{shard.number:05d}-of-{len(self.shards):05d}.parquet"

    def is_complete(self, shard: Shard) -> bool:
        """Whether the shard was committed, with a parquet file of the size it had then."""
        try:
            return self.file(shard).stat().st_size == self._statistics(shard)["num_bytes"]
        except (FileNotFoundError, NotADirectoryError):
            return False

    def num_bytes(self) -> int:
        """Size of the shards' files that are here."""
        files = map(self.file, self.shards)
        return sum(file.stat().st_size for file in files if file.is_file())

    def missing(self) -> list[Shard]:
        """The shards still to be written."""
        return [shard for shard in self.shards if not self.is_complete(shard)]

    def is_finished(self) -> bool:
        """Whether all shards and the card are there."""
        return (self.folder / "README.md").is_file() and not self.missing()

    def begun_with(self) -> dict[str, Any] | None:
        """The manifest's settings; None where the folder has none yet, or none that can be read."""
        return self._recorded().get("settings")

    def lowered_batch_size(self) -> int | None:
        """The batch size that the memory turned out to be enough for; None where the first one was."""
        return self._recorded().get("lowered_batch_size")

    def lower_batch_size(self, batch_size: int) -> None:
        """Note beside the settings that the shards still to come are drawn with a smaller batch."""
        content = {**self._recorded(), "lowered_batch_size": batch_size}
        self._write_text(self._manifest_file, json.dumps(content, indent=2) + "\n")

    def own_batch_size(self, shard: Shard) -> int | None:
        """The batch size of a complete shard here that was drawn with another one than the settings'; else None."""
        try:
            size = self._statistics(shard).get("batch_size")
        except FileNotFoundError:
            return None
        return size if size != self.manifest.get("batch_size") else None

    def _statistics(self, shard: Shard) -> dict[str, Any]:
        """What the shard's mark says.

        Raises:
            FileNotFoundError: the shard is not complete.
            ValueError: the mark is damaged, as a copy that was cut short leaves it.
        """
        mark = self._mark(shard)
        try:
            statistics = json.loads(mark.read_text(encoding="utf-8"))
            int(statistics["num_bytes"])
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{str(mark)!r} is damaged; delete it, and the same command draws that shard again."
            ) from error
        return statistics

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
        from datasets.arrow_writer import ParquetWriter

        num_rows = 0
        # not beside the shards, where `datasets` would take it for one
        with whole_file(self.file(shard), self._state_folder) as temporary, open(temporary, "wb") as stream:
            writer = ParquetWriter(stream=stream, features=features)
            for row in rows:
                writer.write(dict(row))
                num_rows += 1
            writer.finalize(close_stream=False)
        if num_rows != shard.stop - shard.start:
            raise RuntimeError(f"shard {shard.number} got {num_rows} rows for {shard.stop - shard.start} samples")
        digest = hashlib.sha256(self.file(shard).read_bytes()).hexdigest()
        mark = {
            **(statistics or {}),
            "start": shard.start,
            "stop": shard.stop,
            "num_rows": num_rows,
            "num_bytes": self.file(shard).stat().st_size,
            "sha256": digest,
        }
        self._write_text(self._mark(shard), json.dumps(mark, indent=2) + "\n")

    def discard(self, shard: Shard) -> None:
        """Delete a shard's file, and before it the mark, so that a kill in between leaves nothing that looks whole."""
        self._mark(shard).unlink(missing_ok=True)
        self.file(shard).unlink(missing_ok=True)

    def finish(self, card: str) -> None:
        """Write the card, as the last file, and clear what killed runs left under temporary names."""
        for leftover in self._state_folder.glob("*.tmp"):
            leftover.unlink(missing_ok=True)
        self._write_text(self.folder / "README.md", card)

    def write_report(self, name: str, text: str) -> None:
        """Write a file of that name beside the card."""
        self._write_text(self.folder / name, text)

    def _recorded(self) -> dict[str, Any]:
        try:
            content = json.loads(self._manifest_file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return content if isinstance(content, dict) else {}

    def _mark(self, shard: Shard) -> Path:
        return self._state_folder / f"shard-{shard.number:05d}.json"

    def _write_text(self, file: Path, text: str) -> None:
        write_whole_text(file, text, self._state_folder)


def open_dataset(folder: str | Path) -> DatasetShards:
    """The finished dataset in a folder, as its manifest describes it.

    Raises:
        ValueError: none is there, or it is not finished.
    """
    folder = Path(folder).expanduser()
    try:
        manifest = json.loads((folder / STATE_FOLDER / "manifest.json").read_text(encoding="utf-8"))["settings"]
        shards = DatasetShards(folder, manifest, manifest["num_samples"], manifest["samples_per_shard"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"folder is {str(folder)!r}, which holds no dataset that ubgen generate has made.") from error
    if not shards.is_finished():
        raise ValueError(
            f"folder is {str(folder)!r}, of whose {len(shards.shards)} shards {len(shards.missing())} are missing;"
            " run ubgen generate with the same settings again to finish it."
        )
    return shards


def settings_hash(settings: Mapping[str, Any]) -> str:
    """SHA-256 of the settings as canonical JSON."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def _children(folder: Path) -> list[Path]:
    return list(folder.iterdir()) if folder.is_dir() else []


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
