"""The four kinds of samples meet one protocol, in what they say and in the columns that they give."""

import ast
import inspect
import subprocess
import sys

import pytest

from support import ROOT
from ubgen_pipeline.prompts.class_prompts import ClassPrompt
from ubgen_pipeline.samples.caption_samples import CaptionSamples
from ubgen_pipeline.samples.prompt_samples import PromptSamples
from ubgen_pipeline.samples.sample import Sample, SampleInputs, Samples
from ubgen_pipeline.samples.source_samples import SourceSamples
from ubgen_pipeline.samples.variation_samples import VariationSamples

KINDS = (PromptSamples, CaptionSamples, SourceSamples, VariationSamples)
MEMBERS = [name for name in vars(Samples) if not name.startswith("_")] + ["__len__"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", MEMBERS)
def test_each_kind_has_all_that_the_protocol_asks_for(kind, name):
    fields = {field for item in inspect.getmro(kind) for field in getattr(item, "__annotations__", {})}
    assert name in fields or callable(getattr(kind, name)) or isinstance(getattr(kind, name), property)
    wanted = getattr(Samples, name)
    if inspect.isfunction(wanted):
        assert list(inspect.signature(getattr(kind, name)).parameters) == list(inspect.signature(wanted).parameters)


def test_nobody_asks_which_kind_samples_are():
    names = {kind.__name__ for kind in KINDS} | {"CaptionPrompt"}
    asked = []
    for file in sorted((ROOT / "ubgen_pipeline").rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", None) in ("isinstance", "issubclass", "type"):
                asked += [file.name for part in ast.walk(node) if getattr(part, "id", None) in names]
    assert asked == []


def test_a_prompt_shows_its_own_class_by_the_word_that_stands_for_it():
    plain, synonym = (
        ClassPrompt(2, "truck", "a truck", "truck"),
        ClassPrompt(2, "truck", "a lorry", "truck", (), "lorry"),
    )
    assert plain.shown_words == ("truck",) and synonym.shown_words == ("lorry",)
    assert plain.shown_labels == synonym.shown_labels == (2,) and not plain.is_cut_to_fit


def test_inputs_without_a_source_call_the_pipeline_as_ever():
    sample = Sample(0, ClassPrompt(0, "star", "star", "star"), 1)
    assert SampleInputs([{}]).arguments == {} and sample.prompt.name == "star"


def test_prompts_and_samples_are_known_without_torch():
    folders = [ROOT / "ubgen_pipeline" / room for room in ("prompts", "samples")]
    names = [f"ubgen_pipeline.{folder.name}.{file.stem}" for folder in folders for file in folder.glob("[a-z]*.py")]
    assert len(names) > 12
    code = f"import sys, {', '.join(names)}; print('torch' in sys.modules, 'datasets' in sys.modules)"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        == "False False\n"
    )
