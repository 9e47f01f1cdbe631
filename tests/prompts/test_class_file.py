"""The file that classes come from: read once, and told from a built-in list."""

from pathlib import Path

import pytest

from ubgen_pipeline.prompts.class_file import read_class_file
from ubgen_pipeline.prompts.class_prompts import ClassName, load_class_names


def test_a_file_is_read_once_and_may_then_be_gone(tmp_path):
    path = tmp_path / "names.TXT"
    path.write_text("﻿star\nring\n", encoding="utf-8")
    file = read_class_file(str(path))
    assert file is not None and (file.source, file.path, file.suffix) == (str(path), path, ".txt")
    path.unlink()
    assert read_class_file(file) is file
    assert load_class_names(file) == [ClassName("star"), ClassName("ring")]


def test_a_built_in_list_comes_before_a_file_of_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("voc").write_text("star\n")
    assert read_class_file("voc") is None and len(load_class_names("voc")) == 20
    # a path is meant as a path
    assert read_class_file(Path("voc")) is not None
    assert read_class_file("nowhere.txt") is None and read_class_file(".") is None


def test_what_is_no_text_is_named(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(ValueError, match=r"classes is '.*a\.txt', which could not be read"):
        read_class_file(tmp_path / "a.txt")
