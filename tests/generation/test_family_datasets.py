"""Datasets drawn with other families than Stable Diffusion: resumed, drawn again from a row, and with their LoRAs.

Prompts are of other lengths, so that what a batch is made of would show in the images.
"""

import hashlib
import importlib
import io
import shutil
import signal
import subprocess
import sys
import time
from contextlib import redirect_stderr

import numpy as np
import pytest
import torch
from datasets import load_dataset
from peft import LoraConfig, get_peft_model_state_dict, inject_adapter_in_model

from ubgen_hub_cards.dataset_card import licence_note_of
from ubgen_pipeline.dataset.card import stored_card_maker
from ubgen_pipeline.dataset.shards import open_dataset
from ubgen_pipeline.generation.generate import main
from ubgen_pipeline.generation.regenerate import largest_difference, regenerate
from ubgen_pipeline.generation.row_lookup import find_row, stored_image
from ubgen_pipeline.models.families import FAMILIES
from ubgen_pipeline.models.loading import _said_notes, load_pipeline

NAMES = ["circle", "a big star in the evening"]
FAMILY_NAMES = ("sana", "sana-sprint", "pixart-sigma", "cogview4", "lumina2")


@pytest.fixture(scope="module", params=FAMILY_NAMES)
def family(request):
    return request.param


@pytest.fixture(scope="module")
def model(family, tmp_path_factory):
    """The folder of a tiny model of the family."""
    folder = tmp_path_factory.mktemp(family)
    importlib.import_module(f"support.tiny_models.{family.replace('-', '_')}").build().save_pretrained(folder)
    return folder


def arguments(model, folder, *more):
    size = ["--height", "32", "--width", "48", "--num-inference-steps", "4", "--seed", "7", "--threads", "1"]
    counts = ["--samples-per-class", "5", "--samples-per-shard", "4", "--batch-size", "3"]
    return ["--model", str(model), "--class-names", *NAMES, "--output-dir", str(folder), *size, *counts, *more]


def hashes(folder):
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in (folder / "data").iterdir()}


@pytest.fixture(scope="module")
def drawn(model, tmp_path_factory):
    """A dataset's folder, and what the command said while it drew it."""
    folder, said = tmp_path_factory.mktemp("dataset") / "d", io.StringIO()
    _said_notes.clear()
    with redirect_stderr(said):
        assert main(arguments(model, folder)) == 0
        # a second load in the process
        load_pipeline(str(model))
    return folder, said.getvalue()


@pytest.fixture(scope="module")
def dataset(drawn):
    return drawn[0]


def test_what_to_know_of_the_licence_is_said_once_and_in_the_card(family, drawn):
    folder, said = drawn
    note = FAMILIES[family].pipeline_class().licence_note
    card = (folder / "README.md").read_text()
    assert licence_note_of(card) == note and said.count("before images of this model train others") == (
        note is not None
    )
    shards = open_dataset(folder)
    assert stored_card_maker(shards, card)(shards.shards, shards.num_bytes()) == card


def test_a_killed_run_goes_on_to_the_same_files(model, dataset, tmp_path):
    killed = tmp_path / "killed"
    command = [sys.executable, "-m", "ubgen_pipeline", "generate", *arguments(model, killed)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not (killed / ".ubgen" / "shard-00000.json").exists() and time.monotonic() < deadline:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (killed / "README.md").exists()
    assert main(arguments(model, killed)) == 0
    assert hashes(killed) == hashes(dataset) and len(hashes(dataset)) == 3


def test_a_row_is_drawn_again_to_the_bit_and_alone_to_rounding(model, dataset, tmp_path):
    row = find_row(str(dataset), 4)
    assert np.array_equal(np.asarray(regenerate(row, model=str(model))), np.asarray(stored_image(row)))
    shutil.copytree(dataset / "data", tmp_path / "data")
    alone = find_row(str(tmp_path), 4)
    assert len(alone.batch) == 1 and largest_difference(regenerate(alone, model=str(model)), stored_image(alone)) <= 1


def test_rows_say_what_the_family_drew_with(family, dataset):
    rows = load_dataset(str(dataset), split="train")
    assert rows["label"][:] == [0, 1] * 5 and rows[0]["image"].size == (48, 32)
    assert set(rows["guidance_scale"][:]) == {FAMILIES[family].pipeline_class().default_guidance_scale}


def test_a_lora_changes_the_images_and_equals_the_one_beside_the_weights(family, model, tmp_path):
    pipeline = FAMILIES[family].pipeline_class().from_pretrained(model)
    config = LoraConfig(r=2, lora_alpha=8, init_lora_weights=False, target_modules=list(pipeline.lora_targets))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        inject_adapter_in_model(config, pipeline.transformer)
    settings = {name: sorted(v) if isinstance(v, set) else v for name, v in config.to_dict().items()}
    type(pipeline).save_lora_weights(
        tmp_path / "lora",
        transformer_lora_layers=get_peft_model_state_dict(pipeline.transformer),
        transformer_lora_adapter_metadata=settings,
    )
    images = []
    for number, more in enumerate(([], ["--lora", str(tmp_path / "lora")])):
        folder = tmp_path / str(number)
        assert main([*arguments(model, folder, *more), "--samples-per-class", "1"]) == 0
        images.append(np.stack([np.asarray(row["image"]) for row in load_dataset(str(folder), split="train")]))
    pipeline.set_progress_bar_config(disable=True)
    drawn = pipeline(NAMES, seed=7, num_inference_steps=4, height=32, width=48, output_type="np").images
    assert np.abs(images[1] - drawn * 255).max() <= 1
    assert np.abs(images[1].astype(int) - images[0]).max() > 3


def test_a_size_between_the_patches_names_those_that_fit(model, tmp_path, capsys):
    assert main([*arguments(model, tmp_path / "d"), "--height", "36"]) == 2
    assert "height is 36; give a positive multiple of " in capsys.readouterr().err
