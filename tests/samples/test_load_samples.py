"""Which kind of samples the settings stand for, what does not go together, and how often the class file is opened."""

import builtins
import io
import json
from collections import Counter
from pathlib import Path

import pytest
import yaml
from datasets import load_dataset

from support import DATA
from support.source_rows import save_source
from ubgen_pipeline.generation.generate import generate_dataset, main
from ubgen_pipeline.generation.settings import GenerateSettings
from ubgen_pipeline.samples.caption_samples import CaptionSamples
from ubgen_pipeline.samples.prompt_samples import PromptSamples
from ubgen_pipeline.samples.source_samples import SourceSamples

CAPTIONS = [{"caption": "a star beside a circle", "class_prompt": "star circle", "filename": "7.jpg"}]


@pytest.fixture
def opened(monkeypatch):
    """Counts how often each file is opened to be read, by its name."""
    counts: Counter[str] = Counter()

    def counting(original):
        def opening(file, *arguments, **settings):
            counts[Path(file).name if isinstance(file, (str, Path)) else ""] += 1
            return original(file, *arguments, **settings)

        return opening

    # pathlib calls io.open, everybody else the built-in
    monkeypatch.setattr(io, "open", counting(io.open))
    monkeypatch.setattr(builtins, "open", counting(builtins.open))
    return counts


def class_files(folder):
    files = {
        "names.txt": "star\nring\n",
        "names.csv": "name,synonyms\nstar,\n",
        "names.json": '["star", "ring"]',
        "captions.json": json.dumps(CAPTIONS),
        "templates.yaml": yaml.safe_dump({"classes": ["star"], "templates": ["a {name}"]}),
        "diffugen_config.json": (DATA / "diffugen_config.json").read_text(),
    }
    for name, text in files.items():
        (folder / name).write_text(text)
    return list(files)


def test_the_command_opens_the_class_file_once(tmp_path, capsys, opened):
    for name in class_files(tmp_path):
        opened.clear()
        assert main(["--classes", str(tmp_path / name), "--samples-per-class", "2", "--dry-run"]) == 0
        assert opened[name] == 1, name
    assert capsys.readouterr().out


@pytest.mark.parametrize("name", ["names.txt", "captions.json", "templates.yaml"])
def test_a_whole_run_opens_the_class_file_once(random_mini_model, tmp_path, opened, name):
    class_files(tmp_path)
    opened.clear()
    settings = {"model": random_mini_model, "num_inference_steps": 1, "samples_per_class": 1, "threads": 1}
    assert len(generate_dataset(tmp_path / name, tmp_path / "d", **settings))
    assert opened[name] == 1
    opened.clear()
    assert main(["--classes", str(tmp_path / name), "--output-dir", str(tmp_path / "e"), "--model", random_mini_model,
                 "--num-inference-steps", "1", "--samples-per-class", "1"]) == 0  # fmt: skip
    assert opened[name] == 1
    assert len(load_dataset(str(tmp_path / "e"), split="train"))


def kind_of(**settings):
    return type(GenerateSettings(**settings).samples())


def test_the_settings_decide_the_kind(tmp_path):
    class_files(tmp_path)
    source = save_source(tmp_path / "scenes")
    assert kind_of(class_names=["star"]) is kind_of(classes="voc") is PromptSamples
    assert kind_of(classes=str(tmp_path / "names.csv")) is PromptSamples
    assert kind_of(classes=str(tmp_path / "captions.json")) is CaptionSamples
    assert kind_of(source=source, task="image-to-image") is SourceSamples
    assert kind_of(source=source, task="inpaint", class_names=["star", "circle", "ring"]) is SourceSamples


def test_a_source_gives_the_classes_where_none_are_named(tmp_path):
    samples = GenerateSettings(source=save_source(tmp_path / "scenes"), task="image-to-image").samples()
    assert [item.name for item in samples.classes] == ["star", "circle"] and len(samples) == 4


def test_the_names_of_a_caption_file_may_be_given(tmp_path):
    class_files(tmp_path)
    settings = GenerateSettings(
        classes=str(tmp_path / "captions.json"), class_names=["circle", "star"], samples_per_class=3, seed=5
    )
    samples = settings.samples()
    assert len(samples) == 3 and samples.sample(0).prompt.shown_labels == (1, 0)
    assert samples.features().keys() == {"filename"}
    assert samples.lineage(samples.sample(2)) == {"classes": ["star", "circle"], "filename": "7.jpg"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"classes": "captions.json", "source": "scenes", "task": "inpaint"},
            "captions of their own images, and source",
        ),
        ({"classes": "names.txt", "class_names": ["star"]}, "either by class_names or by classes"),
        ({"classes": "nowhere.txt"}, "which is no file; give a file, or one of the lists"),
        ({"classes": "names.txt", "task": "inpaint"}, "inpaint need a source dataset"),
        ({"classes": "templates.yaml", "template": "the {name}"}, "templates of its own"),
    ],
)
def test_what_does_not_go_together(tmp_path, monkeypatch, settings, message):
    class_files(tmp_path)
    save_source(tmp_path / "scenes")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message):
        GenerateSettings(**settings).samples()
