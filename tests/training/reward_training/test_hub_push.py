"""Training pushed to the Hub: one commit a push, weights that plain diffusers loads, and nothing of this machine."""

import json

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from huggingface_hub import HfApi
from safetensors import safe_open

from support.hub_server import READ_TOKEN, WRITE_TOKEN
from support.training_worker import ROLLOUT_FLAGS
from ubgen_training.ddpo.command import main as train_ddpo
from ubgen_training.nft.command import main as train_nft
from ubgen_training.reward_training.hub_push import HubModel
from ubgen_training.ubgen.command import main

COMMIT = "/commit/main$"
FLAGS = "--class_names circle star --num_inference_steps 2 --num_gradient_steps 1 --lora_rank 2 --adversarial_weight 0"
FLAGS += " --reward_funcs quality --num_samples_per_class 1 --per_device_train_batch_size 2"
FLAGS += " --max_steps 2 --heldout_steps 1 --use_cpu --disable_tqdm true --push_to_hub"
LORA = {"README.md", "pytorch_lora_weights.safetensors", "samples/step_000000.png", "samples/step_000002.png"}


def arguments(folder, model, *more):
    flags = FLAGS.split()
    return [*flags, "--model_name_or_path", model, "--output_dir", str(folder), *more]


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "secret_place"


def test_pushes_while_and_after_training(hub, tiny_model, folder, capsys):
    """A push from a checkpoint meets a fault, and is not made twice."""
    hub.faults.add(COMMIT, cut="after")
    flags = arguments(folder, tiny_model, "--hub_model_id", "org/lora", "--hub_private_repo", "true")
    assert main([*flags, "--save_steps", "1", "--save_total_limit", "1"]) == 0
    repository = hub.repositories["model", "org/lora"]
    assert repository.private
    commits = list(repository.history("main"))[::-1]
    titles = [commit.title for commit in commits]
    assert titles[:3] == ["initial commit", "Training in progress, update 1", "Training in progress, update 2"]
    # the result is that checkpoint, and unchanged files make no commit; but safetensors orders its metadata at random
    assert titles[3:] in ([], ["Trained, update 2"])
    for commit in commits[1:]:
        names = set(commit.files) - {".gitattributes"}
        assert names - {"samples/step_000001.png"} <= LORA and "pytorch_lora_weights.safetensors" in names
        for name, file in commit.files.items():
            content = hub.repositories.object(file.sha256).read_bytes()
            for secret in (WRITE_TOKEN, "secret_place", str(folder.parent), tiny_model):
                assert secret.encode() not in content, (name, secret)
    assert set(commits[-1].files) - {".gitattributes"} == LORA
    # what is there is what was trained, and plain diffusers draws with it
    pushed = hub.repositories.read("model", "org/lora", "pytorch_lora_weights.safetensors")
    assert pushed == (folder / "pytorch_lora_weights.safetensors").read_bytes()
    images = []
    for source in ("org/lora", str(folder)):
        pipeline = StableDiffusionPipeline.from_pretrained(tiny_model, safety_checker=None)
        pipeline.load_lora_weights(source)
        pipeline.set_progress_bar_config(disable=True)
        generator = torch.Generator().manual_seed(3)
        images.append(pipeline("star", num_inference_steps=2, output_type="np", generator=generator).images)
    assert np.array_equal(*images)
    with safe_open(str(folder / "pytorch_lora_weights.safetensors"), "pt") as weights:
        assert "lora_alpha" in json.dumps(weights.metadata())
    files = [file for file in folder.rglob("*") if file.is_file()]
    assert not [file for file in files if WRITE_TOKEN.encode() in file.read_bytes()]
    shown = capsys.readouterr()
    assert WRITE_TOKEN not in shown.out + shown.err


@pytest.mark.parametrize("train", [train_ddpo, train_nft], ids=["ddpo", "nft"])
def test_trainings_on_rollouts_push_too(hub, tiny_model, folder, train):
    flags = [*ROLLOUT_FLAGS, "--model_name_or_path", tiny_model, "--output_dir", str(folder)]
    assert train([*flags, "--push_to_hub", "--hub_model_id", "org/lora", "--hub_strategy", "end"]) == 0
    pushed = hub.repositories.read("model", "org/lora", "pytorch_lora_weights.safetensors")
    assert pushed == (folder / "pytorch_lora_weights.safetensors").read_bytes()
    assert set(hub.repositories.tree("model", "org/lora")) - {".gitattributes"} == LORA


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ([], "without hub_model_id"),
        (["--hub_model_id", "lora"], "give the owner too"),
        (["--hub_model_id", "org/a b"], "hub_model_id is"),
        (["--hub_model_id", "org/lora", "--hub_token", "hf_secretsecretsecret"], "hub_token is given"),
        (["--hub_model_id", "org/lora", "--hub_strategy", "all_checkpoints"], "hub_strategy is"),
        (["--hub_model_id", "stranger/lora"], "may not write"),
        (["--hub_model_id", "org/other"], "holds something else"),
        (["--hub_model_id", "org/public", "--hub_private_repo", "true"], "is public"),
    ],
)
def test_refused_before_a_model_is_loaded(hub, folder, capsys, more, message):
    api = HfApi()
    api.create_repo("org/public")
    api.create_repo("org/other")
    api.upload_file(path_or_fileobj=b"{}", path_in_repo="model_index.json", repo_id="org/other")
    assert main(arguments(folder, "nobody/has-this-model", *more)) == 2
    error = capsys.readouterr().err
    assert message in error and "hf_secret" not in error and "Traceback" not in error


def test_a_token_that_may_only_read(hub, folder, capsys, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", READ_TOKEN)
    assert main(arguments(folder, "nobody/has-this-model", "--hub_model_id", "org/lora")) == 2
    assert "may only read" in capsys.readouterr().err


def test_whole_unet_and_what_is_left_behind(hub, tmp_path):
    """Old grids go with the push that no longer shows them; the configuration names no folder."""
    (tmp_path / "unet").mkdir()
    (tmp_path / "unet" / "config.json").write_text(json.dumps({"_name_or_path": "/secret", "sample_size": 8}))
    (tmp_path / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"weights")
    (tmp_path / "training_args.bin").write_bytes(b"pickle")
    (tmp_path / "grid.png").write_bytes(b"png")
    model = HubModel("org/unet")
    model.open()
    for grid in ("samples/step_1.png", "samples/step_2.png"):
        model.push(tmp_path, "---\nlicense: mit\n---\n", {grid: tmp_path / "grid.png"}, grid)
    weights = {"unet/config.json", "unet/diffusion_pytorch_model.safetensors"}
    held = set(hub.repositories.tree("model", "org/unet"))
    assert held == {".gitattributes", "README.md", "samples/step_2.png", *weights}
    assert json.loads(hub.repositories.read("model", "org/unet", "unet/config.json")) == {"sample_size": 8}
    assert len(hub.repositories["model", "org/unet"].commits) == 3
    with pytest.raises(ValueError, match="holds no pytorch_lora"):
        model.push(tmp_path / "unet", "", {}, "m")
    with pytest.raises(ValueError, match="grids holds"):
        model.push(tmp_path, "", {"../x.png": tmp_path / "grid.png"}, "m")
