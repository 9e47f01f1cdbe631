"""Checkpoint folders: complete or skipped, the newest found, other runs refused; a model's fingerprint."""

import pytest
import torch
from torch import nn

from ubgen_training.checkpoints.folders import (
    MANIFEST_FILE,
    check_same_run,
    checkpoint_step,
    commit_checkpoint,
    find_checkpoint,
    model_fingerprint,
    newest_checkpoint,
    partial_folder,
    read_manifest,
)

FACTS = {"model": "abc", "class_names": ["circle", "star"], "rewards": ["quality"]}


def write(folder, content="weights", **facts):
    partial_folder(folder).mkdir(parents=True)
    (partial_folder(folder) / "weights.bin").write_text(content)
    (partial_folder(folder) / "config.json").write_text('{"seed": 1, "model_name_or_path": "mini"}')
    commit_checkpoint(folder, {**FACTS, **facts})


def test_a_sealed_folder_holds_its_facts_and_its_files_sizes(tmp_path):
    write(tmp_path / "checkpoint-1", step=1)
    manifest = read_manifest(tmp_path / "checkpoint-1")
    assert manifest["step"] == 1 and manifest["files"]["weights.bin"] == len("weights")
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-1"]


def test_a_folder_of_the_same_name_is_replaced(tmp_path):
    write(tmp_path / "checkpoint-1", "old")
    write(tmp_path / "checkpoint-1", "new")
    assert (tmp_path / "checkpoint-1" / "weights.bin").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-1"]


@pytest.mark.parametrize("spoil", ["missing", "short", "no manifest"])
def test_one_cut_short_is_no_checkpoint_and_the_newest_complete_one_is_found(tmp_path, spoil):
    for step in (2, 10):
        write(tmp_path / f"checkpoint-{step}")
    file = tmp_path / "checkpoint-10" / (MANIFEST_FILE if spoil == "no manifest" else "weights.bin")
    if spoil == "short":
        file.write_text("w")
    else:
        file.unlink()
    with pytest.raises(ValueError, match="holds no complete checkpoint"):
        read_manifest(tmp_path / "checkpoint-10")
    with pytest.warns(UserWarning, match="skipped: .*checkpoint-10"):
        assert newest_checkpoint(tmp_path) == tmp_path / "checkpoint-2"


def test_steps_are_compared_as_numbers_and_a_partial_folder_is_told(tmp_path):
    for step in (9, 10):
        write(tmp_path / f"checkpoint-{step}")
    partial_folder(tmp_path / "checkpoint-11").mkdir()
    with pytest.warns(UserWarning, match=r"\.checkpoint-11\.partial was cut short"):
        assert newest_checkpoint(tmp_path) == tmp_path / "checkpoint-10"
    names = ("checkpoint-7", "checkpoint-x", "lora")
    assert [checkpoint_step(tmp_path / name) for name in names] == [7, None, None]


def test_what_a_user_may_give_to_resume_from(tmp_path):
    write(tmp_path / "checkpoint-3")
    folder = str(tmp_path / "checkpoint-3")
    assert [find_checkpoint(given, tmp_path) for given in (None, False, "false")] == [None] * 3
    assert [find_checkpoint(given, tmp_path) for given in (True, "last", "true", folder)] == [folder] * 4
    with pytest.raises(ValueError, match="resume_from_checkpoint is '.*none', but .* Give a checkpoint-N folder"):  # noqa: RUF043
        find_checkpoint(str(tmp_path / "none"), tmp_path)
    with pytest.raises(ValueError, match="resume_from_checkpoint is given, but output_dir '.*' holds no complete"):  # noqa: RUF043
        find_checkpoint("last", tmp_path / "empty")


@pytest.mark.parametrize(
    "settings, facts, message",
    [
        ({"seed": 2}, {}, "other settings: seed was 1 and is 2"),
        ({}, {"class_names": ["star", "circle"]}, "2 other class names or another order"),
        ({}, {"rewards": ["variety"]}, r"rewards \['quality'\], and reward_funcs now holds \['variety'\]"),
        ({}, {"model": "other"}, "model_name_or_path was 'mini', and the one given now has other weights"),
    ],
)
def test_another_run_is_refused_by_what_differs(tmp_path, settings, facts, message):
    write(tmp_path / "checkpoint-1")
    same = {"seed": 1, "new_setting": True}
    check_same_run(tmp_path / "checkpoint-1", "config.json", same, FACTS)
    with pytest.raises(ValueError, match=message):
        check_same_run(tmp_path / "checkpoint-1", "config.json", {**same, **settings}, {**FACTS, **facts})


def test_another_trainers_checkpoint_is_refused(tmp_path):
    write(tmp_path / "checkpoint-1")
    with pytest.raises(ValueError, match=r"lacks ddpo_config\.json: another trainer wrote it"):
        check_same_run(tmp_path / "checkpoint-1", "ddpo_config.json", {}, FACTS)


def test_a_fingerprint_follows_weights_names_and_shapes_and_not_a_lora():
    def model(width=3, seed=0):
        torch.manual_seed(seed)
        return nn.Linear(width, 2)

    own = model_fingerprint({"unet": model()})
    assert own == model_fingerprint({"unet": model()}) and len(own) == 16
    others = [{"unet": model(seed=1)}, {"vae": model()}, {"unet": model(width=4)}]
    assert len({own, *map(model_fingerprint, others)}) == 4
    adapted = nn.Module()
    adapted.base_layer, adapted.lora_A = model(), nn.Linear(2, 2)
    # peft keeps the layer's own weight as base_layer
    outer, plain = nn.Module(), nn.Module()
    outer.layer, plain.layer = adapted, model()
    assert model_fingerprint({"unet": outer}) == model_fingerprint({"unet": plain})
