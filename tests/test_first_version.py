"""What the first version wrote still loads, resumes or is refused by name, exports and is drawn again.

The files lie in ``tests/data/first_version``, whose README has the commands. On another processor the same arithmetic
rounds otherwise, so pixels and weights are compared with a tolerance, and a class's image against another's without.
"""

import json
import shlex
import shutil
import subprocess
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
import torch
from datasets import load_dataset
from PIL import Image
from safetensors.torch import load_file

from support import DATA, ROOT
from support.warm_python import warm_programs
from ubgen_pipeline.commands.main import main
from ubgen_training.ubgen.command import main as train_ubgen

FIRST = DATA / "first_version"
GENERATE = shlex.split(
    "generate --model mini --num-inference-steps 4 --seed 7 --class-names circle star --samples-per-class 2"
    " --samples-per-shard 2 --threads 1 --annotations mask instance box polygon --scores duplicates --output-dir"
)
TRAIN = shlex.split(
    "--model_name_or_path mini --clip_model mini --quality_model mini --class_names circle star"
    " --num_inference_steps 3 --num_gradient_steps 1 --per_device_train_batch_size 2 --max_steps 2 --save_steps 1"
    " --lora_rank 1 --lora_target_modules to_q --discriminator_hidden_dim 8 --discriminator_warmup_steps 1"
    " --sample_steps 0 --heldout_steps 0 --report_to none --seed 3 --output_dir lora"
)


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    return Path(shutil.copytree(FIRST / "dataset", tmp_path / "dataset"))


def with_versions(dataset: Path, **changes: str) -> None:
    """Note in the manifest the libraries' versions that are installed, but for ``changes``."""
    file = dataset / ".ubgen" / "manifest.json"
    manifest = json.loads(file.read_text())
    versions = manifest["settings"]["versions"]
    manifest["settings"]["versions"] = {name: version(name) for name in versions} | changes
    file.write_text(json.dumps(manifest))


def lose_the_second_shard(dataset: Path) -> Path:
    for lost in (".ubgen/shard-00001.json", "README.md"):
        (dataset / lost).unlink()
    shard = dataset / "data" / "train-00001-of-00002.parquet"
    shard.unlink()
    return shard


def test_the_dataset_loads(dataset):
    rows = load_dataset(str(dataset), split="train")
    assert rows.features["label"].names == ["circle", "star"]
    assert rows["index"][:] == [0, 1, 2, 3] and rows["class_name"][:] == ["circle", "star"] * 2
    assert all(image.size == (64, 64) for image in rows["image"]) and "objects" in rows.column_names


def test_the_dataset_resumes(dataset):
    shard = lose_the_second_shard(dataset)
    with_versions(dataset)
    assert main([*GENERATE, str(dataset)]) == 0
    new, old = (pyarrow.parquet.read_table(file).to_pylist() for file in (shard, FIRST / "dataset/data" / shard.name))
    assert [row["seed"] for row in new] == [row["seed"] for row in old]
    assert [row.keys() for row in new] == [row.keys() for row in old]
    first = load_dataset(str(FIRST / "dataset"), split="train")["image"]
    here = load_dataset(str(dataset), split="train")["image"]
    for a, b in zip(first, here):
        assert np.abs(np.asarray(a).astype(int) - np.asarray(b)).max() <= 3


def test_a_resume_with_other_libraries_is_refused_and_names_them(dataset, capsys):
    lose_the_second_shard(dataset)
    with_versions(dataset, torch="1.0.0")
    before = sorted(dataset.rglob("*"))
    assert main([*GENERATE, str(dataset)]) == 2
    message = capsys.readouterr().err
    assert "versions['torch'] was" in message and "1.0.0" in message
    assert sorted(dataset.rglob("*")) == before


def test_a_resume_with_another_model_is_refused_and_names_the_version(dataset, random_mini_model, capsys):
    lose_the_second_shard(dataset)
    with_versions(dataset)
    assert main([*GENERATE, str(dataset), "--model", random_mini_model]) == 2
    message = capsys.readouterr().err
    assert "model was" in message and "as ubgen 0.1 hashed it" in message


def test_a_row_is_drawn_again(dataset, tmp_path, capsys):
    # 1: the image differs, which it may on another processor
    assert main(["regenerate", str(dataset), "--index", "3", "--output", str(tmp_path / "3.png")]) in (0, 1)
    drawn = np.asarray(Image.open(tmp_path / "3.png")).astype(int)
    images = [np.asarray(image) for image in load_dataset(str(dataset), split="train")["image"]]
    assert np.abs(drawn - images[3]).max() <= 3, capsys.readouterr().err
    assert np.abs(drawn - images[1]).max() > 20


@pytest.mark.parametrize("name", ["imagefolder", "webdataset", "coco", "yolo", "voc"])
def test_the_dataset_exports(dataset, tmp_path, name):
    more = ["--accept-loss"] if name == "yolo" else []
    assert main(["export", str(dataset), "--format", name, "--output-dir", str(tmp_path / name), *more]) == 0
    assert any((tmp_path / name).rglob("*"))


def test_the_lora_loads_in_plain_diffusers_and_changes_images():
    from diffusers import StableDiffusionPipeline

    from ubgen_pipeline.mini import mini_model_path

    def draw(pipeline):
        generator = torch.Generator().manual_seed(0)
        return pipeline("circle", num_inference_steps=2, generator=generator, output_type="np").images[0]

    pipeline = StableDiffusionPipeline.from_pretrained(mini_model_path(), use_safetensors=True)
    plain = draw(pipeline)
    pipeline.load_lora_weights(str(FIRST / "lora"))
    assert np.abs(draw(pipeline) - plain).max() > 1e-4


def test_the_dataset_is_drawn_with_the_lora(tmp_path):
    flags = ["--class-names", "circle", "--samples-per-class", "1", "--num-inference-steps", "2"]
    command = ["generate", "--model", "mini", *flags, "--output-dir", str(tmp_path / "d")]
    assert main([*command, "--lora", str(FIRST / "lora")]) == 0


def test_training_goes_on_from_the_checkpoint(tmp_path):
    shutil.copytree(FIRST / "lora" / "checkpoint-1", tmp_path / "lora" / "checkpoint-1")
    command = [
        str(warm_programs() / "python"),
        str(ROOT / "training" / "train_ubgen.py"),
        *TRAIN,
        "--resume_from_checkpoint",
        "last",
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    one_go = load_file(FIRST / "lora" / "pytorch_lora_weights.safetensors")
    resumed = load_file(tmp_path / "lora" / "pytorch_lora_weights.safetensors")
    begun = load_file(FIRST / "lora" / "checkpoint-1" / "pytorch_lora_weights.safetensors")
    assert resumed.keys() == one_go.keys()
    moved = max((one_go[name] - begun[name]).abs().max() for name in one_go)
    apart = max((one_go[name] - resumed[name]).abs().max() for name in one_go)
    assert apart <= 0.01 * moved


def test_a_checkpoint_of_other_settings_is_refused_and_names_them(tmp_path, monkeypatch, capsys):
    shutil.copytree(FIRST / "lora" / "checkpoint-1", tmp_path / "lora" / "checkpoint-1")
    monkeypatch.chdir(tmp_path)
    assert train_ubgen([*TRAIN, "--resume_from_checkpoint", "last", "--learning_rate", "0.5"]) == 2
    assert "learning_rate was 2e-05 and is 0.5" in capsys.readouterr().err
