"""Interrupted and resumed training against training without a stop, bit for bit, and what may not be resumed."""

import os
import shutil
import subprocess
import sys
from contextlib import nullcontext

import pytest
import torch
from safetensors.torch import load_file
from transformers import Trainer

from support import SUPPORT
from support.checkpoint_equality import assert_equal_checkpoints
from support.tiny_clip import build_tiny_clip
from support.training_worker import build_trainer, run
from ubgen_training.checkpoints import trainer as trainer_checkpoints
from ubgen_training.checkpoints.folders import MANIFEST_FILE, find_checkpoint, newest_checkpoint

WORKER = SUPPORT / "training_worker.py"
LORA = "pytorch_lora_weights.safetensors"
LAST = 5


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory):
    return build_tiny_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="module")
def straight(tiny_model, clip_folder, tmp_path_factory):
    """Five updates without a stop, each saved; an epoch ends within them, and logs and saves do not coincide."""
    folder = tmp_path_factory.mktemp("straight")
    run(tiny_model, folder, clip_folder, max_steps=LAST)
    return folder


@pytest.mark.parametrize("step", range(1, LAST))
def test_resume_from_any_step_is_bit_equal(straight, tiny_model, clip_folder, tmp_path, step):
    shutil.copytree(straight / f"checkpoint-{step}", tmp_path / f"checkpoint-{step}")
    run(tiny_model, tmp_path, clip_folder, max_steps=LAST, resume="last")
    assert_equal_checkpoints(tmp_path / f"checkpoint-{LAST}", straight / f"checkpoint-{LAST}")


def test_every_checkpoint_differs_from_the_next(straight):
    for step in range(1, LAST):
        own, following = (load_file(straight / f"checkpoint-{k}" / LORA) for k in (step, step + 1))
        assert any(not torch.equal(own[name], following[name]) for name in own)


@pytest.fixture(scope="module")
def killed(tiny_model, clip_folder, tmp_path_factory):
    """The folders of two runs, each in a process of its own that did not survive its fourth update.

    They are forked from one, since loading the libraries takes longer than both.
    """
    folders = {kill: tmp_path_factory.mktemp(kill) for kill in ("kill_inside_step", "kill_at_checkpoint")}
    common = {"model": tiny_model, "clip": clip_folder, "max_steps": LAST}
    runs = [{**common, "output_dir": str(folder), kill: 3} for kill, folder in folders.items()]
    lines = [
        "import os, training_worker",
        f"for arguments in {runs!r}:",
        "    if not (child := os.fork()):",
        "        training_worker.run(**arguments)",
        "        os._exit(0)",
        "    print('ended with', os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))",
    ]
    command = [sys.executable, "-c", "\n".join(lines)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=WORKER.parent, capture_output=True, text=True, timeout=240, env=environment)
    assert done.stdout.count("ended with -9") == 2, done.stdout + done.stderr[-3000:]
    return folders


@pytest.mark.parametrize("kill", ["kill_inside_step", "kill_at_checkpoint"])
def test_a_killed_run_goes_on_from_its_last_checkpoint(straight, tiny_model, clip_folder, killed, kill):
    tmp_path = killed[kill]
    if kill == "kill_at_checkpoint":
        assert (tmp_path / ".checkpoint-3.partial" / LORA).is_file() and not (tmp_path / "checkpoint-3").exists()
        with pytest.warns(UserWarning, match="cut short"):
            assert find_checkpoint("last", tmp_path) == str(tmp_path / "checkpoint-2")
    else:
        assert find_checkpoint("last", tmp_path) == str(tmp_path / "checkpoint-3")
    with pytest.warns(UserWarning, match="cut short") if kill == "kill_at_checkpoint" else nullcontext():
        run(tiny_model, tmp_path, clip_folder, max_steps=LAST, resume="last")
    assert_equal_checkpoints(tmp_path / f"checkpoint-{LAST}", straight / f"checkpoint-{LAST}")
    assert not list(tmp_path.glob(".checkpoint-*"))


def test_a_folder_copied_in_part_is_skipped_with_a_warning(straight, tmp_path):
    for step in (1, 2, 10):
        shutil.copytree(straight / f"checkpoint-{min(step, 3)}", tmp_path / f"checkpoint-{step}")
    (tmp_path / "checkpoint-10" / "optimizer.safetensors").write_bytes(b"")
    (tmp_path / "checkpoint-2" / MANIFEST_FILE).unlink()
    with pytest.warns(UserWarning) as caught:
        assert newest_checkpoint(tmp_path) == tmp_path / "checkpoint-1"
    messages = [str(warning.message) for warning in caught]
    assert "optimizer.safetensors" in messages[0] and MANIFEST_FILE in messages[1]
    with pytest.raises(ValueError, match=r"optimizer\.safetensors is missing or not of"):
        find_checkpoint(str(tmp_path / "checkpoint-10"), tmp_path)


def test_old_checkpoints_are_removed_and_one_of_the_same_name_is_replaced(tiny_model, tmp_path):
    stale = tmp_path / "checkpoint-3" / "stale.json"
    stale.parent.mkdir()
    stale.write_text("{}")
    run(tiny_model, tmp_path, max_steps=3, save_total_limit=2)
    assert sorted(folder.name for folder in tmp_path.glob("*checkpoint*")) == ["checkpoint-2", "checkpoint-3"]
    assert not stale.exists()


@pytest.mark.parametrize(
    "settings, named",
    [
        ({"learning_rate": 1e-3}, "learning_rate was 0.01 and is 0.001"),
        ({"guidance_scale": 1.0}, "guidance_scale was 2.0 and is 1.0"),
        ({"gradient_accumulation_steps": 1}, "gradient_accumulation_steps was 2 and is 1"),
        ({"seed": 4}, "seed was 3 and is 4"),
        ({"lora_rank": 3}, "lora_rank was 2 and is 3"),
        ({"train_method": "full"}, "train_method was 'lora' and is 'full'"),
    ],
)
def test_resume_with_other_settings_names_them(straight, tiny_model, clip_folder, tmp_path, settings, named):
    trainer = build_trainer(tiny_model, tmp_path, clip_folder, max_steps=LAST, **settings)
    with pytest.raises(ValueError, match="trained with other settings") as error:
        trainer.train(resume_from_checkpoint=str(straight / "checkpoint-2"))
    assert named in str(error.value)


def test_another_model_of_the_same_shape_is_refused(straight, tiny_model, clip_folder, tmp_path):
    trainer = build_trainer(tiny_model, tmp_path, clip_folder, max_steps=LAST)
    with torch.no_grad():
        trainer.model.denoiser_network.conv_in.weight.add_(1e-3)
    changed = build_changed(trainer)
    with pytest.raises(ValueError, match="from another model"):
        changed.train(resume_from_checkpoint=str(straight / "checkpoint-2"))


def build_changed(trainer):
    """A trainer of the same settings on the sampler as it is now."""
    return type(trainer)(
        trainer.model, trainer.args, trainer.class_names, trainer.reward_funcs, trainer.ubgen_loss.encoder
    )


def test_other_class_names_are_refused(straight, tiny_model, clip_folder, tmp_path):
    trainer = build_trainer(tiny_model, tmp_path, clip_folder, max_steps=LAST)
    trainer.class_names = trainer.class_names[::-1]
    with pytest.raises(ValueError, match="other class names"):
        trainer.train(resume_from_checkpoint=str(straight / "checkpoint-2"))


def test_saving_the_weights_alone_cannot_be_resumed(tiny_model, tmp_path):
    run(tiny_model, tmp_path, max_steps=1, save_only_model=True)
    with pytest.raises(ValueError, match="save_only_model"):
        build_trainer(tiny_model, tmp_path, max_steps=2).train(resume_from_checkpoint="last")


def test_deepspeed_with_checkpoints_to_resume_from_is_refused(tiny_model, tmp_path, monkeypatch):
    """Its optimizer state could only be written as pickles."""
    base = Trainer.create_accelerator_and_postprocess

    def with_deepspeed(self):
        base(self)
        self.is_deepspeed_enabled = True

    monkeypatch.setattr(Trainer, "create_accelerator_and_postprocess", with_deepspeed)
    with pytest.raises(ValueError, match=r"save_strategy is 'steps' under DeepSpeed.*set save_only_model"):
        build_trainer(tiny_model, tmp_path, max_steps=1)


def test_a_nan_names_the_step_the_reward_and_the_last_good_checkpoint(tiny_model, tmp_path):
    def brightness(images, class_names, labels, step, **kwargs):
        return images.mean(dim=(1, 2, 3)) * (float("nan") if step == 2 else 1.0)

    with pytest.raises(FloatingPointError, match=r"step 2: brightness .* checkpoint is .*checkpoint-2\."):
        build_trainer(tiny_model, tmp_path, reward=brightness, max_steps=3).train()
    assert newest_checkpoint(tmp_path) == tmp_path / "checkpoint-2"


def test_a_gradient_that_overflows_in_the_sampler_stops_the_run(tiny_model, tmp_path):
    trainer = build_trainer(tiny_model, tmp_path, max_steps=2)
    weight = next(weight for weight in trainer.model.parameters() if weight.requires_grad)
    weight.register_hook(lambda gradient: gradient * float("inf"))
    before = weight.detach().clone()
    with pytest.raises(FloatingPointError, match=r"step 0: the gradient of the weights .* no checkpoint yet"):
        trainer.train()
    assert torch.equal(weight, before)


def test_the_run_waits_for_all_ranks_before_it_renames(tiny_model, tmp_path, monkeypatch):
    """Each rank's state is in the folder before the rename, which only the first rank does."""
    trainer = build_trainer(tiny_model, tmp_path, max_steps=1)
    order = []
    save_state, commit = trainer_checkpoints.save_state, trainer_checkpoints.commit_checkpoint
    monkeypatch.setattr(trainer_checkpoints, "save_state", lambda s, p: (order.append(p.name), save_state(s, p)))
    monkeypatch.setattr(trainer_checkpoints, "commit_checkpoint", lambda f, x: (order.append("rename"), commit(f, x)))
    monkeypatch.setattr(trainer.accelerator, "wait_for_everyone", lambda: order.append("wait"))
    trainer.train()
    saved = order.index("rank_state_0.safetensors")
    assert order[saved : saved + 4] == ["rank_state_0.safetensors", "wait", "rename", "wait"]
