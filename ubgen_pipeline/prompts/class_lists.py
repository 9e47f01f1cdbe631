"""The forms that class lists have in files: tables, JSON, YAML and plain lines, each to its classes in label order.

Where a form numbers its classes, the numbers decide on the labels, not the order in the file; numbers that cannot be
labels are refused, and so is a file that says two things. No torch.
"""

import csv
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from ..files.marked_up_text import read_json, read_yaml
from .class_entries import (
    KNOWN_KEYS,
    NAME_KEYS,
    WNID,
    ClassName,
    by_number,
    class_from,
    classes_from,
    is_label,
    is_number,
    plain_key,
    text_of,
    with_synonyms,
)
from .class_file import ClassFile
from .class_lines import classes_of_lines
from .class_tables import classes_of_table

# name to label: transformers, torchvision
_LABEL_KEYS = ("label2id", "class_to_idx")
# where the list stands: ours and Ultralytics', DiffuGen's, COCO's, transformers', torchvision's
_LIST_KEYS = (
    "classes", "class_names", "names", "labels", "label_names", "dataset_classes", "categories", "id2label",
    "idx_to_class", *_LABEL_KEYS,
)  # fmt: skip
# files of other programs, whose lines are no classes
_OTHER_SUFFIXES = (".cfg", ".conf", ".data", ".htm", ".html", ".ini", ".js", ".log", ".py", ".sh", ".toml", ".xml")
# `CLASSES = [` of a script
_ASSIGNED = re.compile(r"\w+\s*=\s*(?=[\[({])")


def read_class_list(file: ClassFile) -> list[ClassName]:
    """The classes of a file; see :func:`.class_prompts.load_class_names` for the forms.

    Raises:
        ValueError: a form that is not known, or numbers that cannot be labels; the file is named.
    """
    try:
        if file.suffix in (".csv", ".tsv"):
            return classes_of_table(file.text, "\t" if file.suffix == ".tsv" else ",")
        if file.suffix == ".json":
            return _of_json(file.text)
        if file.suffix in (".yaml", ".yml"):
            return classes_of_data(read_yaml(file.text, as_text=True))
        if (data := _literal(file.text)) is not None:
            return classes_of_data(data)
        if file.suffix in _OTHER_SUFFIXES:
            raise ValueError(f"a file whose name ends with {file.suffix} is no class list; give JSON, YAML or lines.")
        return classes_of_lines(file.text)
    except (csv.Error, json.JSONDecodeError, yaml.YAMLError) as error:
        raise ValueError(f"classes is {file.source!r}, which could not be read: {error}") from error
    except ValueError as error:
        raise ValueError(f"classes is {file.source!r}: {error}") from error
    except RecursionError as error:
        raise ValueError(
            f"classes is {file.source!r}, in which a list or a mapping holds itself; write it out."
        ) from error


def classes_of_data(data: Any) -> list[ClassName]:
    """The classes of a list or a mapping, whose scalars are texts.

    Raises:
        ValueError: a form that is not known, or numbers that cannot be labels.
    """
    if isinstance(data, Mapping):
        for key in _LIST_KEYS:
            if isinstance(data.get(key), (list, Mapping)):
                classes = classes_of_data(_without_groups(data[key]) if key == "categories" else data[key])
                _check_agreement(data, key, classes)
                return classes
            if isinstance(data.get(key), str):
                raise ValueError(f"{key!r} is {data[key]!r:.60}; give a list or a mapping of classes.")
        return _of_mapping(data)
    if data is None or data == "":
        return []
    if not isinstance(data, list):
        raise ValueError(f"it holds {data!r:.60}; give a list or a mapping of classes.")
    return classes_from(data)


def _without_groups(categories: Any) -> Any:
    """COCO's categories without those that only name a group, as Roboflow writes one with the number 0."""
    if not (isinstance(categories, list) and all(isinstance(item, Mapping) for item in categories)):
        return categories
    groups = {item.get("supercategory") for item in categories}
    return [item for item in categories if item.get("supercategory") != "none" or item.get("name") not in groups]


def _of_json(text: str) -> list[ClassName]:
    try:
        return classes_of_data(read_json(text, as_text=True))
    except json.JSONDecodeError:
        lines = [line for line in text.split("\n") if line.strip()]
        if len(lines) > 1 and all(line.lstrip().startswith("{") for line in lines):
            # JSON lines under JSON's suffix
            return classes_of_lines(text)
        raise


def _literal(text: str) -> Any:
    """The list or mapping that a text is, as JSON, Python or YAML write it; None for plain lines and JSON lines.

    Raises:
        ValueError: a text that begins as one and is none.
    """
    text = text.strip()
    text = text[match.end() :] if (match := _ASSIGNED.match(text)) else text
    if re.match(rf"(?:{'|'.join(_LIST_KEYS)})[ \t]*:[ \t]*(?:[\[{{].*)?\n", f"{text}\n"):
        return read_yaml(text, as_text=True)
    # RTF, too, begins with a brace
    if not text.startswith(("{", "[", "(")) or text.startswith("{\\rtf"):
        return None
    # Python 2 marks texts by a u
    plain = re.sub(r"\bu(?=['\"])", "", f"[{text[1:-1]}]" if text[0] == "(" and text[-1] == ")" else text)
    try:
        data = read_yaml(plain, as_text=True)
    except yaml.YAMLError as error:
        lines = [line for line in text.split("\n") if line.strip()]
        if len(lines) > 1 and all(re.fullmatch(r"\s*\{.*\}\s*", line) for line in lines):
            return None
        if match or re.match(r"[{\[]\s*(?:$|\n|[\"'{\[])", text):
            raise ValueError(f"it begins as a list or a mapping, which could not be read: {error}") from error
        return None
    if isinstance(data, Mapping) and len(data) >= 1 and "\n" not in text and any(key in NAME_KEYS for key in data):
        # a single line of JSON lines
        return None
    return data if isinstance(data, (list, Mapping)) else None


def _of_mapping(data: Mapping[Any, Any]) -> list[ClassName]:
    keys = [text_of(key, "a class") or "" for key in data]
    values = list(data.values())
    if "name" in keys and isinstance(data["name"], str):
        raise ValueError(f"it has the key 'name', as one class or the file of a project; {_WHERE_TO}")
    if values and all(map(is_label, values)):
        # torchvision's class_to_idx, transformers' label2id
        return by_number([str(value) for value in values], [ClassName(key) for key in keys], "its values")
    if wrong := [(key, value) for key, value in zip(keys, values) if is_number(value) and not key.isdecimal()]:
        key, value = min(wrong, key=lambda item: is_label(item[1]))
        raise ValueError(
            f"{key!r} is {value!r:.60}; labels are whole numbers from 0 and every class has one. Give"
            f" those, or put the list under one of {', '.join(_LIST_KEYS)}."
        )
    are_numbers = all(map(is_label, keys))
    if keys and all(map(is_number, keys)) and not are_numbers:
        wrong_key = next(key for key in keys if not is_label(key))
        raise ValueError(f"it has the key {wrong_key!r:.60}; labels are whole numbers from 0.")
    keys_are_ids = are_numbers or all(WNID.fullmatch(key) for key in keys)
    classes = [_of_item(key, value, keys_are_ids, are_numbers) for key, value in zip(keys, values)]
    return by_number(keys, classes, "its keys") if are_numbers else classes


def _of_item(key: str, value: Any, keys_are_ids: bool, are_numbers: bool) -> ClassName:
    if isinstance(value, Mapping):
        known = [plain_key(name) for name in value if plain_key(name) in KNOWN_KEYS]
        if value and not known:
            raise ValueError(f"{key!r} is {value!r:.60}, {_WHERE}")
        named = any(name in NAME_KEYS for name in known)
        given = {("class_id" if named or keys_are_ids else "name"): key}
        return class_from({**given, **value})
    if isinstance(value, list) and len(value) == 2 and are_numbers and isinstance(value[0], str):
        # the form of imagenet_class_index.json: position -> [id, name]
        return ClassName(text_of(value[1], "a name") or "", text_of(value[0], "an id"))
    if isinstance(value, list) and value and keys_are_ids and not are_numbers:
        name, *synonyms = (text_of(word, "a name") or "" for word in value)
        return ClassName(name, key, None, tuple(synonyms))
    if isinstance(value, list):
        raise ValueError(f"{key!r} is {value!r:.60}, {_WHERE}")
    if keys_are_ids:
        # transformers' id2label of ImageNet has its synonyms, too
        return with_synonyms(text_of(value, "a name") or "", key)
    return ClassName(key, None, text_of(value, "a definition"))


_WHERE_TO = f"give a list under one of {', '.join(_LIST_KEYS)}, or a mapping of classes."
_WHERE = f"which is no class; {_WHERE_TO}"


def _check_agreement(data: Mapping[Any, Any], key: str, classes: Sequence[ClassName]) -> None:
    """Refuse a file that says something else of its classes in another place.

    Args:
        data: the file.
        key: where the classes stand.
        classes: in label order.
    """
    number = data.get("nc")
    if number is not None and not (is_label(number) and int(number) == len(classes)):
        raise ValueError(f"'nc' is {number!s:.60}, but {key!r} has {len(classes)} classes; correct one of them.")
    for other in _LIST_KEYS:
        if other in (key, *_LABEL_KEYS) or not isinstance(data.get(other), (list, Mapping)):
            continue
        told = _names_in(data[other])
        if told is not None and told != [", ".join(_words(item)) for item in classes]:
            raise ValueError(f"{other!r} lists other classes than {key!r}, or in another order; leave one of them.")
    names = {name: label for label, item in enumerate(classes) for name in (item.name, ", ".join(_words(item)))}
    for other in _LABEL_KEYS:
        if other == key or not isinstance(data.get(other), Mapping):
            continue
        for name, label in data[other].items():
            if is_label(label) and len(names) >= len(classes) and names.get(str(name).strip(), -1) != int(label):
                raise ValueError(
                    f"{other!r} gives {str(name)!r} the label {label}, and {key!r} another; correct one of them."
                )


def _names_in(data: Any) -> list[str] | None:
    """The names of a list of classes; None for something else, such as the labels of rows."""
    try:
        names = [", ".join(_words(item)) for item in classes_of_data(data)]
    except ValueError:
        return None
    return None if all(map(is_number, names)) else names


def _words(item: ClassName) -> tuple[str, ...]:
    return (item.name, *item.synonyms)
