"""Class lists in tables: with a header, or with an id or a number beside each name. No torch."""

import csv
import io
import re
from collections import Counter

from .class_entries import (
    NAME_KEYS,
    WNID,
    ClassName,
    are_labels,
    by_number,
    classes_from,
    first_of,
    is_label,
    plain_key,
    with_synonyms,
)

_DELIMITERS = ";\t,|"
# what the header of a single column may say besides
_NAMES_KEYS = (*NAME_KEYS, "names", "classes", "classnames", "labels", "labelnames", "categories")
# of Open Images and AudioSet
_MID = re.compile(r"/[mgt]/\w+")
_IMAGE = re.compile(r".*\.(?:jpe?g|png|bmp|gif|tiff?|webp)", re.IGNORECASE)
# the first line by which Excel learns what parts the cells
_SEPARATOR = re.compile(r'"?sep=(.)"?\n')


def classes_of_table(text: str, delimiter: str) -> list[ClassName]:
    """The classes of a table, in the order of their numbers where it has some.

    Args:
        text: of the file.
        delimiter: what its kind parts cells by; one that is not there is found.

    Raises:
        ValueError: a table that is no class list, or that has no column of names. ``csv.Error``: no table.
    """
    text = text.lstrip("\n")
    if separator := _SEPARATOR.match(text):
        text, delimiter = text[separator.end() :], separator[1]
    first_line = text.split("\n", 1)[0]
    if delimiter not in first_line:
        # spreadsheets of half of Europe write semicolons
        delimiter = next((other for other in _DELIMITERS if other in first_line), delimiter)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True, strict=True)
    rows = [[cell.strip() for cell in row] for row in reader if any(cell.strip() for cell in row)]
    if not rows:
        return []
    if images := [cell for row in rows for cell in row if _IMAGE.fullmatch(cell)]:
        raise ValueError(
            f"it holds {images[0]!r}: it lists images, not classes; give a file that lists each class once."
        )
    header = [plain_key(cell) for cell in rows[0]]
    if any(key in header for key in NAME_KEYS):
        return _under_header(rows, delimiter)
    if all(len(row) == 1 for row in rows):
        has_header = header[0] in _NAMES_KEYS and len(rows) > 1
        return [ClassName(row[0]) for row in rows[has_header:]]
    if all(len(row) == 2 for row in rows):
        left, right = ([row[place] for row in rows] for place in (0, 1))
        if all(map(WNID.fullmatch, left)) or all(map(_MID.fullmatch, left)):
            return [with_synonyms(name, key) for key, name in zip(left, right)]
        for numbers, names in ((left, right), (right, left)):
            if are_labels(numbers, first=first_of(numbers) if all(map(is_label, numbers)) else 0):
                classes = [ClassName(name) for name in names]
                return by_number(numbers, classes, "its column of numbers", first=first_of(numbers))
    raise ValueError(f"its first row is {rows[0]!r}; begin with a header that has a column `name`.")


def _under_header(rows: list[list[str]], delimiter: str) -> list[ClassName]:
    header = rows[0]
    if twice := [cell for cell, count in Counter(cell.casefold() for cell in header if cell).items() if count > 1]:
        raise ValueError(f"it has {twice[0]!r} twice in its header; rename one of the columns.")
    for number, row in enumerate(rows[1:], 2):
        if len(row) > len(header):
            raise ValueError(
                f"row {number} has {len(row)} cells for {len(header)} columns; quote cells with {delimiter!r}."
            )
    return classes_from([dict(zip(header, row)) for row in rows[1:]])
