"""Samples from class prompts: whose turn it is, which prompts are chosen, and what a configuration decides."""

import itertools
import json

import pytest
import yaml
from datasets import load_dataset

from support import DATA
from ubgen_pipeline.generation.generate import generate_dataset, main
from ubgen_pipeline.prompts.templates import MAX_PROMPTS
from ubgen_pipeline.sample_seeds import sample_seed
from ubgen_pipeline.samples.prompt_samples import load_prompt_samples, read_prompt_file

DIFFUGEN = DATA / "diffugen_config.json"


def write(folder, **content):
    file = folder / "prompts.yaml"
    file.write_text(yaml.safe_dump({"classes": ["star", "ring"], "templates": ["a {name}"], **content}))
    return str(file)


def samples(source, **settings):
    found = load_prompt_samples(source, **settings)
    return [found.sample(index) for index in range(len(found))]


def test_classes_and_their_prompts_take_turns(tmp_path):
    file = write(tmp_path, templates=["a {view} {name}"], attributes={"view": ["front", "side"]}, samples_per_prompt=2)
    drawn = samples(file, seed=5)
    assert [item.prompt.prompt for item in drawn] == ["a front star", "a front ring", "a side star", "a side ring"] * 2
    assert [item.prompt.label for item in drawn] == [0, 1] * 4
    assert [item.seed for item in drawn] == [sample_seed(5, name, k) for k in range(4) for name in ("star", "ring")]


def test_a_cap_draws_different_prompts_by_the_seed(tmp_path):
    views = [f"v{i}" for i in range(50)]
    file = write(tmp_path, templates=["a {view} {name}"], attributes={"view": views}, max_prompts=6)
    drawn = samples(file)
    assert len(drawn) == 12 and len({item.prompt.prompt for item in drawn}) == 12
    assert drawn == samples(file) and drawn != samples(file, seed=1)
    # a smaller cap keeps the first ones
    assert [item.prompt for item in samples(file, max_prompts=3)] == [item.prompt for item in drawn[:6]]
    assert [item.prompt for item in samples(file, samples_per_class=3)] == [item.prompt for item in drawn[:6]]


def test_a_billion_prompts_are_refused_unless_capped(tmp_path):
    attributes = {f"a{i}": list(range(10)) for i in range(9)}
    template = " ".join(f"{{{name}}}" for name in attributes) + " {name}"
    file = write(tmp_path, classes=["star"], templates=[template], attributes=attributes)
    for settings in ({}, {"samples_per_class": 2}):
        with pytest.raises(ValueError, match=rf"1,000,000,000 prompts .* set max_prompts to at most {MAX_PROMPTS:,}"):
            load_prompt_samples(file, **settings)
    assert len(samples(file, max_prompts=5)) == 5


def test_definitions_join_on_request_and_ambiguous_names_are_told():
    (first,) = samples(["goldfish"], definitions=True, samples_per_class=1)
    assert first.prompt.prompt.startswith("goldfish, small golden or orange-red freshwater fishes")
    with pytest.raises(ValueError, match=r"'crane' has 2 meanings.*n02012849: large long-necked.*n03126707: lifts"):
        load_prompt_samples(["crane"], definitions=True)
    (bird, *_), (machine, *_) = (
        samples([{"name": "crane", "id": i}], definitions=True) for i in ("n02012849", "n03126707")
    )
    assert "wading bird" in bird.prompt.prompt and "heavy objects" in machine.prompt.prompt
    (own,) = samples(
        [{"name": "crane", "definition": "a bird"}], template="{name} ({definition})", samples_per_class=1
    )
    assert own.prompt.prompt == "crane (a bird)"


def test_diffugens_configuration_gives_its_own_prompts_in_its_own_number():
    config = json.loads(DIFFUGEN.read_text())["txt2img"]
    lists = ("view_points", "object_names", "times_of_day", "sky_conditions", "weather_conditions")
    fields = ("view_point", "object_name", "time_of_day", "sky_condition", "weather_condition")
    expected = [
        template.format(**dict(zip(fields, values))).replace("fire engine++", "(fire engine)++")
        for template in config["prompts"]
        for values in itertools.product(*(config[name] for name in lists))
    ]
    drawn = samples(DIFFUGEN)
    assert len(expected) == 48 and len(drawn) == 96
    assert sorted(item.prompt.prompt for item in drawn) == sorted(expected * 2)
    found = load_prompt_samples(DIFFUGEN)
    assert [item.name for item in found.classes] == ["lorry", "van", "tram", "fire engine"]
    assert [item.prompt.label for item in drawn[:4]] == [2, 3, 2, 3]
    by_place = {}
    for item in drawn:
        assert 100 <= item.seed <= 109
        by_place.setdefault((item.prompt.name, item.prompt.attributes), []).append(item.seed)
    assert all(len(set(seeds)) == len(seeds) == 2 for seeds in by_place.values()) and len(by_place) == 48
    assert [item.seed for item in samples(DIFFUGEN, seed=1)] != [item.seed for item in drawn]
    with pytest.raises(ValueError, match="seed_range holds 10 seeds for 11 images"):
        load_prompt_samples(DIFFUGEN, samples_per_class=11 * 24)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["txt2img"].pop("sky_conditions"), "no sky_conditions"),
        (lambda c: c["txt2img"]["prompts"].append("{colour} {object_name}"), "unknown placeholder {colour}"),
        (lambda c: c["txt2img"]["prompts"].append("nothing"), "'tram' is not in its prompt"),
        (lambda c: c["txt2img"].update(seed_range={"min": 5, "max": 1}), "seed_range is"),
        (lambda c: c["txt2img"].update(seed_range=[1, 2]), "seed_range is"),
        (lambda c: c.update(steps="many"), "steps is 'many'"),
        (lambda c: c.update(image_size=512), "image_size is 512"),
    ],
)
def test_bad_configurations_are_refused(tmp_path, change, message):
    config = json.loads(DIFFUGEN.read_text())
    change(config)
    (tmp_path / "c.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=message):
        load_prompt_samples(tmp_path / "c.json")


def test_a_configuration_sets_defaults_and_flags_win(random_mini_model, tmp_path, capsys):
    arguments = ["--classes", str(DIFFUGEN), "--model", random_mini_model, "--samples-per-class", "2"]
    assert main([*arguments, "--dry-run"]) == 0
    output = capsys.readouterr()
    lines = [json.loads(line) for line in output.out.splitlines()]
    assert len(lines) == 4 and lines[0]["attributes"]["weather_condition"] == "dry"
    assert "written for somebody/some_model" in output.err and "label_model is not read" in output.err
    assert main([*arguments, "--output-dir", str(tmp_path / "d"), "--samples-per-shard", "3"]) == 0
    rows = load_dataset(str(tmp_path / "d"), split="train")
    assert rows["prompt"][:] == [line["prompt"] for line in lines] and rows["seed"][:] == [
        line["seed"] for line in lines
    ]
    assert rows["num_inference_steps"][:] == [3] * 4 and rows[0]["negative_prompt"] == "(dull, blurry:1.4), text"
    assert rows[0]["image"].size == (64, 64)
    assert rows.features["label"].names == ["lorry", "van", "tram", "fire engine"]
    assert len(list((tmp_path / "d" / "data").iterdir())) == 2
    file = read_prompt_file(DIFFUGEN)
    assert (
        file.defaults("somebody/some_model")["width"] == 512 and file.defaults("somebody/some_model")["height"] == 384
    )


def test_images_do_not_depend_on_the_other_prompts_of_their_batch(random_mini_model, tmp_path):
    words = ["on sand", " ".join(["very"] * 30) + " far"]
    file = write(tmp_path, templates=["a {name}++ {place}"], attributes={"place": words})
    settings = {"model": random_mini_model, "num_inference_steps": 1}
    four, one = (
        generate_dataset(file, tmp_path / str(size), batch_size=size, **settings)["image"][:] for size in (4, 1)
    )
    for first, second in zip(four, one):
        difference = [abs(a - b) for a, b in zip(first.tobytes(), second.tobytes())]
        assert max(difference) <= 1


def test_template_and_file_with_templates_are_not_mixed(tmp_path, capsys):
    assert main(["--classes", write(tmp_path), "--template", "the {name}", "--dry-run"]) == 2
    assert "templates of its own" in capsys.readouterr().err
    assert main(["--class-names", "star", "--template", "a {name}++ on sand", "--dry-run"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[0])["prompt"] == "a star++ on sand"
