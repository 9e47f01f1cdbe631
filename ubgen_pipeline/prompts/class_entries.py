"""A class as files describe it, and the order of classes that have numbers. No torch."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

# keys and headers without case, blanks and signs: `Class Name`, `class_name` and `ClassName` are one
NAME_KEYS = ("name", "classname", "displayname", "labelname", "categoryname", "class", "label", "category")
_ID_KEYS = ("classid", "wnid", "synset", "id")
_DEFINITION_KEYS = ("definition", "def", "description", "gloss")
_SYNONYM_KEYS = ("synonyms", "lemmas")
# positions, which count from 0 or from 1 and leave none out
_POSITION_KEYS = ("label", "labelid", "labelindex", "labelidx", "classindex", "classidx", "index", "idx", "class")
# identifiers, which may have gaps: readers of COCO number the classes in their order
_NUMBER_KEYS = ("id", "classid", "categoryid")
KNOWN_KEYS = {*NAME_KEYS, *_ID_KEYS, *_DEFINITION_KEYS, *_SYNONYM_KEYS, *_POSITION_KEYS, *_NUMBER_KEYS}
WNID = re.compile(r"n\d{8}")
# no list is that long, and Python reads no number of more than 4,300 digits
_MOST_DIGITS = 30
_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?|0[xXoObB][0-9a-fA-F]+")


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


def class_from(entry: Any, name_key: str | None = None) -> ClassName:
    """A class of a name, or of an object with a ``name`` and perhaps ``id``, ``definition`` and ``synonyms``.

    Args:
        entry: a text, or a mapping.
        name_key: which of :data:`NAME_KEYS` the name stands under; None takes the first that is there.

    Raises:
        ValueError: an entry of another kind, or without a name.
    """
    if isinstance(entry, ClassName):
        return entry
    if not isinstance(entry, Mapping):
        return ClassName(text_of(entry, "a class") or "")
    fields = _fields(entry)

    def first(keys: Sequence[str], what: str) -> str | None:
        return next((text for key in keys if (text := text_of(fields.get(key), what))), None)

    name = first((name_key,) if name_key else NAME_KEYS, "a name")
    if name is None:
        raise ValueError(f"a class is {dict(entry)!r}, which has no name; give it a `name`.")
    synonyms = next((fields[key] for key in _SYNONYM_KEYS if fields.get(key)), ())
    if isinstance(synonyms, str):
        # the cell of a table
        synonyms = [word for word in synonyms.split(";") if word.strip()]
    if not isinstance(synonyms, Sequence):
        raise ValueError(f"the synonyms of {name!r} are {synonyms!r}; give a list of texts.")
    # LVIS lists the name itself among them
    words = tuple(dict.fromkeys(word for item in synonyms if (word := text_of(item, "a synonym") or "") != name))
    return ClassName(name, first(_ID_KEYS, "an id"), first(_DEFINITION_KEYS, "a definition"), words)


def classes_from(entries: Sequence[Any]) -> list[ClassName]:
    """Classes of names or objects, in the order of the numbers that objects have, else in their own.

    Raises:
        ValueError: an entry without a name, or positions that leave a label out.
    """
    if not (entries and all(isinstance(entry, Mapping) for entry in entries)):
        return [class_from(entry) for entry in entries]
    fields = [_fields(entry) for entry in entries]

    def numbers_in(key: str) -> list[str] | None:
        values = [str(entry.get(key, "")).strip() for entry in fields]
        return values if all(map(is_label, values)) else None

    named = [key for key in NAME_KEYS if any(entry.get(key) for entry in fields)]
    # of `label,name` or `class,label`, one may be the number; numbers alone are names such as 007
    name_key = next((key for key in named if numbers_in(key) is None), named[0] if named else None)
    complete = name_key is not None and all(entry.get(name_key) for entry in fields)
    classes = [class_from(entry, name_key if complete else None) for entry in entries]
    for key in (*_POSITION_KEYS, *_NUMBER_KEYS):
        values = [str(entry.get(key, "")).strip() for entry in fields]
        wrong = [value for value in values if not is_label(value)]
        # 1.0, -1, or a number that is missing; other ids are texts
        if key != name_key and wrong and all(is_number(value) or not value for value in values) and any(values):
            raise ValueError(
                f"its numbers under {key!r} have {_short(wrong[0])}, of {classes[values.index(wrong[0])].name!r}; give"
                " every class a whole number from 0, or leave the column out."
            )
    for key in _POSITION_KEYS:
        if key != name_key and (numbers := numbers_in(key)) is not None:
            return by_number(numbers, classes, f"its numbers under {key!r}", first=first_of(numbers))
    for key in _NUMBER_KEYS:
        if key != name_key and (numbers := numbers_in(key)) is not None:
            return [classes[place] for place in sorted(range(len(classes)), key=lambda place: int(numbers[place]))]
    return classes


def by_number(numbers: Sequence[str], classes: Sequence[ClassName], what: str, *, first: int = 0) -> list[ClassName]:
    """The classes in the order of their numbers, which must be ``first``, ``first`` + 1, … in any order.

    Raises:
        ValueError: other numbers, of which one would be no label; ``what`` they are is named.
    """
    if long := [number for number in numbers if not is_label(number)]:
        raise ValueError(f"{what} hold {_short(long[0])}, which is no label; labels count from {first}.")
    order = sorted(range(len(classes)), key=lambda place: int(numbers[place]))
    for label, place in enumerate(order, first):
        if int(numbers[place]) != label:
            found = ", ".join(str(int(numbers[item])) for item in order[:5])
            raise ValueError(
                f"{what} are the numbers {found}{', …' if len(order) > 5 else ''}; labels count from {first} and"
                f" leave none out: {label} is missing, so number the classes anew, or give a list."
            )
    return [classes[place] for place in order]


def first_of(numbers: Sequence[str]) -> int:
    """1 where numbers count from 1, else 0."""
    return int(bool(numbers) and all(map(is_label, numbers)) and min(map(int, numbers)) == 1)


def are_labels(numbers: Sequence[str], *, first: int = 0) -> bool:
    """Whether these are ``first``, ``first`` + 1 … in some order."""
    return all(map(is_label, numbers)) and sorted(map(int, numbers)) == list(range(first, first + len(numbers)))


def is_label(value: Any) -> bool:
    """Whether a text is a whole number from 0, and none of more digits than any label has."""
    return isinstance(value, str) and value.isdecimal() and len(value) <= _MOST_DIGITS


def _short(value: str) -> str:
    return repr(value) if len(value) <= _MOST_DIGITS else f"{value[:_MOST_DIGITS]!r} … ({len(value)} characters)"


def is_number(value: Any) -> bool:
    """Whether a text is a number of any kind."""
    return isinstance(value, str) and _NUMBER.fullmatch(value.strip()) is not None


def with_synonyms(text: str, class_id: str | None = None) -> ClassName:
    """The class of words as ImageNet lists them: ``great white shark, white shark, man-eater``."""
    name, *synonyms = (word.strip() for word in text.split(", "))
    return ClassName(name, class_id, None, tuple(synonyms))


def text_of(value: Any, what: str) -> str | None:
    """A text or a number of a file as a text without blanks around it; None where there is nothing.

    Raises:
        ValueError: something else; ``what`` it is for is named.
    """
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise ValueError(f"{what} is read as {value!r}; give a text, in quotes where the format needs them.")
    return str(value).strip() or None


def plain_key(key: Any) -> str:
    """A key or header without case, blanks and signs."""
    return re.sub(r"[\W_]+", "", str(key)).casefold()


def _fields(entry: Mapping[Any, Any]) -> dict[str, Any]:
    return {plain_key(key): value for key, value in entry.items() if key is not None}
