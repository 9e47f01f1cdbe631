"""The card that a training writes: from hostile class names on the command line to code that runs."""

import re

import pytest
from huggingface_hub import ModelCard

from ubgen_training.ubgen.command import main

NAMES = ["<b>star</b>", "ring | [x](y) ``` {{ 1 }}"]


@pytest.fixture(scope="module")
def trained(random_mini_model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained") / "secret_place"
    flags = ["--model_name_or_path", random_mini_model, "--class_names", *NAMES, "--output_dir", str(folder)]
    flags += [
        "--num_inference_steps",
        "2",
        "--num_gradient_steps",
        "1",
        "--lora_rank",
        "2",
        "--adversarial_weight",
        "0",
    ]
    flags += ["--reward_funcs", "quality", "--heldout_reward_funcs", "jpeg_size", "--num_samples_per_class", "1"]
    flags += ["--per_device_train_batch_size", "2", "--max_steps", "2", "--heldout_steps", "2", "--use_cpu"]
    assert main([*flags, "--save_strategy", "no", "--disable_tqdm", "true"]) == 0
    return folder


@pytest.fixture(scope="module")
def card(trained):
    return (trained / "README.md").read_text(encoding="utf-8")


def test_metadata_names_no_local_base(card):
    data = ModelCard(card).data
    assert data.base_model is None and data.library_name == "diffusers" and "lora" in data.tags


def test_it_holds_what_was_run_and_nothing_of_this_machine(card, trained, random_mini_model):
    text = re.sub(r"&#(\d+);", lambda found: chr(int(found[1])), card)
    assert "2 updates, on CPU." in card and "the strategy `even_k`" in card
    assert re.search(r"\| `heldout/jpeg_size` \| -[\d.]+ \| -[\d.]+ \|", card)
    assert re.search(r"\| `rewards/quality` \| [\d.]+ \| [\d.]+ \|", card)
    assert "| `lora_rank` | `2` |" in card and "transformers 5" in card
    # in a block of code HTML is only text
    assert all(name in text for name in NAMES) and "<b>" not in re.sub(r"^```.*?^```$", "", card, flags=re.M | re.S)
    for path in (str(trained), trained.name, random_mini_model, str(trained.parent)):
        assert path not in text


def test_grids_are_there(card, trained):
    grids = re.findall(r"!\[.*?\]\((.*?)\)", card)
    assert grids == ["samples/step_000000.png", "samples/step_000002.png"]
    assert all((trained / grid).is_file() for grid in grids)


def test_its_code_runs_in_plain_diffusers(card, trained, random_mini_model, monkeypatch):
    (code,) = re.findall(r"^```python\n(.*?)^```$", card, re.M | re.S)
    assert "ubgen" not in re.sub("#.*", "", code)
    monkeypatch.chdir(trained)
    names = {}
    exec(code.replace("FOLDER_OF_THE_BASE_MODEL", random_mini_model), names)
    assert names["image"].size == (64, 64)
    assert names["pipeline"].get_active_adapters()
