"""The command of the policy gradient: families, and what it refuses that another on rollouts takes."""

import json
import shutil

import pytest

from support.checkpoint_equality import assert_equal_checkpoints
from support.family_models import tiny_pipeline
from support.flags import with_flags
from support.training_worker import ROLLOUT_FLAGS as FLAGS
from ubgen_training.ddpo.command import main


@pytest.mark.parametrize(
    "flags, named",
    [
        (["--scheduler", "pndm"], "scheduler is 'pndm'"),
        (["--dynamics", "cps"], "dynamics is 'cps', and the model predicts noise; choose one of ddpm, ddim"),
        (["--dynamics", "euler"], "dynamics is 'euler'; choose one of ddpm, ddim, flow_sde"),
        (["--num_trained_steps", "3"], "num_trained_steps is 3"),
    ],
)
def test_bad_settings_end_with_one_line_and_code_2(random_mini_model, tmp_path, flags, named, capsys):
    arguments = ["--model_name_or_path", random_mini_model, *FLAGS, "--output_dir", str(tmp_path)]
    assert main(with_flags(arguments, *flags)) == 2
    message = capsys.readouterr().err
    assert "ubgen: error: " in message and named in message and "Traceback" not in message
    assert not list(tmp_path.glob("checkpoint-*"))


@pytest.mark.parametrize(
    "family, dynamics, window",
    [
        ("sd3", None, []),
        ("sd3", None, ["--num_inference_steps", "4", "--window_size", "2", "--window_interval", "1"]),
        ("flux2-klein", "cps", ["--ratio_normalisation", "true"]),
    ],
)
def test_a_flow_is_trained_from_ratio_1_resumed_to_the_bit_and_loads_in_plain_diffusers(
    tmp_path, family, dynamics, window
):
    tiny_pipeline(family).save_pretrained(tmp_path / "model")
    arguments = [
        *("--model_name_or_path", str(tmp_path / "model"), "--height", "32", "--width", "32", *FLAGS),
        *("--kl_weight", "0.1", "--learning_rate", "0.05", "--heldout_steps", "0", "--sample_steps", "0"),
        *([] if dynamics is None else ["--dynamics", dynamics]),
        *window,
    ]
    whole, again = tmp_path / "whole", tmp_path / "again"
    assert main([*arguments, "--output_dir", str(whole)]) == 0
    shutil.copytree(whole / "checkpoint-1", again / "checkpoint-1")
    assert main([*arguments, "--output_dir", str(again), "--resume_from_checkpoint", "last"]) == 0
    assert_equal_checkpoints(again / "checkpoint-2", whole / "checkpoint-2")
    state = json.loads((whole / "checkpoint-2" / "trainer_state.json").read_text())
    assert state["log_history"][0]["policy/max_ratio_deviation"] == 0
    kept = json.loads((whole / "ddpo_config.json").read_text())
    assert (kept["dynamics"], kept["eta"], kept["scheduler"]) == (dynamics or "flow_sde", 0.7, None)
    stock = tiny_pipeline(family)
    stock.load_lora_weights(whole)
    weights = [weight for name, weight in stock.transformer.named_parameters() if "lora_B" in name]
    assert sum(bool(weight.any()) for weight in weights) > 0.8 * len(weights)


@pytest.mark.parametrize(
    "family, flags, named",
    [
        ("sd3", ["--dynamics", "ddpm"], "dynamics is 'ddpm', and the model predicts velocities (flow matching)"),
        ("sd3", ["--dynamics", "cps", "--eta", "1.5"], "eta is 1.5; a step without noise has no log-probability"),
        ("sana-sprint", [], "whose steps (SCMScheduler) have no log-probability; train it with train_ubgen.py"),
    ],
)
def test_dynamics_of_another_kind_of_model_are_refused(tmp_path, capsys, family, flags, named):
    tiny_pipeline(family).save_pretrained(tmp_path / "model")
    arguments = [
        "--model_name_or_path",
        str(tmp_path / "model"),
        *FLAGS,
        "--output_dir",
        str(tmp_path / "out"),
        *flags,
    ]
    assert main(arguments) == 2
    assert named in capsys.readouterr().err
