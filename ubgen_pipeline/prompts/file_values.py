"""Values read from files, checked: each error names the file and the value."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from ..files.marked_up_text import read_json, read_yaml


def read_mapping(source: str | Path, argument: str = "classes") -> Mapping[str, Any] | None:
    """The mapping in a JSON or YAML file; None where the source is no such file. ``argument`` is named in errors.

    Raises:
        ValueError: the file could not be read.
    """
    file = Path(source).expanduser()
    if file.suffix.lower() not in (".json", ".yaml", ".yml") or not file.is_file():
        return None
    try:
        return mapping_in(file.read_text(encoding="utf-8-sig"), file.suffix.lower())
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ValueError(f"{argument} is {str(source)!r}, which could not be read: {error}") from error


def mapping_in(text: str, suffix: str, *, as_text: bool = False) -> Mapping[str, Any] | None:
    """The mapping that a text in JSON or YAML holds; None where it holds something else.

    Args:
        text: of a file.
        suffix: of the file's name, in lower case: ``.json`` for JSON, any other for YAML.
        as_text: keep numbers, and in YAML all scalars, as they are written.

    Raises:
        ValueError: no JSON, or a key that stands twice. ``yaml.YAMLError``: the same of YAML.
    """
    data = (read_json if suffix == ".json" else read_yaml)(text, as_text=as_text)
    return data if isinstance(data, Mapping) else None


def texts(name: str, values: Any) -> tuple[str, ...]:
    """A list of texts or numbers from a file, as texts.

    Raises:
        ValueError: something else, such as the truth value that YAML 1.1 reads a bare ``no`` as.
    """
    if not isinstance(values, list):
        raise ValueError(f"{name} is {values!r}; give a list of texts.")
    for value in values:
        if isinstance(value, bool) or not isinstance(value, (str, int, float)):
            raise ValueError(f"{name} holds {value!r}; give texts, in quotes where the format needs them.")
    return tuple(str(value) for value in values)


def count(name: str, value: Any) -> int:
    """A whole number of at least 1 from a file."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} is {value!r}; give a whole number of at least 1.")
    return value


def parse_class_map(entries: Sequence[str], argument: str) -> dict[str, str]:
    """``NAME=CLASS`` entries as a mapping.

    Raises:
        ValueError: an entry without ``=``, or a name that occurs twice.
    """
    mapping: dict[str, str] = {}
    for entry in entries:
        name, sign, target = (part.strip() for part in entry.partition("="))
        if not (name and sign and target):
            raise ValueError(f"{argument} holds {entry!r}; write NAME=CLASS.")
        if name in mapping:
            raise ValueError(f"{argument} names {name!r} twice; keep one.")
        mapping[name] = target
    return mapping
