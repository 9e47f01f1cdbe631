"""The benchmark of training: both arms train the same, and its command gives the table."""

import os
import re
import subprocess

import pytest

from benchmarks import training_speed
from support import ROOT
from support.warm_python import warm_programs
from ubgen_pipeline.mini import EMBEDDED_MODELS

FAST = [
    *("--strategies", "even_k", "drtune", "refl", "--num_inference_steps", "3", "--num_gradient_steps", "1"),
    *("--batch_size", "2", "--repeats", "1", "--device", "cpu", "--memory", "False"),
]


def run(module, *flags):
    command = [warm_programs() / "python", "-m", module, *flags]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment, timeout=600)


@pytest.mark.parametrize("model", EMBEDDED_MODELS)
def test_both_arms_take_the_same_step(model, mini_model):
    """The gradient of the stock arm, written with plain calls of diffusers, is that of the trainer."""
    done = run("benchmarks.training_speed", "--model", model, *FAST)
    assert done.returncode == 0, done.stderr[-2000:]
    lines = re.findall(r"^(even_k|drtune|refl) .*x +(\d+)% +(-?[\d.]+) +-$", done.stdout, re.MULTILINE)
    assert [name for name, _, _ in lines] == ["even_k", "drtune", "refl"], done.stdout
    assert all(float(cosine) > 0.9999 for _, _, cosine in lines), done.stdout


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--strategies", "none"], "gradient_strategy is 'none'"),
        (["--clock", "sun"], "clock is 'sun'"),
    ],
)
def test_a_bad_setting_is_named(flags, message, capsys):
    assert training_speed.main(flags) == 2
    assert message in capsys.readouterr().err
