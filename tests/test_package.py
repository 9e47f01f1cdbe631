"""The wheel, in a clean environment outside the clone: commands, imports and the embedded model all come from it."""

import io
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

from support import ROOT

FOLDERS = {
    "ubgen_pipeline": "ubgen_pipeline",
    "ubgen_training": "training/ubgen_training",
    "ubgen_evaluation": "evaluation/ubgen_evaluation",
    "ubgen_hub_cards": "hub_cards/ubgen_hub_cards",
}
# beside them the Space's files, which are copied and not imported
SHIPPED = FOLDERS | {"ubgen_space": "space"}
# a room that is added to each package, and a room in it: setup.py and the packing must find what no list names
NEW_ROOM = ("new_room/__init__.py", "new_room/module.py", "new_room/inner/__init__.py", "new_room/inner/module.py")
pytestmark = pytest.mark.timeout(900)


def run(*command: str | Path, cwd: Path, code: int = 0) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run([str(part) for part in command], cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == code, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def source_tree(tmp_path_factory, mini_model):
    """A copy of what is packaged, and a new room in each package.

    So building writes nothing into the clone and finds no leftovers there.
    """
    tree = tmp_path_factory.mktemp("sources")
    for folder in SHIPPED.values():
        shutil.copytree(ROOT / folder, tree / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for folder in FOLDERS.values():
        for name in NEW_ROOM:
            (tree / folder / name).parent.mkdir(parents=True, exist_ok=True)
            (tree / folder / name).write_text(f'"""{name} of {folder}."""\n')
    for file in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / file, tree / file)
    model = tree / "ubgen_pipeline" / "mini" / "model"
    if not (model / "model_index.json").is_file():
        shutil.copytree(mini_model, model, dirs_exist_ok=True)
    return tree


@pytest.fixture(scope="module")
def built(source_tree, tmp_path_factory):
    """The folder of the source distribution and of the wheel that was built from it, so that both are whole."""
    output = tmp_path_factory.mktemp("wheel")
    build = ("-m", "build", "--no-isolation", "--skip-dependency-check", "--outdir", output)
    run(sys.executable, *build, source_tree, cwd=output)
    return output


@pytest.fixture(scope="module")
def wheel(built):
    (file,) = built.glob("*.whl")
    return file


@pytest.fixture(scope="module")
def environment(wheel, tmp_path_factory):
    """The ``bin`` folder of a new environment that holds the wheel and sees the installed libraries, not the clone.

    A path in a ``.pth`` file is searched, but the ``.pth`` files lying there are not read: the editable install,
    which is one, does not come along.
    """
    folder = tmp_path_factory.mktemp("clean") / "env"
    run(sys.executable, "-m", "venv", "--without-pip", folder, cwd=folder.parent)
    binaries = folder / "bin"
    pip = (sys.executable, "-m", "pip", "--python", binaries / "python", "install", "--quiet")
    run(*pip, "--no-deps", "--no-index", wheel, cwd=folder.parent)
    ask = "import sysconfig; print(sysconfig.get_path('purelib'))"
    own = Path(run(binaries / "python", "-c", ask, cwd=folder.parent).stdout.strip())
    libraries = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    (own / "libraries.pth").write_text("\n".join(sorted(libraries)) + "\n")
    return binaries


def data_files(folder: Path) -> set[str]:
    return {
        str(file.relative_to(folder))
        for file in folder.rglob("*")
        if file.is_file() and file.suffix not in (".py", ".pyc")
    }


@pytest.mark.parametrize(("package", "folder"), SHIPPED.items())
def test_the_wheel_holds_every_module_and_data_file(wheel, source_tree, package, folder):
    names = set(zipfile.ZipFile(wheel).namelist())
    modules = {str(file.relative_to(source_tree / folder)) for file in (source_tree / folder).rglob("*.py")}
    missing = {f"{package}/{name}" for name in modules | data_files(source_tree / folder)} - names
    assert not missing


@pytest.mark.parametrize(("package", "folder"), FOLDERS.items())
def test_a_room_added_later_is_found(built, wheel, package, folder):
    (archive,) = built.glob("*.tar.gz")
    with tarfile.open(archive) as sources:
        names = {name.partition("/")[2] for name in sources.getnames()}
    assert {f"{folder}/{name}" for name in NEW_ROOM} <= names
    assert {f"{package}/{name}" for name in NEW_ROOM} <= set(zipfile.ZipFile(wheel).namelist())


def test_the_wheel_holds_nothing_else(wheel):
    archive = zipfile.ZipFile(wheel)
    assert {name.partition("/")[0] for name in archive.namelist()} - set(SHIPPED) == {"ubgen-0.1.0.dist-info"}
    assert any(name.endswith("licenses/LICENSE") for name in archive.namelist())
    assert not [name for name in archive.namelist() if name.endswith((".bin", ".pt", ".pth", ".ckpt", ".pkl"))]
    metadata = archive.read("ubgen-0.1.0.dist-info/METADATA").decode()
    assert "License-Expression: Apache-2.0" in metadata and "Provides-Extra: dev" in metadata


def test_a_wheel_packed_from_the_running_ubgen_is_the_built_one(wheel, environment, source_tree, tmp_path):
    """Packed in the clone and where the wheel is installed."""
    from ubgen_pipeline.hub.wheel import pack_wheel

    code = "import sys; from ubgen_pipeline.hub.wheel import pack_wheel; sys.stdout.buffer.write(pack_wheel().content)"
    environment_variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [str(environment / "python"), "-c", code]
    installed = subprocess.run(
        command, cwd=tmp_path, env=environment_variables, capture_output=True, check=True
    ).stdout
    built = contents(wheel)
    names = {name for name in built if not name.endswith(("RECORD", "WHEEL", "top_level.txt"))}
    packed = contents(io.BytesIO(installed))
    assert {name: packed[name] for name in names} == {name: built[name] for name in names}
    assert set(packed) == set(built) - {"ubgen-0.1.0.dist-info/top_level.txt"}
    # the clone's metadata is that of its last installation
    in_clone = contents(io.BytesIO(pack_wheel().content))
    added = {f"{package}/{name}" for package in FOLDERS for name in NEW_ROOM}
    assert added <= set(packed) and set(in_clone) == set(packed) - added
    sources = {name for name in in_clone if ".dist-info/" not in name}
    assert {name: in_clone[name] for name in sources} == {name: packed[name] for name in sources}


def contents(wheel) -> dict[str, bytes]:
    archive = zipfile.ZipFile(wheel)
    return {name: archive.read(name) for name in archive.namelist() if not name.endswith("/")}


def test_imports_come_from_the_wheel(environment, tmp_path):
    code = f"import json, {', '.join(FOLDERS)}; print(json.dumps([p.__file__ for p in ({', '.join(FOLDERS)},)]))"
    files = json.loads(run(environment / "python", "-c", code, cwd=tmp_path).stdout)
    assert len(files) == 4
    for file in files:
        assert Path(file).is_relative_to(environment.parent) and not Path(file).is_relative_to(ROOT)


def test_the_command_runs(environment, tmp_path):
    shown = run(environment / "ubgen", "--help", cwd=tmp_path).stdout
    assert re.search(r"generate +Generate a labelled image dataset", shown)
    assert run(environment / "ubgen", "--version", cwd=tmp_path).stdout == "ubgen 0.1.0\n"
    assert "--samples-per-class" in run(environment / "ubgen", "generate", "--help", cwd=tmp_path).stdout


def test_the_embedded_model_draws(environment, tmp_path):
    flags = ("--class-names", "circle", "star", "--samples-per-class", "1", "--num-inference-steps", "2")
    run(environment / "ubgen", "generate", "--model", "mini", *flags, "--output-dir", tmp_path / "out", cwd=tmp_path)
    code = (
        "from datasets import load_dataset; d = load_dataset('out', split='train');"
        "print(d['class_name'][:], d[0]['image'].size, d.features['label'].names)"
    )
    shown = run(environment / "python", "-c", code, cwd=tmp_path).stdout
    assert shown.strip().endswith("['circle', 'star'] (64, 64) ['circle', 'star']")


def test_every_training_module_imports(environment, tmp_path):
    modules = sorted((ROOT / "training" / "ubgen_training").rglob("*.py"))
    names = [".".join(file.relative_to(ROOT / "training").with_suffix("").parts) for file in modules]
    assert len(names) > 80
    code = "import importlib, sys\nfor name in sys.argv[1:]: importlib.import_module(name)"
    run(environment / "python", "-c", code, *names, cwd=tmp_path)
