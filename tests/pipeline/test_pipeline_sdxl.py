"""What is Stable Diffusion XL's alone: distilled kinds known by their configuration, zeros for an empty prompt."""

import pytest
import torch

from support.family_models import CASES, own_pipeline, tiny_pipeline
from ubgen_pipeline.call_arguments import TextSettings

CASE = CASES["sdxl"]


def test_the_empty_prompt_is_zeros_only_where_images_are_guided_away_from_it():
    (prompt,), (negative,) = CASE.pipeline.encode([""]), CASE.pipeline.encode([""], TextSettings(negative=True))
    assert not any(value.any() for value in negative.tensors.values())
    assert all(value.any() for value in prompt.tensors.values())
    assert negative["encoder_hidden_states"].shape == (77, 56) and negative["text_embeds"].shape == (20,)


@pytest.mark.parametrize(
    "kind, steps, scale, guidance",
    [
        ("sdxl", 50, 5.0, "classifier-free"),
        ("sdxl turbo", 4, 1.0, "classifier-free"),
        ("sdxl lcm", 4, 8.0, "embedded"),
    ],
)
def test_defaults_follow_the_configuration(kind, steps, scale, guidance):
    pipeline = CASES[kind].pipeline
    found = pipeline.default_num_inference_steps, pipeline.default_guidance_scale, pipeline.guidance
    assert found == (steps, scale, guidance)


def test_a_second_pipeline_keeps_the_switches_of_the_first():
    pipeline = own_pipeline("sdxl", tiny_pipeline("sdxl", force_zeros=False))
    twin = pipeline.with_scheduler(type(pipeline.scheduler).from_config(pipeline.scheduler.config))
    assert type(twin) is type(pipeline) and twin.unet is pipeline.unet
    assert twin.scheduler is not pipeline.scheduler and twin.config.force_zeros_for_empty_prompt is False


def test_the_vae_that_overflows_in_half_precision_runs_in_single():
    pipeline = CASE.ours(CASE.build())
    pipeline.vae.half()
    latents = CASE.noise(1).half()
    half = pipeline.decode(latents)
    assert half.dtype == torch.float16 and pipeline.vae.dtype == torch.float32
    torch.testing.assert_close(half.float(), pipeline.decode(latents.float()), rtol=0, atol=1e-3)


def test_a_refiner_is_no_base_model():
    pipeline = CASE.ours(CASE.stock)
    pipeline.text_encoder = None
    assert "no refiner" in pipeline.family_misfit()
