"""JSON and YAML whose scalars stay as they are written, and in which no key stands twice."""

import pytest
import yaml

from ubgen_pipeline.files.marked_up_text import read_json, read_yaml


def test_scalars_are_values_or_texts():
    assert read_json('{"a": 1.10, "b": [1e3, null]}') == {"a": 1.1, "b": [1000.0, None]}
    assert read_json('{"a": 1.10, "b": [1e3, null]}', as_text=True) == {"a": "1.10", "b": ["1e3", None]}
    assert read_yaml("{a: 007, b: no, c: 1_0}") == {"a": 7, "b": False, "c": 10}
    assert read_yaml("{a: 007, b: no, c: ~}", as_text=True) == {"a": "007", "b": "no", "c": "~"}


@pytest.mark.parametrize("as_text", [False, True])
def test_a_key_stands_once_and_merged_mappings_are_merged(as_text):
    for text in ("a: 1\na: 2\n", "x: {b: 1, b: 1}\n", "a: 1\n'a': 2\n"):
        with pytest.raises(yaml.YAMLError, match="stands twice in one mapping"):
            read_yaml(text, as_text=as_text)
    with pytest.raises(ValueError, match="the key 'a' stands twice"):
        read_json('{"x": [{"a": 1, "a": 2}]}', as_text=as_text)
    merged = read_yaml("base: &b {k: x, m: y}\nown:\n  <<: *b\n  m: z\n", as_text=as_text)
    assert merged["own"] == {"k": "x", "m": "z"}


def test_numbers_and_dates_that_python_cannot_hold_are_named():
    for text in ("a: " + "9" * 5000, "a: 2024-13-45"):
        with pytest.raises(yaml.YAMLError, match=r"a number, a date or a time that is none: .*; quote it"):
            read_yaml(text)
        assert read_yaml(text, as_text=True) == {"a": text[3:]}
    with pytest.raises(ValueError, match="holds a number of 5000 digits, 99999999999999999999 …"):
        read_json('{"a": ' + "9" * 5000 + "}")
