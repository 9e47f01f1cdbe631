"""The pipeline against plain ``StableDiffusionPipeline``, and its own promises about seeds, batches and bad input."""

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from diffusers.pipelines.stable_diffusion import StableDiffusionSafetyChecker
from transformers import CLIPConfig, CLIPImageProcessor

from ubgen_pipeline import UbGenPipeline
from ubgen_pipeline.initial_latents import draw_latents, sample_seed, step_generators
from ubgen_pipeline.models.loading import SCHEDULERS, set_scheduler

NAMES = ["circle", "star"]
# Equal arithmetic on equal batches: bit for bit up to what a kernel may choose per call.
SAME_BATCH_TOLERANCE = 1e-5
# Convolutions round differently with the batch size; in float32 that stays far below one grey level (1/255).
OTHER_BATCH_TOLERANCE = 1e-3


@pytest.fixture(scope="module")
def pipeline(mini_model):
    pipeline = UbGenPipeline.from_pretrained(mini_model)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="module")
def plain_pipeline(mini_model):
    pipeline = StableDiffusionPipeline.from_pretrained(mini_model, safety_checker=None)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(autouse=True)
def own_scheduler(request):
    """Give the shared pipeline its own scheduler back after each test."""
    pipeline = request.getfixturevalue("pipeline")
    scheduler = pipeline.scheduler
    yield
    pipeline.scheduler = scheduler


def draw_plain(plain, scheduler, prompts, seeds, **settings):
    plain.scheduler = type(scheduler).from_config(scheduler.config)
    return plain(
        prompts,
        latents=draw_latents(seeds, (4, 16, 16)),
        generator=step_generators(seeds),
        output_type="np",
        **settings,
    ).images


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize("guidance_scale", [1.0, 2.0])
def test_images_equal_plain_stable_diffusion(pipeline, plain_pipeline, name, guidance_scale):
    set_scheduler(pipeline, name)
    settings = {"num_inference_steps": 5, "guidance_scale": guidance_scale}
    ours = pipeline(NAMES, output_type="np", **settings)
    expected = draw_plain(plain_pipeline, pipeline.scheduler, ours.prompts, ours.seeds, **settings)
    assert ours.images.std() > 0.01
    np.testing.assert_allclose(ours.images, expected, rtol=0, atol=SAME_BATCH_TOLERANCE)


def test_epsilon_models_and_ddim_noise_equal_plain_stable_diffusion(pipeline, plain_pipeline):
    pipeline.scheduler = SCHEDULERS["ddim"].from_config(pipeline.scheduler.config, prediction_type="epsilon")
    settings = {"num_inference_steps": 4, "guidance_scale": 3.0, "eta": 0.5}
    ours = pipeline(NAMES, output_type="np", **settings)
    expected = draw_plain(plain_pipeline, pipeline.scheduler, ours.prompts, ours.seeds, **settings)
    np.testing.assert_allclose(ours.images, expected, rtol=0, atol=SAME_BATCH_TOLERANCE)


def test_negative_prompts_equal_plain_stable_diffusion_and_matter(pipeline, plain_pipeline):
    settings = {"num_inference_steps": 4, "guidance_scale": 4.0}
    for negative_prompt in ("heart", ["heart", "water"]):
        ours = pipeline(NAMES, output_type="np", negative_prompt=negative_prompt, **settings)
        per_prompt = [negative_prompt] * 2 if isinstance(negative_prompt, str) else negative_prompt
        expected = draw_plain(
            plain_pipeline, pipeline.scheduler, ours.prompts, ours.seeds, negative_prompt=per_prompt, **settings
        )
        np.testing.assert_allclose(ours.images, expected, rtol=0, atol=SAME_BATCH_TOLERANCE)
        assert np.abs(ours.images - pipeline(NAMES, output_type="np", **settings).images).max() > 1e-3


def test_labels_prompts_and_seeds_line_up(pipeline):
    output = pipeline(NAMES, num_images_per_class=2, seed=7, num_inference_steps=1, output_type="latent")
    assert output.images.shape == (4, 4, 16, 16)
    assert output.labels == [0, 0, 1, 1]
    assert output.prompts == ["circle", "circle", "star", "star"]
    assert output.seeds == [sample_seed(7, name, k) for name in NAMES for k in range(2)]
    assert output.masks is None and output.boxes is None and output.nsfw_content_detected is None
    templated = pipeline(NAMES, prompts=["a circle", "a star"], num_inference_steps=1)
    assert templated.prompts == ["a circle", "a star"]
    assert templated.seeds == [sample_seed(0, name, 0) for name in NAMES]
    assert templated.images[0].size == (64, 64)


def test_a_name_that_occurs_again_is_drawn_anew(pipeline):
    output = pipeline(["star", "star"], num_inference_steps=1, output_type="latent")
    assert output.seeds == [sample_seed(0, "star", 0), sample_seed(0, "star", 1)]
    assert output.labels == [0, 1]


@pytest.mark.parametrize("name", ["ddpm", "pndm", "unipc"])
def test_equal_seeds_give_equal_images_in_any_batch(pipeline, name):
    set_scheduler(pipeline, name)
    settings = {"num_inference_steps": 5, "output_type": "np"}
    together = pipeline(NAMES, num_images_per_class=2, **settings)
    in_parts = pipeline(NAMES, num_images_per_class=2, batch_size=3, **settings)
    alone = pipeline(["star"], seeds=together.seeds[3:], **settings)
    np.testing.assert_allclose(in_parts.images, together.images, rtol=0, atol=OTHER_BATCH_TOLERANCE)
    np.testing.assert_allclose(alone.images[0], together.images[3], rtol=0, atol=OTHER_BATCH_TOLERANCE)
    assert np.abs(together.images[2] - together.images[3]).max() > 10 * OTHER_BATCH_TOLERANCE


def test_the_loop_starts_from_exactly_the_seeds_noise(pipeline):
    started_from = []
    hook = pipeline.unet.register_forward_pre_hook(lambda module, inputs: started_from.append(inputs[0].clone()))
    try:
        for batch_size in (None, 1, 3):
            pipeline(NAMES, num_images_per_class=2, num_inference_steps=1, guidance_scale=1, batch_size=batch_size)
    finally:
        hook.remove()
    seeds = [sample_seed(0, name, k) for name in NAMES for k in range(2)]
    assert torch.equal(torch.cat(started_from), draw_latents(seeds, (4, 16, 16)).repeat(3, 1, 1, 1))


def test_output_types_show_the_same_image(pipeline):
    settings = {"num_inference_steps": 2, "seeds": [5]}
    array = pipeline(["star"], output_type="np", **settings).images
    tensor = pipeline(["star"], output_type="pt", **settings).images
    picture = pipeline(["star"], output_type="pil", **settings).images[0]
    latents = pipeline(["star"], output_type="latent", **settings).images
    assert array.shape == (1, 64, 64, 3) and tensor.shape == (1, 3, 64, 64)
    np.testing.assert_array_equal(tensor[0].permute(1, 2, 0).numpy(), array[0])
    np.testing.assert_array_equal(np.asarray(picture), (array[0] * 255).round().astype(np.uint8))
    with torch.no_grad():
        np.testing.assert_array_equal(pipeline.decode(latents).clamp(0, 1).numpy(), tensor.numpy())


def test_given_latents_replace_the_seeds_noise(pipeline):
    own = draw_latents([5], (4, 16, 16))
    given = pipeline(["star"], latents=own, num_inference_steps=2, output_type="np").images
    assert np.array_equal(given, pipeline(["star"], seeds=[5], num_inference_steps=2, output_type="np").images)


def test_decoding_is_differentiable_and_unclamped(pipeline):
    latents = (20 * draw_latents([1], (4, 16, 16))).requires_grad_()
    images = pipeline.decode(latents)
    # a trained decoder holds its range better than a random one, but nothing may cut it off
    plain = pipeline.vae.decode(latents / pipeline.vae.config.scaling_factor).sample / 2 + 0.5
    torch.testing.assert_close(images, plain)
    (gradient,) = torch.autograd.grad(images.sum(), latents)
    assert gradient.abs().sum() > 0


def test_image_size_follows_height_and_width(pipeline):
    assert pipeline.latent_shape() == (4, 16, 16)
    output = pipeline(["star"], height=48, width=80, num_inference_steps=1)
    assert output.images[0].size == (80, 48)


def test_pndm_calls_the_unet_once_more_than_it_has_steps(pipeline):
    set_scheduler(pipeline, "pndm")
    indices = []

    def callback(called_pipeline, index, timestep, state):
        assert called_pipeline is pipeline and state["latents"].shape == (1, 4, 16, 16)
        indices.append(index)

    pipeline(["star"], num_inference_steps=7, callback_on_step_end=callback)
    assert indices == list(range(8))


def test_a_callback_may_replace_the_latents(pipeline):
    def zeros(called_pipeline, index, timestep, state):
        return {"latents": torch.zeros_like(state["latents"])}

    output = pipeline(["star"], num_inference_steps=2, callback_on_step_end=zeros, output_type="latent")
    assert not output.images.any()


def test_return_dict_false_gives_the_fields_in_order(pipeline):
    images, labels, prompts, seeds, *places = pipeline(["star"], num_inference_steps=1, return_dict=False)
    assert (len(images), labels, prompts, seeds) == (1, [0], ["star"], [sample_seed(0, "star", 0)])
    assert places == [None, None, None, None]


def test_the_safety_checkers_black_images_are_marked(mini_model):
    tiny = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    config = CLIPConfig(vision_config={**tiny, "image_size": 32, "patch_size": 16}, projection_dim=4)
    checker = StableDiffusionSafetyChecker(config).eval()
    # scores are cosines minus a threshold: one concept below every cosine flags all images
    checker.concept_embeds_weights.fill_(-2)
    checker.special_care_embeds_weights.fill_(2)
    size = {"height": 32, "width": 32}
    pipeline = UbGenPipeline.from_pretrained(
        mini_model,
        safety_checker=checker,
        feature_extractor=CLIPImageProcessor(size=size, crop_size=size),
        requires_safety_checker=True,
    )
    output = pipeline(NAMES, num_inference_steps=1, output_type="np")
    assert output.nsfw_content_detected == [True, True]
    assert not output.images.any()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"class_names": []}, "class_names"),
        ({"class_names": "star"}, "class_names"),
        ({"class_names": ["star", 3]}, "class_names"),
        ({"prompts": ["one"]}, "prompts holds 1"),
        ({"negative_prompt": ["one"]}, "negative_prompt holds 1"),
        ({"num_images_per_class": 0}, "num_images_per_class is 0"),
        ({"num_inference_steps": -1}, "num_inference_steps is -1"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"seed": -1}, "seed.* -1"),
        ({"seed": 2**63}, "seed"),
        ({"seeds": [1]}, "seeds holds 1 for 2"),
        ({"seeds": [1, -2]}, "seeds holds -2"),
        ({"height": 60}, "height is 60"),
        ({"width": 0}, "width is 0"),
        ({"latents": torch.zeros(1, 4, 16, 16)}, "latents has shape"),
        ({"output_type": "jpeg"}, "output_type is 'jpeg'"),
    ],
)
def test_bad_input_is_named(pipeline, arguments, message):
    with pytest.raises(ValueError, match=message):
        pipeline(**{"class_names": NAMES, "num_inference_steps": 1, **arguments})


def test_a_class_name_longer_than_the_tokenizer_takes_is_named(pipeline):
    fits = "star " * (pipeline.tokenizer.model_max_length - 2)
    pipeline.check_prompt_lengths([fits])
    with pytest.raises(ValueError, match=r"class name 'star star.*takes 24"):
        pipeline(["circle", fits + "star"], num_inference_steps=1)
