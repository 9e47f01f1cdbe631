"""Datasets drawn with other families than Stable Diffusion: resumed, drawn again from a row, with masks and LoRAs.

Prompts have other lengths, so that what a batch is made of would show in the images.
"""

import hashlib
import io
import json
import shutil
import signal
import subprocess
import time
from contextlib import redirect_stderr

import numpy as np
import pytest
from datasets import load_dataset
from peft import LoraConfig, get_peft_model_state_dict

from support import DATA
from support.family_models import FAMILY_NAMES, TinyModels, tiny_pipeline
from support.warm_python import warm_programs
from ubgen_hub_cards.dataset_card import licence_note_of
from ubgen_pipeline.dataset.card import stored_card_maker
from ubgen_pipeline.dataset.shards import open_dataset
from ubgen_pipeline.generation.generate import main
from ubgen_pipeline.generation.regenerate import largest_difference, regenerate
from ubgen_pipeline.generation.row_lookup import find_row, stored_image
from ubgen_pipeline.models.loading import _said_notes, load_pipeline

NAMES = ["circle", "a big star at sea"]


@pytest.fixture(scope="module", params=FAMILY_NAMES)
def family(request):
    return request.param


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return TinyModels(tmp_path_factory.mktemp("models"))


def arguments(model, folder, *more):
    size = ["--height", "32", "--width", "64", "--num-inference-steps", "2", "--seed", "7", "--threads", "1"]
    counts = ["--samples-per-class", "2", "--samples-per-shard", "2", "--batch-size", "2", "--compile", "off"]
    return ["--model", str(model), "--class-names", *NAMES, "--output-dir", str(folder), *size, *counts, *more]


def hashes(folder):
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in folder.rglob("*.parquet")}


@pytest.fixture(scope="module")
def drawn(family, models, tmp_path_factory):
    """A dataset's folder, and what the command said while it drew it."""
    folder, said = tmp_path_factory.mktemp("dataset") / "d", io.StringIO()
    _said_notes.clear()
    with redirect_stderr(said):
        assert main(arguments(models.folder(family), folder, "--annotations", "mask")) == 0
        # a second load in the process
        pipeline = load_pipeline(models.folder(family))
    return folder, said.getvalue(), pipeline


def test_what_is_missing_is_drawn_again_to_the_same_bytes(family, models, drawn, tmp_path):
    shutil.copytree(drawn[0], tmp_path / "d")
    before = hashes(drawn[0])
    (tmp_path / "d" / "data" / min(before)).unlink()
    assert main(arguments(models.folder(family), tmp_path / "d", "--annotations", "mask")) == 0
    assert hashes(tmp_path / "d") == before and len(before) == 2


def test_a_row_is_drawn_again_to_the_bit_and_alone_to_rounding(family, models, drawn, tmp_path):
    model, row = str(models.folder(family)), find_row(str(drawn[0]), 3)
    assert np.array_equal(np.asarray(regenerate(row, model=model)), np.asarray(stored_image(row)))
    shutil.copytree(drawn[0] / "data", tmp_path / "data")
    alone = find_row(str(tmp_path), 3)
    assert len(alone.batch) == 1 and largest_difference(regenerate(alone, model=model), stored_image(alone)) <= 1


def test_rows_and_card_say_what_the_family_drew_with(drawn):
    folder, said, pipeline = drawn
    rows = load_dataset(str(folder), split="train")
    assert rows["label"][:] == [0, 1] * 2 and rows[0]["image"].size == rows[0]["mask"].size == (64, 32)
    assert set(rows["guidance_scale"][:]) == {pipeline.default_guidance_scale}
    assert rows[0]["scheduler"] == type(pipeline.scheduler).__name__
    note = pipeline.licence_note_of(pipeline.denoiser_network.config)
    card = (folder / "README.md").read_text()
    assert licence_note_of(card) == note
    assert said.count("before images of this model train others") == (note is not None)
    shards = open_dataset(folder)
    assert stored_card_maker(shards, card)(shards.shards, shards.num_bytes()) == card


def test_a_killed_run_goes_on_to_the_same_files(models, tmp_path):
    more = ["--samples-per-class", "4", "--annotations", "mask"]
    whole, killed = (arguments(models.folder("flux2-klein"), tmp_path / name, *more) for name in ("whole", "killed"))
    assert main(whole) == 0
    process = subprocess.Popen([str(warm_programs() / "ubgen"), "generate", *killed], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 240
    while not (tmp_path / "killed" / ".ubgen" / "shard-00000.json").exists() and time.monotonic() < deadline:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "killed" / "README.md").exists()
    assert main(killed) == 0
    assert hashes(tmp_path / "killed") == hashes(tmp_path / "whole") and len(hashes(tmp_path / "whole")) == 4


# a record of tensors with a mask, and one of lists
@pytest.mark.parametrize("name", ["qwen-image", "z-image"])
def test_features_of_prompts_are_read_by_the_next_run(name, models, tmp_path):
    def run(folder):
        more = ["--prompt-features", str(tmp_path / "kept"), "--samples-per-class", "1"]
        assert main(arguments(models.folder(name), tmp_path / folder, *more)) == 0
        return hashes(tmp_path / folder)

    first = run("first")
    # two classes and the empty prompt
    files = sorted((tmp_path / "kept").rglob("*.safetensors"))
    assert len(files) == 3 and run("second") == first
    for file in files:
        file.write_bytes(files[0].read_bytes())
    assert run("third") != first


def test_a_lora_of_the_command_line_changes_the_images(models, tmp_path):
    pipeline = tiny_pipeline("flux")
    pipeline.transformer.add_adapter(LoraConfig(r=2, init_lora_weights=False, target_modules=["to_v", "to_add_out"]))
    weights = {name: 4 * value for name, value in get_peft_model_state_dict(pipeline.transformer).items()}
    pipeline.save_lora_weights(tmp_path / "lora", transformer_lora_layers=weights)
    images = []
    for name, more in (("plain", []), ("with", ["--lora", str(tmp_path / "lora")])):
        assert main(arguments(models.folder("flux"), tmp_path / name, *more)) == 0
        images.append(np.asarray(load_dataset(str(tmp_path / name), split="train")[0]["image"], dtype=int))
    assert np.abs(images[0] - images[1]).max() > 5


def test_a_second_prediction_stands_in_rows_and_manifest_and_is_drawn_again(models, tmp_path):
    model, more = str(models.folder("flux")), ["--negative-prompt", "a red field"]
    for name, flags in (("truly", [*more, "--true-cfg-scale", "3"]), ("plain", [])):
        assert main(arguments(model, tmp_path / name, *flags)) == 0
    rows = load_dataset(str(tmp_path / "truly"), split="train")
    assert rows[0]["true_cfg_scale"] == 3 and rows[0]["negative_prompt"] == "a red field"
    assert "beside the number that the model reads" in (tmp_path / "truly/README.md").read_text()
    row, other = (find_row(str(tmp_path / name), 3) for name in ("truly", "plain"))
    assert row.manifest["true_cfg_scale"] == 3 and "true_cfg_scale" not in other.manifest
    assert np.array_equal(np.asarray(regenerate(row, model=model)), np.asarray(stored_image(row)))
    assert largest_difference(stored_image(row), stored_image(other)) > 1


def test_what_is_left_out_is_the_distilled_models(tmp_path):
    tiny_pipeline("flux", guidance_embeds=False).save_pretrained(tmp_path / "model")
    more = ["--model", str(tmp_path / "model"), "--output-dir", str(tmp_path / "d"), "--samples-per-class", "1"]
    assert main([*more, "--class-names", "circle", "--height", "32", "--width", "32", "--compile", "off"]) == 0
    (row,) = load_dataset(str(tmp_path / "d"), split="train")
    assert (row["num_inference_steps"], row["guidance_scale"]) == (4, 1.0)


@pytest.mark.parametrize(
    ("name", "flags", "message"),
    [
        ("sd3", ["--scheduler", "ddim"], "scheduler is 'ddim'"),
        ("sana-sprint", ["--scheduler", "ddim"], "scheduler is 'ddim', and UbGenSanaSprintPipeline has steps of its"),
        ("lumina2", ["--height", "36"], "height is 36; give a positive multiple of 16, of which 32 is nearest"),
        ("sana", ["--annotations", "mask", "--mask-self-power", "1"], "mask_settings.self_power is 1, but this model"),
        ("sd3", ["--mask-class-prompt", "true", "--annotations", "mask"], "class_prompt is True"),
        ("flux", ["--negative-prompt", "water"], "negative_prompt is 'water'"),
        ("sd3", ["--true-cfg-scale", "2"], "true_cfg_scale is 2.0, which UbGenStableDiffusion3Pipeline does not read"),
        ("flux", ["--true-cfg-scale", "1"], "true_cfg_scale is 1.0; give a number above 1, or leave it out"),
        (
            "sd3",
            ["--classes", str(DATA / "diffugen_config.json")],
            "has word weights, which UbGenStableDiffusion3Pipeline does not read",
        ),
        ("qwen-image", ["--offload", "text", "--device", "cpu"], "offload is 'text', and the device is the CPU"),
        ("qwen-image", ["--offload", "disk"], "offload is 'disk'; choose one of none, text, model, group"),
        ("qwen-image", ["--offload", "model", "--compile", "on"], "offload is 'model' and compile on"),
    ],
)
def test_what_does_not_go_is_refused_by_name_before_anything_is_drawn(name, flags, message, models, tmp_path, capsys):
    given = arguments(models.folder(name), tmp_path / "none")
    if "--classes" in flags:
        at = given.index("--class-names")
        given = given[:at] + given[at + 1 + len(NAMES) :]
    assert main([*given, *flags]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("name", ["z-image", "flux2-klein", "flux"])
def test_guidance_of_a_distilled_model_is_refused(name, tmp_path, capsys):
    distilled = {"flux2-klein": {"kind": "klein"}, "flux": {"guidance_embeds": False}}.get(name, {})
    # Z-Image's is known by the folder's name
    tiny_pipeline(name, **distilled).save_pretrained(tmp_path / "turbo")
    assert main(arguments(tmp_path / "turbo", tmp_path / "none", "--guidance-scale", "3")) == 2
    assert "guidance_scale is 3.0, which has no effect on this distilled model" in capsys.readouterr().err


def test_a_missing_text_encoder_is_refused_by_name(tmp_path, capsys):
    tiny_pipeline("flux").save_pretrained(tmp_path / "model")
    index_file = tmp_path / "model" / "model_index.json"
    index_file.write_text(json.dumps({**json.loads(index_file.read_text()), "text_encoder_2": [None, None]}))
    assert main(arguments(tmp_path / "model", tmp_path / "none")) == 2
    assert "has no text_encoder_2" in capsys.readouterr().err


def test_files_with_templates_draw_with_models_that_read_no_word_weights(models, tmp_path, capsys):
    file = tmp_path / "prompts.json"
    content = {"classes": ["circle", "star (big)"], "templates": ["a {name} at sea"], "negative_prompt": "dull"}
    file.write_text(json.dumps(content))
    model, folder = str(models.folder("flux2-klein")), tmp_path / "d"
    size = ["--height", "32", "--width", "64", "--num-inference-steps", "2", "--threads", "1"]
    flags = ["--model", model, "--classes", str(file), "--annotations", "mask", *size]
    assert main([*flags, "--output-dir", str(folder)]) == 0
    rows = load_dataset(str(folder), split="train")
    # as the model reads them, without the backslashes that word weights need
    assert rows["prompt"][:] == ["a circle at sea; circle", "a star (big) at sea; star (big)"]
    assert rows["num_prompt_chunks"][:] == [None, None]
    row = find_row(str(folder), 1)
    assert np.array_equal(np.asarray(regenerate(row, model=model)), np.asarray(stored_image(row)))
    for change in ({"templates": ["a {name}++ at sea"]}, {"negative_prompt": "(dull:1.3)"}):
        file.write_text(json.dumps(content | change))
        assert main([*flags, "--output-dir", str(tmp_path / "other")]) == 2
        assert "has word weights, which UbGenFlux2KleinPipeline does not read" in capsys.readouterr().err
