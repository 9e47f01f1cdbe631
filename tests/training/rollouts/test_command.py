"""The commands of trainings on rollouts: each once as a process, and what both refuse."""

import json
import subprocess

import pytest
from safetensors import safe_open

from support import ROOT
from support.flags import with_flags
from support.training_worker import ROLLOUT_FLAGS
from support.warm_python import warm_programs
from ubgen_training.ddpo.command import main as ddpo
from ubgen_training.nft.command import main as nft

MAINS = {"ddpo": ddpo, "nft": nft}
REWARDS = """
import torch

def flat(images, class_names, labels, **kwargs):
    return images.mean()

def broken(images, class_names, labels, **kwargs):
    return images.mean(dim=(1, 2, 3)) * float("nan")
"""


@pytest.fixture(params=MAINS)
def kind(request, tmp_path, monkeypatch):
    """One of the trainings; a module of rewards can be imported."""
    (tmp_path / "rollout_test_rewards.py").write_text(REWARDS)
    monkeypatch.syspath_prepend(tmp_path)
    return request.param


def test_the_script_trains_with_a_reward_that_has_no_gradient_and_resumes(kind, tiny_model, tmp_path):
    script, output = ROOT / "training" / f"train_{kind}.py", tmp_path / "out"
    arguments = ["--model_name_or_path", tiny_model, *ROLLOUT_FLAGS, "--output_dir", str(output)]
    command = [warm_programs() / "python", str(script), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert f"LoRA saved in {output}" in done.stdout
    with safe_open(output / "pytorch_lora_weights.safetensors", framework="pt") as file:
        assert all(name.startswith("unet.") for name in file.keys())  # noqa: SIM118
    history = json.loads((output / "checkpoint-2" / "trainer_state.json").read_text())["log_history"]
    assert {entry["step"] for entry in history if "rewards/jpeg_size" in entry} == {1, 2}
    code = MAINS[kind]([*arguments, "--max_steps", "3", "--resume_from_checkpoint", "last"])
    assert code == 0 and (output / "checkpoint-3" / "checkpoint.json").is_file()


@pytest.mark.parametrize(
    "flags, named",
    [
        (["--advantages", "group", "--group_size", "3"], "group_size = 3"),
        (["--reward_funcs", "beauty"], "reward_funcs holds 'beauty'"),
        (["--reward_weights", "1", "2"], "reward_weights holds 2"),
        (["--reward_funcs", "rollout_test_rewards:flat"], "reward 'flat' returned ()"),
        (["--reward_funcs", "class_variety", "--clip_model", "mini"], "2 classes no rollout holds two"),
        (["--resume_from_checkpoint", "last"], "holds no complete checkpoint"),
        (["--report_to", "no_such_tracker"], "report_to holds ['no_such_tracker']"),
    ],
)
def test_bad_settings_end_with_one_line_and_code_2(kind, tiny_model, tmp_path, flags, named, capsys):
    arguments = ["--model_name_or_path", tiny_model, *ROLLOUT_FLAGS, "--output_dir", str(tmp_path)]
    assert MAINS[kind](with_flags(arguments, *flags)) == 2
    message = capsys.readouterr().err
    assert "ubgen: error: " in message and named in message and "Traceback" not in message
    assert not list(tmp_path.glob("checkpoint-*"))


def test_a_reward_of_nan_ends_with_code_1_before_any_update(kind, tiny_model, tmp_path, capsys):
    arguments = ["--model_name_or_path", tiny_model, *ROLLOUT_FLAGS, "--output_dir", str(tmp_path)]
    assert MAINS[kind](with_flags(arguments, "--reward_funcs", "rollout_test_rewards:broken")) == 1
    assert "step 0: broken is not finite" in capsys.readouterr().err
    assert not list(tmp_path.glob("checkpoint-*"))
