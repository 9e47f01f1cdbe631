"""The command of training by the forward process: families, and what it refuses that another on rollouts takes."""

import json
import shutil

import pytest

from support.checkpoint_equality import assert_equal_checkpoints
from support.family_models import tiny_pipeline
from support.flags import with_flags
from support.training_worker import ROLLOUT_FLAGS as FLAGS
from ubgen_training.nft.command import main


@pytest.mark.parametrize(
    "flags, named",
    [
        (["--scheduler", "euler_flow"], "scheduler is 'euler_flow', and UbGenPipeline predicts noise"),
        (["--objective", "ppo"], "objective is 'ppo'; choose nft or awm"),
        (["--num_trained_steps", "4"], "num_trained_steps is 4"),
    ],
)
def test_bad_settings_end_with_one_line_and_code_2(random_mini_model, tmp_path, flags, named, capsys):
    arguments = ["--model_name_or_path", random_mini_model, *FLAGS, "--output_dir", str(tmp_path)]
    assert main(with_flags(arguments, *flags)) == 2
    message = capsys.readouterr().err
    assert "ubgen: error: " in message and named in message and "Traceback" not in message
    assert not list(tmp_path.glob("checkpoint-*"))


@pytest.mark.parametrize("family", ["sd3", "flux2-klein", "sdxl"])
def test_every_kind_of_family_trains_resumes_to_the_bit_and_loads_in_plain_diffusers(tmp_path, family):
    tiny_pipeline(family).save_pretrained(tmp_path / "model")
    arguments = [
        *("--model_name_or_path", str(tmp_path / "model"), "--height", "32", "--width", "32", *FLAGS),
        *("--kl_weight", "0.1", "--learning_rate", "0.05", "--heldout_steps", "0", "--sample_steps", "0"),
    ]
    whole, again = tmp_path / "whole", tmp_path / "again"
    assert main([*arguments, "--output_dir", str(whole)]) == 0
    shutil.copytree(whole / "checkpoint-1", again / "checkpoint-1")
    assert main([*arguments, "--output_dir", str(again), "--resume_from_checkpoint", "last"]) == 0
    assert_equal_checkpoints(again / "checkpoint-2", whole / "checkpoint-2")
    assert json.loads((whole / "nft_config.json").read_text())["guidance_scale"] == 1.0
    stock = tiny_pipeline(family)
    stock.load_lora_weights(whole)
    network = stock.unet if family == "sdxl" else stock.transformer
    weights = [weight for name, weight in network.named_parameters() if "lora_B" in name]
    assert sum(bool(weight.any()) for weight in weights) > 0.8 * len(weights)


def test_a_scheduler_without_noise_levels_is_refused(tmp_path, capsys):
    tiny_pipeline("sana-sprint").save_pretrained(tmp_path / "model")
    arguments = ["--model_name_or_path", str(tmp_path / "model"), *FLAGS, "--output_dir", str(tmp_path / "out")]
    assert main(arguments) == 2
    message = capsys.readouterr().err
    assert "SCMScheduler" in message and "train it with train_ubgen.py" in message and "strategy" not in message
