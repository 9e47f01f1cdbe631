"""Class lists and prompts: from names, a file or a built-in list to one prompt per class. No torch."""

import csv
import io
import json
import re
import string
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import yaml

from .built_in_classes import BUILT_IN_LISTS, built_in_entries, built_in_name
from .class_file import ClassFile, read_class_file

_WNID = re.compile(r"n\d{8}")
_NAME_KEYS = ("name", "class_name", "class", "label")
_ID_KEYS = ("class_id", "wnid", "synset", "id")
_DEFINITION_KEYS = ("definition", "description", "gloss")
_SYNONYM_KEYS = ("synonyms", "lemmas")
_LIST_KEYS = ("classes", "class_names", "names", "dataset_classes")


@dataclass(frozen=True)
class ClassName:
    """A class: its name, and where known an identifier (such as a WordNet id), a definition and synonyms."""

    name: str
    class_id: str | None = None
    definition: str | None = None
    synonyms: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """What seeds hash: the id, else the name."""
        return self.class_id or self.name


@dataclass(frozen=True)
class ClassPrompt:
    """A class as it is drawn: its label (position in the list), name, prompt and key.

    ``attributes`` are (placeholder, value) pairs that a template was filled with; ``word`` is what stands for the
    class in the prompt, where that may be a synonym; empty means the name.
    """

    label: int
    name: str
    prompt: str
    key: str
    attributes: tuple[tuple[str, str], ...] = ()
    word: str = ""
    # whether a prompt that is too long for the model loses words at its end; if not, it is refused
    is_cut_to_fit: ClassVar[bool] = False

    @property
    def shown_words(self) -> tuple[str, ...]:
        """The names of all classes that the image shows, as they stand in the prompt."""
        return (self.word or self.name,)

    @property
    def shown_labels(self) -> tuple[int, ...]:
        """The labels of those classes."""
        return (self.label,)


def load_class_names(source: str | Path | ClassFile | Sequence[Any]) -> list[ClassName]:
    """Classes in order, from a list (names or objects), a file, or the name of a built-in list.

    A file is CSV or TSV (with or without a header ``name``, ``id`` or ``wnid``, ``definition``, ``synonyms`` parted by
    semicolons), JSON, YAML, or plain lines; a plain line that starts with a WordNet id (``n01440764 tench``) gives
    that class its id. JSON and YAML hold a list of names or of objects, a mapping from name to definition, or a
    mapping from ids to names where the keys are WordNet ids or numbers; the list may stand under ``classes`` or
    ``names``. Built-in lists: see ``BUILT_IN_LISTS``.

    Raises:
        ValueError: nothing there, an unreadable file, no classes, an empty name, or names or ids that occur twice.
    """
    if isinstance(source, (str, Path, ClassFile)):
        classes = _load(source)
    else:
        classes = [_class_from(entry) for entry in source]
    _check(classes)
    return classes


def label_names(classes: Sequence[ClassName]) -> list[str]:
    """Names for ``datasets.ClassLabel``, all different: a name that occurs twice gets its class's id appended."""
    counts = Counter(item.name for item in classes)
    names = [f"{item.name} ({item.class_id})" if counts[item.name] > 1 else item.name for item in classes]
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise ValueError(
            f"class names hold {twice[0]!r}, which is also what another class is told apart by; rename it."
        )
    return names


def class_prompts(
    classes: Sequence[ClassName], template: str = "{name}", *, argument: str = "template"
) -> list[ClassPrompt]:
    """One prompt per class: the template with ``{name}``, and where wanted ``{definition}`` or ``{class_id}``, filled.

    ``argument`` is what the caller's user calls the template, for errors.

    Raises:
        ValueError: a template without ``{name}`` or with another field, or a class that lacks what it asks for.
    """
    try:
        fields = {field for _, field, _, _ in string.Formatter().parse(template) if field is not None}
    except ValueError as error:
        raise ValueError(f"{argument} is {template!r}; {error}.") from error
    # {name.x} and {name[0]} count as other fields, too
    if "name" not in fields or fields - {"name", "definition", "class_id"}:
        raise ValueError(
            f"{argument} is {template!r}; it must hold {{name}} and may hold {{definition}} and {{class_id}}, no"
            " other."
        )
    prompts = []
    for label, item in enumerate(classes):
        values = {"name": item.name, "definition": item.definition, "class_id": item.class_id}
        if missing := [field for field in sorted(fields) if not values[field]]:
            raise ValueError(f"{argument} asks for {missing[0]}, which class {item.name!r} does not have; add it.")
        prompts.append(ClassPrompt(label, item.name, template.format(**values), item.key))
    return prompts


def _load(source: str | Path | ClassFile) -> list[ClassName]:
    if isinstance(source, str) and (built_in := built_in_name(source)) is not None:
        return [ClassName(*entry) for entry in built_in_entries(built_in)]
    if (file := read_class_file(source)) is None:
        lists = ", ".join(BUILT_IN_LISTS)
        raise ValueError(f"classes is {str(source)!r}, which is no file; give a file, or one of the lists {lists}.")
    try:
        if file.suffix in (".csv", ".tsv"):
            return _from_table(file.text, "\t" if file.suffix == ".tsv" else ",")
        if file.suffix == ".json":
            return _from_data(json.loads(file.text))
        if file.suffix in (".yaml", ".yml"):
            return _from_data(yaml.safe_load(file.text))
        return _from_lines(file.text)
    except (csv.Error, json.JSONDecodeError, yaml.YAMLError) as error:
        raise ValueError(f"classes is {file.source!r}, which could not be read: {error}") from error
    except ValueError as error:
        raise ValueError(f"classes is {file.source!r}: {error}") from error


def _from_lines(text: str) -> list[ClassName]:
    classes = []
    # not str.splitlines, which also splits at characters that may stand in a name
    for line in filter(None, (line.strip() for line in text.split("\n"))):
        first, _, rest = line.replace("\t", " ").partition(" ")
        if _WNID.fullmatch(first) and rest.strip():
            classes.append(ClassName(rest.strip(), first))
        else:
            classes.append(ClassName(line))
    return classes


def _from_table(text: str, delimiter: str) -> list[ClassName]:
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True, strict=True)
    rows = [row for row in rows if any(cell.strip() for cell in row)]
    if not rows:
        return []
    header = [cell.strip().lower() for cell in rows[0]]
    if any(key in header for key in _NAME_KEYS):
        for number, row in enumerate(rows[1:], 2):
            if len(row) > len(header):
                raise ValueError(
                    f"row {number} has {len(row)} cells for {len(header)} columns; quote cells with commas."
                )
        return [_class_from(dict(zip(header, row))) for row in rows[1:]]
    if all(len(row) == 1 for row in rows):
        return [ClassName(row[0].strip()) for row in rows]
    if all(len(row) == 2 and _WNID.fullmatch(row[0].strip()) for row in rows):
        return [ClassName(row[1].strip(), row[0].strip()) for row in rows]
    raise ValueError(f"its first row is {rows[0]!r}; begin with a header that has a column `name`.")


def _from_data(data: Any) -> list[ClassName]:
    if isinstance(data, Mapping):
        for key in _LIST_KEYS:
            if isinstance(data.get(key), (list, Mapping)):
                return _from_data(data[key])
        return _from_mapping(data)
    if data is None:
        return []
    if not isinstance(data, list):
        raise ValueError(f"it holds {type(data).__name__}; give a list or a mapping of classes.")
    return [_class_from(entry) for entry in data]


def _from_mapping(data: Mapping[Any, Any]) -> list[ClassName]:
    keys = [_text(key, "a class") or "" for key in data]
    keys_are_ids = all(_WNID.fullmatch(key) for key in keys) or all(key.isdecimal() for key in keys)
    classes = []
    for key, value in zip(keys, data.values()):
        if isinstance(value, Mapping):
            named = any(name in value for name in _NAME_KEYS)
            given = {("class_id" if named or keys_are_ids else "name"): key}
            classes.append(_class_from({**given, **value}))
        elif isinstance(value, list) and len(value) == 2:
            # the form of imagenet_class_index.json: position -> [id, name]
            classes.append(ClassName(_text(value[1], "a name") or "", _text(value[0], "an id")))
        elif isinstance(value, list):
            raise ValueError(f"class {key!r} is {value!r}; give a text, an object, or [id, name].")
        elif keys_are_ids:
            classes.append(ClassName(_text(value, "a name") or "", key))
        else:
            classes.append(ClassName(key, None, _text(value, "a definition")))
    return classes


def _class_from(entry: Any) -> ClassName:
    if isinstance(entry, ClassName):
        return entry
    if not isinstance(entry, Mapping):
        return ClassName(_text(entry, "a class") or "")
    fields = {str(key).strip().lower(): value for key, value in entry.items() if key is not None}

    def first(keys: Sequence[str], what: str) -> str | None:
        return next((text for key in keys if (text := _text(fields.get(key), what))), None)

    name = first(_NAME_KEYS, "a name")
    if name is None:
        raise ValueError(f"a class is {dict(entry)!r}, which has no name; give it a `name`.")
    synonyms = next((fields[key] for key in _SYNONYM_KEYS if fields.get(key)), ())
    if isinstance(synonyms, str):
        # the cell of a table
        synonyms = [word for word in synonyms.split(";") if word.strip()]
    if not isinstance(synonyms, Sequence):
        raise ValueError(f"the synonyms of {name!r} are {synonyms!r}; give a list of texts.")
    words = tuple(_text(word, "a synonym") or "" for word in synonyms)
    return ClassName(name, first(_ID_KEYS, "an id"), first(_DEFINITION_KEYS, "a definition"), words)


def _text(value: Any, what: str) -> str | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        # YAML 1.1 reads a bare yes, no, on, off as truth values, and a date as a date
        raise ValueError(f"{what} is read as {value!r}; give a text, in quotes where the format needs them.")
    return str(value).strip() or None


def _check(classes: Sequence[ClassName]) -> None:
    if not classes:
        raise ValueError("the class list is empty; give at least one class name.")
    for position, item in enumerate(classes):
        if not item.name.strip():
            raise ValueError(f"class {position} has an empty name; give it one, or leave it out.")
        if not all(word.strip() for word in item.synonyms):
            raise ValueError(f"class {item.name!r} has an empty synonym; leave it out.")
        for text in (item.name, item.class_id or "", item.definition or "", *item.synonyms):
            # control characters would end a line in a card or a file; lone surrogates cannot be written at all
            if bad := [char for char in text if unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp")]:
                raise ValueError(f"class {item.name!r} holds the control character {bad[0]!r}; remove it.")
    if twice := [
        key for key, count in Counter(item.class_id for item in classes if item.class_id).items() if count > 1
    ]:
        raise ValueError(f"class id {twice[0]!r} occurs twice; give each class its own id.")
    counts = Counter(item.name for item in classes)
    if twice := [item.name for item in classes if counts[item.name] > 1 and item.class_id is None]:
        raise ValueError(f"class name {twice[0]!r} occurs twice without ids; give each an id, or remove one.")
    if twice := [key for key, count in Counter(item.key for item in classes).items() if count > 1]:
        raise ValueError(f"{twice[0]!r} is the id of one class and the name of another; give both an id of their own.")
