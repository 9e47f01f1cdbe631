"""Reads the sources: who imports whom (the table of rooms), no pickle, no remote code, no name hiding a library."""

import ast
import sys
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from support import ROOT

# folder: the packages of ours that it may import beside itself
ALLOWED = {
    "ubgen_pipeline": {"ubgen_hub_cards"},
    "training": {"ubgen_pipeline", "ubgen_evaluation", "ubgen_hub_cards"},
    "evaluation": {"ubgen_pipeline"},
    "hub_cards": set(),
    "space": {"ubgen_pipeline"},
}
IMPORT_NAMES = {
    "ubgen_pipeline": "ubgen_pipeline",
    "training": "ubgen_training",
    "evaluation": "ubgen_evaluation",
    "hub_cards": "ubgen_hub_cards",
    "space": "space",
}
OURS = {"ubgen_pipeline", "ubgen_training", "ubgen_evaluation", "ubgen_hub_cards", "space", "benchmarks", "tests"}
# what unpickles, by module and attribute; None forbids the whole module
PICKLES = {"pickle": None, "cPickle": None, "dill": None, "cloudpickle": None, "joblib": None, "shelve": None}
PICKLE_CALLS = {("torch", "load"), ("torch", "save"), ("np", "load"), ("numpy", "load")}


def sources() -> list[Path]:
    return sorted(file for folder in ALLOWED for file in (ROOT / folder).rglob("*.py"))


def parse(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"), filename=str(file))


def imported_modules(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Absolute modules that are imported anywhere in the tree, with the number of dots for relative ones."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, 0) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or "", node.level


def forbidden_imports(tree: ast.AST, folder: str) -> set[str]:
    roots = {name.partition(".")[0] for name, level in imported_modules(tree) if level == 0}
    return (roots & OURS) - ALLOWED[folder] - {IMPORT_NAMES[folder]}


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
    assert forbidden_imports(wrong_way, "ubgen_pipeline") == {"ubgen_training"}
    assert forbidden_imports(wrong_way, "evaluation") == {"ubgen_training", "ubgen_hub_cards"}


@pytest.mark.parametrize("file", sources(), ids=lambda file: str(file.relative_to(ROOT)))
def test_imports_go_one_way(file):
    folder = file.relative_to(ROOT).parts[0]
    assert not forbidden_imports(parse(file), folder)


@pytest.mark.parametrize("file", sources(), ids=lambda file: str(file.relative_to(ROOT)))
def test_no_pickle_and_no_remote_code(file):
    assert not unsafe_uses(parse(file))


def test_the_pipeline_imports_flat_siblings_only_and_all_that_it_needs():
    """The rules of diffusers' ``custom_pipeline`` loader, which copies what pipeline.py itself imports and no more."""
    folder = ROOT / "ubgen_pipeline"

    def siblings(file: Path) -> set[str]:
        relative = [(name, level) for name, level in imported_modules(parse(file)) if level]
        assert all(level == 1 and name and "." not in name for name, level in relative), (file.name, relative)
        assert not {name.partition(".")[0] for name, level in imported_modules(parse(file)) if not level} & OURS
        return {name for name, _ in relative}

    direct = siblings(folder / "pipeline.py")
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
