"""The documents: marked blocks run, every command, flag and file they name exists, every link leads somewhere.

A fenced block whose info string is ``python run`` or ``bash run`` is run, with few steps for each image. The blocks of
one document run in order, in one folder that looks like the clone's root. One marked ``bash train`` holds one
``accelerate launch`` of a training script; it is run in this process, shortened by the flags of ``SHORTER`` behind its
own. ``text tree`` is a tree of folders, which must equal those that exist.
"""

import ast
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml
from test_imports import PACKAGES, PIPELINE_ROOMS, TRAINING_ROOMS

from support import ROOT
from support.help_texts import help_texts
from support.warm_python import warm_programs

DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "results").glob("*.md"))]
_FENCE = re.compile(r"^```(\w*) ?(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_ENTRY_POINTS = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["entry-points"][
    "ubgen.commands"
]
# what a shell has, beside our own commands
_PROGRAMS = {"accelerate", "cat", "hf", "make", "pip", "python", "ray", "test", "ubgen"}


def modules_of(folder: str, package: str) -> dict[str, list[str]]:
    """What ``python`` is given to run each module of a folder that can be run, by the module's name."""
    found = {}
    for file in sorted((ROOT / folder).rglob("*.py")):
        parts = (package, *file.relative_to(ROOT / folder).with_suffix("").parts)
        if '__name__ == "__main__"' in file.read_text("utf-8") or parts[-1] == "__main__":
            name = ".".join(parts).removesuffix(".__main__")
            found[name] = ["-m", name]
    # the ubgen command: what it runs is named by the word behind it
    found.pop("ubgen_pipeline", None)
    return found


_RUN = {
    **{name: ["-m", "ubgen_pipeline", name] for name in _ENTRY_POINTS},
    **{file.name: [f"training/{file.name}"] for file in sorted((ROOT / "training").glob("train_*.py"))},
    **modules_of("benchmarks", "benchmarks"),
    **modules_of("ubgen_pipeline", "ubgen_pipeline"),
    **modules_of("training/ubgen_training", "ubgen_training"),
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
        "train_nft.py": "--num_trained_steps 2 --rollout_size 2 --gradient_accumulation_steps 2",
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
    return str(document.relative_to(ROOT))


@cache
def helps() -> dict[str, str]:
    """What ``--help`` prints, for each of our commands that a document gives a flag."""
    texts = [block.text for document in DOCUMENTS for block in blocks(document) if block.language == "bash"]
    # settings named in text are looked up in the flags of this one
    named = {"train_ubgen.py", *(command for text in texts for command, _ in named_flags(text))}
    return help_texts({command: _RUN[command] for command in sorted(named)})


@cache
def known_flags(command: str) -> set[str]:
    return set(re.findall(r"--[\w-]+", helps()[command]))


def named_flags(text: str) -> list[tuple[str, str]]:
    """(command, flag) pairs of the shell lines in the text that call one of our commands."""
    pairs = []
    for line in text.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        command = next((Path(word).name for word in words if Path(word).name in _RUN), None)
        if command is not None:
            start = next(i for i, word in enumerate(words) if Path(word).name == command)
            pairs += [(command, word.partition("=")[0]) for word in words[start:] if word.startswith("--")]
    return pairs


def with_few_steps(text: str) -> str:
    """The block with 3 steps for each image: what a page shows does not depend on how good its images are."""
    text = re.sub(r"(num[-_]inference[-_]steps[= ])\d+", r"\g<1>3", text)
    commands = re.split(r"(?<!\\)\n", text)
    for number, command in enumerate(commands):
        if command.startswith("ubgen generate ") and not re.search("--num-inference-steps|--dry-run", command):
            commands[number] = f"{command} --num-inference-steps 3"
    return "\n".join(commands)


def test_blocks_get_few_steps_and_stay_as_they_are_otherwise():
    assert with_few_steps("draw(x, num_inference_steps=20, y=2)\n") == "draw(x, num_inference_steps=3, y=2)\n"
    text = "ubgen generate --seed 7 \\\n  --num-inference-steps 10 --x\nubgen score a\n"
    assert with_few_steps(text) == text.replace("10", "3")
    text = "ubgen generate --dry-run\nubgen generate --seed \\\n  7\n"
    assert with_few_steps(text) == text[:-1] + " --num-inference-steps 3\n"


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_marked_blocks_run(document, tmp_path):
    from ubgen_pipeline.mini import mini_model_path

    marked = [block for block in blocks(document) if block.is_run]
    if not marked:
        pytest.skip("nothing marked to be run")
    assert (Path(mini_model_path()) / "model_index.json").is_file(), "the blocks draw with the mini model: `make mini`"
    for item in ("ubgen_pipeline", "training", "benchmarks"):
        (tmp_path / item).symlink_to(ROOT / item)
    programs = warm_programs()
    path = os.pathsep.join([str(programs), str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path, "HF_HOME": str(tmp_path / "hf")}
    for block in marked:
        command = ["bash", "-euo", "pipefail", "-c"] if block.language == "bash" else ["python", "-c"]
        text = with_few_steps(block.text)
        done = subprocess.run([*command, text], cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{text}\n{done.stdout}{done.stderr}"


def training_commands() -> list[tuple[str, str]]:
    """(document, command) of the blocks marked ``train``."""
    return [(name_of(file), block.text) for file in DOCUMENTS for block in blocks(file) if block.mark == "train"]


# a run of one update fills no memory, which it rightly says
@pytest.mark.filterwarnings("ignore:variety_memory is")
@pytest.mark.parametrize("document, text", training_commands())
def test_training_commands_run_shortened(document, text, tmp_path, monkeypatch, capsys):
    from accelerate.commands.launch import launch_command_parser

    (tmp_path / "training").symlink_to(ROOT / "training")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    # a file that the page has written before, such as a reward
    for block in blocks(ROOT / document):
        if block.is_run and block.text.startswith("cat > "):
            subprocess.run(["bash", "-euo", "pipefail", "-c", block.text], check=True)
    program, launch, *words = shlex.split(text.replace("\\\n", " "))
    assert (program, launch) == ("accelerate", "launch")
    command = launch_command_parser().parse_args(words)
    assert Path(command.training_script).parent == Path("training")
    script = Path(command.training_script).name
    main = import_module(f"training.{Path(script).stem}").main
    arguments, shorter = command.training_script_args, SHORTER[script]
    if "--images_per_class_in_batch" in arguments:
        # a batch of one group
        size = arguments[arguments.index("--images_per_class_in_batch") + 1]
        shorter = [*shorter, "--per_device_train_batch_size", size]
    assert main([*arguments, *shorter]) == 0, capsys.readouterr().err
    (output,) = [path for path in tmp_path.iterdir() if path.is_dir() and path.name not in ("training", "__pycache__")]
    assert {"README.md", "pytorch_lora_weights.safetensors"} <= {path.name for path in output.iterdir()}
    sys.modules.pop("my_rewards", None)


def test_every_strategy_has_a_recipe():
    from ubgen_training.sampler.gradient_steps import GRADIENT_STRATEGIES

    recipes = " ".join(text for _, text in training_commands())
    assert all(f"--gradient_strategy {name} " in recipes for name in GRADIENT_STRATEGIES)
    assert "train_ddpo.py" in recipes and "train_nft.py" in recipes


def test_the_readme_opens_with_ten_lines_that_run():
    first = blocks(DOCUMENTS[0])[0]
    assert first.language == "python" and first.is_run
    assert len([line for line in first.text.splitlines() if line]) <= 10


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_blocks_are_well_formed(document):
    for block in blocks(document):
        assert block.language in ("python", "bash", "yaml", "text"), block
        if block.language == "python":
            ast.parse(block.text)
        elif block.language == "bash":
            subprocess.run(["bash", "-n", "-c", block.text], check=True)
        elif block.language == "yaml":
            # settings of the trainings
            for name in yaml.safe_load(block.text):
                assert f"--{name}" in known_flags("train_ubgen.py"), name
    assert document.read_text("utf-8").count("```") == 2 * len(blocks(document))


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_flags_exist(document):
    for block in blocks(document):
        if block.language == "bash":
            for command, flag in named_flags(block.text):
                assert flag in known_flags(command), f"{command} has no flag {flag}"


def shell_commands(text: str) -> Iterator[list[str]]:
    """The words of every command in the text, without what is fed to it and without variables set before it."""
    text = re.sub(r"<<'END'\n.*?^END$", "", text.replace("\\\n", " "), flags=re.MULTILINE | re.DOTALL)
    for line in text.splitlines():
        words = shlex.split(line, comments=True)
        while words:
            end = next((i for i, word in enumerate(words) if word in ("&&", "||", "|", ";")), len(words))
            command, words = words[:end], words[end + 1 :]
            while command and re.fullmatch(r"[A-Z_]+=.*", command[0]):
                command = command[1:]
            if command:
                yield command


def missing(command: list[str]) -> str | None:
    """What a command names of ours that does not exist; None: nothing."""
    program, words = Path(command[0]).name, command[1:]
    if program not in _PROGRAMS:
        return None if (ROOT / command[0]).is_file() else program
    if program == "ubgen" and words[0] not in _ENTRY_POINTS:
        return words[0]
    if program in ("python", "accelerate"):
        module = words[words.index("-m") + 1] if "-m" in words else None
        if module == "ubgen_pipeline":
            subcommand = words[words.index("-m") + 2]
            return None if subcommand in _ENTRY_POINTS else subcommand
        if module is not None and module not in _RUN and (module.startswith("ubgen") or find_spec(module) is None):
            return module
        if module is None and not any(word.endswith(".py") for word in words):
            return "a script"
    if program == "make":
        return next((word for word in words if "=" not in word and word not in make_targets()), None)
    files = [word for word in words if re.match(r"(training|benchmarks|space)/", word)]
    return next((file for file in files if not (ROOT / file).is_file()), None)


@cache
def make_targets() -> set[str]:
    return set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_commands_exist(document):
    for block in blocks(document):
        if block.language == "bash":
            for command in shell_commands(block.text):
                assert missing(command) is None, f"{missing(command)} in {command}"


def test_what_a_command_lacks_is_found():
    text = (
        "A=1 ubgen generate --model mini && ubgen paint x\npython -m benchmarks.none --a \\\n  --b\n"
        "cat > f <<'END'\nnonsense\nEND\naccelerate launch training/train_none.py\n"
        "accelerate launch -m ubgen_pipeline paint\n"
        "make nothing  # why\nfly\nmake demo test PYTHON=x\n"
        "python training/train_ubgen.py --config training/configs/none.yaml\npython -m ubgen_training.none\n"
    )
    found = [missing(command) for command in shell_commands(text)]
    assert found == [
        *(None, "paint", "benchmarks.none", None, "training/train_none.py", "paint", "nothing", "fly", None),
        *("training/configs/none.yaml", "ubgen_training.none"),
    ]


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


def anchors(document: Path) -> set[str]:
    """The names that GitHub gives the headings of a document."""
    headings = re.findall(r"^#+ (.*)$", _FENCE.sub("", document.read_text("utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken_links(document: Path) -> list[str]:
    """Relative links of a document that lead to no file, or to no heading of it."""
    found = []
    for target in re.findall(r"\]\(([^)]+)\)", document.read_text("utf-8")):
        name, _, anchor = target.partition("#")
        file = document.parent / name if name else document
        if "://" not in target and not (file.is_file() and (not anchor or anchor in anchors(file))):
            found.append(target)
    return found


@pytest.mark.parametrize("document", [*DOCUMENTS, ROOT / "space" / "README.md"], ids=name_of)
def test_links_lead_somewhere(document):
    assert not broken_links(document)


def test_broken_links_are_found(tmp_path):
    (tmp_path / "other.md").write_text("# What, is it?\n```bash\n# no heading\n```\n", "utf-8")
    page = tmp_path / "page.md"
    page.write_text(
        "[a](other.md#what-is-it) [b](other.md#no-heading) [c](none.md) [d](https://x.y/z) [e](#f)", "utf-8"
    )
    assert broken_links(page) == ["other.md#no-heading", "none.md", "#f"]


def test_pictures_are_shown_by_a_page():
    shown = {
        (document.parent / target).resolve()
        for document in DOCUMENTS
        for target in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", document.read_text("utf-8"))
    }
    there = {file for folder in ("docs", "results") for file in (ROOT / folder / "images").iterdir()}
    assert there == {file for file in shown if file.is_relative_to(ROOT)} and there


def test_make_targets_named_in_documents_exist():
    text = "\n".join(document.read_text("utf-8") for document in DOCUMENTS)
    named = set(re.findall(r"`make ([a-z-]+)`|^make ([a-z-]+)", text, re.MULTILINE))
    assert {first or second for first, second in named} <= make_targets()
    assert {"demo", "test", "lint", "mini"} <= make_targets()


def folders_of_tree(document: Path) -> set[str]:
    """The folders that a document's tree has a line for, by their paths."""
    (tree,) = (block.text for block in blocks(document) if block.mark == "tree")
    found: list[str] = []
    parents: list[str] = []
    for line in tree.splitlines():
        entry = re.fullmatch(r"( *)(\w+)/ +\S.*", line)
        assert entry is not None, f"{line!r} is no folder with what it holds"
        depth, left_over = divmod(len(entry[1]), 4)
        assert left_over == 0 and depth <= len(parents), line
        parents = [*parents[:depth], entry[2]]
        found.append("/".join(parents))
    assert len(found) == len(set(found))
    return set(found)


def packages_in(folder: str) -> set[str]:
    return {f"{folder}/{file.parent.name}" for file in (ROOT / folder).glob("*/__init__.py")}


def test_trees_are_the_folders_that_exist():
    # a folder that a command of the README wrote into the clone holds no code
    top = {file.relative_to(ROOT).parts[0] for depth in ("*", "*/*") for file in ROOT.glob(f"{depth}/*.py")}
    top = {name for name in top if name.isidentifier()} | {"docs", "results"}
    assert folders_of_tree(ROOT / "README.md") == top | packages_in("ubgen_pipeline")
    rooms = {
        room
        for folder in ("ubgen_pipeline", "training", "evaluation", "hub_cards", "benchmarks")
        for room in packages_in(folder)
    }
    rooms |= packages_in("training/ubgen_training") | {"training/configs"}
    assert folders_of_tree(ROOT / "docs" / "extend.md") == top | rooms


def test_the_table_of_rooms_is_the_one_that_imports_are_held_to():
    text = (ROOT / "docs" / "extend.md").read_text("utf-8")
    (table,) = re.findall(r"<!-- rooms: begin -->\n(.*)<!-- rooms: end -->", text, re.DOTALL)
    assert table == rooms_table(), f"write between the marks:\n{rooms_table()}"


def rooms_table() -> str:
    """The tables of ``test_imports`` in Markdown; the root of ``ubgen_pipeline`` is called root."""
    lines = ["| room | may import |", "|---|---|"]
    for title, rooms in (("forward stream", PIPELINE_ROOMS), ("training", TRAINING_ROOMS), ("packages", PACKAGES)):
        lines.append(f"| **{title}** | |")
        for room, allowed in rooms.items():
            names = [
                "root" if name == "ubgen_pipeline" and rooms is not PACKAGES else name
                for name in (room, *allowed.split())
            ]
            lines.append(f"| {names[0]} | {', '.join(names[1:]) or 'nothing of ours'} |")
    return "\n".join(lines) + "\n"
