"""One run: what it chooses, what a resume takes over, and what it does where memory or a compiler is missing."""

import hashlib
import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import load_dataset
from transformers import CLIPTextModel

from ubgen_pipeline.generation.dataset_rows import DatasetRows
from ubgen_pipeline.generation.generate import generate_dataset, main
from ubgen_pipeline.inference import choice

NAMES = ["circle", "star", "heart"]


def _hashes(folder):
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in Path(folder, "data").iterdir()}


def _manifest(folder):
    return json.loads((Path(folder) / ".ubgen" / "manifest.json").read_text())


def _generate(model, folder, **settings):
    settings = {"samples_per_class": 4, "num_inference_steps": 2, "samples_per_shard": 6, "threads": 1, **settings}
    return generate_dataset(NAMES, folder, model=model, **settings)


def test_threads_that_draw_at_once_change_no_byte(tiny_model, tmp_path, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    _generate(tiny_model, tmp_path / "one", batch_size=2)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    _generate(tiny_model, tmp_path / "three", batch_size=2)
    assert _hashes(tmp_path / "one") == _hashes(tmp_path / "three")


def test_a_resume_takes_what_was_chosen(tiny_model, tmp_path, capsys):
    _generate(tiny_model, tmp_path / "d", batch_size=3)
    before = _hashes(tmp_path / "d")
    shard = next((tmp_path / "d" / "data").glob("train-00001*"))
    shard.unlink()
    # neither batch size nor threads are given again
    _generate(tiny_model, tmp_path / "d", threads=None)
    assert _hashes(tmp_path / "d") == before
    recorded = _manifest(tmp_path / "d")["settings"]
    assert {name: recorded[name] for name in ("batch_size", "threads", "dtype", "compile", "lora_weights")} == {
        "batch_size": 3, "threads": 1, "dtype": "float32", "compile": "off", "lora_weights": "none"
    }  # fmt: skip
    with pytest.raises(ValueError, match="batch_size was 3 there and is 4 now"):
        _generate(tiny_model, tmp_path / "d", batch_size=4)
    with pytest.raises(ValueError, match="codec was 'png' there and is 'jpeg' now"):
        _generate(tiny_model, tmp_path / "d", codec="jpeg")


def test_text_encoders_that_wait_encode_all_prompts_before_and_change_no_byte(tiny_model, tmp_path, monkeypatch):
    _generate(tiny_model, tmp_path / "plain", batch_size=2)
    moves = []
    move = torch.nn.Module.to
    monkeypatch.setattr(CLIPTextModel, "to", lambda encoder, *where: moves.append(where) or move(encoder, *where))
    # the CPU stands in for a GPU that is not here
    monkeypatch.setattr(choice, "wanted_offload", lambda *_: "text")
    _generate(tiny_model, tmp_path / "waiting", batch_size=2)
    assert _hashes(tmp_path / "waiting") == _hashes(tmp_path / "plain")
    visits = [where for where in moves if where == ("cpu",)]
    # there and back: for the three prompts, and for the empty one that all are guided away from
    assert len(visits) == 4 + 1


def test_too_little_memory_lowers_the_batch(tiny_model, tmp_path, monkeypatch):
    whole = _generate(tiny_model, tmp_path / "whole", batch_size=2)
    draw = DatasetRows.rows

    def small_memory(self, indices, batch_size):
        if len(indices) > 2 and indices.start >= 6:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB")
        return draw(self, indices, batch_size)

    monkeypatch.setattr(DatasetRows, "rows", small_memory)
    with pytest.warns(UserWarning, match="not enough for batch_size 4; going on with 2"):
        lowered = _generate(tiny_model, tmp_path / "d", batch_size=4)
    assert lowered["index"][:] == whole["index"][:] and _manifest(tmp_path / "d")["lowered_batch_size"] == 2
    sizes = [json.loads(file.read_text())["batch_size"] for file in sorted((tmp_path / "d" / ".ubgen").glob("shard*"))]
    assert sizes == [4, 2]
    names = [next((tmp_path / folder / "data").glob("train-00001*")) for folder in ("whole", "d")]
    assert names[0].read_bytes() == names[1].read_bytes()
    # a resume with the flags of the first run draws what is missing as it was drawn
    before = _hashes(tmp_path / "d")
    names[1].unlink()
    _generate(tiny_model, tmp_path / "d", batch_size=4)
    assert _hashes(tmp_path / "d") == before


def test_no_memory_for_one_sample_says_what_to_lower(tiny_model, tmp_path, monkeypatch, capsys):
    def no_memory(self, indices, batch_size):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(DatasetRows, "rows", no_memory)
    arguments = ["--model", tiny_model, "--class-names", *NAMES, "--output-dir", str(tmp_path / "d")]
    with warnings.catch_warnings():
        # as outside of tests, where a warning of ours is a line and no error
        warnings.simplefilter("default")
        assert main([*arguments, "--batch-size", "2", "--num-inference-steps", "1"]) == 2
    shown = capsys.readouterr().err
    assert "warning: the memory is not enough for batch_size 2; going on with 1" in shown
    assert "lower height and width" in shown


def test_compiling_that_fails_falls_back_and_says_so(tiny_model, tmp_path, monkeypatch):
    def no_compiler(self, **kwargs):
        def call(*args, **kwargs):
            raise RuntimeError("InvalidCxxCompiler: no working C++ compiler found")

        self._compiled_call_impl = call

    plain = _generate(tiny_model, tmp_path / "plain", compile="off")
    monkeypatch.setattr(torch.nn.Module, "compile", no_compiler)
    with pytest.warns(UserWarning, match="does not work here .*no working C"):
        dataset = _generate(tiny_model, tmp_path / "d", compile="on")
    assert _manifest(tmp_path / "d")["settings"]["compile"] == "off"
    assert all(np.array_equal(one, other) for one, other in zip(dataset["image"], plain["image"], strict=True))


@pytest.mark.parametrize("codec", ["webp-lossless", "jpeg"])
def test_codecs_of_the_image_column(tiny_model, tmp_path, codec):
    _generate(tiny_model, tmp_path / "png", samples_per_class=1)
    _generate(tiny_model, tmp_path / codec, samples_per_class=1, codec=codec)
    png, other = (load_dataset(str(tmp_path / name), split="train") for name in ("png", codec))
    errors = [np.abs(np.asarray(a, int) - np.asarray(b, int)).mean() for a, b in zip(png["image"], other["image"])]
    assert max(errors) == 0 if codec == "webp-lossless" else 0 < max(errors) < 40


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--codec", "gif"], "codec is 'gif'"),
        (["--compile", "yes"], "compile is 'yes'"),
        (["--dtype", "int8"], "dtype is 'int8'"),
        (["--threads", "0"], "threads is 0"),
        (["--compile", "on", "--annotations", "mask"], "compile is on, which annotations"),
    ],
)
def test_bad_input(tiny_model, tmp_path, capsys, more, message):
    arguments = ["--model", tiny_model, "--class-names", *NAMES, "--output-dir", str(tmp_path / "d")]
    assert main([*arguments, *more]) == 2
    assert message in capsys.readouterr().err and not (tmp_path / "d").exists()
