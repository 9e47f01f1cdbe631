"""Reads the sources: who imports whom (the table of rooms), no pickle, no remote code, no name hiding a library."""

import ast
import sys
from collections.abc import Iterator, Mapping, Set
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from support import ROOT
from support.helper_imports import with_helpers
from ubgen_pipeline.models.families import FAMILIES

# the house: each room and what of ours it may import beside itself; a room is a folder, or the root of ubgen_pipeline,
# which diffusers' loader copies. Imports go downward only: no room may be reached from itself.
PIPELINE = "ubgen_pipeline"
PIPELINE_ROOMS = {
    PIPELINE: "",
    "files": "",
    "commands": "files",
    "mini": "files",
    "prompts": "ubgen_pipeline files",
    "models": "ubgen_pipeline files commands mini ubgen_hub_cards",
    "captions": "ubgen_pipeline files commands prompts models",
    "dataset": "ubgen_pipeline files commands prompts models ubgen_hub_cards",
    "samples": "ubgen_pipeline files prompts dataset models",
    "inference": "ubgen_pipeline files commands models",
    "scoring": "files commands mini models dataset",
    "labelling": "ubgen_pipeline files commands prompts models dataset samples ubgen_hub_cards",
    "export": "ubgen_pipeline files commands dataset",
    "hub": "ubgen_pipeline files commands mini prompts models dataset ubgen_hub_cards",
    "generation": (
        "ubgen_pipeline files commands mini prompts models dataset samples inference scoring hub ubgen_hub_cards"
    ),
}
# what trainings may use of the forward stream is named room by room, too
TRAINING_ROOMS = {
    "command": "commands files",
    "checkpoints": "files commands",
    "lora": "checkpoints files",
    "sampler": "checkpoints lora ubgen_pipeline commands models inference",
    "rewards": "models mini",
    "reward_training": (
        "command checkpoints lora sampler rewards ubgen_pipeline files commands mini prompts models samples hub"
        " ubgen_hub_cards"
    ),
    "ubgen": "command reward_training checkpoints lora sampler rewards ubgen_pipeline models inference",
    "rollouts": "reward_training checkpoints sampler rewards ubgen_pipeline models",
    "ddpo": "command rollouts reward_training lora sampler rewards ubgen_pipeline models",
    "nft": "command rollouts reward_training checkpoints lora sampler rewards ubgen_pipeline models",
    "images": "checkpoints dataset",
    "denoising": "command checkpoints lora images sampler ubgen_pipeline files prompts models inference dataset",
    "few_steps": "command denoising lora checkpoints sampler ubgen_pipeline models inference",
    "textual_inversion": "command checkpoints ubgen_pipeline files mini models",
    "backbone": "command checkpoints images ubgen_pipeline files dataset",
    "segmenter": "command checkpoints ubgen_pipeline files mini models dataset ubgen_evaluation",
    "training.mini": "denoising ubgen_pipeline mini files",
}
# longest way down from a room to the loader's own files
MOST_FLOORS = 7
# packages outside the two tables: what they may import, by package
PACKAGES = {
    "evaluation": "ubgen_pipeline",
    "hub_cards": "",
    "space": "ubgen_pipeline",
}
IMPORT_NAMES = {
    "ubgen_pipeline": "ubgen_pipeline",
    "training": "ubgen_training",
    "evaluation": "ubgen_evaluation",
    "hub_cards": "ubgen_hub_cards",
    "space": "space",
}
FOLDERS = tuple(IMPORT_NAMES)
OURS = {"ubgen_pipeline", "ubgen_training", "ubgen_evaluation", "ubgen_hub_cards", "space", "benchmarks", "tests"}
# what unpickles, by module and attribute; None forbids the whole module
PICKLES = {"pickle": None, "cPickle": None, "dill": None, "cloudpickle": None, "joblib": None, "shelve": None}
PICKLE_CALLS = {("torch", "load"), ("torch", "save"), ("np", "load"), ("numpy", "load")}


def sources() -> list[Path]:
    return sorted(file for folder in FOLDERS for file in (ROOT / folder).rglob("*.py"))


def parse(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"), filename=str(file))


def imported_modules(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Absolute modules that are imported anywhere in the tree, with the number of dots for relative ones."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, 0) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or "", node.level


def room_of(module: str) -> str:
    """The room that a module of ours stands in, by the name that the tables have for it.

    ``ubgen_pipeline.mini.clip`` is in ``mini``, ``ubgen_pipeline.pipeline`` in ``ubgen_pipeline``, and
    ``ubgen_training.mini.judges`` in ``training.mini``; modules of the other packages in their package.
    """
    package, _, rest = module.partition(".")
    first = rest.partition(".")[0]
    if package == PIPELINE:
        return first if first in PIPELINE_ROOMS else PIPELINE
    if package == "ubgen_training":
        return f"training.{first}" if first in PIPELINE_ROOMS else first or "ubgen_training"
    return package


def module_of(file: Path) -> str:
    """The name that a file of ours is imported under."""
    parts = file.relative_to(ROOT).with_suffix("").parts
    parts = parts[1:] if parts[0] in ("training", "evaluation", "hub_cards") and len(parts) > 2 else parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(file: Path) -> set[str]:
    """Absolute names of the modules of ours that a file imports, those of its own room among them."""
    module, is_package = module_of(file), file.name == "__init__.py"
    found = set()
    for node in ast.walk(parse(file)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            parents = module.split(".") if is_package else module.split(".")[:-1]
            start = parents[: len(parents) - node.level + 1] if node.level else []
            name = ".".join([*start, *([node.module] if node.module else [])])
            # `from .room import module` names a module; `from .module import name` does not
            found |= {f"{name}.{alias.name}" for alias in node.names} if name in packages() else {name}
    return {name for name in found if name.partition(".")[0] in OURS}


@cache
def packages() -> set[str]:
    return {module_of(file) for file in sources() if file.name == "__init__.py"}


def forbidden_rooms(file: Path) -> set[str]:
    """Rooms that a file imports though the tables do not allow its own room to."""
    room = room_of(module_of(file))
    allowed = {**PIPELINE_ROOMS, **TRAINING_ROOMS}.get(room)
    if allowed is None:
        return set()
    return {room_of(name) for name in imports_of(file)} - {room} - set(allowed.split())


def forbidden_imports(tree: ast.AST, folder: str) -> set[str]:
    roots = {name.partition(".")[0] for name, level in imported_modules(tree) if level == 0}
    return (roots & OURS) - set(PACKAGES[folder].split()) - {IMPORT_NAMES[folder]}


def floors(table: Mapping[str, str], ground: Set[str]) -> dict[str, int]:
    """How many floors each room stands above the ground, on which those stand that import nothing of the table.

    Raises:
        RecursionError: the table has a circle.
    """

    def floor(room: str) -> int:
        below = [floor(other) for other in table[room].split() if other in table and other not in ground]
        return 1 + max(below, default=0)

    return {room: 0 if room in ground else floor(room) for room in table}


def keyword_value(node: ast.AST, name: str) -> bool:
    """Whether ``name=True`` is passed, or is a parameter's default."""
    if isinstance(node, ast.Call):
        return any(k.arg == name and getattr(k.value, "value", None) is True for k in node.keywords)
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
        arguments = node.args.posonlyargs + node.args.args
        defaults = list(zip(arguments[len(arguments) - len(node.args.defaults) :], node.args.defaults))
        defaults += zip(node.args.kwonlyargs, node.args.kw_defaults)
        return any(a.arg == name and getattr(d, "value", None) is True for a, d in defaults)
    if isinstance(node, ast.AnnAssign):
        return getattr(node.target, "id", None) == name and getattr(node.value, "value", None) is True
    return False


def unsafe_uses(tree: ast.AST) -> list[str]:
    """What in the tree reads or writes pickles, or runs code that came with a model."""
    found = [name for name, level in imported_modules(tree) if level == 0 and name.partition(".")[0] in PICKLES]
    # torch's restricted loader builds tensors and runs nothing
    restricted = {
        id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call) and keyword_value(node, "weights_only")
    }
    for node in ast.walk(tree):
        if id(node) in restricted:
            continue
        if isinstance(node, ast.Attribute) and (getattr(node.value, "id", None), node.attr) in PICKLE_CALLS:
            found.append(f"{ast.unparse(node)} in line {node.lineno}")
        if isinstance(node, ast.ImportFrom) and node.module in ("torch", "numpy"):
            found += [f"{node.module}.{a.name}" for a in node.names if (node.module, a.name) in PICKLE_CALLS]
        for name in ("trust_remote_code", "allow_pickle"):
            if keyword_value(node, name):
                found.append(f"{name}=True in line {node.lineno}")
        if isinstance(node, ast.Call):
            for keyword in node.keywords:
                value = getattr(keyword.value, "value", None)
                if (keyword.arg, value) in {("use_safetensors", False), ("safe_serialization", False)}:
                    found.append(f"{keyword.arg}={value} in line {node.lineno}")
    return found


def test_the_checks_find_what_they_look_for():
    bad = ast.parse(
        "import pickle\nfrom torch import load\nimport torch\ntorch.save(1)\nf(trust_remote_code=True)\n"
        "def g(*, trust_remote_code=True): ...\ntrust_remote_code: bool = True\nnp.load('x', allow_pickle=True)\n"
        "m.from_pretrained('x', use_safetensors=False)\n"
    )
    assert len(unsafe_uses(bad)) == 9
    assert unsafe_uses(ast.parse("torch.load('x', weights_only=False)")) and unsafe_uses(ast.parse("torch.load('x')"))
    assert not unsafe_uses(ast.parse("torch.load('x', weights_only=True)"))
    assert not unsafe_uses(
        ast.parse("f(trust_remote_code=False, use_safetensors=True)\nimport torch\ntorch.tensor(1)")
    )
    wrong_way = ast.parse("def f():\n    from ubgen_training.x import y\nfrom . import z\nimport ubgen_hub_cards")
    assert forbidden_imports(wrong_way, "evaluation") == {"ubgen_training", "ubgen_hub_cards"}
    with pytest.raises(RecursionError):
        floors({"a": "b", "b": "a"}, set())
    assert floors({"a": "", "b": "a", "c": "a b", "ground": ""}, {"ground"}) == {"a": 1, "b": 2, "c": 3, "ground": 0}


def test_modules_and_rooms_are_told_apart():
    assert module_of(ROOT / "training/ubgen_training/rewards/quality.py") == "ubgen_training.rewards.quality"
    assert module_of(ROOT / "ubgen_pipeline/mini/__init__.py") == "ubgen_pipeline.mini"
    assert module_of(ROOT / "training/train_ubgen.py") == "training.train_ubgen"
    rooms = {
        name: room_of(f"ubgen_{name}") for name in ("pipeline.pipeline", "pipeline.mini.clip", "training.mini.state")
    }
    assert rooms == {
        "pipeline.pipeline": PIPELINE,
        "pipeline.mini.clip": "mini",
        "training.mini.state": "training.mini",
    }
    # one import of each form
    assert "ubgen_pipeline.mini.mini_clip_path" in imports_of(ROOT / "ubgen_pipeline/mini/clip.py")
    assert "ubgen_pipeline.files.whole_files" in imports_of(ROOT / "training/ubgen_training/lora/lora_files.py")


def test_the_tables_name_every_room():
    folders = {path.parent.name for path in (ROOT / PIPELINE).glob("*/__init__.py")}
    assert folders == set(PIPELINE_ROOMS) - {PIPELINE}
    folders = {path.parent.name for path in (ROOT / "training/ubgen_training").glob("*/__init__.py")}
    assert {room.removeprefix("training.") for room in TRAINING_ROOMS} - {"command"} == folders


def test_the_house_has_few_floors_and_no_circle():
    tables = {**PIPELINE_ROOMS, **TRAINING_ROOMS}
    assert max(floors(PIPELINE_ROOMS, {PIPELINE}).values()) <= MOST_FLOORS
    # trainings stand on the forward stream; counted from its roof
    assert max(floors(tables, set(PIPELINE_ROOMS)).values()) <= MOST_FLOORS


@pytest.mark.parametrize("file", sources(), ids=lambda file: str(file.relative_to(ROOT)))
def test_rooms_import_what_the_table_allows(file):
    # the package hands its four public names on, when they are asked for, and `python -m` starts the command
    if file not in (ROOT / PIPELINE / "__init__.py", ROOT / PIPELINE / "__main__.py"):
        assert not forbidden_rooms(file)


def test_no_file_imports_itself_through_others():
    graph = {module_of(file): imports_of(file) for file in sources() if file.parent.name != "space"}
    modules = set(graph)

    def target(name: str) -> str:
        return name if name in modules else name.rpartition(".")[0]

    done: set[str] = set()

    def visit(module: str, way: tuple[str, ...]) -> None:
        assert module not in way, " -> ".join([*way[way.index(module) :], module])
        if module in done:
            return
        for name in graph.get(module, ()):
            if target(name) != module and target(name) != PIPELINE:
                visit(target(name), (*way, module))
        done.add(module)

    for module in modules:
        visit(module, ())


@pytest.mark.parametrize("folder", PACKAGES)
def test_packages_import_what_they_may(folder):
    for file in (ROOT / folder).rglob("*.py"):
        assert not forbidden_imports(parse(file), folder), file


@pytest.mark.parametrize("file", sources(), ids=lambda file: str(file.relative_to(ROOT)))
def test_no_pickle_and_no_remote_code(file):
    assert not unsafe_uses(parse(file))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_pipeline_imports_flat_siblings_only_and_all_that_it_needs(family):
    """The rules of diffusers' ``custom_pipeline`` loader, which copies what the file itself imports and no more."""
    folder = ROOT / "ubgen_pipeline"

    def siblings(file: Path) -> set[str]:
        relative = [(name, level) for name, level in imported_modules(parse(file)) if level]
        assert all(level == 1 and name and "." not in name for name, level in relative), (file.name, relative)
        assert not {name.partition(".")[0] for name, level in imported_modules(parse(file)) if not level} & OURS
        return {name for name, _ in relative}

    file = folder / f"{FAMILIES[family].module}.py"
    assert with_helpers(file) == file.read_text(encoding="utf-8"), "run `make helper-imports`"
    direct = siblings(file)
    assert direct
    for name in direct:
        assert (folder / f"{name}.py").is_file()
        assert siblings(folder / f"{name}.py") <= direct - {name}


def test_the_evaluation_of_arrays_needs_no_torch():
    roots = {
        name.partition(".")[0]
        for name, _ in imported_modules(parse(ROOT / "evaluation/ubgen_evaluation/factor_statistics.py"))
    }
    assert not roots & {"torch", "diffusers", "transformers", "ubgen_pipeline"}


@pytest.mark.parametrize("folder", ["training", "benchmarks", "ubgen_pipeline", "evaluation", "space"])
def test_no_file_is_named_like_a_library(folder):
    """A script's own folder comes first on the path, where such a file would be imported instead of the library."""
    libraries = set(sys.stdlib_module_names) | set(packages_distributions())
    modules = {item.stem for item in (ROOT / folder).iterdir() if item.suffix == ".py" or item.is_dir()}
    assert not (modules - {"__init__", "__main__", "__pycache__"}) & (libraries - OURS)
