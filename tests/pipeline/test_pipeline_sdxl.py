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


def test_word_weights_reach_both_text_encoders_and_1_changes_nothing():
    text = TextSettings(weighted=True, num_chunks=1)
    plain, same, strong = (
        CASE.pipeline.encode([prompt], settings)[0]
        for prompt, settings in (("a star at sea", None), ("a (star)1.0 at sea", text), ("a star++ at sea", text))
    )
    torch.testing.assert_close(same["encoder_hidden_states"], plain["encoder_hidden_states"], rtol=0, atol=1e-5)
    assert torch.equal(same["text_embeds"], plain["text_embeds"])
    assert torch.equal(strong["text_embeds"], plain["text_embeds"])
    changed = (strong["encoder_hidden_states"] - plain["encoder_hidden_states"]).abs() > 1e-4
    # features of 32 numbers beside 24; the letters of the second word alone
    for part in (changed[:, :32], changed[:, 32:]):
        assert part.any(dim=1).nonzero().flatten().tolist() == [2, 3, 4, 5]


def test_a_long_prompt_is_read_in_chunks_as_far_as_its_negative():
    long = "star " * 40
    drawn = [
        CASE.draw(CASE.pipeline, ["circle"], negative_prompt=negative, weighted_prompts=True)
        for negative in (long, "")
    ]
    assert (drawn[0] - drawn[1]).abs().max() > 1e-3
    # an empty negative prompt is zeros, weighted or not
    torch.testing.assert_close(drawn[1], CASE.draw(CASE.pipeline, ["circle"]), rtol=0, atol=1e-5)


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
