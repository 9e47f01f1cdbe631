"""Stable Diffusion 3 and FLUX.1 against diffusers' own pipelines; what they promise of batches, sizes and LoRAs."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from diffusers import FlowMatchHeunDiscreteScheduler
from peft import LoraConfig, get_peft_model_state_dict
from peft.tuners.lora import LoraLayer

from support import ROOT
from support.sd3_flux import CASES, NAMES, PROMPTS, seeded, stock_images
from support.tiny_models import flux, sd3
from ubgen_pipeline.conditioning import Conditioning
from ubgen_pipeline.latent_denoising import denoising_steps
from ubgen_pipeline.models.families import FAMILIES

# equal arithmetic, but for what a kernel may choose per call
TOLERANCE = 1e-5


@pytest.fixture(scope="module", params=CASES)
def case(request):
    return CASES[request.param]


@pytest.fixture(scope="module")
def stock(case):
    return case.stock()


@pytest.fixture(scope="module")
def pipeline(case, stock):
    return case.ours(stock)


@pytest.mark.parametrize("size", [(32, 32), (24, 40), (40, 16)])
def test_images_equal_diffusers_own(case, stock, pipeline, size):
    noise = seeded(pipeline, *size)
    for scale in case.scales:
        settings = {"height": size[0], "width": size[1], "num_inference_steps": 3}
        settings |= {} if scale is None else {"guidance_scale": scale}
        ours = pipeline(NAMES, prompts=PROMPTS, latents=noise, output_type="pt", **settings)
        expected = stock_images(stock, PROMPTS, noise, **settings)
        assert ours.images.shape == (2, 3, *size) and expected.std() > 0.05
        torch.testing.assert_close(ours.images, expected, rtol=0, atol=TOLERANCE)


def test_guidance_and_prompts_matter(case, pipeline):
    settings = {"height": 32, "width": 32, "num_inference_steps": 2, "output_type": "pt", "latents": seeded(pipeline)}
    images = [pipeline(NAMES, guidance_scale=scale, **settings).images for scale in case.scales]
    others = pipeline(["ring", "star"], guidance_scale=case.scales[0], **settings).images
    assert all((image - images[0]).abs().max() > 1e-3 for image in images[1:])
    assert (others[0] - images[0][0]).abs().max() > 1e-3
    torch.testing.assert_close(others[1], images[0][1], rtol=0, atol=TOLERANCE)


def test_an_image_does_not_depend_on_its_batch(pipeline):
    settings = {"height": 24, "width": 32, "num_inference_steps": 3, "output_type": "pt"}
    together = pipeline(NAMES, prompts=PROMPTS, num_images_per_class=2, **settings)
    in_parts = pipeline(NAMES, prompts=PROMPTS, num_images_per_class=2, batch_size=3, **settings)
    alone = pipeline(["star"], prompts=PROMPTS[1:], seeds=together.seeds[3:], **settings)
    torch.testing.assert_close(in_parts.images, together.images, rtol=0, atol=1e-4)
    torch.testing.assert_close(alone.images[0], together.images[3], rtol=0, atol=1e-4)
    assert (together.images[2] - together.images[3]).abs().max() > 1e-2


@torch.no_grad()
def test_what_a_prompt_is_encoded_to_does_not_depend_on_others(pipeline):
    first = pipeline.encode(PROMPTS)
    (again,) = pipeline.encode(PROMPTS[1:])
    assert all(torch.equal(first[1][name], again[name]) for name in again.tensors)
    given = pipeline.batch(first)
    settings = {"height": 32, "width": 32, "num_inference_steps": 1, "output_type": "pt"}
    negative = pipeline.batch(pipeline.encode(["", ""])) if pipeline.guidance == "classifier-free" else None
    images = pipeline(NAMES, prompts=PROMPTS, prompt_embeds=given, negative_prompt_embeds=negative, **settings).images
    assert torch.equal(images, pipeline(NAMES, prompts=PROMPTS, **settings).images)


def test_negative_prompts_equal_diffusers_own_or_are_refused(case, stock, pipeline):
    noise = seeded(pipeline)
    settings = {"height": 32, "width": 32, "num_inference_steps": 2}
    if case.family == "flux":
        with pytest.raises(ValueError, match="negative_prompt is 'water', and this model is not guided away"):
            pipeline(NAMES, negative_prompt="water", **settings)
        return
    settings |= {"guidance_scale": 4.0, "negative_prompt": ["heart", "water"]}
    ours = pipeline(NAMES, prompts=PROMPTS, latents=noise, output_type="pt", **settings).images
    torch.testing.assert_close(ours, stock_images(stock, PROMPTS, noise, **settings), rtol=0, atol=TOLERANCE)


def test_another_flow_scheduler_draws(pipeline):
    own = pipeline.scheduler
    pipeline.scheduler = FlowMatchHeunDiscreteScheduler(shift=3.0)
    try:
        images = pipeline(NAMES, height=32, width=32, num_inference_steps=2, output_type="pt").images
    finally:
        pipeline.scheduler = own
    assert images.isfinite().all() and images.std() > 0.05


def test_images_become_latents_and_come_back(pipeline):
    images = torch.rand(2, 3, 24, 32, generator=torch.Generator().manual_seed(0))
    config = pipeline.vae.config
    with torch.no_grad():
        latents = pipeline.encode_images(images)
        mean = pipeline.vae.encode(images * 2 - 1).latent_dist.mean
        assert torch.equal(latents, pipeline.encode_images(images))
        assert latents.shape == (2, *pipeline.latent_shape(24, 32))
        torch.testing.assert_close(latents, (mean - config.shift_factor) * config.scaling_factor)
        torch.testing.assert_close(pipeline.decode(latents), pipeline.vae.decode(mean).sample / 2 + 0.5)


def test_source_images_and_regions(pipeline):
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    regions = torch.zeros(2, 32, 32, dtype=torch.bool)
    regions[:, 8:24, 8:24] = True
    settings = {"height": 32, "width": 32, "num_inference_steps": 4, "output_type": "pt", "source_images": images}
    little = pipeline(NAMES, strength=0.3, **settings).images
    much = pipeline(NAMES, strength=1.0, **settings).images
    with torch.no_grad():
        plain = pipeline.decode(pipeline.encode_images(images)).clamp(0, 1)
    assert (little - plain).abs().mean() < (much - plain).abs().mean()
    inside = pipeline(NAMES, strength=0.8, regions=regions, **settings).images
    outside = ~regions[:, None].expand_as(images)
    assert torch.equal(inside[outside], images[outside]) and (inside - images)[~outside].abs().max() > 1e-2
    torch.testing.assert_close(
        pipeline(NAMES, strength=0.8, regions=regions, batch_size=1, **settings).images, inside, rtol=0, atol=1e-4
    )


def sample(pipeline, noise, num_steps, gradient_steps=None, scale=2.0):
    """Images with gradient, as trainings draw them."""
    shape = tuple(noise.shape[1:])
    with torch.no_grad():
        conditioning, negative = (pipeline.batch(pipeline.encode(texts)) for texts in (PROMPTS, ["", ""]))
    dtype = next(pipeline.transformer.parameters()).dtype
    conditioning, negative = (record.map(lambda value: value.to(dtype)) for record in (conditioning, negative))
    given, scale = pipeline.with_guidance(conditioning, scale)
    if "guidance" in given.tensors:
        given = given.with_tensor("guidance", given["guidance"].to(dtype))
    pipeline.timesteps(num_steps, shape)
    for step in denoising_steps(
        pipeline.predict,
        pipeline.scheduler,
        noise.to(dtype),
        given,
        negative=negative if scale > 1 else None,
        guidance_scale=scale,
        guide=pipeline.guide,
        gradient_steps=gradient_steps,
    ):
        latents = step.latents
    return pipeline.decode(latents)


def add_lora(network, targets):
    network.requires_grad_(False)
    torch.manual_seed(3)
    network.add_adapter(LoraConfig(r=2, lora_alpha=4, init_lora_weights=False, target_modules=list(targets)))


def test_every_lora_matrix_gets_a_gradient_and_all_blocks_have_one(case):
    pipeline = case.ours(case.stock())
    add_lora(pipeline.transformer, pipeline.lora_targets)
    sample(pipeline, seeded(pipeline), 2, {1}).square().mean().backward()
    trained = {name: value for name, value in pipeline.transformer.named_parameters() if value.requires_grad}
    assert not [name for name, value in trained.items() if value.grad is None or not value.grad.norm() > 0]
    layers = {name for name, layer in pipeline.transformer.named_modules() if isinstance(layer, LoraLayer)}
    blocks = {".".join(name.split(".")[:2]) for name in layers}
    every = [name for name, _ in pipeline.transformer.named_modules() if name.count(".") == 1 and name[-1].isdigit()]
    assert blocks == {name for name in every if "transformer_blocks" in name}
    attention = [name for name, _ in pipeline.transformer.named_modules() if name.endswith(".add_q_proj")]
    # the text queries of Stable Diffusion 3's last block lead nowhere
    assert {name for name in attention if name not in layers} == (
        {"transformer_blocks.2.attn.add_q_proj"} if case.family == "sd3" else set()
    )


def test_the_gradient_through_a_step_is_that_of_finite_differences(case):
    stock = case.stock()
    for network in (stock.transformer, stock.vae):
        network.to(torch.float64)
    pipeline = case.ours(stock)
    add_lora(pipeline.transformer, pipeline.lora_targets)
    pipeline.transformer.to(torch.float64)
    noise, last = seeded(pipeline), pipeline.transformer.transformer_blocks[-1]
    for layer in (last.attn.to_q, last.attn.add_k_proj):
        weight = layer.lora_B["default"].weight

        def reward():
            return sample(pipeline, noise, 1).square().mean()

        (gradient,) = torch.autograd.grad(reward(), weight)
        place = np.unravel_index(int(gradient.abs().argmax()), gradient.shape)
        with torch.no_grad():
            values = []
            # some layers count in float32 whatever they are given, which smaller changes would drown in
            for change in (1e-2, -2e-2):
                weight[place] += change
                values.append(reward().item())
            weight[place] += 1e-2
        assert gradient[place].abs() > 1e-8
        assert gradient[place].item() == pytest.approx((values[0] - values[1]) / 2e-2, rel=1e-3)


def test_a_lora_goes_through_plain_diffusers_and_back(case, tmp_path):
    stock = case.stock()
    pipeline = case.ours(stock)
    noise = seeded(pipeline)
    settings = {"height": 32, "width": 32, "num_inference_steps": 2}
    settings |= {} if case.scales[0] is None else {"guidance_scale": case.scales[-1]}
    without = pipeline(NAMES, prompts=PROMPTS, latents=noise, output_type="pt", **settings).images
    add_lora(pipeline.transformer, pipeline.lora_targets)
    layers, config = get_peft_model_state_dict(pipeline.transformer), pipeline.transformer.peft_config["default"]
    metadata = {name: sorted(value) if isinstance(value, set) else value for name, value in config.to_dict().items()}
    with_lora = pipeline(NAMES, prompts=PROMPTS, latents=noise, output_type="pt", **settings).images
    assert (with_lora - without).abs().max() > 1e-3
    type(pipeline).save_lora_weights(
        tmp_path, transformer_lora_layers=layers, transformer_lora_adapter_metadata=metadata
    )
    fresh, again = case.stock(), case.ours(case.stock())
    for loaded in (fresh, again):
        loaded.load_lora_weights(tmp_path)
    torch.testing.assert_close(stock_images(fresh, PROMPTS, noise, **settings), with_lora, rtol=0, atol=TOLERANCE)
    ours = again(NAMES, prompts=PROMPTS, latents=noise, output_type="pt", **settings).images
    torch.testing.assert_close(ours, with_lora, rtol=0, atol=TOLERANCE)
    scaled = again(
        NAMES,
        prompts=PROMPTS,
        latents=noise,
        output_type="pt",
        cross_attention_kwargs={"scale": 0.5},
        **settings,
    ).images
    expected = stock_images(fresh, PROMPTS, noise, joint_attention_kwargs={"scale": 0.5}, **settings)
    torch.testing.assert_close(scaled, expected, rtol=0, atol=TOLERANCE)
    assert (scaled - with_lora).abs().max() > 1e-3


DRAW = """
import sys
import numpy as np
from diffusers import DiffusionPipeline

model, output, *custom = sys.argv[1:]
settings = {"custom_pipeline": custom[0]} if custom else {}
pipeline = DiffusionPipeline.from_pretrained(model, trust_remote_code=True, **settings)
assert type(pipeline).__module__.startswith("diffusers_modules."), type(pipeline)
assert "ubgen_pipeline" not in sys.modules
drawn = pipeline(["circle", "star"], seed=3, num_inference_steps=2, height=32, width=32, output_type="np")
np.save(output, drawn.images)
"""


def draw_elsewhere(folder, model, *custom):
    output, script = folder / "images.npy", folder / "draw.py"
    script.write_text(DRAW)
    places = {"HF_HOME": str(folder / "hf"), "HF_MODULES_CACHE": str(folder / "modules"), "PYTHONPATH": ""}
    command = [sys.executable, "-P", str(script), str(model), str(output), *custom]
    done = subprocess.run(
        command, cwd=folder, env={**os.environ, **places}, capture_output=True, text=True, timeout=500
    )
    assert done.returncode == 0, done.stderr
    return np.load(output)


@pytest.mark.parametrize("name", ["sd3_without_t5", "flux_dev"])
def test_loaded_where_ubgen_is_not_by_path_and_from_what_was_saved(name, tmp_path):
    case = CASES[name]
    stock = case.stock()
    pipeline, saved = case.ours(stock), tmp_path / "saved"
    drawn = pipeline(NAMES, seed=3, num_inference_steps=2, height=32, width=32, output_type="np").images
    stock.save_pretrained(tmp_path / "stock")
    if name == "flux_dev":
        code = ROOT / "ubgen_pipeline" / f"{FAMILIES[case.family].module}.py"
        images = draw_elsewhere(tmp_path, tmp_path / "stock", str(code))
        np.testing.assert_allclose(images, drawn, rtol=0, atol=TOLERANCE)
    # diffusers' own class wants to be told what a folder lacks, which ours knows
    type(pipeline).from_pretrained(tmp_path / "stock").save_pretrained(saved)
    np.testing.assert_allclose(draw_elsewhere(tmp_path, saved), drawn, rtol=0, atol=TOLERANCE)


def test_a_missing_text_encoder_is_named(case, stock):
    kind = FAMILIES[case.family].pipeline_class()
    assert case.ours(stock).family_misfit() is None
    wanted = ("text_encoder", "text_encoder_2")
    for name in wanted:
        misfit = kind(**{**stock.components, name: None}).family_misfit()
        assert misfit is not None and f"has no {name}" in misfit


def test_parts_of_other_widths_are_named():
    base, wide = sd3.build(), sd3.build()
    wide.transformer = type(wide.transformer).from_config({**wide.transformer.config, "pooled_projection_dim": 64})
    assert "pooled features" in str(CASES["sd3"].ours(wide).family_misfit())
    wide.transformer = type(wide.transformer).from_config({**base.transformer.config, "joint_attention_dim": 40})
    assert "text features 40 wide" in str(CASES["sd3"].ours(wide).family_misfit())
    wide.transformer = type(wide.transformer).from_config({**base.transformer.config, "in_channels": 16})
    assert "16 channels beside a VAE of 8" in str(CASES["sd3"].ours(wide).family_misfit())
    other = flux.build()
    other.transformer = type(other.transformer).from_config({**other.transformer.config, "joint_attention_dim": 24})
    assert "text features 24 wide" in str(CASES["flux_dev"].ours(other).family_misfit())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"height": 30}, "height is 30; give a positive multiple of 8"),
        ({"width": 36}, "width is 36; give a positive multiple of 8"),
        ({"height": 0}, "height is 0"),
        ({"weighted_prompts": True}, "weighted_prompts is True"),
        ({"deep_features_every": 2}, "deep_features_every is 2"),
        ({"eta": 0.5}, "eta is 0.5"),
        ({"prompt_embeds": torch.zeros(2, 3, 4), "negative_prompt_embeds": torch.zeros(2, 3, 4)}, "prompt_embeds"),
    ],
)
def test_bad_input_is_named(pipeline, arguments, message):
    with pytest.raises(ValueError, match=message):
        pipeline(NAMES, num_inference_steps=1, **{"height": 32, "width": 32, **arguments})


def test_a_size_beyond_the_learned_positions_is_named(case, pipeline):
    if case.family == "flux":
        assert pipeline.latent_shape(256, 128) == (4, 128, 64)
        return
    assert pipeline.latent_shape(64, 64) == (8, 32, 32)
    with pytest.raises(ValueError, match="width is 72; the model knows positions up to 64 pixels"):
        pipeline.latent_shape(64, 72)


def test_guidance_of_a_distilled_model_is_refused(case, pipeline):
    if pipeline.guidance != "none":
        assert pipeline.default_guidance_scale > 1 and pipeline.default_num_inference_steps == 28
        return
    assert pipeline.default_num_inference_steps == 4
    with pytest.raises(ValueError, match=r"guidance_scale is 3\.5, which has no effect on this distilled model"):
        pipeline(NAMES, guidance_scale=3.5, height=32, width=32)


def test_a_prompt_longer_than_any_text_encoder_reads_is_named(case, pipeline):
    readable = {"sd3": 255 // 2, "flux": 511 // 2}[case.family] if "t5" not in str(case.options) else 75
    fits = "a " * readable
    pipeline.check_prompt_lengths([fits])
    with pytest.raises(ValueError, match=r"class name 'star' gives a prompt of \d+ tokens"):
        pipeline(["star"], prompts=[fits + "a a a a"], height=32, width=32, num_inference_steps=1)


def test_given_conditioning_is_a_record(pipeline):
    record = pipeline.batch(pipeline.encode(PROMPTS))
    assert pipeline.given_conditioning(record) is record and isinstance(record, Conditioning)
    assert set(record.tensors) == {"encoder_hidden_states", "pooled_projections"}
