"""The command of the ubGen loss: what it refuses and how it ends, and what it says of the method on the model card."""

import re
import subprocess

import pytest

from support import ROOT
from support.flags import with_flags
from support.tiny_clip import build_tiny_clip
from support.warm_python import warm_programs
from ubgen_training.ubgen.command import card_method, main
from ubgen_training.ubgen.ubgen_config import UbGenConfig

NAMES = ["circle", "star", "ring"]
FAST = [
    *("--num_inference_steps", "4", "--num_gradient_steps", "2", "--lora_rank", "4", "--reward_funcs"),
    *("clip_alignment", "--per_device_train_batch_size", "2", "--use_cpu", "--disable_tqdm", "true"),
]


@pytest.fixture(scope="module")
def common(tiny_model, tmp_path_factory):
    clip = build_tiny_clip(tmp_path_factory.mktemp("clip"))
    return ["--model_name_or_path", tiny_model, "--clip_model", clip, "--class_names", *NAMES, *FAST]


@pytest.mark.parametrize(
    "flags, named",
    [
        (["--model_name_or_path", "no/such/model/here"], "no/such/model/here"),
        (["--num_gradient_steps", "9"], "num_gradient_steps is 9"),
        (["--class_names", "circle"], "circle"),
        (["--clip_model", "no/such/clip/here"], "no/such/clip/here"),
        (["--reward_funcs", "beauty"], "beauty"),
        (["--reward_weights", "1", "2", "3"], "reward_weights holds 3"),
        (["--output_dir", "/dev/null/out"], "/dev/null/out"),
        (["--resume_from_checkpoint", "last"], "holds no complete checkpoint"),
        (["--lora_target_modules", "to_nothing"], "to_nothing"),
        (["--num_samples", "1"], "num_samples"),
    ],
)
def test_bad_settings_end_with_one_line_and_code_2(common, tmp_path, flags, named, capsys):
    code = main(with_flags([*common, "--output_dir", str(tmp_path), "--max_steps", "1"], *flags))
    message = capsys.readouterr().err
    assert code == 2, message
    assert named in message
    assert re.search(r"^ubgen: error: ", message, flags=re.MULTILINE) and "Traceback" not in message


def test_no_class_names_and_unknown_yaml_key_end_with_code_2(common, tmp_path, capsys):
    flags = [flag for flag in common if flag not in ("--class_names", *NAMES)]
    assert main([*flags, "--output_dir", str(tmp_path)]) == 2
    assert "class_names is empty" in capsys.readouterr().err
    (tmp_path / "bad.yaml").write_text("lora_rnk: 4\n")
    assert main(["--config", str(tmp_path / "bad.yaml")]) == 2
    assert "lora_rank" in capsys.readouterr().err


def test_the_script_itself_exits_with_2():
    command = [warm_programs() / "python", str(ROOT / "training" / "train_ubgen.py"), "--num_gradient_steps", "9"]
    done = subprocess.run([*command, "--num_inference_steps", "3"], capture_output=True, text=True)
    assert done.returncode == 2 and "num_gradient_steps is 9" in done.stderr


def test_one_class_is_enough_without_the_adversarial_term(common, tmp_path, capsys):
    flags = ["--class_names", "star", "--output_dir", str(tmp_path), "--max_steps", "1", "--save_strategy", "no"]
    watched = ["--heldout_steps", "0", "--sample_steps", "0"]
    assert main(with_flags(common, *flags, *watched)) == 2
    assert "the adversarial term sets an image against a name of another class" in capsys.readouterr().err
    assert main(with_flags(common, *flags, *watched, "--adversarial_weight", "0")) == 0
    assert "LoRA saved in" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, "the rewards below and an adversarial term back-propagated .* the strategy `even_k` chooses"),
        (
            {"adversarial_weight": 0.0, "gradient_strategy": "refl"},
            "the rewards below back-propagated .* the strategy `refl` chooses",
        ),
    ],
)
def test_the_card_says_how_it_was_trained(tmp_path, settings, expected):
    assert re.search(expected, card_method(UbGenConfig(output_dir=str(tmp_path), use_cpu=True, **settings)))
