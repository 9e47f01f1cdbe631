"""The model card: metadata that the Hub reads, facts as run, and user text that stays text."""

import ast
import json
import re
from dataclasses import replace

import pytest
import yaml
from huggingface_hub import ModelCard

import ubgen_pipeline.mini
from ubgen_hub_cards.card_text import LOCAL_SOURCE, public_source
from ubgen_hub_cards.model_card import Evaluation, HowToLoad, ModelFacts, curve_of, render_model_card

# made in parts, so that no scanner takes it for a real one
TOKEN = "hf_" + "aB3" * 11 + "x"
HOSTILE = [
    "---\nlicense: mit\n---",
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "| a | b |",
    "[click](javascript:alert(1))",
    "![](https://example.com/x.png)",
    "```\n# Title",
    "`code` **bold** _it_ ~~no~~ $x$ @someone",
    "{{ facts }} {% raw %}",
    "</details>",
    '"); import os; os.system("x") #',
    "'''\n\"\"\"",
    "../../etc/passwd",
    "https://evil.example www.evil.example",
    "\u202eright to left\u0000\u2028",
    "&lt;b&gt; &amp;",
    "key: [value] # comment",
    TOKEN,
]
FACTS = ModelFacts(
    base_model="stable-diffusion-v1-5/stable-diffusion-v1-5",
    train_method="lora",
    method="Weights trained.",
    class_names=["tench", "St. Bernard", "jack-o'-lantern"],
    prompt="tench",
    num_inference_steps=50,
    guidance_scale=2.0,
    num_updates=96,
    settings={"learning_rate": 2e-5, "reward_funcs": ["clip_alignment", "quality"], "nothing": None},
    texts={"prompt_template": "{name}"},
    evaluations=[Evaluation("heldout/diversity", 0.5, 0.25)],
    curves=[curve_of("loss", [1.0, 2.0, 3.0]), curve_of("rewards/quality", list(range(10)))],
    grids=["samples/step_000000.png", "samples/step_000096.png"],
    grid_classes=["tench"],
    versions={"torch": "2.14.0"},
    device="8 x GPU",
    tags=("lora", "ubgen"),
)


def rendered(card: str) -> str:
    """The text that a reader of the Markdown sees, as far as character references go."""
    return re.sub(r"&#(\d+);", lambda found: chr(int(found[1])), card)


def test_metadata_is_read_by_the_hubs_own_reader():
    data = ModelCard(render_model_card(FACTS)).data
    assert data.base_model == FACTS.base_model
    assert data.library_name == "diffusers" and data.pipeline_tag == "text-to-image"
    assert data.license == "other" and data.license_link.endswith(FACTS.base_model)
    assert data.base_model_relation == "adapter"
    assert data.tags == ["ubgen", "text-to-image", "synthetic-data", "lora"]


def code_of(card: str) -> str:
    """The card's Python, which must be Python."""
    code = card.split("```python\n")[1].split("```")[0]
    ast.parse(code)
    return code


def test_the_code_is_that_of_the_models_family():
    how = HowToLoad("SanaPipeline", "SanaTransformer2DModel", "transformer", guidance={"guidance_scale": 4.5})
    lora = code_of(render_model_card(replace(FACTS, how_to_load=how)))
    assert "from diffusers import SanaPipeline\n" in lora and "pipeline.load_lora_weights(trained)" in lora
    assert "guidance_scale=4.5" in lora and "StableDiffusion" not in lora
    full = code_of(render_model_card(replace(FACTS, how_to_load=how, train_method="full")))
    assert 'transformer = SanaTransformer2DModel.from_pretrained(trained, subfolder="transformer")' in full
    assert "SanaPipeline.from_pretrained(base, transformer=transformer)" in full
    other = replace(how, guidance={"true_cfg_scale": 4.0, "negative_prompt": ""})
    assert "true_cfg_scale=4.0, negative_prompt=''" in code_of(render_model_card(replace(FACTS, how_to_load=other)))


def test_a_lora_in_pefts_files_is_said_to_be_one():
    how = HowToLoad("PixArtSigmaPipeline", "PixArtTransformer2DModel", "transformer", has_lora_loader=False)
    code = code_of(render_model_card(replace(FACTS, how_to_load=how)))
    assert "from peft import PeftModel" in code and "in peft's own files" in code
    assert "PeftModel.from_pretrained(pipeline.transformer, trained)" in code and "load_lora_weights" not in code


def test_the_note_on_the_base_models_licence_stands_in_the_card():
    card = render_model_card(replace(FACTS, licence_note="not for training: see its page."))
    assert "not for training: see its page." in card.split("## Licence")[1]
    assert "Before its images" not in render_model_card(FACTS)


def test_facts_stand_in_the_card():
    card = render_model_card(FACTS)
    assert "| `heldout/diversity` | 0.5 | 0.25 |" in card
    assert "| `loss` | 1 | 2 | 3 |  |  |" in card
    assert "| `rewards/quality` | 0.5 | 2.5 | 4.5 | 6.5 | 8.5 |" in card
    assert "96 updates, on 8 x GPU." in card and "`torch`" not in card and "torch 2.14.0" in card
    assert "| `reward_funcs` | `clip_alignment, quality` |" in card and "nothing" not in card
    assert "![Samples, before training](samples/step_000000.png)" in card
    assert "tench; St. Bernard; jack-o'-lantern." in card
    assert "alarm was raised" not in card
    assert "after update 40, 60" in render_model_card(replace(FACTS, alarms=[40, 60]))


def test_every_table_has_as_many_cells_in_each_row():
    for table in re.findall(r"(?:^\|.*\|$\n)+", render_model_card(FACTS), re.MULTILINE):
        assert len({row.count("|") for row in table.splitlines()}) == 1, table


def test_long_class_lists_are_cut_and_counted():
    card = render_model_card(replace(FACTS, class_names=[f"class {n}" for n in range(1000)]))
    assert "saw 1000 class names" in card and "(the first 40 of 1000)" in card and "class 40" not in card


def test_captions_are_not_called_class_names():
    card = rendered(render_model_card(replace(FACTS, has_captions=True)))
    assert "The training saw 3 captions and no image." in card and "\nCaptions: tench; " in card
    assert "saw 3 class names and no image" in rendered(render_model_card(FACTS))


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_text_stays_text(name):
    harmless = render_model_card(replace(FACTS, class_names=["x"], prompt="x", grid_classes=["x"], texts={"t": "x"}))
    facts = replace(FACTS, class_names=[name], prompt=name, grid_classes=[name], texts={"t": name})
    card = render_model_card(facts)
    assert ModelCard(card).data.to_dict() == ModelCard(harmless).data.to_dict()
    assert yaml.safe_load(card.split("---")[1])["license"] == "other"
    # the same structure: what opens HTML, links, code, headings and cells occurs as often as with a plain name
    # outside of code, whose own ends are checked by the number of lines and by the characters that it may hold
    code = r"^```python.*?^```$|`[\w.:/ ,+@-]+`"
    outside, plain = (re.sub(code, "", text, flags=re.M | re.S | re.A) for text in (card, harmless))
    for mark in ("<", "[", "](", "|", "*", "~", "$", "@", "javascript:", "www.", "{{", "\n#", "\n---", "\n```"):
        assert outside.count(mark) == plain.count(mark), mark
    assert len(card.splitlines()) == len(harmless.splitlines())
    assert TOKEN not in rendered(card) and "\u202e" not in card and "\u0000" not in card
    literals = [part for part in _strings(_code(card)) if part not in _strings(_code(harmless))]
    expected = " ".join("".join(c if c.isprintable() else " " for c in name).split())
    assert literals == (["hf…"] if name == TOKEN else [expected])


def _code(card: str) -> str:
    (code,) = re.findall(r"^```python\n(.*?)^```$", card, re.M | re.S)
    return code


def _strings(code: str) -> list[str]:
    return [node.value for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Constant) and node.value != 2.0]


def test_local_paths_do_not_reach_the_card(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models" / "mine").mkdir(parents=True)
    paths = [
        str(tmp_path / "models"),
        "~/model",
        "./model",
        "models/mine",
        "a/b/c",
        "C:\\model",
        "open_clip:local-dir:models/clip",
        f"open_clip:local-dir:{tmp_path}",
        "file:///x/y",
    ]
    for path in paths:
        assert public_source(path) == LOCAL_SOURCE
        card = render_model_card(replace(FACTS, base_model=path, settings={"clip_model": path, "some": [path]}))
        assert path not in rendered(card) and str(tmp_path) not in rendered(card), path
        data = ModelCard(card).data
        assert data.base_model is None and data.license == "other" and "license_link" not in data.to_dict()
    for public in ("mini", "openai/clip-vit-large-patch14", "open_clip:ViT-B-32/laion2b_s34b_b79k", "a/b@refs/pr/1"):
        assert public_source(public) == public


@pytest.mark.parametrize("name", ["mini", "mini-flow"])
def test_an_embedded_model_is_found_by_its_name(name):
    card = render_model_card(replace(FACTS, base_model=name))
    function = f"{name.replace('-', '_')}_path" if name != "mini" else "mini_model_path"
    assert hasattr(ubgen_pipeline.mini, function)
    assert f"from ubgen_pipeline.mini import {function}\n\nbase = {function}()" in card
    assert f"the ubgen {name} model" in card and ModelCard(card).data.license == "apache-2.0"


def test_tokens_are_blotted_out():
    facts = replace(FACTS, prompt=TOKEN, class_names=[TOKEN], settings={"x": TOKEN}, texts={"y": f"a {TOKEN}*"})
    assert TOKEN[3:] not in rendered(render_model_card(facts))


@pytest.mark.parametrize("grid", ["/etc/x.png", "../x.png", "a](b).png", "a b.png"])
def test_a_grid_beyond_the_folder_is_refused(grid):
    with pytest.raises(ValueError, match="grids holds"):
        render_model_card(replace(FACTS, grids=[grid]))


def test_cards_are_json_free_of_none():
    assert "None" not in render_model_card(FACTS) and json.dumps(ModelCard(render_model_card(FACTS)).data.to_dict())


@pytest.mark.parametrize(
    "values, parts", [([3.0], (3.0,)), ([1.0, 3.0], (1.0, 3.0)), (list(range(7)), (0, 1, 2.5, 4, 5.5))]
)
def test_curves_are_means_of_consecutive_parts(values, parts):
    assert curve_of("x", values).parts == parts
