"""Files with templates: what they say of classes and settings, and what is refused."""

import pytest
import yaml

from ubgen_pipeline.prompts.template_files import PromptFile, prompt_file_from
from ubgen_pipeline.prompts.templates import PromptTemplates
from ubgen_pipeline.samples.prompt_samples import load_prompt_samples, read_prompt_file


def write(folder, **content):
    file = folder / "prompts.yaml"
    file.write_text(yaml.safe_dump({"classes": ["star", "ring"], "templates": ["a {name}"], **content}))
    return str(file)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"templates": ["a {colour} {name}"]}, "unknown placeholder {colour}"),
        ({"templates": ["a shape"]}, "class 'star' is not in its prompt 'a shape'"),
        ({"templates": ["starry {name}"], "classes": [{"name": "star"}]}, None),
        ({"templates": ["a starfish"], "classes": ["star"]}, "is not in its prompt"),
        ({"templates": ["a five-pointed Star++"], "classes": ["star"]}, None),
        ({"templates": ["a {name.x}"]}, "bare name"),
        ({"templates": ["a {name!r}"]}, "bare name"),
        ({"templates": ["a {name"]}, "braces"),
        ({"templates": []}, "templates is empty"),
        ({"templates": ["{definition} {name}"], "classes": ["zzz"]}, "'zzz' has no definition"),
        ({"attributes": {"view": []}}, "'view' has no values"),
        ({"attributes": {"view": "front"}}, "view is 'front'"),
        ({"attributes": {"view": [["front"]]}}, "in quotes"),
        ({"attributes": {"name": ["x"]}}, "cannot be a placeholder"),
        ({"attributes": ["view"]}, "attributes is"),
        ({"max_prompts": 0}, "max_prompts is 0"),
        ({"samples_per_prompt": "two"}, "samples_per_prompt is 'two'"),
        ({"colour": "red"}, "key 'colour' is unknown"),
        ({"classes": []}, "no `classes`"),
        ({"weights": "yes"}, "weights is 'yes'"),
    ],
)
def test_what_is_refused(tmp_path, content, message):
    file = write(tmp_path, **content)
    if message is None:
        assert len(load_prompt_samples(file))
        return
    with pytest.raises(ValueError, match=message):
        load_prompt_samples(file)


def test_classes_of_a_file_may_be_a_built_in_list_or_another_file(tmp_path):
    (tmp_path / "names.txt").write_text("star\nring\n")
    assert len(read_prompt_file(write(tmp_path, classes="voc")).classes) == 20
    assert [item.name for item in read_prompt_file(write(tmp_path, classes="names.txt")).classes] == ["star", "ring"]
    assert read_prompt_file("voc") is None and read_prompt_file(tmp_path / "names.txt") is None


def test_words_stay_as_they_are_written(tmp_path):
    (tmp_path / "a.yaml").write_text(
        "classes: {0: 007, 1: no}\ntemplates: ['{name} on {day}']\nattributes: {day: [2021-01-01, 1_0]}\n"
        "max_prompts: 1\n"
    )
    (tmp_path / "a.json").write_text(
        '{"classes": ["1.10", 1.10e1], "templates": ["{name} on {day}"], "attributes": {"day": [1.10]}}'
    )
    first, second = (read_prompt_file(tmp_path / name) for name in ("a.yaml", "a.json"))
    assert [item.name for item in first.classes] == ["007", "no"] and first.max_prompts == 1
    assert dict(first.templates.attributes) == {"day": ("2021-01-01", "1_0")}
    assert [item.name for item in second.classes] == ["1.10", "1.10e1"]
    assert dict(second.templates.attributes) == {"day": ("1.10",)}
    for name, text in (("a.yaml", "templates: [a]\ntemplates: [b]\n"), ("a.json", '{"classes": [], "classes": []}')):
        (tmp_path / name).write_text(text)
        with pytest.raises(ValueError, match="stands twice"):
            read_prompt_file(tmp_path / name)


def test_what_a_file_says_of_the_settings(tmp_path):
    file = prompt_file_from(
        {"classes": {"star": "it shines"}, "templates": "a {name}", "negative_prompt": "dull", "max_prompts": 3},
        tmp_path,
    )
    assert (file.classes[0].name, file.classes[0].definition) == ("star", "it shines")
    assert file.templates.templates == ("a {name}",) and (file.max_prompts, file.samples_per_prompt) == (3, 1)
    assert file.defaults("mini") == {"negative_prompt": "dull"} and file.remarks("mini", has_embeddings=False) == []


def test_a_size_and_embeddings_count_for_their_own_model_only():
    file = PromptFile(
        (),
        (),
        PromptTemplates(("{name}",), {}),
        model="org/own",
        image_size=(384, 512),
        embeddings=("f.safetensors",),
        settings={"num_inference_steps": 3},
        notes=("a note",),
    )
    assert file.defaults("org/own") == {
        "num_inference_steps": 3, "height": 384, "width": 512, "embeddings": ["f.safetensors"]
    }  # fmt: skip
    assert file.defaults("mini") == {"num_inference_steps": 3}
    assert file.remarks("org/own", has_embeddings=False) == ["a note"]
    note, model, word = file.remarks("mini", has_embeddings=False)
    assert note == "a note" and "written for org/own" in model and "read as plain letters" in word
    assert len(file.remarks("mini", has_embeddings=True)) == 2


def test_each_class_may_have_templates_of_its_own(tmp_path):
    classes = [{"name": "star", "synonyms": ["sun"]}, {"name": "crane", "id": "n1"}, {"name": "crane", "id": "n2"}]
    own = {"star": ["a {name} in {weather}", "two suns"], "n1": "a {name} flies", "n2": ["a {name} lifts"]}
    classes[0]["synonyms"].append("suns")
    file = write(tmp_path, classes=classes, templates=own, attributes={"weather": ["rain", "snow"]})
    found = [(item.label, item.prompt, item.word) for item in load_prompt_samples(file).prompts()]
    assert found == [
        (0, "a star in rain", "star"),
        (0, "a star in snow", "star"),
        (0, "two suns", "suns"),
        (1, "a crane flies", "crane"),
        (2, "a crane lifts", "crane"),
    ]
    facts = load_prompt_samples(file).facts()
    assert facts["of_class"] == {"star": ["a {name} in {weather}", "two suns"], "n1": ["a {name} flies"], "n2": [
        "a {name} lifts"
    ]}  # fmt: skip
    # files without stand in manifests as they did before
    assert "of_class" not in load_prompt_samples(write(tmp_path)).facts()
    with pytest.raises(ValueError, match="none for class 'ring'"):
        load_prompt_samples(write(tmp_path, templates={"star": ["{name}"]}))
    with pytest.raises(ValueError, match="some for 'moon', which is none of the classes"):
        load_prompt_samples(write(tmp_path, templates={"star": ["{name}"], "ring": ["{name}"], "moon": ["{name}"]}))
    with pytest.raises(ValueError, match=r"unknown placeholder \{colour\}"):
        load_prompt_samples(write(tmp_path, templates={"star": ["{name}"], "ring": ["{colour} {name}"]}))
    with pytest.raises(ValueError, match="none for class 'ring'"):
        load_prompt_samples(write(tmp_path, templates={"star": ["{name}"], "ring": []}))


def test_definitions_join_the_templates_of_each_class(tmp_path):
    file = write(tmp_path, classes=[{"name": "star", "definition": "it shines"}], templates={"star": ["a {name}."]})
    (prompt,) = load_prompt_samples(file, definitions=True).prompts()
    assert prompt.prompt == "a star, it shines"
