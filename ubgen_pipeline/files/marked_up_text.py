"""What texts in JSON and YAML hold: no key twice in a mapping, and where asked for, scalars as they are written."""

import json
import re
from collections import Counter
from typing import Any

import yaml


def read_json(text: str, *, as_text: bool = False) -> Any:
    """What a text in JSON holds; ``as_text`` keeps numbers as they are written, such as 1.10.

    Raises:
        ValueError: no JSON, a key that stands twice in a mapping, a number of thousands of digits, or lists within
            lists without end.
    """
    numbers: dict[str, Any] = {"parse_float": str, "parse_int": str} if as_text else {"parse_int": _integer}
    try:
        return json.loads(text, object_pairs_hook=_with_keys_once, **numbers)
    except RecursionError as error:
        raise ValueError(_TOO_DEEP) from error


def read_yaml(text: str, *, as_text: bool = False) -> Any:
    """What a text in YAML holds; ``as_text`` keeps scalars as they are written.

    YAML 1.1 reads 007, 1_000, 12:30:45 and no as something else.

    Raises:
        yaml.YAMLError: no YAML, a key that stands twice in a mapping, a number, a date or a time that Python cannot
            hold, or lists within lists without end.
    """
    try:
        return yaml.load(text, Loader=_TextLoader if as_text else _Loader)
    except RecursionError as error:
        raise yaml.YAMLError(_TOO_DEEP) from error
    except ValueError as error:
        # of Python's numbers and dates, which YAML 1.1 makes of what looks like one
        first_line = str(error).partition("(")[0].partition(";")[0].strip()
        raise yaml.YAMLError(f"it holds a number, a date or a time that is none: {first_line}; quote it.") from error


def _integer(digits: str) -> int:
    if len(digits) > _MOST_DIGITS:
        raise ValueError(f"it holds a number of {len(digits)} digits, {digits[:20]} …; write it as a text.")
    return int(digits)


# of a number in JSON; Python itself reads no longer ones than 4,300
_MOST_DIGITS = 4000
_TOO_DEEP = "it holds lists within lists, too deep to be read; write them flat."


def _with_keys_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if twice := [key for key, count in Counter(key for key, _ in pairs).items() if count > 1]:
        raise ValueError(f"the key {twice[0]!r} stands twice in one mapping; keep one.")
    return dict(pairs)


class _Loader(yaml.SafeLoader):
    """YAML in which no key stands twice: PyYAML would keep the last and drop the others without a word."""

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        keys = [key for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        counts = Counter(key.value for key in keys)
        if twice := [key for key in keys if counts[key.value] > 1 and key.value != "<<"]:
            raise yaml.constructor.ConstructorError(
                None, None, f"the key {twice[1].value!r} stands twice in one mapping; keep one", twice[1].start_mark
            )
        super().flatten_mapping(node)


class _TextLoader(_Loader):
    """The same with all scalars as texts; merged mappings still are merged."""


_TextLoader.yaml_implicit_resolvers = {"<": [("tag:yaml.org,2002:merge", re.compile("<<"))]}
