"""Every method trains as a module of the installed package, from a folder that holds nothing of the clone."""

import subprocess
from pathlib import Path

import pytest

from support import ROOT
from support.help_texts import help_texts
from support.warm_python import warm_programs

LIBRARY = ROOT / "training" / "ubgen_training"
METHODS = sorted(file.parent.name for file in LIBRARY.glob("*/__main__.py"))
SCRIPTS = {
    "train_backbone": "backbone",
    "train_ddpo": "ddpo",
    "train_denoiser": "denoising",
    "train_few_steps": "few_steps",
    "train_nft": "nft",
    "train_segmenter": "segmenter",
    "train_textual_inversion": "textual_inversion",
    "train_ubgen": "ubgen",
}


def run(folder: Path, *command: str) -> str:
    """What a command prints that is started in ``folder``."""
    done = subprocess.run([warm_programs() / "python", "-m", *command], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_help_says_how_to_call_it(tmp_path):
    modules = [f"ubgen_training.{method}" for method in METHODS]
    shown = help_texts({module: ["-m", module] for module in modules}, tmp_path)
    for module in modules:
        assert shown[module].startswith(f"usage: python -m {module} ") and "--output_dir" in shown[module]


def test_accelerate_launches_a_module(tmp_path):
    flags = "--dataset mini:4:1 --model mini --image_size 32 --max_steps 1 --per_device_train_batch_size 2 --use_cpu"
    launch = ("accelerate.commands.launch", "--cpu", "--num_processes", "1", "-m", "ubgen_training.segmenter")
    assert "segmenter saved in out" in run(tmp_path, *launch, *flags.split(), "--output_dir", "out")
    assert (tmp_path / "out" / "model.safetensors").is_file() and [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("script", SCRIPTS)
def test_the_script_only_calls_the_module(script):
    source = (ROOT / "training" / f"{script}.py").read_text("utf-8")
    _, _, code = source.partition('"""\n\n')
    assert code == (
        f"import sys\n\nfrom ubgen_training.{SCRIPTS[script]}.command import main\n\n"
        'if __name__ == "__main__":\n    sys.exit(main())\n'
    )
    assert SCRIPTS[script] in METHODS
