"""``ubgen publish-space``: one commit and variables; the Space from the Hub where ubgen is not installed."""

import io
import json
import os
import subprocess
import sys
import sysconfig
import urllib.request
import zipfile
from pathlib import Path

import pytest
import yaml
from huggingface_hub import HfApi, snapshot_download

from support import ROOT
from support.hub_server import READ_TOKEN, WRITE_TOKEN
from support.warm_python import warm_programs
from ubgen_pipeline.hub import publish_space
from ubgen_pipeline.hub.wheel import pack_wheel, space_files

DRAW = """
import importlib.util, json, sys
assert importlib.util.find_spec("ubgen_pipeline") is None
sys.path.insert(0, sys.argv[1])
import ubgen_wheel
import ubgen_pipeline
from importlib.metadata import version
from request_limits import DrawRequest
from sampler import Cancellation, Sampler
from space_settings import SpaceSettings

settings = SpaceSettings.from_environment()
drawn = list(Sampler(settings).draw(DrawRequest("star", ("base", "tuned"), 1, 3, 2, 2.0, True), Cancellation()))
print(json.dumps([ubgen_pipeline.__file__, version("ubgen"), len(settings.class_choices()), len(drawn)]))
"""
OTHERS = {".gitattributes", "README.md"}


@pytest.fixture(scope="module", autouse=True)
def one_wheel():
    """Packed once: most tests need it only to be there."""
    wheel = pack_wheel()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(publish_space, "pack_wheel", lambda: wheel)
        yield wheel


def space(hub, name="org/show"):
    return hub.repositories["space", name]


def card(hub, name="org/show"):
    return yaml.safe_load(hub.repositories.read("space", name, "README.md").decode().split("---\n")[1])


def test_one_commit_holds_all_and_nothing_else(hub, one_wheel, capsys):
    assert publish_space.main(["org/show", "--private"]) == 0
    repository = space(hub)
    assert repository.private and len(repository.commits) == 2 and not repository.variables
    names = {file.name for file in space_files()} | {one_wheel.name}
    assert set(hub.repositories.tree("space", "org/show")) == names | OTHERS
    requirements = hub.repositories.read("space", "org/show", "requirements.txt").decode().splitlines()
    assert "gradio>=6.31" in requirements and [line for line in requirements if line.startswith("torch>=")]
    # nothing that has to be fetched from the Space itself, or that only a file beside it could satisfy
    assert not [
        line for line in requirements if line.startswith(("ubgen", ".", "/")) or "://" in line or "extra" in line
    ]
    assert card(hub)["sdk"] == "gradio" and card(hub)["app_file"] == "app.py" and card(hub)["title"] == "show"
    # equal files make no second commit
    assert publish_space.main(["org/show"]) == 0 and len(repository.commits) == 2
    written = [
        hub.repositories.object(sha256).read_bytes() for sha256 in hub.repositories.tree("space", "org/show").values()
    ]
    shown = capsys.readouterr()
    assert not [content for content in [*written, (shown.out + shown.err).encode()] if WRITE_TOKEN.encode() in content]


def test_variables_and_their_files(hub, tmp_path, capsys):
    api = HfApi()
    api.create_repo("org/lora", private=True)
    for name in ("org/shapes", "org/things"):
        api.create_repo(name, repo_type="dataset")
    (tmp_path / "mine.csv").write_text("name\nred|fox\n<b>\n")
    interval = {"accuracy": {"value": 0.5}}
    tables = {"Bias": {"/home/someone/a": interval, "/srv/a": interval, "org/d": interval}}
    (tmp_path / "r.json").write_text(json.dumps({"tables": tables, "command": "/home/someone/secret"}))
    api.create_repo("org/other")
    flags = [
        "--lora",
        "org/lora:0.5",
        "org/other",
        "--variant",
        "fp16",
        "--datasets",
        "org/shapes",
        "org/things",
        "--classes",
        str(tmp_path / "mine.csv"),
    ]
    assert publish_space.main(["org/show", *flags, "--report", str(tmp_path / "r.json")]) == 0
    assert "secret HF_TOKEN" in capsys.readouterr().err
    repository = space(hub)
    assert repository.variables == {
        "UBGEN_LORA": "org/lora:0.5,org/other",
        "UBGEN_VARIANT": "fp16",
        "UBGEN_CLASSES": "class_list.csv",
        "UBGEN_DATASETS": "org/shapes,org/things",
        "UBGEN_REPORT": "report.json",
    }
    assert card(hub)["models"] == ["org/lora", "org/other"] and card(hub)["datasets"] == ["org/shapes", "org/things"]
    assert hub.repositories.read("space", "org/show", "class_list.csv") == (tmp_path / "mine.csv").read_bytes()
    report = hub.repositories.read("space", "org/show", "report.json").decode()
    assert list(json.loads(report)["tables"]["Bias"]) == ["a", "a_", "org/d"] and "someone" not in report
    # what is not given stays; what is given empty goes; the card says what holds then
    repository.variables["OTHER"], emptied = "kept", ["--lora", "", "--variant", ""]
    assert publish_space.main(["org/show", "--datasets", "org/things", *emptied, "--classes", "voc"]) == 0
    assert repository.variables == {
        "UBGEN_CLASSES": "voc",
        "UBGEN_DATASETS": "org/things",
        "UBGEN_REPORT": "report.json",
        "OTHER": "kept",
    }
    assert "models" not in card(hub) and card(hub)["datasets"] == ["org/things"]


def test_a_new_version_takes_the_old_wheels_place_and_leaves_other_files(hub):
    assert publish_space.main(["org/show"]) == 0
    api = HfApi()
    for name in ("ubgen-0.0.9-py3-none-any.whl", "notes.txt"):
        api.upload_file(path_or_fileobj=b"x", path_in_repo=name, repo_id="org/show", repo_type="space")
    before = len(space(hub).commits)
    assert publish_space.main(["org/show"]) == 0
    tree = hub.repositories.tree("space", "org/show")
    assert "notes.txt" in tree and [name for name in tree if name.endswith(".whl")] == ["ubgen-0.1.0-py3-none-any.whl"]
    assert len(space(hub).commits) == before + 1


def test_a_commit_of_somebody_else_in_between_is_not_lost(hub):
    assert publish_space.main(["org/show"]) == 0
    repository, store = space(hub), hub.repositories

    def meanwhile(path):
        store.add_commit(repository, "main", added={"note.txt": store.store(b"x")}, title="a note")

    hub.faults.add("/spaces/org/show/commit/main$", call=meanwhile)
    assert publish_space.main(["org/show", "--datasets", ""]) == 0, "nothing to do yet"
    assert publish_space.main(["org/show", "--classes", "voc"]) == 0
    tree = store.tree("space", "org/show")
    assert "note.txt" in tree and len(repository.commits) == 4


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["show"], "give the owner too"),
        (["org/a b"], "repo_id is"),
        (["stranger/show"], "may not write"),
        (["org/show", "--model", "org/nowhere"], "'org/nowhere' does not exist"),
        (["org/show", "--datasets", "org/nowhere"], "'org/nowhere' does not exist"),
        (["org/show", "--model", "tests"], "no Space can read it"),
        (["org/show", "--lora", "weights.safetensors"], "give the owner too"),
        (["org/show", "--lora", "org/a", "org/b", "org/c"], "compares two at most"),
        (["org/show", "--classes", "nothing.txt"], "which is no file"),
        (["org/show", "--report", "setup.py"], "no report.json"),
        (["org/taken"], "other content (app.py)"),
        (["org/show", "more"], "unknown argument"),
    ],
)
def test_refusals(hub, capsys, monkeypatch, flags, message):
    monkeypatch.chdir(ROOT)
    api = HfApi()
    api.create_repo("org/taken", repo_type="space", space_sdk="gradio")
    api.upload_file(path_or_fileobj=b"x", path_in_repo="app.py", repo_id="org/taken", repo_type="space")
    assert publish_space.main(flags) == 2
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error and WRITE_TOKEN not in error
    assert ("space", "org/show") not in hub.repositories.repositories


def test_public_where_private_was_asked_for_and_a_token_that_may_only_read(hub, capsys, monkeypatch):
    assert publish_space.main(["org/show"]) == 0
    assert publish_space.main(["org/show", "--private"]) == 2
    assert "exists and is public" in capsys.readouterr().err
    monkeypatch.setenv("HF_TOKEN", READ_TOKEN)
    assert publish_space.main(["org/show"]) == 2
    assert "may only read" in capsys.readouterr().err


def without_ubgen(command, folder, **variables):
    """A process that sees the installed libraries but not the editable install: -S leaves .pth files unread."""
    libraries = {
        sysconfig.get_path("purelib"),
        sysconfig.get_path("platlib"),
        *(p for p in sys.path if "site-packages" in p),
    }
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"PYTHONPATH": os.pathsep.join(libraries), "HF_HUB_OFFLINE": "1", **variables}
    return subprocess.Popen(
        [str(warm_programs() / "python"), "-S", *command],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_the_published_space_draws_without_ubgen(hub, mini_model, tmp_path):
    (tmp_path / "names.txt").write_text("star\nring\n")
    assert publish_space.main(["org/show", "--private", "--classes", str(tmp_path / "names.txt")]) == 0
    folder = snapshot_download("org/show", repo_type="space", local_dir=tmp_path / "app")
    (tmp_path / "draw.py").write_text(DRAW)
    process = without_ubgen([str(tmp_path / "draw.py"), folder], folder, **space(hub).variables)
    output, error = process.communicate(timeout=120)
    assert process.returncode == 0, error
    module, version, num_classes, num_drawn = json.loads(output.splitlines()[-1])
    assert (version, num_classes, num_drawn) == ("0.1.0", 2, 2)
    assert "ubgen-" in module and not Path(module).exists(), "what was unpacked is gone with the process"


@pytest.mark.browser
def test_the_published_app_answers(hub, mini_model, tmp_path):
    assert publish_space.main(["org/show", "--private"]) == 0
    folder = snapshot_download("org/show", repo_type="space", local_dir=tmp_path / "app")
    settings = {"GRADIO_SERVER_PORT": str(free_port()), "PYTHONUNBUFFERED": "1", "TMPDIR": str(tmp_path)}
    process = without_ubgen(["app.py"], folder, **settings)
    try:
        line = next((line for line in process.stdout if "http://" in line), "")
        assert line, process.stderr.read()
        with urllib.request.urlopen(f"{line.split()[-1].rstrip('/')}/config", timeout=60) as answer:
            page = json.load(answer)
        labels = [part["props"].get("label") for part in page["components"]]
        assert page["title"] == "ubgen" and {"Generate", "Browse a dataset", "Bias"} <= set(labels)
    finally:
        process.terminate()
        process.wait()


def free_port():
    import socket

    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def test_the_wheel_installs_and_repeats(one_wheel):
    archive = zipfile.ZipFile(io.BytesIO(one_wheel.content))
    assert archive.testzip() is None and pack_wheel() == one_wheel
    record = archive.read("ubgen-0.1.0.dist-info/RECORD").decode().splitlines()
    assert {line.rsplit(",", 2)[0] for line in record} == set(archive.namelist())
