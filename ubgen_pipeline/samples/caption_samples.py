"""Files of captions with their class words, one image per row, as Dataset Diffusion has them. No torch.

    [{"filename": "0.jpg", "caption": "a baby in a toy car; person car", "class_prompt": "person car"}, …]

JSON (a list, or a list under one key), JSON lines, CSV or TSV. Which names stand in a class prompt is read from the
first list that explains it: the names given, PASCAL VOC's (whose "diningtable" may be a "dining table"), COCO's. Where
none does, parts between commas or semicolons are names, or else single words.
"""

import csv
import hashlib
import io
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from ..prompts.built_in_classes import built_in_entries
from ..prompts.class_prompts import ClassName, ClassPrompt
from ..sample_seeds import sample_seed
from .sample import Sample

_SUFFIXES = (".json", ".jsonl", ".ndjson", ".csv", ".tsv")
_FIELDS = ("caption", "class_prompt")
# how captions write the names that VOC writes in one word
_VOC_SPELLINGS = {"diningtable": "dining table", "pottedplant": "potted plant", "tvmonitor": "tv monitor"}
# a built-in list that explains at least this share of the rows is the file's
_MIN_EXPLAINED = 0.9


@dataclass(frozen=True)
class ShownPrompt(ClassPrompt):
    """A caption with all the classes that it shows.

    ``words`` are their names as they stand in the class prompt, ``labels`` their labels; one may occur twice.
    """

    words: tuple[str, ...] = ()
    labels: tuple[int, ...] = ()
    filename: str | None = None


@dataclass(frozen=True)
class CaptionSamples:
    """The samples of a run over a file of captions, which take turns.

    Attributes:
        classes: all classes, in the order of their labels.
        rows: one per row of the file; ``label`` is that of the row's first class.
        notes: what was left out, one sentence each.
        seed: seed of the run.
        samples_per_class: images of each caption.
    """

    classes: tuple[ClassName, ...]
    rows: tuple[ShownPrompt, ...]
    notes: tuple[str, ...] = ()
    seed: int = 0
    samples_per_class: int = 1
    allows_long_prompts: ClassVar[bool] = False
    attribute_names: ClassVar[tuple[str, ...]] = ()
    model_classes: ClassVar[Mapping[str, str]] = {}

    def __len__(self) -> int:
        return len(self.rows) * self.samples_per_class

    @property
    def turns(self) -> list[int]:
        """Labels of the first samples; sample i has label ``turns[i % len(turns)]``."""
        return [row.label for row in self.rows]

    def sample(self, index: int) -> Sample:
        """The sample of that index in ``range(len(plan))``."""
        number, row = divmod(index, len(self.rows))
        return Sample(index, self.rows[row], sample_seed(self.seed, self.rows[row].key, number))

    def prompts(self) -> list[ShownPrompt]:
        """Every caption."""
        return list(self.rows)

    def facts(self) -> dict[str, Any]:
        """What decides prompts and seeds beside classes and run seed, as JSON values."""
        rows = [[item.prompt, item.words, item.key, item.filename] for item in self.rows]
        return {"captions": hashlib.sha256(json.dumps(rows).encode()).hexdigest()}


def shown_words(prompt: ClassPrompt) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """The names of all classes that a prompt's image shows, as they stand in it, and their labels."""
    if isinstance(prompt, ShownPrompt):
        return prompt.words, prompt.labels
    return (prompt.word or prompt.name,), (prompt.label,)


def load_caption_prompts(source: str | Path, class_names: Sequence[str] | None = None) -> CaptionSamples | None:
    """The file's rows, or None where the source is no file of captions with class words.

    Args:
        source: what ``classes`` names.
        class_names: the names that class prompts consist of; None finds them out.

    Raises:
        ValueError: a row without caption or class prompt, or a class prompt with a word that is no class name.
    """
    rows = _rows(Path(source).expanduser())
    if rows is None:
        return None
    try:
        checked = [_checked(row, number) for number, row in enumerate(rows, 1)]
        spellings = _spellings([row["class_prompt"] for row in checked], class_names)
        prompts, unknown = [], []
        filenames = [row["filename"] for row in checked]
        by_filename = None not in filenames and len(set(filenames)) == len(filenames)
        names = list(dict.fromkeys(spellings.values()))
        for number, row in enumerate(checked, 1):
            words, left = _split(row["class_prompt"], spellings)
            if (left and class_names is not None) or not words:
                raise ValueError(
                    f"row {number} has class_prompt {row['class_prompt']!r}, whose {left or 'text'!r} is none of the"
                    f" {len(names)} class names; correct it, or list the names with class_names."
                )
            unknown += [left] if left else []
            labels = tuple(names.index(spellings[word.lower()]) for word in words)
            key = row["filename"] if by_filename else f"row {number}"
            prompts.append(
                ShownPrompt(
                    labels[0],
                    names[labels[0]],
                    row["caption"],
                    str(key),
                    words=tuple(words),
                    labels=labels,
                    filename=row["filename"],
                )
            )
    except ValueError as error:
        raise ValueError(f"classes is {str(source)!r}: {error}") from error
    notes = ()
    if unknown:
        notes = (f"{len(unknown)} rows name something that is no class, such as {unknown[0]!r}; it gets no mask.",)
    classes = tuple(ClassName(name) for name in names)
    return CaptionSamples(classes, tuple(prompts), notes)


def _rows(file: Path) -> list[Any] | None:
    """The rows of a file of captions; None for any other file."""
    if file.suffix.lower() not in _SUFFIXES or not file.is_file():
        return None
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"classes is {str(file)!r}, which could not be read: {error}") from error
    suffix = file.suffix.lower()
    try:
        if suffix == ".json":
            rows = json.loads(text)
            if isinstance(rows, Mapping) and len(rows) == 1:
                rows = next(iter(rows.values()))
        elif suffix in (".csv", ".tsv"):
            rows = list(csv.DictReader(io.StringIO(text, newline=""), delimiter="\t" if suffix == ".tsv" else ","))
        else:
            rows = [json.loads(line) for line in text.split("\n") if line.strip()]
    except (csv.Error, json.JSONDecodeError) as error:
        if suffix in (".jsonl", ".ndjson"):
            raise ValueError(f"classes is {str(file)!r}, which could not be read: {error}") from error
        # the reader of class lists says what is wrong
        return None
    if not isinstance(rows, list) or not rows:
        return None
    if any(isinstance(row, Mapping) and all(field in row for field in _FIELDS) for row in rows):
        return rows
    return None


def _checked(row: Any, number: int) -> dict[str, Any]:
    if not isinstance(row, Mapping):
        raise ValueError(f"row {number} is {row!r}; give it a caption and a class_prompt.")
    for field in _FIELDS:
        if not isinstance(row.get(field), str) or not row[field].strip():
            raise ValueError(f"row {number} has {field} {row.get(field)!r}; give a text.")
    # spaces and line ends are no part of a prompt; control characters would break cards and files
    texts = {field: " ".join(re.sub(r"[\x00-\x1f\x7f]", " ", row[field]).split()) for field in _FIELDS}
    return {**texts, "filename": None if row.get("filename") is None else str(row["filename"])}


def _spellings(class_prompts: Sequence[str], class_names: Sequence[str] | None) -> dict[str, str]:
    """The class's name by each of its spellings in lower case, in the order of the labels."""
    if class_names is not None:
        return {name.lower(): name for name in class_names} | _voc_spellings(class_names)
    for built_in in ("voc", "coco"):
        names = [name for name, _, _ in built_in_entries(built_in)]
        spellings = {name.lower(): name for name in names} | _voc_spellings(names)
        explained = sum(not _split(text, spellings)[1] for text in class_prompts)
        if explained >= _MIN_EXPLAINED * len(class_prompts):
            return spellings
    if any(mark in text for text in class_prompts for mark in ",;"):
        parts = [part.strip() for text in class_prompts for part in re.split("[,;]", text)]
    else:
        parts = [word for text in class_prompts for word in text.split()]
    return {part.lower(): part for part in dict.fromkeys(part for part in parts if part)}


def _voc_spellings(names: Sequence[str]) -> dict[str, str]:
    return {text: name for name, text in _VOC_SPELLINGS.items() if name in names}


def _split(class_prompt: str, spellings: Mapping[str, str]) -> tuple[list[str], str]:
    """The names in a class prompt from left to right, longest first, and the first word that is none."""
    longest_first = sorted(spellings, key=len, reverse=True)
    pattern = re.compile(rf"(?:{'|'.join(map(re.escape, longest_first))})(?!\w)", re.IGNORECASE)
    words, unknown, place = [], "", 0
    while place < len(class_prompt):
        if (gap := re.compile(r"[\s,;.]+").match(class_prompt, place)) is not None:
            place = gap.end()
            continue
        match = pattern.match(class_prompt, place)
        if match is not None:
            words.append(match.group())
            place = match.end()
            continue
        rest = re.compile(r"[^\s,;]+").match(class_prompt, place)
        assert rest is not None
        unknown = unknown or rest.group()
        place = rest.end()
    return words, unknown
