"""Permissions of the files that hold weights: those of any other file, whatever the umask."""

import os
import stat
import subprocess

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from support.warm_python import warm_programs
from ubgen_pipeline.files.tensor_files import give_ordinary_permissions, save_tensors

SAVE_ALL = """
import os, sys
from pathlib import Path
import torch
os.umask(int(sys.argv[2], 8))
folder = Path(sys.argv[1])
from peft import LoraConfig
from ubgen_pipeline.mini import mini_model_path
from ubgen_pipeline.models.segmenter import build_segmenter
from ubgen_pipeline.models.text_embeddings import save_embedding
from ubgen_training.checkpoints.state import save_state
from ubgen_training.lora.lora_files import save_lora
from ubgen_pipeline.pipeline import UbGenPipeline
pipeline = UbGenPipeline.from_pretrained(mini_model_path())
pipeline.unet.add_adapter(LoraConfig(r=2, target_modules=["to_q"]))
save_lora(pipeline, folder)
build_segmenter("mini", ["a"]).save(folder / "segmenter")
save_embedding("<x>", torch.zeros(1, 8), folder / "token")
save_state({"a": torch.zeros(2)}, folder / "state.safetensors")
"""


def mode(file) -> int:
    return stat.S_IMODE(os.stat(file).st_mode)


@pytest.mark.parametrize("umask, expected", [("022", 0o644), ("027", 0o640), ("077", 0o600)])
def test_every_writer_honours_the_umask(tmp_path, umask, expected):
    if umask == "027":
        subprocess.run([str(warm_programs() / "python"), "-c", SAVE_ALL, tmp_path, umask], check=True)
    else:
        before = os.umask(int(umask, 8))
        try:
            save_tensors({"a": torch.zeros(2)}, tmp_path / "a.safetensors", {"format": "pt"})
        finally:
            os.umask(before)
    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert len([file for file in files if file.suffix == ".safetensors"]) == (4 if umask == "027" else 1)
    assert {file.name: mode(file) for file in files} == {file.name: expected for file in files}


def test_the_content_is_that_of_the_library_and_nothing_is_left_beside_it(tmp_path):
    tensors = {"a": torch.arange(6.0).reshape(2, 3)}
    save_tensors(tensors, tmp_path / "a.safetensors")
    assert torch.equal(load_file(tmp_path / "a.safetensors")["a"], tensors["a"])
    (tmp_path / "b").touch(0o600)
    give_ordinary_permissions(tmp_path / "b")
    assert mode(tmp_path / "b") == mode(tmp_path / "a.safetensors")
    assert sorted(item.name for item in tmp_path.iterdir()) == ["a.safetensors", "b"]


def test_equal_contents_are_equal_bytes(tmp_path):
    """The library's own order of metadata differs from file to file, whatever order it is given."""
    metadata = {name: f'{name} é \\ "{index}"' for index, name in enumerate("zyxwvutsrq")}
    tensors = {"b": torch.arange(5.0), "a": torch.ones(2, 3, dtype=torch.float16)}
    files = [tmp_path / f"{number}.safetensors" for number in range(8)]
    for file in files:
        save_tensors(tensors, file, metadata)
    assert len({file.read_bytes() for file in files}) == 1
    plain = tmp_path / "plain.safetensors"
    save_file(tensors, plain, metadata)
    assert plain.stat().st_size == files[0].stat().st_size
    with safe_open(files[0], framework="pt") as opened:
        assert opened.metadata() == metadata
        assert all(torch.equal(opened.get_tensor(name), value) for name, value in tensors.items())
    without = tmp_path / "without.safetensors"
    save_tensors(tensors, without)
    save_file(tensors, plain)
    assert without.read_bytes() == plain.read_bytes()
