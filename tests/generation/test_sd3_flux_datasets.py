"""``ubgen generate`` and ``regenerate`` with Stable Diffusion 3 and FLUX.1: killed, resumed, masked, drawn again."""

import hashlib
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from datasets import load_dataset
from peft import LoraConfig, get_peft_model_state_dict

from support import DATA
from support.tiny_models import flux, sd3
from ubgen_pipeline.generation.generate import main
from ubgen_pipeline.generation.regenerate import main as regenerate

MODELS = {
    "sd3": sd3.build,
    "sd3_without_t5": lambda: sd3.build(with_t5=False),
    "flux_dev": flux.build,
    "flux_schnell": lambda: flux.build(guidance_embeds=False),
}
SIZE = ["--height", "32", "--width", "32"]


@pytest.fixture(scope="module", params=MODELS)
def model(request, tmp_path_factory):
    """Folder of a tiny model, saved by plain diffusers."""
    folder = tmp_path_factory.mktemp("model") / request.param
    MODELS[request.param]().save_pretrained(folder)
    return folder


def arguments(model, folder, *more):
    short = ["--samples-per-class", "4", "--samples-per-shard", "2", "--batch-size", "2", "--threads", "1"]
    return [
        *("--model", str(model), "--class-names", "circle", "star", "--output-dir", str(folder), "--seed", "7"),
        *(*SIZE, *short, *more),
    ]


def start(*command):
    return subprocess.Popen([sys.executable, "-m", "ubgen_pipeline", *command], stderr=subprocess.PIPE, text=True)


def hashes(folder):
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in Path(folder, "data").iterdir()}


def test_killed_and_resumed_equals_uninterrupted_and_rows_are_drawn_again(model, tmp_path, capsys):
    if model.name in ("sd3_without_t5", "flux_schnell"):
        pytest.skip("the same way as its sister's, which takes long")
    more = ["--num-inference-steps", "3", "--annotations", "mask", "box"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert main(arguments(model, whole, *more)) == 0, capsys.readouterr().err
    process = start("generate", *arguments(model, killed, *more))
    deadline = time.monotonic() + 300
    while not (killed / ".ubgen" / "shard-00000.json").exists() and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (killed / "README.md").exists()
    resumed = start("generate", *arguments(model, killed, *more))
    _, log = resumed.communicate()
    assert resumed.returncode == 0, log
    assert hashes(killed) == hashes(whole) and len(hashes(whole)) == 4
    rows = load_dataset(str(whole), split="train")
    assert rows["label"][:] == [0, 1] * 4 and rows[0]["image"].size == rows[0]["mask"].size == (32, 32)
    assert np.asarray(rows[3]["image"]).std() > 5 and rows[3]["prompt"] == "star"
    output = tmp_path / "5.png"
    assert regenerate([str(whole), "--index", "5", "--model", str(model), "--output", str(output)]) == 0
    assert "bit for bit" in capsys.readouterr().err


def test_what_is_left_out_is_the_familys_and_what_has_no_effect_is_refused(model, tmp_path, capsys):
    is_flux = "flux" in model.name
    is_distilled = "schnell" in model.name
    assert main(arguments(model, tmp_path / "d", "--samples-per-class", "1")) == 0, capsys.readouterr().err
    (row,) = load_dataset(str(tmp_path / "d"), split="train").select([0])
    expected = (4, 1.0) if is_distilled else (28, 3.5) if is_flux else (28, 4.5)
    assert (row["num_inference_steps"], row["guidance_scale"]) == expected
    assert row["scheduler"] == "FlowMatchEulerDiscreteScheduler"
    refused = {
        ("--scheduler", "ddim"): "scheduler is 'ddim'",
        ("--height", "36"): "height is 36; give a positive multiple of 8",
        ("--mask-class-prompt", "true", "--annotations", "mask"): "class_prompt is True",
    }
    refused |= {("--negative-prompt", "water"): "negative_prompt is 'water'"} if is_flux else {}
    refused |= {("--guidance-scale", "4"): "guidance_scale is 4.0, which has no effect"} if is_distilled else {}
    for flags, message in refused.items():
        assert main(arguments(model, tmp_path / "none", *flags)) == 2
        assert message in capsys.readouterr().err
        assert not (tmp_path / "none").exists()


def test_word_weights_are_refused_by_name(model, tmp_path, capsys):
    command = ["--model", str(model), "--classes", str(DATA / "diffugen_config.json"), "--output-dir"]
    assert main([*command, str(tmp_path / "none"), *SIZE]) == 2
    log = capsys.readouterr().err
    # the configuration's negative prompt is one more that FLUX.1 does not read
    assert ("negative_prompt is" if "flux" in model.name else "prompts may hold word weights") in log
    assert not (tmp_path / "none").exists()


def test_a_missing_text_encoder_is_refused_by_name(model, tmp_path, capsys):
    index_file = model / "model_index.json"
    whole = index_file.read_text()
    try:
        for part in ("text_encoder", "text_encoder_2"):
            index_file.write_text(json.dumps({**json.loads(whole), part: [None, None]}))
            assert main(arguments(model, tmp_path / "none")) == 2
            assert f"has no {part}" in capsys.readouterr().err
    finally:
        index_file.write_text(whole)


def test_a_lora_and_its_own_kind_of_model(model, tmp_path, capsys):
    pipeline = MODELS[model.name]()
    pipeline.transformer.add_adapter(LoraConfig(r=2, init_lora_weights=False, target_modules=["to_v", "to_add_out"]))
    weights = {name: 4 * value for name, value in get_peft_model_state_dict(pipeline.transformer).items()}
    type(pipeline).save_lora_weights(tmp_path / "lora", transformer_lora_layers=weights)
    other = sd3.build() if "flux" in model.name else flux.build()
    other.save_pretrained(tmp_path / "other")
    short = ["--samples-per-class", "1", "--num-inference-steps", "2"]
    for name, more in (("plain", []), ("with", ["--lora", str(tmp_path / "lora")])):
        assert main(arguments(model, tmp_path / name, *short, *more)) == 0, capsys.readouterr().err
    first, second = (load_dataset(str(tmp_path / name), split="train")[0]["image"] for name in ("plain", "with"))
    assert np.abs(np.asarray(first, dtype=int) - np.asarray(second, dtype=int)).max() > 5
    assert main(arguments(tmp_path / "other", tmp_path / "none", "--lora", str(tmp_path / "lora"))) == 2
    assert "does not fit the model" in capsys.readouterr().err
