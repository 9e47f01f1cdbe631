"""What a family gives without writing it itself: its networks, how guidance takes part, and what has no effect."""

from types import SimpleNamespace

import pytest
import torch
from diffusers import DDIMScheduler, PNDMScheduler

from ubgen_pipeline import UbGenPipeline
from ubgen_pipeline.conditioning import Conditioning
from ubgen_pipeline.family import GUIDANCE_KINDS, Family, check_effects


class Toy(Family):
    """A family whose parts are names."""

    denoiser_part = "transformer"
    text_encoder_parts = ("text_encoder", "text_encoder_2")
    transformer, vae, text_encoder, text_encoder_2 = "denoiser", "codec", "words", None
    _execution_device = "cpu"


def toy(guidance="classifier-free", **members):
    family = Toy()
    family.guidance, family.scheduler = guidance, PNDMScheduler()
    vars(family).update(members)
    return family


def test_networks_go_by_their_names_and_those_that_are_missing_are_left_out():
    family = toy()
    assert family.denoiser_network == "denoiser" and family.text_networks == {"text_encoder": "words"}
    assert family.networks == {"transformer": "denoiser", "vae": "codec", "text_encoder": "words"}


@pytest.mark.parametrize("guidance", GUIDANCE_KINDS)
def test_each_kind_of_guidance_hands_on_its_scale(guidance):
    rows = Conditioning({"text": torch.zeros(3, 2)})
    given, scale = toy(guidance).with_guidance(rows, 3.5)
    if guidance == "embedded":
        assert given["guidance"].tolist() == [3.5] * 3 and scale == 1
    else:
        assert given is rows and scale == (3.5 if guidance == "classifier-free" else 1)


def test_guidance_goes_from_one_prediction_through_the_other():
    without, conditional = torch.randn(2, 2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    family = toy()
    torch.testing.assert_close(family.guide(conditional, without, 1.0), conditional)
    torch.testing.assert_close(family.guide(conditional, without, 3.0), 3 * conditional - 2 * without)


@pytest.mark.parametrize(
    ("guidance", "settings", "message"),
    [
        ("none", {"guidance_scale": 2.0}, "guidance_scale is 2.0, which has no effect on this distilled model"),
        ("none", {"negative_prompt": "dull"}, "negative_prompt is 'dull', and this model is not guided away"),
        ("embedded", {"negative_prompt": ["", "dull"]}, "negative_prompt is"),
        ("embedded", {"guidance_until": 0.5}, "guidance_until is 0.5, and this model has no second prediction"),
        ("classifier-free", {"weighted_prompts": True}, "weighted_prompts is True, and Toy reads no word weights"),
        ("classifier-free", {"deep_features_every": 2}, "deep_features_every is 2, and the layers of Toy"),
        ("classifier-free", {"eta": 0.5}, "eta is 0.5, which PNDMScheduler does not read; leave it out, or take DDIM"),
    ],
)
def test_what_has_no_effect_is_refused_by_name(guidance, settings, message):
    with pytest.raises(ValueError, match=message):
        check_effects(toy(guidance), **settings)


@pytest.mark.parametrize(
    ("guidance", "settings"),
    [
        ("none", {"guidance_scale": 1.0, "negative_prompt": ["", ""]}),
        ("embedded", {"guidance_scale": 3.5}),
        ("classifier-free", {"guidance_scale": 7.0, "negative_prompt": "dull", "guidance_until": 0.5}),
    ],
)
def test_what_has_an_effect_passes(guidance, settings):
    check_effects(toy(guidance), **settings)


def test_eta_passes_with_a_scheduler_that_reads_it():
    check_effects(toy(scheduler=DDIMScheduler(), has_word_weights=True), eta=0.5, weighted_prompts=True)


def test_masks_are_refused_with_what_to_do_instead():
    family = toy(transformer=SimpleNamespace(config={}))
    for ask in (lambda: family.mask_attention, family.default_mask_settings, lambda: Toy.mask_settings_of({})):
        with pytest.raises(ValueError, match=r"not there for Toy; leave annotations out, .* `ubgen annotate`"):
            ask()


def test_embeddings_of_a_caller_must_be_a_record():
    record = Conditioning({"text": torch.zeros(1, 2)})
    assert toy().given_conditioning(record) is record
    with pytest.raises(ValueError, match=r"prompt_embeds is a Tensor; give what batch\(encode\(prompts\)\) gives"):
        toy().given_conditioning(torch.zeros(1, 2))


def test_another_scheduler_stands_on_the_same_networks(random_mini_model):
    pipeline = UbGenPipeline.from_pretrained(random_mini_model, requires_safety_checker=False)
    second = pipeline.with_scheduler(PNDMScheduler.from_config(pipeline.scheduler.config))
    assert type(second) is type(pipeline) and type(second.scheduler) is PNDMScheduler
    assert type(pipeline.scheduler) is not PNDMScheduler
    assert second.networks.keys() == pipeline.networks.keys()
    assert all(second.networks[name] is network for name, network in pipeline.networks.items())
    # a switch of the pipeline's own
    assert second.config.requires_safety_checker is False


def test_sizes_in_pixels_are_those_of_the_latents(random_mini_model):
    pipeline = UbGenPipeline.from_pretrained(random_mini_model)
    _, height, width = pipeline.latent_shape(64, 96)
    assert pipeline.image_size(64, 96) == (64, 96)
    assert (64 // height, 96 // width) == (pipeline.pixels_per_latent,) * 2
