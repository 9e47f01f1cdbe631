"""The code as diffusers' ``custom_pipeline``, where ubgen is not there.

The loader copies the code of a folder into one place for all folders, so that what is loaded here is of one version.
"""

import json
import os
import subprocess

import numpy as np
import pytest
from diffusers.utils.dynamic_modules_utils import get_relative_imports

from support import ROOT
from support.family_models import FAMILY_NAMES, QUICK, TinyModels
from support.warm_python import warm_programs
from ubgen_pipeline import UbGenPipeline
from ubgen_pipeline.models.families import FAMILIES
from ubgen_pipeline.models.loading import load_pipeline

DRAW = """
import json, os, sys
sys.modules["ubgen_pipeline"] = None  # importing it is an error now
import numpy as np
from diffusers import DiffusionPipeline
from diffusers.utils import dynamic_modules_utils

# where the code is copied to: not the folder that all programs of a run share
dynamic_modules_utils.HF_MODULES_CACHE = os.path.abspath("modules")
for model, custom, output in json.loads(sys.argv[1]):
    settings = {"custom_pipeline": custom} if custom else {}
    pipeline = DiffusionPipeline.from_pretrained(model, trust_remote_code=True, **settings)
    assert type(pipeline).__module__.startswith("diffusers_modules."), type(pipeline)
    pipeline.set_progress_bar_config(disable=True)
    drawn = pipeline(["circle", "star"], seed=3, num_inference_steps=2, height=32, width=32, output_type="np")
    assert drawn.labels == [0, 1] and drawn.prompts == ["circle", "star"]
    np.save(output + ".npy", drawn.images)
    if custom:
        pipeline.save_pretrained(output)
"""
# those with switches of their own: what the dynamic class saved is loaded again
RELOADED = ("sd", "sdxl", "z-image", "flux2-klein")


def test_each_familys_code_draws_alone_and_what_it_saved_with_its_code(mini_model, tmp_path):
    folders = TinyModels(tmp_path / "models")
    # Stable Diffusion's by the clone's folder, others by their file
    models = {"sd": (mini_model, str(ROOT / "ubgen_pipeline"))}
    models |= {name: (str(folders.folder(name)), str(FAMILIES[name].code_file)) for name in FAMILY_NAMES}
    jobs, expected = [], {}
    for name, (model, code) in models.items():
        pipeline = load_pipeline(model)
        pipeline.set_progress_bar_config(disable=True)
        expected[name] = pipeline(["circle", "star"], seed=3, output_type="np", **QUICK).images
        jobs.append((model, code, str(tmp_path / name)))
        if name in RELOADED:
            jobs.append((str(tmp_path / name), "", str(tmp_path / f"{name} again")))
    (tmp_path / "draw.py").write_text(DRAW)
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment |= {"HF_HOME": str(tmp_path / "hf")}
    command = [str(warm_programs() / "python"), "draw.py", json.dumps(jobs)]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    for name, images in expected.items():
        for output in (name, *([f"{name} again"] if name in RELOADED else [])):
            np.testing.assert_allclose(np.load(tmp_path / f"{output}.npy"), images, rtol=0, atol=1e-5)


def test_what_the_class_saves_names_the_file_and_the_class(mini_model, tmp_path):
    UbGenPipeline.from_pretrained(mini_model).save_pretrained(tmp_path)
    assert json.loads((tmp_path / "model_index.json").read_text())["_class_name"] == ["pipeline", "UbGenPipeline"]
    # whoever loads through the class has the code already
    (tmp_path / "pipeline.py").write_text("raise RuntimeError('ran')")
    assert type(UbGenPipeline.from_pretrained(str(tmp_path))) is UbGenPipeline


@pytest.mark.parametrize("name", FAMILIES)
def test_the_code_meets_the_loaders_rules(name):

    file = FAMILIES[name].code_file
    helpers = get_relative_imports(file)
    assert helpers and all(file.with_name(f"{helper}.py").is_file() for helper in helpers)
    for module in (file.stem, *helpers):
        text = file.with_name(f"{module}.py").read_text()
        assert "import ubgen_" not in text and "from ubgen_" not in text
        assert "from . import" not in text and "from .." not in text
        # from a folder the loader copies only what the file itself imports
        assert set(get_relative_imports(file.with_name(f"{module}.py"))) <= set(helpers)
