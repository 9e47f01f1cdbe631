"""The classes that a training from rewards draws; errors name the settings as the user gave them."""

import pytest
import yaml

from ubgen_training.reward_training.config import SamplerConfig
from ubgen_training.reward_training.training_prompts import load_prompts


def config(folder, **settings):
    return SamplerConfig(**{"output_dir": str(folder), "use_cpu": True, "class_names": ["circle", "star"], **settings})


@pytest.mark.parametrize("given", [{"captions_per_class": 3}, {"captions_per_class": 0, "captions": "a.yaml"}])
def test_a_number_of_captions_takes_captions(tmp_path, given):
    with pytest.raises(ValueError, match=r"^captions_per_class is [03], and captions is (None|'a.yaml'); give"):
        config(tmp_path, **given)


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"class_names": None}, "^class_names is empty; give --class_names"),
        ({"classes": "imagenet1k"}, r"^class_names \(\['circle', 'star'\]\) and classes \('imagenet1k'\) are given"),
        ({"captions": "a.yaml"}, r"^class_names \(\['circle', 'star'\]\) and captions \('a.yaml'\) are given"),
        ({"class_names": None, "captions": "no_such.yaml"}, "^captions is 'no_such.yaml', which is no file"),
        ({"prompt_template": "a photo"}, "^prompt_template is 'a photo'; it must hold {name}"),
        ({"prompt_template": "{name"}, "^prompt_template is '{name'; "),
        ({"prompt_template": "{name}, {definition}"}, "^prompt_template asks for definition, which class 'circle'"),
        ({"class_names": None, "classes": "no_such_list"}, "^classes is 'no_such_list', which is no file"),
    ],
)
def test_classes_and_prompts_that_cannot_be_used_are_named_as_they_were_set(tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        load_prompts(config(tmp_path, **settings))


def test_every_prompt_of_a_file_with_templates_is_trained_on_as_a_class(tmp_path):
    file = tmp_path / "captions.yaml"
    content = {
        "classes": ["circle", "star"],
        "templates": ["{texture} {name}++ on {ground}", "{texture} {name} on {ground}", "a {name}"],
        "attributes": {"texture": ["plain", "striped"], "ground": ["sand", "snow"]},
    }
    file.write_text(yaml.safe_dump(content, sort_keys=False))
    given = {"class_names": None, "captions": str(file), "prompt_template": "a photo of a {name}"}
    prompts = load_prompts(config(tmp_path, **given))
    of_circle = [f"{texture} circle on {ground}" for texture in ("plain", "striped") for ground in ("sand", "snow")]
    of_circle.append("a circle")
    # the first two templates differ in a word's weight alone, and a caption is trained on once
    names = [*of_circle, *(text.replace("circle", "star") for text in of_circle)]
    assert [prompt.name for prompt in prompts] == names
    assert [prompt.prompt for prompt in prompts] == [f"a photo of a {name}" for name in names]
    file.write_text(yaml.safe_dump(content | {"max_prompts": 3}, sort_keys=False))
    fewer = [prompt.name for prompt in load_prompts(config(tmp_path, **given))]
    assert 2 <= len(fewer) <= 6 and {*fewer} < {*names}
    # chosen by the run's seed
    assert [prompt.name for prompt in load_prompts(config(tmp_path, **given))] == fewer
    assert [prompt.name for prompt in load_prompts(config(tmp_path, **given, seed=5))] != fewer
    # a run may take still fewer
    fewest = [prompt.name for prompt in load_prompts(config(tmp_path, **given, captions_per_class=1))]
    assert ["circle" in name for name in fewest] == [True, False] and {*fewest} < {*fewer}
