"""Values from files: what is read, and how a wrong one is named."""

import pytest

from ubgen_pipeline.prompts.file_values import count, mapping_in, parse_class_map, read_mapping, texts


def test_mappings_of_json_and_yaml(tmp_path):
    assert mapping_in('{"a": 1}', ".json") == {"a": 1} == mapping_in("a: 1", ".yaml")
    assert mapping_in("[1]", ".json") is None and mapping_in("- 1", ".yml") is None
    (tmp_path / "a.yaml").write_text("﻿a: [b]\n", encoding="utf-8")
    assert read_mapping(tmp_path / "a.yaml") == {"a": ["b"]}
    (tmp_path / "a.txt").write_text("a: 1")
    assert read_mapping(tmp_path / "a.txt") is None and read_mapping("nowhere.json") is None
    (tmp_path / "b.json").write_text("{")
    with pytest.raises(ValueError, match=r"class_map is '.*b\.json', which could not be read"):
        read_mapping(tmp_path / "b.json", "class_map")


def test_texts_and_numbers_become_texts():
    assert texts("views", ["front", 3, 0.5]) == ("front", "3", "0.5")
    with pytest.raises(ValueError, match="views is 'front'; give a list"):
        texts("views", "front")
    # what YAML 1.1 makes of a bare no
    with pytest.raises(ValueError, match="views holds False; give texts, in quotes"):
        texts("views", [False])


@pytest.mark.parametrize("value", [0, -1, 1.5, True, "two", None])
def test_a_count_is_a_whole_number_from_one(value):
    assert count("n", 1) == 1
    with pytest.raises(ValueError, match="n is "):
        count("n", value)


def test_class_maps():
    assert parse_class_map(["a = b", "c=b"], "class_map") == {"a": "b", "c": "b"}
    for entries, message in [(["a"], "write NAME=CLASS"), (["a="], "write NAME"), (["a=b", "a=c"], "names 'a' twice")]:
        with pytest.raises(ValueError, match=message):
            parse_class_map(entries, "class_map")
