"""What is Z-Image's alone: Turbo is known by its name, and latents stay in float32."""

import copy

import pytest
import torch

from support.family_models import CASES, tiny_pipeline
from ubgen_pipeline.models.loading import load_pipeline
from ubgen_pipeline.pipeline_z_image import UbGenZImagePipeline

CASE = CASES["z-image"]


def kept(pipeline):
    return pipeline.guidance, pipeline.default_num_inference_steps, pipeline.default_guidance_scale


def test_turbo_is_known_by_its_name_and_after_it_was_saved(tmp_path):
    CASE.stock.save_pretrained(tmp_path / "Z-Image-Turbo")
    turbo = UbGenZImagePipeline.from_pretrained(tmp_path / "Z-Image-Turbo")
    assert kept(turbo) == ("none", 8, 1.0)
    with pytest.raises(ValueError, match=r"guidance_scale is 3\.0, which has no effect"):
        turbo(["circle"], guidance_scale=3.0)
    turbo.save_pretrained(tmp_path / "renamed")
    again = UbGenZImagePipeline.from_pretrained(tmp_path / "renamed")
    assert again.is_distilled and again.with_scheduler(again.scheduler).is_distilled
    assert kept(CASE.pipeline) == ("classifier-free", 50, 5)
    assert UbGenZImagePipeline.from_pretrained(tmp_path / "renamed", is_distilled=False).guidance == "classifier-free"


def test_turbo_under_another_name_is_known_by_its_scheduler_and_says_so(tmp_path, capsys):
    CASE.build().save_pretrained(tmp_path / "base")
    tiny_pipeline("z-image", shift=3.0).save_pretrained(tmp_path / "mine")
    base = load_pipeline(tmp_path / "base")
    assert kept(base) == ("classifier-free", 50, 5) and "shift" not in capsys.readouterr().err
    mine = load_pipeline(tmp_path / "mine")
    assert kept(mine) == ("classifier-free", 8, 1.0)
    assert "has the shift of Z-Image-Turbo, 3, where Z-Image has 6: 8 steps" in capsys.readouterr().err
    assert kept(mine.with_scheduler(mine.scheduler)) == kept(mine)
    # what is given counts, and who says that it is not Turbo is believed
    assert mine(["circle"], guidance_scale=3.0, num_inference_steps=1, height=32, width=32).images
    assert kept(UbGenZImagePipeline(**mine.components, is_distilled=False)) == ("classifier-free", 50, 5)


@pytest.mark.parametrize(
    ("path", "is_turbo"),
    [
        ("Tongyi-MAI/Z-Image-Turbo", True),
        ("/cache/models--Tongyi-MAI--Z-Image-Turbo/snapshots/0123abc", True),
        ("Tongyi-MAI/Z-Image", False),
        ("/models/turbo/z-image", False),
    ],
)
def test_names_of_turbo(path, is_turbo):
    pipeline = UbGenZImagePipeline(**CASE.stock.components)
    pipeline.register_to_config(_name_or_path=path)
    assert pipeline.is_distilled == is_turbo


def test_latents_stay_in_float32():
    pipeline = CASE.ours(CASE.stock)
    pipeline.transformer = copy.deepcopy(pipeline.transformer).to(torch.bfloat16)
    conditioning = pipeline.batch(pipeline.encode(["a circle"])).map(lambda features: features.bfloat16())
    prediction = pipeline.predict(CASE.noise(1), torch.tensor(500.0), conditioning)
    assert pipeline.latents_dtype == prediction.dtype == torch.float32


def test_the_size_must_fit_factor_and_patch():
    # eight pixels a latent, two latents a patch
    pipeline = UbGenZImagePipeline(**CASE.stock.components)
    pipeline.vae_scale_factor = 8
    assert pipeline.latent_shape(48, 32) == (8, 6, 4) and pipeline.latent_shape() == (8, 128, 128)
    with pytest.raises(ValueError, match="width is 44; give a positive multiple of 16, of which 48 is nearest"):
        pipeline.latent_shape(48, 44)
