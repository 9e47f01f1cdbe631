"""Reading a Q-Align checkpoint: names, files, and what is refused."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from support.tiny_qalign import CONFIG, block_counts, published_tensors, save_tiny_qalign
from ubgen_training.rewards.qalign.checkpoint import fetch_checkpoint, is_qalign, load_qalign_model, own_name
from ubgen_training.rewards.qalign.model import QAlignModel, QAlignSettings

SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")


@pytest.fixture
def folder(tmp_path):
    return save_tiny_qalign(tmp_path)


def test_every_published_name_has_one_place(folder):
    model = QAlignModel(QAlignSettings.from_config(CONFIG))
    own = [own_name(name) for name in published_tensors()]
    assert sorted(own) == sorted(model.state_dict())
    assert own_name("model.layers.31.self_attn.v_proj.multiway.1.weight") == "language.blocks.31.value.visual.weight"
    assert own_name("model.layers.0.self_attn.unheard_of.weight") is None
    assert set(block_counts(own).values()) == {1, 2, 3}


def test_weights_arrive_unchanged_and_frozen(folder):
    model = load_qalign_model(folder)
    state = model.state_dict()
    for published, tensor in published_tensors().items():
        assert torch.equal(state[own_name(published)], tensor), published
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert load_qalign_model(folder, torch.bfloat16).vision.class_token.dtype == torch.bfloat16


def test_one_file_without_an_index_works_too(folder):
    tensors = {name: tensor for file in SHARDS for name, tensor in load_file(folder / file).items()}
    for file in (*SHARDS, "model.safetensors.index.json"):
        (folder / file).unlink()
    save_file(tensors, folder / "model.safetensors")
    assert fetch_checkpoint(str(folder)) == folder
    assert torch.equal(load_qalign_model(folder).language.output_norm.weight, tensors["model.norm.weight"])


def test_pickles_are_refused_with_a_way_to_convert(folder):
    for file in (*SHARDS, "model.safetensors.index.json"):
        (folder / file).unlink()
    (folder / "pytorch_model-00001-of-00002.bin").write_bytes(b"\x80\x02")
    with pytest.raises(ValueError, match=r"holds no model.safetensors.*never read.*refs/pr/NUMBER"):
        fetch_checkpoint(str(folder))


def test_what_cannot_be_fetched_is_named(monkeypatch):
    monkeypatch.setattr("ubgen_training.rewards.qalign.checkpoint.snapshot_download", _raise(OSError("no route")))
    with pytest.raises(ValueError, match=r"quality_model 'someone/scorer' is no folder.*no route"):
        fetch_checkpoint("someone/scorer")


def test_revision_follows_the_at_sign(monkeypatch, folder):
    calls = []

    def download(repository, revision=None, allow_patterns=None):
        calls.append((repository, revision))
        assert not any(pattern.endswith((".bin", ".py", "*")) for pattern in allow_patterns)
        return str(folder)

    monkeypatch.setattr("ubgen_training.rewards.qalign.checkpoint.snapshot_download", download)
    assert fetch_checkpoint("q-future/one-align@refs/pr/7") == folder
    fetch_checkpoint("q-future/one-align")
    assert calls == [("q-future/one-align", "refs/pr/7"), ("q-future/one-align", None)]


def test_missing_unknown_and_misshapen_tensors_are_named(folder):
    tensors = load_file(folder / SHARDS[0])
    name = "model.visual_abstractor.vit_eos"
    file = folder / next(shard for shard in SHARDS if name in load_file(folder / shard))
    tensors = load_file(file)
    save_file({k: v for k, v in tensors.items() if k != name}, file)
    with pytest.raises(ValueError, match=r"lacks 1 of \d+ tensors, the first being 'abstractor.end_token'"):
        load_qalign_model(folder)
    save_file({**tensors, name: torch.zeros(1, 1, 8)}, file)
    with pytest.raises(
        ValueError, match=r"vit_eos' in .* has shape \(1, 1, 8\), but config.json asks for \(1, 1, 32\)"
    ):
        load_qalign_model(folder)
    save_file({**tensors, "model.layers.3.mlp.up_proj.weight": torch.zeros(48, 32)}, file)
    with pytest.raises(ValueError, match=r"layers.3.mlp.up_proj.weight', which config.json has no place for"):
        load_qalign_model(folder)


def test_a_shard_cut_short_is_named(folder):
    content = (folder / SHARDS[1]).read_bytes()
    (folder / SHARDS[1]).write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=rf"{SHARDS[1]}' could not be read as safetensors"):
        load_qalign_model(folder)
    (folder / SHARDS[1]).unlink()
    with pytest.raises(ValueError, match=rf"{SHARDS[1]}' could not be read as safetensors"):
        load_qalign_model(folder)


def test_the_architecture_is_told_by_its_config(folder, tmp_path):
    assert is_qalign(str(folder))
    (folder / "config.json").write_text(json.dumps({**CONFIG, "model_type": "llava"}), encoding="utf-8")
    assert not is_qalign(str(folder))
    assert not is_qalign(str(tmp_path / "nothing-here"))


def _raise(error):
    def fail(*_, **__):
        raise error

    return fail
