"""Every family draws as diffusers' own pipeline does, on its tiny models: see ``support/family_models.py``."""

import pytest
import torch

from support.family_models import BATCH_TOLERANCE, PROMPTS, QUICK, TOLERANCE
from ubgen_pipeline.models.loading import FLOW_SCHEDULERS, set_scheduler
from ubgen_pipeline.scheduler_noise import is_flow_scheduler


def test_images_equal_the_stock_call_alone_and_in_batches(case):
    pipeline, drawn = case.pipeline, {}
    for size, scale in (((32, 32), 3.0), ((64, 32), 1.0)):
        drawn[scale] = case.draw(pipeline, PROMPTS, size, guidance_scale=scale)
        expected = case.draw_stock(case.stock, PROMPTS, size, guidance_scale=scale)
        assert expected.shape == (2, 3, *size) and expected.std() > 0.02
        torch.testing.assert_close(drawn[scale], expected, rtol=0, atol=BATCH_TOLERANCE)
        alone = case.draw(pipeline, PROMPTS[:1], size, guidance_scale=scale)
        torch.testing.assert_close(alone, expected[:1], rtol=0, atol=TOLERANCE)
    if pipeline.guidance != "none":
        unguided = case.draw(pipeline, PROMPTS, guidance_scale=1.0)
        assert (unguided - drawn[3.0]).abs().amax(dim=(1, 2, 3)).min() > 1e-3
    other = case.draw(pipeline, ["the sea"], guidance_scale=3.0)
    assert (other - drawn[3.0][:1]).abs().max() > 1e-4


def test_an_image_is_guided_away_from_its_negative_prompt(case):
    pipeline = case.pipeline
    if pipeline.guidance != "classifier-free":
        with pytest.raises(ValueError, match="negative_prompt is 'a red field', and this model is not guided away"):
            case.draw(pipeline, PROMPTS, negative_prompt="a red field")
        with pytest.raises(ValueError, match=r"guidance_until is 0\.5, and this model has no second prediction"):
            case.draw(pipeline, PROMPTS, guidance_until=0.5)
        return
    settings = {"guidance_scale": 3.0, "negative_prompt": "a red field"}
    ours = case.draw(pipeline, PROMPTS, **settings)
    expected = case.draw_stock(case.stock, PROMPTS, **settings)
    torch.testing.assert_close(ours, expected, rtol=0, atol=BATCH_TOLERANCE)
    assert (ours - case.draw(pipeline, PROMPTS, guidance_scale=3.0)).abs().max() > 1e-3


def test_a_second_prediction_guides_beside_the_number_that_the_model_reads(case):
    pipeline = case.pipeline
    settings = {"negative_prompt": "a red field", "true_cfg_scale": 2.5}
    if not pipeline.has_true_guidance:
        with pytest.raises(
            ValueError, match=rf"true_cfg_scale is 2\.5, which {type(pipeline).__name__} does not read"
        ):
            case.draw(pipeline, PROMPTS, **settings)
        return
    ours = case.draw(pipeline, PROMPTS, guidance_scale=3.0, **settings)
    expected = case.draw_stock(case.stock, PROMPTS, guidance_scale=3.0, **settings)
    torch.testing.assert_close(ours, expected, rtol=0, atol=BATCH_TOLERANCE)
    plain = case.draw(pipeline, PROMPTS, guidance_scale=3.0, true_cfg_scale=1.0)
    assert torch.equal(plain, case.draw(pipeline, PROMPTS, guidance_scale=3.0)) and (ours - plain).abs().max() > 1e-3
    # away from the empty prompt, where none is given, and some of the way alone
    empty = case.draw(pipeline, PROMPTS, guidance_scale=3.0, true_cfg_scale=2.5)
    half = case.draw(pipeline, PROMPTS, guidance_scale=3.0, guidance_until=0.5, **settings)
    assert min((empty - plain).abs().max(), (empty - ours).abs().max(), (half - ours).abs().max()) > 1e-4


# families whose stock call takes schedulers that make a flow's noise levels themselves
TAKE_ANY = {"sd3", "flux", "flux2-klein", "flux2-dev", "sana", "aura-flow"}


@pytest.mark.filterwarnings("ignore:The config attributes")
def test_every_scheduler_of_its_kind_draws(family):
    if not is_flow_scheduler(family.pipeline.scheduler):
        return
    pipeline = family.ours(family.stock)
    for name in FLOW_SCHEDULERS:
        pipeline.scheduler = family.ours(family.stock).scheduler
        set_scheduler(pipeline, name)
        drawn = family.draw(pipeline, PROMPTS, num_inference_steps=3)
        assert drawn.isfinite().all() and drawn.std() > 0.02
        if name in ("flow-dpm++", "flow-unipc") and family.family in TAKE_ANY:
            scheduler = type(pipeline.scheduler).from_config(pipeline.scheduler.config)
            stock = type(family.stock)(**{**family.stock.components, "scheduler": scheduler})
            stock.set_progress_bar_config(disable=True)
            expected = family.draw_stock(stock, PROMPTS, num_inference_steps=3)
            torch.testing.assert_close(drawn, expected, rtol=0, atol=BATCH_TOLERANCE)


def test_guidance_of_a_distilled_model_is_refused(case):
    if case.pipeline.guidance == "none":
        with pytest.raises(ValueError, match=r"guidance_scale is 3\.0, which has no effect on this distilled model"):
            case.pipeline(["thing"], guidance_scale=3.0, **QUICK)


def test_images_become_latents_and_images_again_by_the_vaes_own_scaling(case):
    pipeline, images = case.pipeline, torch.rand(2, 3, 32, 48, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        latents = pipeline.encode_images(images)
        assert latents.shape == (2, *pipeline.latent_shape(32, 48))
        assert torch.equal(latents, pipeline.encode_images(images))
        pixels = images * 2 - 1
        is_video = "latents_mean" in pipeline.vae.config and "temperal_downsample" in pipeline.vae.config
        encoded = pipeline.vae.encode(pixels[:, :, None] if is_video else pixels)
        plain = encoded.latent_dist.mode() if hasattr(encoded, "latent_dist") else encoded.latent
        decoded = pipeline.vae.decode(plain, return_dict=False)[0]
    expected = (decoded[:, :, 0] if is_video else decoded) / 2 + 0.5
    torch.testing.assert_close(pipeline.decode(latents), expected, rtol=0, atol=TOLERANCE)


def test_an_image_begins_with_another_and_keeps_what_lies_outside_its_region(family):
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    regions = torch.zeros(2, 32, 32, dtype=torch.bool)
    regions[:, 8:24, 8:24] = True
    settings = {"num_inference_steps": 4}
    if family.family == "sana-sprint":
        with pytest.raises(ValueError, match=r"SCMScheduler.*no noise to an image"):
            family.draw(family.pipeline, PROMPTS, source_images=images, **settings)
        return
    # the less is drawn, the more the source decides
    little, much = (
        [
            family.draw(family.pipeline, PROMPTS, strength=strength, source_images=source, **settings)
            for source in (images, 1 - images)
        ]
        for strength in (0.25, 1.0)
    )
    assert (little[0] - little[1]).abs().mean() > 2 * (much[0] - much[1]).abs().mean()
    kept = family.draw(family.pipeline, PROMPTS, strength=0.5, source_images=images, regions=regions, **settings)
    outside = ~regions[:, None].expand_as(images)
    assert torch.equal(kept[outside], images[outside]) and (kept - images)[~outside].abs().mean() > 0.05
