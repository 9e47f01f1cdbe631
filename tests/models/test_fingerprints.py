"""The identity of models and LoRAs: the bytes that are loaded, and neither names nor what lies beside them."""

import hashlib
import json
import shutil

import pytest

from support import DATA
from support.random_loras import save_random_lora
from ubgen_pipeline.models.fingerprints import fingerprint, in_earlier_words, is_same

LORA = "pytorch_lora_weights.safetensors"


@pytest.fixture
def model(random_mini_model, tmp_path):
    return shutil.copytree(random_mini_model, tmp_path / "model")


def earlier(path, *names):
    """As version 0.1 hashed the files of a folder."""
    files = [path / name for name in names]
    files = files or sorted(path.rglob("*.safetensors")) + sorted(path.rglob("*.json"))
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.name}\0{hashlib.sha256(file.read_bytes()).hexdigest()}\0".encode())
    return digest.hexdigest()


def test_a_hub_id_stands_for_itself():
    assert fingerprint("org/name") == "org/name" and fingerprint(None) is None


def test_what_lies_beside_a_model_is_not_part_of_it(model):
    before = fingerprint(str(model))
    in_unet = ("unet/notes.json", "unet/old.safetensors", "unet/diffusion_pytorch_model.ema.safetensors")
    for stray in ("notes.json", *in_unet, "README.md", "backup/unet/config.json"):
        (model / stray).parent.mkdir(parents=True, exist_ok=True)
        (model / stray).write_text("{}")
    assert fingerprint(str(model)) == before
    # who saved it, with which version, does not count
    config = model / "unet" / "config.json"
    settings = json.loads(config.read_text())
    config.write_text(json.dumps(dict(reversed((settings | {"_diffusers_version": "0.1"}).items()))))
    assert fingerprint(str(model)) == before


@pytest.mark.parametrize(
    "file", ["model_index.json", "unet/config.json", "scheduler/scheduler_config.json", "tokenizer/tokenizer.json"]
)
def test_all_settings_that_are_read_count(model, file):
    before = fingerprint(str(model))
    settings = json.loads((model / file).read_text())
    (model / file).write_text(json.dumps(settings | {"changed": 1}))
    assert fingerprint(str(model)) != before


def test_weights_count(model):
    before = fingerprint(str(model))
    file = model / "unet" / "diffusion_pytorch_model.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    assert fingerprint(str(model)) != before


def test_a_lora_is_the_same_under_any_name_and_in_any_folder(random_mini_model, tmp_path):
    folder = save_random_lora(random_mini_model, tmp_path / "a")
    before = fingerprint(str(folder))
    renamed = shutil.copy(folder / LORA, tmp_path / "style v2.safetensors")
    assert fingerprint(renamed) == fingerprint(str(folder / LORA)) == before
    (folder / "checkpoint-1").mkdir()
    shutil.copy(folder / LORA, folder / "checkpoint-1" / LORA)
    (folder / "notes.json").write_text("{}")
    (folder / "optimizer.safetensors").write_bytes(b"x")
    (folder / "adapter_config.json").write_text("{}")
    assert fingerprint(str(folder)) == before
    assert fingerprint(str(save_random_lora(random_mini_model, tmp_path / "b", seed=1))) != before


def test_a_hash_of_version_0_1_stands_for_the_same_files(model, tmp_path, random_mini_model):
    lora = save_random_lora(random_mini_model, tmp_path / "lora")
    recorded = {"model": earlier(model), "lora": [earlier(lora)], "scores": {"clip": {"fingerprint": earlier(model)}}}
    # what came later lies beside what was hashed then
    (model / "notes.json").write_text("{}")
    made = {"model": fingerprint(str(model)), "lora": [fingerprint(str(lora))], "seed": 1}
    made["scores"] = {"clip": {"fingerprint": fingerprint(str(model))}}
    assert in_earlier_words(made, recorded) == recorded | {"seed": 1}
    assert is_same(str(lora / LORA), earlier(lora, LORA)) and not is_same(str(model), earlier(lora))
    other = save_random_lora(random_mini_model, tmp_path / "other", seed=1)
    made["lora"] = [fingerprint(str(other))]
    assert in_earlier_words(made, recorded)["lora"] == made["lora"]


def test_the_first_versions_lora_is_known():
    """Its folder holds checkpoints, which were hashed then."""
    lora = DATA / "first_version" / "lora"
    assert is_same(str(lora), earlier(lora))
