"""What every family of the registry must do, on its tiny model: see ``support/family_models.py``."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from diffusers.utils.dynamic_modules_utils import get_relative_imports

from support import ROOT
from support.family_models import FAMILY_NAMES, QUICK, TinyModels, own_pipeline, tiny_pipeline
from ubgen_pipeline.generation.generate import main as generate
from ubgen_pipeline.generation.regenerate import main as regenerate
from ubgen_pipeline.models.families import FAMILIES
from ubgen_pipeline.models.loading import load_pipeline
from ubgen_pipeline.scheduler_noise import is_flow_scheduler

DRAW = """
import sys
import numpy as np
from diffusers import DiffusionPipeline

model, output, *custom = sys.argv[1:]
settings = {"custom_pipeline": custom[0]} if custom else {}
pipeline = DiffusionPipeline.from_pretrained(model, trust_remote_code=True, **settings)
assert type(pipeline).__module__.startswith("diffusers_modules."), type(pipeline)
drawn = pipeline(["circle"], seed=3, num_inference_steps=2, height=32, width=32, output_type="np")
assert "ubgen_pipeline" not in sys.modules
np.save(output, drawn.images)
if custom:
    pipeline.save_pretrained(output + ".model")
"""


@pytest.fixture(params=FAMILY_NAMES)
def name(request):
    return request.param


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return TinyModels(tmp_path_factory.mktemp("models"))


def test_a_folder_that_diffusers_saved_is_enough(name, models, tmp_path):
    pipeline = load_pipeline(models.folder(name))
    pipeline.set_progress_bar_config(disable=True)
    assert type(pipeline).__name__ == FAMILIES[name].class_name
    images = pipeline(["circle"], seed=3, output_type="np", **QUICK).images
    assert images.shape == (1, 32, 32, 3) and images.std() > 0.01
    # saved with its code, it is of the same family
    pipeline.save_pretrained(tmp_path)
    module = FAMILIES[name].module
    assert json.loads((tmp_path / "model_index.json").read_text())["_class_name"] == [
        module,
        FAMILIES[name].class_name,
    ]
    files = {file.name for file in tmp_path.glob("*.py")}
    assert files == {
        f"{module}.py",
        *(f"{file}.py" for file in get_relative_imports(ROOT / f"ubgen_pipeline/{module}.py")),
    }
    again = load_pipeline(tmp_path)
    again.set_progress_bar_config(disable=True)
    np.testing.assert_array_equal(again(["circle"], seed=3, output_type="np", **QUICK).images, images)


def test_a_dataset_is_resumed_and_drawn_again(name, models, tmp_path):
    model, dataset = models.folder(name), tmp_path / "dataset"
    arguments = ["--class-names", "circle", "star", "--samples-per-class", "2", "--model", str(model), "--batch-size"]
    arguments += ["2", "--num-inference-steps", "2", "--height", "32", "--width", "32", "--samples-per-shard", "2"]
    assert generate([*arguments, "--output-dir", str(dataset)]) == 0
    shards = sorted(dataset.rglob("*.parquet"))
    assert len(shards) == 2
    before = shards[1].read_bytes()
    shards[1].unlink()
    assert generate([*arguments, "--output-dir", str(dataset)]) == 0
    assert shards[1].read_bytes() == before
    index = ["--index", "3", "--model", str(model), "--output", str(tmp_path / "3.png")]
    assert regenerate([str(dataset), *index]) == 0


@pytest.mark.parametrize("name", ["sdxl", "sd3"], indirect=True)
def test_the_file_alone_is_a_custom_pipeline_where_ubgen_is_not_there(name, models, tmp_path):
    pipeline = load_pipeline(models.folder(name))
    pipeline.set_progress_bar_config(disable=True)
    expected = pipeline(["circle"], seed=3, output_type="np", **QUICK).images
    script, output = tmp_path / "draw.py", tmp_path / "images.npy"
    script.write_text(DRAW)
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment |= {"HF_HOME": str(tmp_path / "hf"), "HF_MODULES_CACHE": str(tmp_path / "modules")}
    code = str(ROOT / "ubgen_pipeline" / f"{FAMILIES[name].module}.py")
    # the second call loads what the first has saved, with the code beside it
    for arguments in ([str(models.folder(name)), str(output), code], [f"{output}.model", str(output)]):
        done = subprocess.run(
            [sys.executable, str(script), *arguments],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
        np.testing.assert_allclose(np.load(output), expected, rtol=0, atol=1e-5)


def _row(name):
    """What the page says of a family, read off the tiny model."""
    pipeline = load_pipeline("mini") if name == "sd" else own_pipeline(name, tiny_pipeline(name))
    try:
        pipeline.default_mask_settings()
        masks = "yes"
    except ValueError:
        masks = "no"
    has_negative = pipeline.guidance == "classifier-free"
    words = [
        *(["negative prompt"] if has_negative else []),
        *(["word weights"] if pipeline.has_word_weights else []),
        *(["textual inversion"] if pipeline.has_textual_inversion else []),
        *(["deep-cache"] if pipeline.has_kept_features else []),
    ]
    kind = "flow" if is_flow_scheduler(pipeline.scheduler) else "noise"
    cells = [
        name,
        FAMILIES[name].stock_names[0],
        f"{pipeline.guidance}, {pipeline.default_guidance_scale:g}",
        str(pipeline.default_num_inference_steps),
        kind,
        pipeline.default_gpu_dtype,
        masks,
        ", ".join(words) or "-",
    ]
    return f"| {' | '.join(cells)} |"


def test_the_page_says_what_each_family_can_do():
    page = (ROOT / "docs" / "families.md").read_text(encoding="utf-8")
    table = page.split("<!-- families: begin -->\n")[1].split("<!-- families: end -->")[0]
    head = "| family | class | guidance and its default | steps | schedulers | on a GPU | masks | and |\n"
    assert table == head + "|---" * 8 + "|\n" + "".join(f"{_row(name)}\n" for name in FAMILIES)
