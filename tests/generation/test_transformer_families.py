"""Datasets from tiny Z-Image, FLUX.2 and Qwen-Image models: killed, resumed and drawn again, as with any family."""

import hashlib
import json
import signal
import subprocess
import sys
import time

import datasets
import pytest

from support.tiny_models import flux2, qwen_image, z_image
from ubgen_pipeline.generation import generate, regenerate

BUILD = {
    "z_image": z_image.build,
    "flux2_klein": lambda: flux2.build("klein"),
    "flux2_dev": lambda: flux2.build("dev"),
    "qwen_image": qwen_image.build,
}


@pytest.fixture(scope="module", params=BUILD)
def model(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    BUILD[request.param]().save_pretrained(folder)
    return str(folder)


def _arguments(model, folder, *more):
    given = ["--model", model, "--class_names", "circle", "a_long_name_of_a_star", "--output_dir", str(folder)]
    given += ["--samples_per_class", "4", "--samples_per_shard", "4", "--num_inference_steps", "2"]
    given += ["--height", "32", "--width", "48", "--batch_size", "2", "--threads", "1", "--compile", "off"]
    return [*given, *more]


def _shards(folder):
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in folder.rglob("*.parquet")}


def test_killed_resumed_and_drawn_again(model, tmp_path, capsys):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert generate.main(_arguments(model, whole)) == 0
    command = [sys.executable, "-m", "ubgen_pipeline", "generate", *_arguments(model, killed)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 240
    while not (killed / ".ubgen" / "shard-00000.json").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert generate.main(_arguments(model, killed)) == 0
    assert _shards(killed) == _shards(whole) and len(_shards(whole)) == 2

    rows = datasets.load_dataset(str(whole), split="train")
    assert len(rows) == 8 and rows[0]["image"].size == (48, 32) and rows[0]["scheduler"].startswith("FlowMatchEuler")
    assert regenerate.main([str(whole), "--index", "5", "--model", model, "--output", str(tmp_path / "5.png")]) == 0
    assert "the same image, bit for bit" in capsys.readouterr().err


def test_features_of_prompts_are_read_by_the_next_run(model, tmp_path):
    kept = tmp_path / "kept"
    for name in ("first", "second"):
        assert generate.main(_arguments(model, tmp_path / name, "--prompt_features", str(kept))) == 0
    files = sorted(kept.rglob("*.safetensors"))
    # two classes, and the empty prompt where the family guides away from it
    assert len(files) in (2, 3)
    assert _shards(tmp_path / "first") == _shards(tmp_path / "second")
    for file in files:
        file.write_bytes(files[0].read_bytes())
    assert generate.main(_arguments(model, tmp_path / "third", "--prompt_features", str(kept))) == 0
    assert _shards(tmp_path / "third") != _shards(tmp_path / "first")


def test_bad_input(model, tmp_path, capsys):
    for more, message in (
        (["--offload", "text", "--device", "cpu"], "offload is 'text', and the device is the CPU"),
        (["--offload", "disk"], "offload is 'disk'; choose one of none, text, model, group"),
        (["--offload", "model", "--compile", "on"], "offload is 'model' and compile on"),
        (["--height", "36"], "height is 36; give a positive multiple of 8"),
    ):
        assert generate.main(_arguments(model, tmp_path / "none", *more)) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


def test_distilled_models_refuse_guidance(tmp_path, capsys):
    for name, stock in (("Z-Image-Turbo", z_image.build()), ("klein", flux2.build("klein"))):
        stock.save_pretrained(tmp_path / name)
        arguments = _arguments(str(tmp_path / name), tmp_path / "none", "--guidance_scale", "3")
        assert generate.main(arguments) == 2
        assert "guidance_scale is 3.0, which has no effect on this distilled model" in capsys.readouterr().err
        assert generate.main(_arguments(str(tmp_path / name), tmp_path / f"{name} images")) == 0
        manifest = json.loads((tmp_path / f"{name} images" / ".ubgen" / "manifest.json").read_text())
        assert manifest["settings"]["guidance_scale"] == 1.0
