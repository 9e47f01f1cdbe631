"""Sana, PixArt-Sigma, CogView4 and Lumina 2 against diffusers' own pipelines, and their promises about batches."""

import importlib
import inspect
import os
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model_state_dict, inject_adapter_in_model
from peft.tuners.lora import LoraLayer

from support import ROOT
from ubgen_pipeline.call_arguments import TextSettings
from ubgen_pipeline.initial_latents import draw_latents
from ubgen_pipeline.latent_denoising import denoising_steps
from ubgen_pipeline.models.families import FAMILIES
from ubgen_pipeline.models.loading import load_lora

NAMES = ["circle", "star"]
# of other lengths, on both sides of the 16 tokens that CogView4 counts in
PROMPTS = ["a circle", "a photo of a star in the evening"]
# equal arithmetic, but for what a kernel may choose per call and for the length that a prompt is filled up to
TOLERANCE = 1e-5


@dataclass(frozen=True)
class Case:
    """A family: its name in the registry, what switches off in the stock call what ours has not, and the unit of
    sizes."""

    name: str
    stock_settings: dict[str, Any]
    unit: int = 8

    @property
    def module(self) -> Any:
        """The fixture."""
        return importlib.import_module(f"support.tiny_models.{self.name.replace('-', '_')}")

    def build(self) -> Any:
        """Diffusers' own pipeline, tiny."""
        return self.module.build()


AS_ASKED = {"use_resolution_binning": False, "clean_caption": False}
CASES = (
    Case("sana", AS_ASKED),
    Case("pixart-sigma", AS_ASKED),
    Case("cogview4", {}),
    Case("lumina2", {}, unit=16),
)


@pytest.fixture(scope="module", params=CASES, ids=lambda case: case.name)
def case(request) -> Case:
    return request.param


@pytest.fixture(scope="module")
def stock(case):
    pipeline = case.build()
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def ours_of(case, stock):
    pipeline = FAMILIES[case.name].pipeline_class()(**stock.components)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="module")
def pipeline(case, stock):
    return ours_of(case, stock)


def stock_images(case, stock, prompts, noise, **settings):
    """Drawn one by one, since CogView4's own call fills prompts up to the longest of the batch, and reads the rest."""
    return torch.cat(
        [
            stock([prompt], latents=row[None].clone(), output_type="pt", **case.stock_settings, **settings).images
            for prompt, row in zip(prompts, noise, strict=True)
        ]
    )


@pytest.mark.parametrize("guidance_scale", [1.0, 3.0])
@pytest.mark.parametrize("size", [(32, 32), (96, 64)])
def test_images_equal_the_stock_call(case, stock, pipeline, guidance_scale, size):
    settings = {"height": size[0], "width": size[1], "num_inference_steps": 3, "guidance_scale": guidance_scale}
    ours = pipeline(NAMES, prompts=PROMPTS, output_type="pt", **settings)
    noise = draw_latents(ours.seeds, pipeline.latent_shape(*size))
    expected = stock_images(case, stock, PROMPTS, noise, **settings)
    assert ours.images.shape == (2, 3, *size) and ours.images.std() > 0.01
    torch.testing.assert_close(ours.images, expected, rtol=0, atol=TOLERANCE)


def test_defaults_are_those_of_the_stock_call(case, stock, pipeline):
    parameters = inspect.signature(type(stock).__call__).parameters
    assert pipeline.default_num_inference_steps == parameters["num_inference_steps"].default
    assert pipeline.default_guidance_scale == parameters["guidance_scale"].default
    assert pipeline.max_sequence_length == parameters["max_sequence_length"].default


def test_negative_prompts_equal_the_stock_call_and_matter(case, stock, pipeline):
    settings = {"height": 32, "width": 32, "num_inference_steps": 3, "guidance_scale": 4.0}
    ours = pipeline(NAMES, negative_prompt=["a heart", ""], output_type="pt", **settings)
    noise = draw_latents(ours.seeds, pipeline.latent_shape(32, 32))
    expected = [
        stock_images(case, stock, [prompt], row[None], negative_prompt=negative, **settings)
        for prompt, negative, row in zip(NAMES, ["a heart", ""], noise, strict=True)
    ]
    torch.testing.assert_close(ours.images, torch.cat(expected), rtol=0, atol=TOLERANCE)
    plain = pipeline(NAMES, output_type="pt", **settings).images
    assert (ours.images[0] - plain[0]).abs().max() > 10 * TOLERANCE


def test_an_image_does_not_depend_on_its_batch(pipeline):
    settings = {"height": 32, "width": 32, "num_inference_steps": 3, "output_type": "pt"}
    together = pipeline(NAMES, prompts=PROMPTS, num_images_per_class=2, **settings)
    in_parts = pipeline(NAMES, prompts=PROMPTS, num_images_per_class=2, batch_size=3, **settings)
    alone = pipeline([NAMES[0]], prompts=PROMPTS[:1], seeds=together.seeds[1:2], **settings)
    torch.testing.assert_close(in_parts.images, together.images, rtol=0, atol=TOLERANCE)
    torch.testing.assert_close(alone.images[0], together.images[1], rtol=0, atol=TOLERANCE)
    assert (together.images[0] - together.images[1]).abs().max() > 100 * TOLERANCE


def test_each_prompt_is_encoded_alone(pipeline):
    together = pipeline.encode(PROMPTS)
    for prompt, row in zip(PROMPTS, together, strict=True):
        (alone,) = pipeline.encode([prompt])
        assert alone.tensors.keys() == row.tensors.keys()
        assert all(torch.equal(alone[name], row[name]) for name in row.tensors)


def test_padding_is_left_off_and_masked_when_it_comes_back(case, pipeline):
    lengths = [len(row["encoder_hidden_states"]) for row in pipeline.encode(PROMPTS)]
    assert lengths[0] < lengths[1] < pipeline.max_sequence_length
    batch = pipeline.batch(pipeline.encode(PROMPTS))
    if case.name == "cogview4":
        assert lengths == [16, 48] and [len(row) for row in batch.tensors["encoder_hidden_states"]] == lengths
    else:
        assert batch["encoder_attention_mask"].sum(1).tolist() == lengths


def test_guidance_of_two_lengths_equals_two_predictions(pipeline):
    (latents,) = draw_latents([1], pipeline.latent_shape(32, 32)).split(1)
    timestep = pipeline.timesteps(3, tuple(latents.shape[1:]))[1]
    prompt, negative = (pipeline.batch(pipeline.encode([text])) for text in reversed(PROMPTS))
    with torch.no_grad():
        both = pipeline.predict(torch.cat([latents] * 2), timestep, prompt.guided(negative))
        apart = [pipeline.predict(latents, timestep, rows) for rows in (negative, prompt)]
    assert both.shape == (2, *latents.shape[1:])
    torch.testing.assert_close(both, torch.cat(apart), rtol=0, atol=TOLERANCE)


def with_lora(case, dtype=torch.float32):
    stock = case.build()
    pipeline = ours_of(case, stock)
    for network in pipeline.networks.values():
        network.requires_grad_(False).to(dtype)
    lora = LoraConfig(r=2, lora_alpha=2, init_lora_weights=False, target_modules=list(pipeline.lora_targets))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        inject_adapter_in_model(lora, pipeline.denoiser_network)
    pipeline.denoiser_network.to(dtype)
    return pipeline


def one_reward(pipeline, *, num_steps=1, gradient_steps=None):
    """A smooth function of the guided images of two prompts."""
    with torch.no_grad():
        conditioning = pipeline.batch(pipeline.encode(PROMPTS))
        negative = pipeline.batch(pipeline.encode(["", ""], TextSettings(negative=True)))
    shape = pipeline.latent_shape(32, 32)
    pipeline.timesteps(num_steps, shape)
    *_, last = denoising_steps(
        pipeline.predict,
        pipeline.scheduler,
        draw_latents([1, 2], shape).to(pipeline.denoiser_network.dtype),
        conditioning,
        negative=negative,
        guidance_scale=2.0,
        guide=pipeline.guide,
        gradient_steps=gradient_steps,
    )
    return pipeline.decode(last.latents).square().sum()


@pytest.mark.parametrize("place", [0, -1])
def test_gradient_of_the_lora_equals_finite_differences(case, place):
    pipeline = with_lora(case, torch.float64)
    layer = [layer for layer in pipeline.denoiser_network.modules() if isinstance(layer, LoraLayer)][place]
    weight = layer.lora_B["default"].weight
    (gradient,) = torch.autograd.grad(one_reward(pipeline), weight)
    base, step = weight.detach().clone(), 0.001 * gradient / gradient.norm()
    rewards = []
    with torch.no_grad():
        for moved in (base + step, base - step):
            weight.copy_(moved)
            rewards.append(one_reward(pipeline))
    # along the gradient the slope is its norm
    torch.testing.assert_close((rewards[0] - rewards[1]) / 0.002, gradient.norm(), rtol=0.01, atol=0)


def test_every_lora_matrix_gets_a_gradient(case):
    pipeline = with_lora(case)
    one_reward(pipeline, num_steps=2, gradient_steps={1}).backward()
    trained = {name: p.grad for name, p in pipeline.denoiser_network.named_parameters() if p.requires_grad}
    blocks = {name for name, module in pipeline.denoiser_network.named_modules() if name.endswith("to_q")}
    assert len(trained) == 2 * len(pipeline.lora_targets) * len(blocks)
    assert not [name for name, gradient in trained.items() if gradient is None or not gradient.norm() > 0]


@pytest.fixture(scope="module")
def saved_lora(case, tmp_path_factory):
    """A pipeline with a LoRA, the folder it was written to, and what it draws."""
    folder, pipeline = tmp_path_factory.mktemp("lora"), with_lora(case)
    settings = pipeline.denoiser_network.peft_config["default"].to_dict()
    type(pipeline).save_lora_weights(
        folder,
        transformer_lora_layers=get_peft_model_state_dict(pipeline.denoiser_network),
        transformer_lora_adapter_metadata={
            name: sorted(value) if isinstance(value, set) else value for name, value in settings.items()
        },
    )
    return folder, pipeline(NAMES, **LORA_DRAWING).images


LORA_DRAWING = {"height": 32, "width": 32, "num_inference_steps": 2, "output_type": "pt"}


def test_a_lora_draws_the_same_in_plain_diffusers(case, pipeline, saved_lora):
    folder, expected = saved_lora
    stock = case.build()
    stock.set_progress_bar_config(disable=True)
    if case.name == "pixart-sigma":
        # diffusers has no loader for this denoiser, so that peft reads its own file
        stock.transformer = PeftModel.from_pretrained(stock.transformer, folder).base_model.model
    else:
        stock.load_lora_weights(folder)
    seeds = pipeline(NAMES, **LORA_DRAWING).seeds
    noise = draw_latents(seeds, pipeline.latent_shape(32, 32))
    settings = {name: LORA_DRAWING[name] for name in ("height", "width", "num_inference_steps")}
    drawn = stock_images(case, stock, NAMES, noise, **settings)
    torch.testing.assert_close(drawn, expected, rtol=0, atol=TOLERANCE)


def test_a_lora_is_loaded_scaled_fused_and_taken_off(case, pipeline, saved_lora):
    folder, expected = saved_lora
    again = ours_of(case, case.build())
    plain = again(NAMES, **LORA_DRAWING).images
    load_lora(again, folder)
    torch.testing.assert_close(again(NAMES, **LORA_DRAWING).images, expected, rtol=0, atol=TOLERANCE)
    assert (expected - plain).abs().max() > 100 * TOLERANCE

    none = again(NAMES, **LORA_DRAWING, cross_attention_kwargs={"scale": 0.0}).images
    torch.testing.assert_close(none, plain, rtol=0, atol=TOLERANCE)
    half = again(NAMES, **LORA_DRAWING, cross_attention_kwargs={"scale": 0.5}).images
    assert (half - plain).abs().max() > 10 * TOLERANCE < (half - expected).abs().max()
    torch.testing.assert_close(again(NAMES, **LORA_DRAWING).images, expected, rtol=0, atol=TOLERANCE)

    # half of it once and half of it twice is all of it
    load_lora(again, folder)
    names = again.get_list_adapters()["transformer"]
    again.set_adapters(names, [0.5, 0.5])
    torch.testing.assert_close(again(NAMES, **LORA_DRAWING).images, expected, rtol=0, atol=TOLERANCE)

    again.fuse_lora()
    again.unload_lora_weights()
    assert not [module for module in again.transformer.modules() if isinstance(module, LoraLayer)]
    torch.testing.assert_close(again(NAMES, **LORA_DRAWING).images, expected, rtol=0, atol=10 * TOLERANCE)


def test_a_lora_of_a_wider_model_is_refused_and_changes_nothing(case, saved_lora):
    folder, _ = saved_lora
    width = "num_heads" if "num_heads" in inspect.signature(case.module.build).parameters else "head_dim"
    wider = FAMILIES[case.name].pipeline_class()(
        **case.module.build(**{width: 16 if width == "head_dim" else 4}).components
    )
    with pytest.raises(ValueError, match="does not fit the model: transformer"):
        load_lora(wider, folder)
    assert not [module for module in wider.transformer.modules() if isinstance(module, LoraLayer)]


def test_encoded_images_are_what_decoding_undoes(case, stock, pipeline):
    images = torch.rand(2, 3, 32, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        latents = pipeline.encode_images(images)
        assert torch.equal(latents, pipeline.encode_images(images))
        assert tuple(latents.shape[1:]) == pipeline.latent_shape(32, 64)
        encoded = stock.vae.encode(images * 2 - 1)
        code = encoded.latent if case.name == "sana" else encoded.latent_dist.mode()
        expected = stock.vae.decode(code).sample / 2 + 0.5
        torch.testing.assert_close(pipeline.decode(latents), expected, rtol=0, atol=TOLERANCE)


def test_an_image_is_drawn_from_another(pipeline):
    source = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    region = torch.zeros(2, 32, 32, dtype=torch.bool)
    region[:, :, 16:] = True
    settings = {"height": 32, "width": 32, "num_inference_steps": 4, "output_type": "pt", "source_images": source}
    varied = pipeline(NAMES, strength=0.5, **settings).images
    kept = pipeline(NAMES, strength=0.5, regions=region, **settings).images
    keeps = ~region[:, None].expand_as(source)
    assert torch.equal(kept[keeps], source[keeps]) and (kept - source)[~keeps].abs().max() > 0.01
    assert (varied - source)[keeps].abs().max() > 0.01


def test_at_full_strength_nothing_of_the_source_is_left_but_the_shape(pipeline):
    settings = {"height": 32, "width": 32, "num_inference_steps": 3, "output_type": "pt"}
    source = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    drawn = pipeline(NAMES, **settings).images
    again = pipeline(NAMES, source_images=source, strength=1.0, **settings).images
    # schedules end a little before pure noise
    assert (again - drawn).abs().mean() < 0.1 * (again - source).abs().mean()


@pytest.mark.parametrize("side", ["height", "width"])
def test_a_size_between_the_patches_is_refused_with_the_sizes_that_fit(case, pipeline, side):
    with pytest.raises(ValueError, match=rf"{side} is {case.unit + 4}; give a positive multiple of {case.unit}\."):
        pipeline(NAMES, **{side: case.unit + 4}, num_inference_steps=1)


def test_a_prompt_that_would_be_cut_is_named(pipeline):
    with pytest.raises(ValueError, match="class name 'star' gives a prompt of"):
        pipeline(NAMES, prompts=["a circle", "a " * 1100], num_inference_steps=1)


def test_the_longest_prompt_is_read_to_its_end(pipeline):
    """The limit is exact: at it the last letter still matters."""
    longest = next(n for n in range(1100, 0, -1) if fits(pipeline, "a" * n))
    ends = [pipeline.encode(["a" * (longest - 1) + letter])[0] for letter in "bc"]
    assert not torch.equal(*[row["encoder_hidden_states"] for row in ends])


def fits(pipeline, prompt):
    try:
        pipeline.check_prompt_lengths([prompt])
    except ValueError:
        return False
    return True


DRAW = """
import sys
import numpy as np
from diffusers import DiffusionPipeline

sys.modules["ubgen_pipeline"] = None  # importing it is an error now
model, output, *custom = sys.argv[1:]
settings = {"custom_pipeline": custom[0]} if custom else {}
pipeline = DiffusionPipeline.from_pretrained(model, trust_remote_code=True, **settings)
assert type(pipeline).__module__.startswith("diffusers_modules."), type(pipeline)
drawn = pipeline(["circle", "star"], num_inference_steps=2, height=32, width=32, output_type="np")
np.save(output, drawn.images)
pipeline.save_pretrained(output + ".model")
"""


def test_the_file_is_a_custom_pipeline_without_ubgen(case, stock, pipeline, tmp_path):
    stock.save_pretrained(tmp_path / "model")
    (tmp_path / "draw.py").write_text(DRAW)
    environment = {**os.environ, "HF_HOME": str(tmp_path / "hf"), "HF_MODULES_CACHE": str(tmp_path / "modules")}
    expected = pipeline(NAMES, num_inference_steps=2, height=32, width=32, output_type="np").images
    code = ROOT / "ubgen_pipeline" / f"{FAMILIES[case.name].module}.py"
    for arguments in ([tmp_path / "model", tmp_path / "a.npy", code], [tmp_path / "a.npy.model", tmp_path / "b.npy"]):
        command = [sys.executable, "draw.py", *map(str, arguments)]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        np.testing.assert_allclose(np.load(arguments[1]), expected, rtol=0, atol=TOLERANCE)


def test_a_saved_model_reloads_through_the_class(case, pipeline, tmp_path):
    pipeline.save_pretrained(tmp_path)
    again = FAMILIES[case.name].pipeline_class().from_pretrained(tmp_path)
    again.set_progress_bar_config(disable=True)
    settings = {"num_inference_steps": 2, "height": 32, "width": 32, "output_type": "pt"}
    assert torch.equal(again(NAMES, **settings).images, pipeline(NAMES, **settings).images)
