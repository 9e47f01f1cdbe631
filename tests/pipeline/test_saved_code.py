"""The root of the package is what the loader copies, and nothing else; what is saved says nothing of its origin."""

import json

import pytest

from support import ROOT
from ubgen_pipeline.hub.publish_pipeline import published_files
from ubgen_pipeline.models.families import FAMILIES
from ubgen_pipeline.pipeline import UbGenPipeline
from ubgen_pipeline.saved_code import code_files, without_code, write_code

CODE = ROOT / "ubgen_pipeline"
# of the package itself: no pipeline needs them
PACKAGE_FILES = {"__init__.py", "__main__.py"}


def test_the_root_holds_what_the_pipelines_name_and_no_more():
    root = {file.name for file in CODE.glob("*.py")} - PACKAGE_FILES
    named = {file.name for family in FAMILIES.values() for file in code_files(family.code_file)}
    assert root == named


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_is_its_own_file_and_no_other_familys(name):
    files = {file.stem for file in code_files(FAMILIES[name].code_file)}
    others = {family.module for other, family in FAMILIES.items() if other != name}
    assert FAMILIES[name].module in files and not files & others


def test_saved_and_published_is_what_the_file_names(random_mini_model, tmp_path):
    named = {file.name for file in code_files(CODE / "pipeline.py")}
    assert set(published_files("sd")) == named
    UbGenPipeline.from_pretrained(random_mini_model).save_pretrained(tmp_path)
    assert {file.name for file in tmp_path.glob("*.py")} == named


def test_a_saved_model_does_not_say_where_it_was_loaded_from(random_mini_model, tmp_path):
    UbGenPipeline.from_pretrained(random_mini_model).save_pretrained(tmp_path)
    configs = [tmp_path / "model_index.json", *tmp_path.glob("*/*.json")]
    assert len(configs) > 4
    assert not [file for file in configs if random_mini_model in file.read_text(encoding="utf-8")]


def test_the_index_names_the_file_and_the_class(tmp_path):
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "pipeline_x.py").write_text("from .helper import thing\n")
    (tmp_path / "code" / "helper.py").write_text("thing = 1\n")
    (tmp_path / "model").mkdir()
    index = tmp_path / "model" / "model_index.json"
    index.write_text(json.dumps({"_class_name": "X", "_name_or_path": "/home/me", "unet": ["diffusers", "UNet"]}))
    write_code(tmp_path / "code" / "pipeline_x.py", "X", tmp_path / "model", index.name)
    found = json.loads(index.read_text())
    assert found == {"_class_name": ["pipeline_x", "X"], "unet": ["diffusers", "UNet"]}
    assert {file.name for file in (tmp_path / "model").glob("*.py")} == {"pipeline_x.py", "helper.py"}
    assert without_code(found, "X")["_class_name"] == "X"
    assert without_code({"_class_name": ["pipeline_y", "Y"]}, "X")["_class_name"] == ["pipeline_y", "Y"]
