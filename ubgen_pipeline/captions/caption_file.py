"""The file that captions end in, and the one beside it that a stopped run goes on from.

captions.yaml         templates of each class, written when all captions are there; a person may edit it
captions.yaml.part    before that: the run's settings, then a line of JSON for each batch of answers
"""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import yaml

from ..files.whole_files import append_line, write_whole_text
from ..prompts.class_entries import ClassName
from ..prompts.file_values import read_mapping
from ..prompts.template_files import WRITTEN_BY
from .caption_checks import Answer, Caption, plural_words, template_of

SUFFIXES = (".yaml", ".yml", ".json")
# of what a folder with a language model holds, what the answers depend on
_MODEL_SUFFIXES = (".safetensors", ".json", ".jinja", ".model", ".txt", ".py")


class CaptionFile:
    """Where captions go.

    Args:
        path: of the finished file; its suffix is one of :data:`SUFFIXES`.
        settings: what its captions depend on, as JSON values; the file keeps them.
        environment: what else decides on the answers: versions and the device. Only a run that goes on must have the
            same.

    Raises:
        ValueError: a path that is a folder, or has another suffix.
    """

    def __init__(self, path: str | Path, settings: Mapping[str, Any], environment: Mapping[str, Any]):
        self.path = Path(path).expanduser()
        if self.path.suffix.lower() not in SUFFIXES:
            raise ValueError(f"output is {str(path)!r}; give a file whose name ends with {', '.join(SUFFIXES)}.")
        if self.path.is_dir():
            raise ValueError(f"output is {str(path)!r}, which is a folder; give a file.")
        self.part = self.path.with_name(f"{self.path.name}.part")
        self.settings, self.environment = dict(settings), dict(environment)

    def is_finished(self) -> bool:
        """Whether the file is there, written with these settings; a person's changes to it stay.

        Raises:
            ValueError: it is another file.
        """
        if not self.path.exists():
            return False
        kept = (read_mapping(self.path, "output") or {}).get(WRITTEN_BY)
        if not isinstance(kept, Mapping):
            raise ValueError(f"output is {str(self.path)!r}, which this command did not write; give another name.")
        _check_same(self.path, kept, self.settings, "give another name, or remove the file to write it anew")
        return True

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the file against a second run.

        Raises:
            ValueError: another run is writing it.
        """
        from filelock import FileLock, Timeout

        self.path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.path.with_name(f".{self.path.name}.lock"), timeout=1)
        try:
            lock.acquire()
        except Timeout:
            raise ValueError(
                f"output is {str(self.path)!r}, which another run is writing; wait until it ends, or give another"
                " name."
            ) from None
        try:
            yield
        finally:
            with suppress(OSError):
                os.unlink(lock.lock_file)
            lock.release()

    def begun(self) -> list[list[Answer]]:
        """The batches of answers that an earlier run left, after its settings were compared; a torn line is cut off.

        Raises:
            ValueError: it was begun with other settings, or by other versions.
        """
        try:
            data = self.part.read_bytes()
        except FileNotFoundError:
            data = b""
        whole = data[: data.rfind(b"\n") + 1]
        lines = whole.decode("utf-8").splitlines()
        if len(lines) < 2:
            # nothing was kept yet, as where the model could not be loaded
            write_whole_text(self.part, json.dumps(self._head()) + "\n")
            return []
        try:
            head, *batches = [json.loads(line) for line in lines]
            answers = [[Answer(str(text), bool(is_whole)) for text, is_whole in batch] for batch in batches]
        except (ValueError, TypeError) as error:
            raise ValueError(f"{str(self.part)!r} is damaged; remove it to begin anew.") from error
        _check_same(self.part, head, self._head(), "give it again to go on, or remove the file to begin anew")
        if len(whole) < len(data):
            with open(self.part, "r+b") as stream:
                stream.truncate(len(whole))
        return answers

    def settings_begun(self) -> dict[str, Any]:
        """The settings of the run that was stopped, or of the finished file; empty where there is neither."""
        with suppress(OSError, ValueError):
            if self.path.exists():
                return dict((read_mapping(self.path, "output") or {}).get(WRITTEN_BY) or {})
            with open(self.part, encoding="utf-8") as stream:
                return dict(json.loads(stream.readline()))
        return {}

    def keep(self, answers: Sequence[Answer]) -> None:
        """Write a batch of answers to the disk."""
        append_line(self.part, json.dumps([[answer.text, answer.is_whole] for answer in answers]))

    def finish(self, captions: Sequence[tuple[ClassName, Sequence[Caption]]]) -> None:
        """Write the file whole, and remove the one beside it."""
        names = Counter(item.name for item, _ in captions)
        data = {
            "classes": [class_entry(item, own) for item, own in captions],
            "templates": {
                (item.name if names[item.name] == 1 else item.key): [template_of(caption, item) for caption in own]
                for item, own in captions
            },
            # captions are plain text: what looks like a weight in them is none
            "weights": False,
            WRITTEN_BY: self.settings,
        }
        self.write(data)
        self.part.unlink(missing_ok=True)

    def write(self, data: Mapping[str, Any]) -> None:
        """Write the file whole, as YAML or JSON."""
        if self.path.suffix.lower() == ".json":
            text = json.dumps(data, indent=1, ensure_ascii=False) + "\n"
        else:
            text = yaml.safe_dump(dict(data), sort_keys=False, allow_unicode=True, width=10**6)
        write_whole_text(self.path, text)

    def _head(self) -> dict[str, Any]:
        return {**self.settings, **self.environment}


def digest_of(classes: Sequence[ClassName]) -> str:
    """SHA-256 of the classes, in order, with all that is known of them."""
    listed = [[item.name, item.class_id, item.definition, *item.synonyms] for item in classes]
    return hashlib.sha256(json.dumps(listed).encode()).hexdigest()


def digest_of_model(name: str) -> str | None:
    """SHA-256 of a language model's folder: weights, settings, tokenizer and chat template; None for a Hub id."""
    folder = Path(name)
    if not folder.is_dir():
        return None
    digest = hashlib.sha256()
    for file in sorted(file for file in folder.iterdir() if file.suffix in _MODEL_SUFFIXES and file.is_file()):
        with open(file, "rb") as stream:
            digest.update(f"{file.name}\0{hashlib.file_digest(stream, 'sha256').hexdigest()}\0".encode())
    return digest.hexdigest()


def class_entry(item: ClassName, captions: Sequence[Caption] = ()) -> dict[str, Any]:
    """A class as a file with templates names it; plurals in its captions are synonyms."""
    synonyms = [*item.synonyms, *plural_words(captions, item)]
    entry = {"name": item.name, "id": item.class_id, "definition": item.definition, "synonyms": synonyms}
    return {key: value for key, value in entry.items() if value}


def _check_same(file: Path, kept: Any, wanted: Mapping[str, Any], what_to_do: str) -> None:
    kept = kept if isinstance(kept, Mapping) else {}
    different = [name for name in {**wanted, **kept} if kept.get(name) != wanted.get(name)]
    if different:
        name = different[0]
        raise ValueError(
            f"{str(file)!r} was written with {name} {kept.get(name)!r}, not {wanted.get(name)!r}; {what_to_do}."
        )
