"""``ubgen publish-pipeline``: the pipeline from the Hub where ubgen is not installed."""

import json
import os
import subprocess
import sysconfig
from pathlib import Path

import numpy as np
import pytest
from diffusers.utils.dynamic_modules_utils import get_relative_imports
from huggingface_hub import HfApi

from support.family_models import QUICK, TinyModels
from support.hub_server import READ_TOKEN
from support.warm_python import warm_programs
from ubgen_pipeline import UbGenPipeline
from ubgen_pipeline.hub import publish_pipeline
from ubgen_pipeline.models.families import FAMILIES
from ubgen_pipeline.models.loading import load_pipeline
from ubgen_pipeline.pipeline_sana_sprint import UbGenSanaSprintPipeline

DRAW = """
import importlib.util, json, sys
import numpy as np
from diffusers import DiffusionPipeline
from huggingface_hub import snapshot_download

assert importlib.util.find_spec("ubgen_pipeline") is None
model, output, custom, call = sys.argv[1:]
if custom == "offline":
    custom = snapshot_download("org/code", local_files_only=True)
settings = {"custom_pipeline": custom} if custom else {}
pipeline = DiffusionPipeline.from_pretrained(model, trust_remote_code=True, **settings)
np.save(output, pipeline(["circle", "star"], seed=3, output_type="np", **json.loads(call)).images)
if custom == "org/code":
    pipeline.save_pretrained(output + ".model")
"""


TWO_STEPS = {"num_inference_steps": 2}


def draw_without_ubgen(hub, tmp_path, model, output, custom, call=TWO_STEPS, **environment):
    """A process that sees the installed libraries but not the editable install: -S leaves .pth files unread."""
    script = Path(f"{output}.py")
    script.write_text(DRAW)
    libraries = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    variables |= hub.environment(tmp_path / "hf") | {"PYTHONPATH": os.pathsep.join(libraries), **environment}
    command = [str(warm_programs() / "python"), "-S", str(script), str(model), str(output), custom, json.dumps(call)]
    return subprocess.Popen(command, cwd=tmp_path, env=variables, stderr=subprocess.PIPE, text=True)


def test_pipeline_from_the_hub_without_ubgen(hub, mini_model, tmp_path):
    assert publish_pipeline.main(["org/code"]) == 0
    repository = hub.repositories["model", "org/code"]
    (head,) = [commit for commit in repository.commits.values() if commit.parent]
    assert {"README.md", "pipeline.py", "latent_denoising.py"} <= set(head.files)
    assert publish_pipeline.main(["org/code"]) == 0 and len(repository.commits) == 2, "unchanged code makes no commit"
    expected = UbGenPipeline.from_pretrained(mini_model)(
        ["circle", "star"], seed=3, output_type="np", **TWO_STEPS
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


def test_another_family_from_the_hub_without_ubgen(hub, tmp_path):
    assert publish_pipeline.main(["org/code", "--family", "sana-sprint"]) == 0
    model, output = TinyModels(tmp_path).folder("sana-sprint"), tmp_path / "drawn.npy"
    process = draw_without_ubgen(hub, tmp_path, model, output, "org/code", QUICK)
    expected = load_pipeline(str(model))(["circle", "star"], seed=3, output_type="np", **QUICK).images
    assert process.wait() == 0, process.stderr.read()
    np.testing.assert_allclose(np.load(output), expected, rtol=0, atol=1e-5)
    # the card names the family's own classes and a model of it
    card = hub.repositories.read("model", "org/code", "README.md").decode()
    assert "# UbGenSanaSprintPipeline\n\nA `SanaSprintPipeline`" in card
    assert f'"{UbGenSanaSprintPipeline.example_model}", custom_pipeline="org/code"' in card


@pytest.mark.parametrize("family", FAMILIES)
def test_the_code_is_complete(family):
    files = publish_pipeline.published_files(family)
    assert "pipeline.py" in files and all(file.is_file() for file in files.values())
    assert {"initial_latents.py", "sample_seeds.py", "pipeline_output.py"} <= set(files)
    helpers = {name: file for name, file in files.items() if name != "pipeline.py"}
    assert {name: file.name for name, file in helpers.items()} == {name: name for name in helpers}
    # a helper that imports the module `pipeline` would get another family's there
    imported = set().union(*map(get_relative_imports, files.values()))
    assert {f"{name}.py" for name in imported} <= set(helpers)
    assert FAMILIES[family].pipeline_class().example_model.count("/") == 1


def test_a_repository_holds_one_family_and_nobody_elses_pipeline(hub, capsys):
    assert publish_pipeline.main(["org/code", "--family", "sdxl"]) == 0
    assert publish_pipeline.main(["org/code"]) == 2
    error = capsys.readouterr().err
    assert "repo_id is 'org/code', which holds UbGenSDXLPipeline of the family sdxl;" in error
    assert len(hub.repositories["model", "org/code"].commits) == 2

    api = HfApi()
    api.create_repo("org/theirs")
    api.upload_file(path_or_fileobj=b"class Theirs: pass", path_in_repo="pipeline.py", repo_id="org/theirs")
    assert publish_pipeline.main(["org/theirs"]) == 2
    assert "holds a pipeline.py that is not ubgen's" in capsys.readouterr().err
    assert hub.repositories.read("model", "org/theirs", "pipeline.py") == b"class Theirs: pass"

    assert publish_pipeline.main(["org/code", "--family", "sd4"]) == 2
    assert "family is 'sd4'; choose one of sd, sdxl, sd3" in capsys.readouterr().err


def test_it_refuses_without_a_right_to_write_or_a_hub(hub, capsys, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", READ_TOKEN)
    assert publish_pipeline.main(["org/code"]) == 2
    assert "may only read" in capsys.readouterr().err
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert publish_pipeline.main(["org/code"]) == 2
    assert "HF_HUB_OFFLINE" in capsys.readouterr().err
