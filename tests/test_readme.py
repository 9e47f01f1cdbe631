"""The documents: marked blocks run, every flag they name exists, every link leads somewhere.

A fenced block whose info string is ``python run`` or ``bash run`` is run. The blocks of one document run in order, in
one folder that looks like the clone's root. One marked ``bash train`` holds one ``accelerate launch`` of a training
script; it is run in this process, shortened by the flags of ``SHORTER`` behind its own.
"""

import ast
import os
import re
import shlex
import subprocess
import sys
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

import pytest

from support import ROOT

DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
_FENCE = re.compile(r"^```(\w*) ?(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_HELP = {
    "generate": [sys.executable, "-m", "ubgen_pipeline", "generate", "--help"],
    "publish": [sys.executable, "-m", "ubgen_pipeline", "publish", "--help"],
    "publish-pipeline": [sys.executable, "-m", "ubgen_pipeline", "publish-pipeline", "--help"],
    "regenerate": [sys.executable, "-m", "ubgen_pipeline", "regenerate", "--help"],
    "export": [sys.executable, "-m", "ubgen_pipeline", "export", "--help"],
    "score": [sys.executable, "-m", "ubgen_pipeline", "score", "--help"],
    "filter": [sys.executable, "-m", "ubgen_pipeline", "filter", "--help"],
    "check-names": [sys.executable, "-m", "ubgen_pipeline", "check-names", "--help"],
    "show": [sys.executable, "-m", "ubgen_pipeline", "show", "--help"],
    "train_ubgen.py": [sys.executable, "training/train_ubgen.py", "--help"],
    "train_ddpo.py": [sys.executable, "training/train_ddpo.py", "--help"],
    "benchmarks.gradient_strategies": [sys.executable, "-m", "benchmarks.gradient_strategies", "--help"],
    "train_backbone.py": [sys.executable, "training/train_backbone.py", "--help"],
    "train_few_steps.py": [sys.executable, "training/train_few_steps.py", "--help"],
    "train_denoiser.py": [sys.executable, "training/train_denoiser.py", "--help"],
    "evaluate": [sys.executable, "-m", "ubgen_pipeline", "evaluate", "--help"],
    "train_mini.py": [sys.executable, "training/train_mini.py", "--help"],
    "train_segmenter.py": [sys.executable, "training/train_segmenter.py", "--help"],
    "train_textual_inversion.py": [sys.executable, "training/train_textual_inversion.py", "--help"],
    "annotate": [sys.executable, "-m", "ubgen_pipeline", "annotate", "--help"],
    "benchmarks.near_duplicates": [sys.executable, "-m", "benchmarks.near_duplicates", "--help"],
    "benchmarks.mask_quality": [sys.executable, "-m", "benchmarks.mask_quality", "--help"],
    "benchmarks.lossy_presets": [sys.executable, "-m", "benchmarks.lossy_presets", "--help"],
    "benchmarks.loss_weightings": [sys.executable, "-m", "benchmarks.loss_weightings", "--help"],
    "benchmarks.demo": [sys.executable, "-m", "benchmarks.demo", "--help"],
    "benchmarks.evidence": [sys.executable, "-m", "benchmarks.evidence", "--help"],
}
# one update of two images; behind a document's own flags, because the last of a kind wins
SHORTER = {
    script: shlex.split(
        f"{flags} --max_steps 1 --num_inference_steps 3 --per_device_train_batch_size 2 --lora_rank 2 --use_cpu "
        "--num_sample_classes 2 --num_samples_per_class 1 --disable_tqdm true --save_strategy no"
    )
    for script, flags in {
        "train_ubgen.py": "--num_gradient_steps 1 --discriminator_warmup_steps 1",
        "train_ddpo.py": "--num_trained_steps 2 --rollout_size 2 --gradient_accumulation_steps 2",
    }.items()
}


class Block(NamedTuple):
    """A fenced block of a document."""

    language: str
    mark: str
    text: str

    @property
    def is_run(self) -> bool:
        return self.mark == "run"


def blocks(document: Path) -> list[Block]:
    return [Block(*found) for found in _FENCE.findall(document.read_text("utf-8"))]


def name_of(document: Path) -> str:
    return document.stem


@cache
def known_flags(command: str) -> set[str]:
    done = subprocess.run(_HELP[command], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(re.findall(r"--[\w-]+", done.stdout))


def named_flags(text: str) -> list[tuple[str, str]]:
    """(command, flag) pairs of the shell lines in the text that call one of our commands."""
    pairs = []
    for line in text.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        command = next((Path(word).name for word in words if Path(word).name in _HELP), None)
        if command is not None:
            start = next(i for i, word in enumerate(words) if Path(word).name == command)
            pairs += [(command, word.partition("=")[0]) for word in words[start:] if word.startswith("--")]
    return pairs


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_marked_blocks_run(document, tmp_path):
    from ubgen_pipeline.mini import mini_model_path

    marked = [block for block in blocks(document) if block.is_run]
    if not marked:
        pytest.skip("nothing marked to be run")
    assert (Path(mini_model_path()) / "model_index.json").is_file(), "the blocks draw with the mini model: `make mini`"
    for item in ("ubgen_pipeline", "training", "benchmarks"):
        (tmp_path / item).symlink_to(ROOT / item)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "HF_HOME": str(tmp_path / "hf")}
    for block in marked:
        command = ["bash", "-euo", "pipefail", "-c"] if block.language == "bash" else [sys.executable, "-c"]
        done = subprocess.run([*command, block.text], cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{block.text}\n{done.stdout}{done.stderr}"


def training_commands() -> list[tuple[str, str]]:
    """(document, command) of the blocks marked ``train``."""
    return [(file.stem, block.text) for file in DOCUMENTS for block in blocks(file) if block.mark == "train"]


@pytest.mark.parametrize("document, text", training_commands())
def test_training_commands_run_shortened(document, text, tmp_path, monkeypatch, capsys):
    from accelerate.commands.launch import launch_command_parser

    (tmp_path / "training").symlink_to(ROOT / "training")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    # a file that the page has written before, such as a reward
    for block in blocks(ROOT / "docs" / f"{document}.md"):
        if block.is_run and block.text.startswith("cat > "):
            subprocess.run(["bash", "-euo", "pipefail", "-c", block.text], check=True)
    program, launch, *words = shlex.split(text.replace("\\\n", " "))
    assert (program, launch) == ("accelerate", "launch")
    command = launch_command_parser().parse_args(words)
    assert Path(command.training_script).parent == Path("training")
    script = Path(command.training_script).name
    main = import_module(Path(script).stem).main
    assert main([*command.training_script_args, *SHORTER[script]]) == 0, capsys.readouterr().err
    (output,) = [path for path in tmp_path.iterdir() if path.is_dir() and path.name != "training"]
    assert {"README.md", "pytorch_lora_weights.safetensors"} <= {path.name for path in output.iterdir()}
    sys.modules.pop("my_rewards", None)


def test_every_strategy_has_a_recipe():
    from ubgen_training.sampler.gradient_steps import GRADIENT_STRATEGIES

    recipes = " ".join(text for _, text in training_commands())
    assert all(f"--gradient_strategy {name} " in recipes for name in GRADIENT_STRATEGIES)
    assert "train_ddpo.py" in recipes


def test_the_readme_opens_with_ten_lines_that_run():
    first = blocks(DOCUMENTS[0])[0]
    assert first.language == "python" and first.is_run
    assert len([line for line in first.text.splitlines() if line]) <= 10


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_blocks_are_well_formed(document):
    for block in blocks(document):
        assert block.language in ("python", "bash"), block
        if block.language == "python":
            ast.parse(block.text)
        else:
            subprocess.run(["bash", "-n", "-c", block.text], check=True)
    assert document.read_text("utf-8").count("```") == 2 * len(blocks(document))


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_flags_exist(document):
    for block in blocks(document):
        if block.language == "bash":
            for command, flag in named_flags(block.text):
                assert flag in known_flags(command), f"{command} has no flag {flag}"


def test_flags_are_found_in_shell_lines():
    text = 'ubgen generate --model mini --class-names a "b c"  # --not-this\nx --y\npython -m benchmarks.demo --b=1'
    assert named_flags(text) == [("generate", "--model"), ("generate", "--class-names"), ("benchmarks.demo", "--b")]


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_settings_named_in_tables_and_text_exist(document):
    """Names in backticks with an underscore are settings, functions or files of this project."""
    sources = "\n".join(
        file.read_text("utf-8")
        for folder in ("ubgen_pipeline", "training", "evaluation", "hub_cards", "benchmarks", "space")
        for file in (ROOT / folder).rglob("*.py")
    )
    prose = _FENCE.sub("", document.read_text("utf-8"))
    for name in re.findall(r"`(?:--)?([a-z]+(?:_[a-z]+)+)(?:\(\))?`", prose):
        # TrainingArguments' own settings are not in our sources
        assert name in sources or name in known_flags_text("train_ubgen.py"), name


@cache
def known_flags_text(command: str) -> str:
    return " ".join(known_flags(command))


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_links_lead_somewhere(document):
    for target in re.findall(r"\]\(([^)#]+)", document.read_text("utf-8")):
        if "://" not in target:
            assert (document.parent / target).is_file(), target


def test_make_targets_named_in_documents_exist():
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    text = "\n".join(document.read_text("utf-8") for document in DOCUMENTS)
    named = set(re.findall(r"`make ([a-z]+)`|^make ([a-z]+)", text, re.MULTILINE))
    assert {first or second for first, second in named} <= targets
    assert {"demo", "test", "lint", "mini"} <= targets
