"""The forms that class lists have in files: tables, JSON, YAML and plain lines, each to its classes in label order.

Where a form numbers its classes, the numbers decide on the labels, not the order in the file; numbers that cannot be
labels are refused. No torch.
"""

import csv
import io
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from .class_file import ClassFile

_WNID = re.compile(r"n\d{8}")
_NAME_KEYS = ("name", "class_name", "class", "label")
_ID_KEYS = ("class_id", "wnid", "synset", "id")
_DEFINITION_KEYS = ("definition", "description", "gloss")
_SYNONYM_KEYS = ("synonyms", "lemmas")
# where the list stands: ours and Ultralytics', DiffuGen's, COCO's, transformers', torchvision's
_LIST_KEYS = ("classes", "class_names", "names", "labels", "dataset_classes", "categories", "id2label", "class_to_idx")
# `0: star`, `0 star`, `0,star`
_NUMBERED = re.compile(r"(\d+)\s*[:,;\t ]\s*(\S.*)")
# ImageNet's map_clsloc.txt: `n02110185 3 Siberian_husky`
# TensorFlow's label map: `item { id: 1 name: 'cat' }`
_ITEM = re.compile(r"^item\s*\{([^}]*)\}", re.MULTILINE)
_FIELD = re.compile(r"(\w+)\s*:\s*('[^']*'|\"[^\"]*\"|\d+)")
_NO_CLASSES = ("__ignore__", "_background_", "__background__")
_NUMBERED_SYNSET = re.compile(r"(n\d{8})\s+(\d+)\s+(\S.*)")


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


def read_class_list(file: ClassFile) -> list[ClassName]:
    """The classes of a file; see :func:`.class_prompts.load_class_names` for the forms.

    Raises:
        ValueError: a form that is not known, or numbers that cannot be labels; the file is named.
    """
    try:
        if file.suffix in (".csv", ".tsv"):
            return _from_table(file.text, "\t" if file.suffix == ".tsv" else ",")
        if file.suffix == ".json":
            # numbers as they are written: a class may be called 1.10
            return _from_data(json.loads(file.text, parse_float=str, parse_int=str))
        if file.suffix in (".yaml", ".yml"):
            # scalars as they are written: YAML 1.1 reads 007, 1_000, 12:30:45 and no as something else
            return _from_data(yaml.load(file.text, Loader=yaml.BaseLoader))
        if file.text.lstrip().startswith(("{", "[")) and (data := _literal(file.text)) is not None:
            return _from_data(data)
        return _from_lines(file.text)
    except (csv.Error, json.JSONDecodeError, yaml.YAMLError) as error:
        raise ValueError(f"classes is {file.source!r}, which could not be read: {error}") from error
    except ValueError as error:
        raise ValueError(f"classes is {file.source!r}: {error}") from error


def class_from(entry: Any) -> ClassName:
    """A class of a name, or of an object with a ``name`` and perhaps ``id``, ``definition`` and ``synonyms``.

    Raises:
        ValueError: an entry of another kind, or without a name.
    """
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


def _literal(text: str) -> Any:
    """The list or mapping that a text is, as JSON or Python write it; None for JSON lines and for what is neither."""
    try:
        data = yaml.load(text, Loader=yaml.BaseLoader)
    except yaml.YAMLError:
        return None
    return data if isinstance(data, (list, Mapping)) and len(data) > 1 else None


def _from_lines(text: str) -> list[ClassName]:
    if _ITEM.search(text):
        # TensorFlow's label map
        items = [dict(_FIELD.findall(item)) for item in _ITEM.findall(text)]
        named = [
            (item.get("id", ""), (item.get("display_name") or item.get("name", "")).strip("'\"")) for item in items
        ]
        if all(number.isdecimal() and name for number, name in named):
            return _by_number(
                [number for number, _ in named], [ClassName(name) for _, name in named], "its ids", first=1
            )
    # not str.splitlines, which also splits at characters that may stand in a name
    lines = [line for line in (line.strip() for line in text.split("\n")) if line]
    if any(line.startswith("# label:color") for line in lines[:3]):
        # CVAT's label map of PASCAL VOC: `cat:128,0,0::`
        names = [line.partition(":")[0].strip() for line in lines if not line.startswith("#")]
        return [ClassName(name) for name in names if name not in (*_NO_CLASSES, "background")]
    # labelme's and VOC's words for pixels of no class
    lines = [line for line in lines if line not in _NO_CLASSES]
    if lines and all(line.startswith('"') and line.endswith('"') and len(line) > 1 for line in lines):
        return [class_from(json.loads(line)) for line in lines]
    if lines and all(line.startswith("{") for line in lines):
        return [class_from(json.loads(line, parse_float=str, parse_int=str)) for line in lines]
    if found := _matched(_NUMBERED_SYNSET, lines):
        classes = [ClassName(name.replace("_", " "), class_id) for class_id, _, name in found]
        return _by_number([number for _, number, _ in found], classes, "its lines", first=1)
    if (found := _matched(_NUMBERED, lines)) and _are_labels([number for number, _ in found]):
        return _by_number([number for number, _ in found], [_from_line(rest) for _, rest in found], "its lines")
    return [_from_line(line) for line in lines]


def _from_line(line: str) -> ClassName:
    """A plain line, or one of ImageNet's: ``n01484850 great white shark, white shark, man-eater``."""
    first, _, rest = line.replace("\t", " ").partition(" ")
    if not (_WNID.fullmatch(first) and rest.strip()):
        return _with_synonyms(line)
    return _with_synonyms(rest, first)


def _with_synonyms(text: str, class_id: str | None = None) -> ClassName:
    """The class of words as ImageNet lists them: ``great white shark, white shark, man-eater``."""
    name, *synonyms = (word.strip() for word in text.split(", "))
    return ClassName(name, class_id, None, tuple(synonyms))


def _matched(form: re.Pattern[str], lines: Sequence[str]) -> list[tuple[str, ...]] | None:
    """The groups of every line, where all lines have that form."""
    found = [form.fullmatch(line) for line in lines]
    return [match.groups() for match in found if match] if lines and all(found) else None


def _from_table(text: str, delimiter: str) -> list[ClassName]:
    first_line = text.strip().split("\n")[0]
    if delimiter not in first_line:
        # spreadsheets of half of Europe write semicolons
        delimiter = next((other for other in ";\t," if other in first_line), delimiter)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True, strict=True)
    rows = [row for row in reader if any(cell.strip() for cell in row)]
    if not rows:
        return []
    header = [cell.strip().lower() for cell in rows[0]]
    if any(key in header for key in _NAME_KEYS):
        for number, row in enumerate(rows[1:], 2):
            if len(row) > len(header):
                raise ValueError(
                    f"row {number} has {len(row)} cells for {len(header)} columns; quote cells with {delimiter!r}."
                )
        return [class_from(dict(zip(header, row))) for row in rows[1:]]
    if all(len(row) == 1 for row in rows):
        return [ClassName(row[0].strip()) for row in rows]
    cells = [tuple(cell.strip() for cell in row) for row in rows]
    if all(len(row) == 2 and _WNID.fullmatch(row[0]) for row in cells):
        return [ClassName(row[1], row[0]) for row in cells]
    if all(len(row) == 2 for row in cells) and _are_labels([row[0] for row in cells]):
        return _by_number([row[0] for row in cells], [ClassName(row[1]) for row in cells], "its first column")
    raise ValueError(f"its first row is {rows[0]!r}; begin with a header that has a column `name`.")


def _from_data(data: Any) -> list[ClassName]:
    if isinstance(data, Mapping):
        for key in _LIST_KEYS:
            if isinstance(data.get(key), (list, Mapping)):
                return _by_category(data[key]) if key == "categories" else _from_data(data[key])
        return _from_mapping(data)
    if data is None or data == "":
        return []
    if not isinstance(data, list):
        raise ValueError(f"it holds {data!r:.60}; give a list or a mapping of classes.")
    return [class_from(entry) for entry in data]


def _by_category(data: Any) -> list[ClassName]:
    """COCO's categories in the order of their ids, which may have gaps: so its readers number them."""
    classes = _from_data(data)
    ids = [item.class_id for item in classes]
    if all(number is not None and number.isdecimal() for number in ids):
        classes.sort(key=lambda item: int(item.class_id or 0))
    return classes


def _from_mapping(data: Mapping[Any, Any]) -> list[ClassName]:
    keys = [_text(key, "a class") or "" for key in data]
    values = list(data.values())
    are_numbers = all(key.isdecimal() for key in keys)
    if values and all(_is_number(value) for value in values):
        # torchvision's class_to_idx, transformers' label2id
        return _by_number([str(value) for value in values], [ClassName(key) for key in keys], "its values")
    keys_are_ids = are_numbers or all(_WNID.fullmatch(key) for key in keys)
    classes = [_from_item(key, value, keys_are_ids, are_numbers) for key, value in zip(keys, values)]
    return _by_number(keys, classes, "its keys") if are_numbers else classes


def _from_item(key: str, value: Any, keys_are_ids: bool, are_numbers: bool) -> ClassName:
    if isinstance(value, Mapping):
        named = any(name in value for name in _NAME_KEYS)
        given = {("class_id" if named or keys_are_ids else "name"): key}
        return class_from({**given, **value})
    if isinstance(value, list) and len(value) == 2 and are_numbers:
        # the form of imagenet_class_index.json: position -> [id, name]
        return ClassName(_text(value[1], "a name") or "", _text(value[0], "an id"))
    if isinstance(value, list):
        raise ValueError(
            f"{key!r} is {value!r:.60}; give a list under one of {', '.join(_LIST_KEYS)}, or a mapping of classes."
        )
    if are_numbers:
        # transformers' id2label of ImageNet has its synonyms, too
        return _with_synonyms(_text(value, "a name") or "", key)
    if keys_are_ids:
        return ClassName(_text(value, "a name") or "", key)
    return ClassName(key, None, _text(value, "a definition"))


def _are_labels(numbers: Sequence[str]) -> bool:
    """Whether these are 0, 1, 2 … in some order."""
    return sorted(map(int, numbers)) == list(range(len(numbers))) if all(map(str.isdecimal, numbers)) else False


def _by_number(numbers: Sequence[str], classes: Sequence[ClassName], what: str, *, first: int = 0) -> list[ClassName]:
    """The classes in the order of their numbers, which must be ``first``, ``first`` + 1, … in any order.

    Raises:
        ValueError: other numbers, of which one would be no label; ``what`` they are is named.
    """
    order = sorted(range(len(classes)), key=lambda place: int(numbers[place]))
    for label, place in enumerate(order, first):
        if int(numbers[place]) != label:
            found = ", ".join(str(int(numbers[item])) for item in order[:5])
            raise ValueError(
                f"{what} are the numbers {found}{', …' if len(order) > 5 else ''}; labels count from {first} and"
                f" leave none out: {label} is missing, so number the classes anew, or give a list."
            )
    return [classes[place] for place in order]


def _is_number(value: Any) -> bool:
    return isinstance(value, str) and value.isdecimal()


def _text(value: Any, what: str) -> str | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise ValueError(f"{what} is read as {value!r}; give a text, in quotes where the format needs them.")
    return str(value).strip() or None
