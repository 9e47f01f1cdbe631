"""The code as diffusers' ``custom_pipeline``: each load in a process of its own, since the loader mixes local ones."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from diffusers.utils.dynamic_modules_utils import get_relative_imports

from support import ROOT
from ubgen_pipeline import UbGenPipeline

CODE = ROOT / "ubgen_pipeline"

DRAW = """
import sys
import numpy as np
from diffusers import DiffusionPipeline

model, output, *custom = sys.argv[1:]
settings = {"custom_pipeline": custom[0]} if custom else {}
pipeline = DiffusionPipeline.from_pretrained(model, trust_remote_code=True, **settings)
assert type(pipeline).__module__.startswith("diffusers_modules."), type(pipeline)
assert "ubgen_pipeline" not in sys.modules
drawn = pipeline(["circle", "star"], seed=3, num_inference_steps=3, output_type="np")
assert drawn.labels == [0, 1] and drawn.prompts == ["circle", "star"]
np.save(output, drawn.images)
if custom:
    pipeline.save_pretrained(output + ".model")
"""


def draw_elsewhere(tmp_path, *arguments, cwd=ROOT):
    output = tmp_path / "images.npy"
    environment = {**os.environ, "HF_HOME": str(tmp_path / "hf"), "HF_MODULES_CACHE": str(tmp_path / "modules")}
    script = tmp_path / "draw.py"
    script.write_text(DRAW)
    model, *custom = arguments
    command = [sys.executable, str(script), model, str(output), *custom]
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return np.load(output)


@pytest.fixture(scope="module")
def expected_images(mini_model):
    pipeline = UbGenPipeline.from_pretrained(mini_model)
    return pipeline(["circle", "star"], seed=3, num_inference_steps=3, output_type="np").images


def test_loaded_from_the_folder_in_a_new_process(mini_model, tmp_path, expected_images):
    images = draw_elsewhere(tmp_path, mini_model, "./ubgen_pipeline")
    np.testing.assert_allclose(images, expected_images, rtol=0, atol=1e-5)
    # what the dynamic class saved reloads by itself, away from the clone
    again = draw_elsewhere(tmp_path, str(tmp_path / "images.npy.model"), cwd=tmp_path)
    np.testing.assert_allclose(again, expected_images, rtol=0, atol=1e-5)


def test_what_the_class_saves_reloads_with_its_code(mini_model, tmp_path, expected_images):
    saved = tmp_path / "saved"
    UbGenPipeline.from_pretrained(mini_model).save_pretrained(saved)
    assert json.loads((saved / "model_index.json").read_text())["_class_name"] == ["pipeline", "UbGenPipeline"]
    images = draw_elsewhere(tmp_path, str(saved), cwd=tmp_path)
    np.testing.assert_allclose(images, expected_images, rtol=0, atol=1e-5)


def test_loading_through_the_class_runs_no_code_from_the_folder(mini_model, tmp_path):
    UbGenPipeline.from_pretrained(mini_model).save_pretrained(tmp_path)
    (tmp_path / "pipeline.py").write_text("raise RuntimeError('ran')")
    assert type(UbGenPipeline.from_pretrained(str(tmp_path))) is UbGenPipeline


def test_the_code_meets_the_loaders_rules():
    helpers = get_relative_imports(CODE / "pipeline.py")
    assert helpers and all((CODE / f"{helper}.py").is_file() for helper in helpers)
    for module in ("pipeline", *helpers):
        text = (CODE / f"{module}.py").read_text()
        assert "import ubgen_" not in text and "from ubgen_" not in text
        assert "from . import" not in text and "from .." not in text
        # the local route copies only what pipeline.py itself imports
        assert set(get_relative_imports(CODE / f"{module}.py")) <= set(helpers)
