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
from ..prompts.class_entries import plain_key
from ..prompts.class_file import ClassFile, read_class_file
from ..prompts.class_prompts import ClassName, ClassPrompt
from ..sample_seeds import sample_seed
from .sample import Sample, SampleInputs

_SUFFIXES = (".json", ".jsonl", ".ndjson", ".csv", ".tsv")
_FIELDS = ("caption", "class_prompt")
# what may part a table's cells, whatever its suffix says
_DELIMITERS = ",;\t|"
# names that VOC writes in one word, and how captions write them
_VOC_SPELLINGS = {"diningtable": "dining table", "pottedplant": "potted plant", "tvmonitor": "tv monitor"}
# a built-in list counts as the file's if it explains at least this share of the rows
_MIN_EXPLAINED = 0.9


@dataclass(frozen=True)
class CaptionPrompt(ClassPrompt):
    """A caption with all the classes that it shows.

    ``words`` are their names as they stand in the class prompt, ``labels`` their labels; one may occur twice.
    """

    words: tuple[str, ...] = ()
    labels: tuple[int, ...] = ()
    filename: str | None = None
    is_cut_to_fit: ClassVar[bool] = True

    @property
    def shown_words(self) -> tuple[str, ...]:
        """See :class:`.ClassPrompt`."""
        return self.words

    @property
    def shown_labels(self) -> tuple[int, ...]:
        """See :class:`.ClassPrompt`."""
        return self.labels


@dataclass(frozen=True)
class CaptionSamples:
    """Samples whose prompts are the captions of a file, which take turns.

    Attributes:
        classes: all classes, in the order of their labels.
        rows: one per row of the file; ``label`` is that of the row's first class.
        notes: what was left out, one sentence each.
        seed: seed of the run.
        samples_per_class: images of each caption.
    """

    classes: tuple[ClassName, ...]
    rows: tuple[CaptionPrompt, ...]
    notes: tuple[str, ...] = ()
    seed: int = 0
    samples_per_class: int = 1

    def __len__(self) -> int:
        return len(self.rows) * self.samples_per_class

    @property
    def turns(self) -> list[int]:
        """See :class:`.Samples`."""
        return [row.label for row in self.rows]

    @property
    def allows_long_prompts(self) -> bool:
        """No: a caption that is too long is cut."""
        return False

    @property
    def attribute_names(self) -> Sequence[str]:
        """None: captions are filled from no template."""
        return ()

    @property
    def model_classes(self) -> Mapping[str, str]:
        """See :class:`.Samples`."""
        return {}

    def sample(self, index: int) -> Sample:
        """See :class:`.Samples`."""
        number, row = divmod(index, len(self.rows))
        return Sample(index, self.rows[row], sample_seed(self.seed, self.rows[row].key, number))

    def prompts(self) -> list[CaptionPrompt]:
        """Every caption."""
        return list(self.rows)

    def facts(self) -> dict[str, Any]:
        """See :class:`.Samples`."""
        rows = [[item.prompt, item.words, item.key, item.filename] for item in self.rows]
        return {"captions": hashlib.sha256(json.dumps(rows).encode()).hexdigest()}

    def lineage(self, sample: Sample) -> dict[str, Any]:
        """The classes in the caption, and the name that the file gives the image."""
        return {"classes": list(sample.prompt.shown_words), "filename": self._filename(sample)}

    def inputs(self, samples: Sequence[Sample], size: tuple[int, int]) -> SampleInputs:
        """See :class:`.Samples`."""
        return SampleInputs([{"filename": self._filename(sample)} for sample in samples])

    def features(self) -> dict[str, Any]:
        """See :class:`.Samples`."""
        from datasets import Value

        return {"filename": Value("string")}

    def _filename(self, sample: Sample) -> str | None:
        return self.rows[sample.index % len(self.rows)].filename


def load_caption_samples(
    source: str | Path | ClassFile,
    class_names: Sequence[str] | None = None,
    *,
    seed: int = 0,
    samples_per_class: int = 1,
) -> CaptionSamples | None:
    """The captions of a file, or None where the source is no file of captions with class words.

    Args:
        source: the file.
        class_names: the names that class prompts consist of; None finds them out.
        seed: seed of the run.
        samples_per_class: images of each caption.

    Raises:
        ValueError: a row without caption or class prompt, or a class prompt with a word that is no class name.
    """
    file = read_class_file(source)
    rows = None if file is None else _rows(file)
    if file is None or rows is None:
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
                CaptionPrompt(
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
        raise ValueError(f"classes is {file.source!r}: {error}") from error
    notes = ()
    if unknown:
        notes = (f"{len(unknown)} rows name something that is no class, such as {unknown[0]!r}; it gets no mask.",)
    without = [item for item in prompts if not set(item.words) & set(_words_in(item))]
    if without:
        notes += (
            f"{len(without)} captions name none of the classes that stand beside them, such as {without[0].prompt!r}"
            f" beside {' '.join(without[0].words)!r}; their images may show something else than their label says.",
        )
    classes = tuple(ClassName(name) for name in names)
    return CaptionSamples(classes, tuple(prompts), notes, seed, samples_per_class)


def _words_in(item: CaptionPrompt) -> list[str]:
    """Those of its class words that stand in the caption, alone or within a word, as in a plural."""
    return [word for word in item.words if word.casefold() in item.prompt.casefold()]


def _rows(file: ClassFile) -> list[Any] | None:
    """The rows of a file of captions; None for any other file."""
    if file.suffix not in _SUFFIXES:
        return None
    suffix, text = file.suffix, file.text
    try:
        if suffix == ".json":
            rows = json.loads(text)
            if isinstance(rows, Mapping) and len(rows) == 1:
                rows = next(iter(rows.values()))
        elif suffix in (".csv", ".tsv"):
            rows = _table_rows(text)
        else:
            rows = [_json_line(line, number) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    except csv.Error:
        # left to the reader of class lists, which says what is wrong
        return None
    except ValueError as error:
        if suffix == ".json":
            return None
        raise ValueError(f"classes is {file.source!r}, which could not be read: {error}") from error
    if not isinstance(rows, list) or not rows:
        return None
    if any(isinstance(row, Mapping) and all(field in row for field in _FIELDS) for row in rows):
        return rows
    return None


def _json_line(line: str, number: int) -> Any:
    try:
        return json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"line {number} is no JSON ({error.msg} at character {error.pos + 1})") from error


def _table_rows(text: str) -> list[dict[str, str]] | None:
    """The rows of a table whose header has the fields, however they are spelt and parted; None for any other table.

    Raises:
        ValueError: a row of more cells than the header has.
    """
    text = text.lstrip("\n")
    first_line = text.split("\n", 1)[0]
    for delimiter in _DELIMITERS:
        cells = next(csv.reader([first_line], delimiter=delimiter), [])
        # Class Prompt and class_prompt are one
        names = {plain_key(name): name for name in (*_FIELDS, "filename")}
        header = [names.get(plain_key(cell), cell.strip()) for cell in cells]
        if set(_FIELDS) <= set(header):
            break
    else:
        return None
    rows = []
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True)
    next(reader)
    for cells in reader:
        if not any(cell.strip() for cell in cells):
            continue
        if len(cells) > len(header):
            raise ValueError(
                f"row {len(rows) + 1} has {len(cells)} cells for {len(header)} columns; quote cells with"
                f" {delimiter!r}."
            )
        rows.append(dict(zip(header, cells)))
    return rows


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
