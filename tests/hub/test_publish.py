"""``ubgen publish`` and ``ubgen publish-pipeline``; the pipeline from the Hub where ubgen is not installed."""

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import numpy as np
import pytest
from datasets import load_dataset
from huggingface_hub import HfApi

from support.hub_server import READ_TOKEN, WRITE_TOKEN
from ubgen_pipeline import UbGenPipeline, generate_dataset
from ubgen_pipeline.generation.generate import main as generate
from ubgen_pipeline.generation.regenerate import main as regenerate
from ubgen_pipeline.hub import publish_dataset, publish_pipeline

SHORT = {"samples_per_class": 3, "num_inference_steps": 1, "samples_per_shard": 2, "batch_size": 2, "threads": 1}

DRAW = """
import importlib.util, sys
import numpy as np
from diffusers import DiffusionPipeline
from huggingface_hub import snapshot_download

assert importlib.util.find_spec("ubgen_pipeline") is None
model, output, custom = sys.argv[1:]
if custom == "offline":
    custom = snapshot_download("org/code", local_files_only=True)
settings = {"custom_pipeline": custom} if custom else {}
pipeline = DiffusionPipeline.from_pretrained(model, trust_remote_code=True, **settings)
np.save(output, pipeline(["circle", "star"], seed=3, num_inference_steps=2, output_type="np").images)
if custom == "org/code":
    pipeline.save_pretrained(output + ".model")
"""


def flags(settings):
    return [part for name, value in settings.items() for part in (f"--{name}", str(value))]


def test_published_equals_streamed(hub, mini_model, tmp_path, capsys):
    names = ["circle", "a: <b>|x", "no"]
    streamed = generate_dataset(names, model="mini", hub_dataset_id="org/streamed", shards_per_commit=2, **SHORT)
    assert [row["index"] for row in streamed] == list(range(9))
    folder = tmp_path / "local"
    generate_dataset(names, folder, model="mini", **SHORT)
    assert publish_dataset.main([str(folder), "org/published", "--private"]) == 0
    trees = [hub.repositories.tree("dataset", name) for name in ("org/streamed", "org/published")]
    cards = [
        hub.repositories.read("dataset", name, "README.md").decode().replace(name, "NAME")
        for name in ("org/streamed", "org/published")
    ]
    assert cards[0] == cards[1]
    assert all(tree.pop("README.md") for tree in trees) and trees[0] == trees[1]
    loaded = load_dataset("org/published", split="train")
    assert loaded.features["label"].names == names and loaded.num_rows == 9
    # again: nothing to do; and a row of it is drawn again from the Hub
    commits = len(hub.repositories["dataset", "org/published"].commits)
    assert publish_dataset.main([str(folder), "org/published", "--private"]) == 0
    assert len(hub.repositories["dataset", "org/published"].commits) == commits
    assert regenerate(["org/published", "--index", "4", "--output", str(tmp_path / "4.png")]) == 0
    assert "bit for bit" in capsys.readouterr().err
    # a report that was put beside the shards is taken into the card
    (folder / "bias_report.txt").write_text("own background  0.9 <b>\n")
    assert publish_dataset.main([str(folder), "org/reported"]) == 0
    reported = hub.repositories.read("dataset", "org/reported", "README.md").decode()
    assert "## Bias report\n\n    own background  0.9 <b>\n\n## Classes" in reported
    assert (
        reported.replace("org/reported", "NAME").replace("## Bias report\n\n    own background  0.9 <b>\n\n", "")
        == (cards[0])
    )
    (folder / "bias_report.txt").unlink()
    # a card edited by hand goes up as it is
    (folder / "README.md").write_text("---\nlicense: mit\n---\nmine\n")
    assert publish_dataset.main([str(folder), "org/edited"]) == 0
    assert hub.repositories.read("dataset", "org/edited", "README.md") == b"---\nlicense: mit\n---\nmine\n"


def test_generate_streams_as_a_command_and_resumes(hub, mini_model, tmp_path, capsys):
    """Killed with the first commit made, then run again in another folder."""
    arguments = ["--class-names", "circle", "star", *flags(SHORT), "--hub-dataset-id", "org/d"]
    arguments += ["--shards-per-commit", "1", "--output-dir"]
    command = [sys.executable, "-m", "ubgen_pipeline", "generate", *arguments]
    process = None
    hub.faults.add("/commit/main$", cut="after", call=lambda path: process.kill())
    process = subprocess.Popen([*command, str(tmp_path / "a")], env=os.environ, stderr=subprocess.PIPE, text=True)
    assert process.wait() == -9, process.stderr.read()
    assert WRITE_TOKEN not in process.stderr.read()
    assert generate([*arguments, str(tmp_path / "b")]) == 0
    shown = capsys.readouterr()
    assert "2 shards made here" in shown.err and WRITE_TOKEN not in shown.out + shown.err
    local = tmp_path / "local"
    generate_dataset(["circle", "star"], local, model="mini", **SHORT)
    published = hub.repositories.tree("dataset", "org/d")
    for file in (local / "data").iterdir():
        assert hub.repositories.object(published[f"data/{file.name}"]).read_bytes() == file.read_bytes()
    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert files and not [file for file in files if WRITE_TOKEN.encode() in file.read_bytes()]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--hub-dataset-id", "d"], "give the owner too"),
        (["--hub-dataset-id", "org/a b"], "hub_dataset_id is"),
        (["--private"], "private is set without hub_dataset_id"),
        (["--keep-local"], "keep_local is set without"),
        (["--hub-dataset-id", "org/d", "--keep-local"], "output_dir is missing"),
        (["--hub-dataset-id", "org/d", "--shards-per-commit", "0"], "shards_per_commit is 0"),
        (["--hub-dataset-id", "stranger/d"], "may not write"),
    ],
)
def test_generate_refuses(hub, mini_model, capsys, more, message):
    assert generate(["--class-names", "star", *more]) == 2
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error and WRITE_TOKEN not in error


def test_publish_refuses(hub, tmp_path, capsys, monkeypatch):
    (tmp_path / "d").mkdir()
    for arguments, message in [
        ([str(tmp_path / "d"), "org/d"], "no dataset that ubgen generate has made"),
        ([str(tmp_path / "d"), "d"], "give the owner too"),
        ([str(tmp_path / "d")], "repo_id"),
    ]:
        assert publish_dataset.main(arguments) == 2
        assert message in capsys.readouterr().err
    monkeypatch.setenv("HF_TOKEN", READ_TOKEN)
    assert publish_pipeline.main(["org/code"]) == 2
    assert "may only read" in capsys.readouterr().err
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert publish_pipeline.main(["org/code"]) == 2
    assert "HF_HUB_OFFLINE" in capsys.readouterr().err


def draw_without_ubgen(hub, tmp_path, model, output, custom, **environment):
    """A process that sees the installed libraries but not the editable install: -S leaves .pth files unread."""
    script = Path(f"{output}.py")
    script.write_text(DRAW)
    libraries = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    variables |= hub.environment(tmp_path / "hf") | {"PYTHONPATH": os.pathsep.join(libraries), **environment}
    command = [sys.executable, "-S", str(script), str(model), str(output), custom]
    return subprocess.Popen(command, cwd=tmp_path, env=variables, stderr=subprocess.PIPE, text=True)


def test_pipeline_from_the_hub_without_ubgen(hub, mini_model, tmp_path):
    assert publish_pipeline.main(["org/code"]) == 0
    repository = hub.repositories["model", "org/code"]
    (head,) = [commit for commit in repository.commits.values() if commit.parent]
    assert {"README.md", "pipeline.py", "latent_denoising.py"} <= set(head.files)
    assert publish_pipeline.main(["org/code"]) == 0 and len(repository.commits) == 2, "unchanged code makes no commit"
    expected = UbGenPipeline.from_pretrained(mini_model)(
        ["circle", "star"], seed=3, num_inference_steps=2, output_type="np"
    ).images

    first = tmp_path / "first.npy"
    process = draw_without_ubgen(hub, tmp_path, mini_model, first, "org/code")
    assert process.wait() == 0, process.stderr.read()
    np.testing.assert_allclose(np.load(first), expected, rtol=0, atol=1e-5)
    # what it saved reloads with its code; and the cache serves the code without a network
    saved, offline = tmp_path / "saved.npy", tmp_path / "offline.npy"
    processes = [
        draw_without_ubgen(hub, tmp_path, f"{first}.model", saved, "", HF_HUB_OFFLINE="1"),
        draw_without_ubgen(hub, tmp_path, mini_model, offline, "offline", HF_HUB_OFFLINE="1"),
    ]
    for process, output in zip(processes, (saved, offline)):
        assert process.wait() == 0, process.stderr.read()
        np.testing.assert_allclose(np.load(output), expected, rtol=0, atol=1e-5)


def test_a_models_own_card_is_left_alone(hub):
    api = HfApi()
    api.create_repo("org/model")
    api.upload_file(path_or_fileobj=b"---\nlicense: mit\n---\nmine", path_in_repo="README.md", repo_id="org/model")
    assert publish_pipeline.main(["org/model"]) == 0
    assert hub.repositories.read("model", "org/model", "README.md").endswith(b"mine")
    assert "pipeline.py" in hub.repositories.tree("model", "org/model")


def test_the_code_is_complete():
    names = {file.name for file in publish_pipeline.pipeline_files()}
    assert names == {file.name for file in map(Path, publish_pipeline.pipeline_files()) if file.is_file()}
    assert {"pipeline.py", "initial_latents.py", "sample_seeds.py", "pipeline_output.py"} <= names
