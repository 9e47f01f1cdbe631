"""Z-Image, FLUX.2 and Qwen-Image against diffusers' own calls, and their promises about batches, LoRA and images."""

import copy
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.pipelines.flux2.pipeline_flux2 import format_input
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from torch.overrides import TorchFunctionMode

from support.tiny_models import flux2, qwen_image, z_image
from ubgen_pipeline.flux2_parts import Flux2Parts
from ubgen_pipeline.initial_latents import draw_latents
from ubgen_pipeline.latent_denoising import denoising_steps
from ubgen_pipeline.pipeline_flux2 import UbGenFlux2KleinPipeline
from ubgen_pipeline.pipeline_flux2_dev import UbGenFlux2Pipeline
from ubgen_pipeline.pipeline_qwen_image import UbGenQwenImagePipeline
from ubgen_pipeline.pipeline_z_image import UbGenZImagePipeline

# equal arithmetic up to the order of guidance's two products
STOCK_TOLERANCE = 1e-5
# batches of other sizes, and fillings of other lengths, round differently
BATCH_TOLERANCE = 1e-4
SIZES = [(32, 32), (24, 48), (40, 32)]
SHORT, LONG = "a circle", "a very long red star on a blue field at night"


@dataclass(frozen=True)
class Case:
    """A tiny model, and how diffusers' own pipeline draws with it.

    ``negative`` tells whether the family is guided away from a negative prompt, ``stock`` gives the stock call's
    arguments for a guidance scale that counts from 1.
    """

    build: Callable[[], Any]
    pipeline_class: Any
    stock: Callable[[float], dict[str, Any]]
    negative: bool = True
    own: dict[str, Any] = field(default_factory=dict)


# FLUX.2 fills its prompts up to this length
LENGTH = 256
FLUX2 = {"text_encoder_out_layers": (1, 2, 3), "max_sequence_length": LENGTH}
CASES = {
    "z_image": Case(z_image.build, UbGenZImagePipeline, lambda scale: {"guidance_scale": scale - 1}),
    "klein": Case(
        partial(flux2.build, "klein"),
        UbGenFlux2KleinPipeline,
        lambda scale: {"guidance_scale": 1.0, **FLUX2},
        negative=False,
        own={"is_distilled": True},
    ),
    "klein_base": Case(
        partial(flux2.build, "klein-base"),
        UbGenFlux2KleinPipeline,
        lambda scale: {"guidance_scale": scale, **FLUX2},
    ),
    "dev": Case(
        partial(flux2.build, "dev"),
        UbGenFlux2Pipeline,
        lambda scale: {"guidance_scale": scale, **FLUX2},
        negative=False,
    ),
    "qwen_image": Case(
        qwen_image.build,
        UbGenQwenImagePipeline,
        lambda scale: {"true_cfg_scale": scale, "negative_prompt": [""]},
    ),
}
GUIDED = [name for name, case in CASES.items() if case.negative]


@pytest.fixture(scope="module")
def stock_pipelines():
    return {name: _quiet(case.build()) for name, case in CASES.items()}


@pytest.fixture(params=CASES)
def name(request):
    return request.param


@pytest.fixture
def pipeline(name, stock_pipelines):
    return _ours(name, stock_pipelines[name])


def _quiet(pipeline):
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _ours(name, stock):
    """Our pipeline on the stock pipeline's networks."""
    case = CASES[name]
    scheduler = type(stock.scheduler).from_config(stock.scheduler.config)
    pipeline = _quiet(case.pipeline_class(**{**stock.components, "scheduler": scheduler}, **case.own))
    pipeline.max_sequence_length = LENGTH
    return pipeline


def _stock_images(name, stock, prompts, noise, size, guidance_scale, **more):
    """Each prompt drawn alone: Qwen-Image's own call fills prompts up to the longest beside them."""
    images = []
    for prompt, row in zip(prompts, noise):
        latents = row[None].clone()
        if name == "qwen_image":
            latents = stock._pack_latents(latents, *latents.shape)
        settings = {**CASES[name].stock(guidance_scale), **more}
        drawn = stock(
            prompt=[prompt],
            latents=latents,
            height=size[0],
            width=size[1],
            num_inference_steps=3,
            output_type="pt",
            **settings,
        )
        images.append(drawn.images)
    return torch.cat(images)


def _draw(pipeline, prompts, noise, size=(32, 32), **settings):
    settings = {"num_inference_steps": 3, "height": size[0], "width": size[1], **settings}
    return pipeline(["thing"] * len(prompts), prompts=prompts, latents=noise, output_type="pt", **settings).images


def _scale(name, scale):
    """The argument of our call: distilled models take none."""
    return {} if name == "klein" else {"guidance_scale": scale}


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("guidance_scale", [1.0, 3.0])
def test_images_equal_the_stock_call(name, pipeline, stock_pipelines, size, guidance_scale):
    prompts = [SHORT, LONG]
    noise = draw_latents([1, 2], pipeline.latent_shape(*size))
    stock = _stock_images(name, stock_pipelines[name], prompts, noise, size, guidance_scale)
    ours = torch.cat(
        [_draw(pipeline, [p], row[None], size, **_scale(name, guidance_scale)) for p, row in zip(prompts, noise)]
    )
    assert ours.shape == (2, 3, *size) and ours.std() > 0.02
    torch.testing.assert_close(ours, stock, rtol=0, atol=STOCK_TOLERANCE)


@pytest.mark.parametrize("name", GUIDED, indirect=True)
def test_an_image_is_guided_away_from_its_negative_prompt(name, pipeline, stock_pipelines):
    noise = draw_latents([3], pipeline.latent_shape(32, 32))
    ours = _draw(pipeline, [SHORT], noise, negative_prompt="a red field", guidance_scale=3.0)
    # klein takes no negative prompt in its call, but its features
    more: dict[str, Any] = {"negative_prompt": ["a red field"]}
    if name == "klein_base":
        more = {"negative_prompt_embeds": pipeline.batch(pipeline.encode(["a red field"]))["encoder_hidden_states"]}
    stock = _stock_images(name, stock_pipelines[name], [SHORT], noise, (32, 32), 3.0, **more)
    torch.testing.assert_close(ours, stock, rtol=0, atol=STOCK_TOLERANCE)
    plain = _draw(pipeline, [SHORT], noise, guidance_scale=3.0)
    assert (ours - plain).abs().max() > 1e-3


def test_an_image_does_not_depend_on_the_others_of_its_batch(name, pipeline):
    noise = draw_latents([1, 2, 3], pipeline.latent_shape(32, 32))
    prompts = [SHORT, LONG, "x"]
    together = _draw(pipeline, prompts, noise, **_scale(name, 3.0))
    for place, prompt in enumerate(prompts):
        alone = _draw(pipeline, [prompt], noise[place][None], **_scale(name, 3.0))
        torch.testing.assert_close(together[place][None], alone, rtol=0, atol=BATCH_TOLERANCE)
    assert (together[0] - together[1]).abs().max() > 0.05


def test_features_do_not_depend_on_other_prompts_and_the_callers_list_stays(pipeline):
    prompts = [SHORT, LONG, SHORT]
    rows = pipeline.encode(prompts)
    assert prompts == [SHORT, LONG, SHORT]
    (alone,) = pipeline.encode([LONG])
    for key, value in alone.tensors.items():
        assert torch.equal(rows[1].tensors[key], value)
    assert rows[0] is rows[2]


def test_images_become_latents_and_images_again_by_the_vaes_own_scaling(pipeline):
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        latents = pipeline.encode_images(images)
        assert latents.shape == (2, *pipeline.latent_shape(32, 32))
        assert torch.equal(latents, pipeline.encode_images(images))
        pixels = images * 2 - 1
        is_video = isinstance(pipeline, UbGenQwenImagePipeline)
        plain = pipeline.vae.encode(pixels[:, :, None] if is_video else pixels).latent_dist.mode()
        decoded = pipeline.vae.decode(plain, return_dict=False)[0]
        expected = (decoded[:, :, 0] if is_video else decoded) / 2 + 0.5
        torch.testing.assert_close(pipeline.decode(latents), expected, rtol=0, atol=1e-5)


def _with_lora(pipeline, std=0.3):
    """The pipeline with the denoiser copied and a LoRA on all that the family targets; gives the LoRA's weights."""
    pipeline.transformer = copy.deepcopy(pipeline.transformer)
    network = pipeline.transformer.requires_grad_(False)
    network.add_adapter(LoraConfig(r=2, lora_alpha=2, target_modules=list(pipeline.lora_targets)))
    torch.manual_seed(0)
    weights = {key: weight for key, weight in network.named_parameters() if "lora" in key}
    for weight in weights.values():
        torch.nn.init.normal_(weight, std=std)
    return weights


def _sample(pipeline, noise, guidance_scale, gradient_steps=None):
    """Images of our loop, with gradient."""
    conditioning, negative = (pipeline.batch(pipeline.encode(texts)) for texts in ([SHORT, LONG], ["", ""]))
    conditioning, scale = pipeline.with_guidance(conditioning, guidance_scale)
    pipeline.timesteps(2, noise.shape[1:])
    steps = denoising_steps(
        pipeline.predict,
        pipeline.scheduler,
        noise,
        conditioning,
        negative=negative,
        guidance_scale=scale,
        guide=pipeline.guide,
        gradient_steps=gradient_steps,
    )
    *_, last = steps
    return pipeline.decode(last.latents)


def test_every_matrix_of_the_lora_gets_the_right_gradient(name, pipeline):
    pipeline.text_encoder.requires_grad_(False)
    pipeline.vae.requires_grad_(False)
    weights = _with_lora(pipeline)
    noise = draw_latents([1, 2], pipeline.latent_shape(32, 32))

    def loss():
        return _sample(pipeline, noise, 3.0, gradient_steps=[0, 1]).square().mean()

    loss().backward()
    without = [key for key, weight in weights.items() if weight.grad is None or not weight.grad.abs().max() > 0]
    assert not without
    # along one direction of all weights at once; in double precision, but for the scheduler, which rounds to float32
    for part in (pipeline.transformer, pipeline.vae, pipeline.text_encoder):
        part.double()
    noise = noise.double()
    for weight in weights.values():
        weight.grad = None
    loss().backward()
    generator = torch.Generator().manual_seed(1)
    direction = {key: torch.randn(w.shape, generator=generator, dtype=w.dtype) for key, w in weights.items()}
    slope = sum((weight.grad * direction[key]).sum() for key, weight in weights.items())
    values = []
    for step in (1e-3, -1e-3):
        with torch.no_grad():
            for key, weight in weights.items():
                weight += step * direction[key]
            values.append(loss())
            for key, weight in weights.items():
                weight -= step * direction[key]
    for part in (pipeline.vae, pipeline.text_encoder):
        part.float()
    torch.testing.assert_close((values[0] - values[1]) / 2e-3, slope, rtol=1e-2, atol=1e-6)


def test_a_lora_reloads_in_plain_diffusers_to_the_same_image(name, pipeline, stock_pipelines, tmp_path):
    noise = draw_latents([1], pipeline.latent_shape(32, 32))
    plain = _draw(pipeline, [SHORT], noise, **_scale(name, 3.0))
    _with_lora(pipeline)
    layers = get_peft_model_state_dict(pipeline.transformer)
    assert any("single_transformer_blocks.1.attn.to_out.lora_A" in key for key in layers) == isinstance(
        pipeline, Flux2Parts
    )
    pipeline.save_lora_weights(tmp_path, transformer_lora_layers=layers)
    ours = _draw(pipeline, [SHORT], noise, **_scale(name, 3.0))
    assert (ours - plain).abs().max() > 0.01
    stock = CASES[name].build()
    _quiet(stock).load_lora_weights(tmp_path)
    theirs = _stock_images(name, stock, [SHORT], noise, (32, 32), 3.0)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=STOCK_TOLERANCE)


def test_an_image_begins_with_another_and_keeps_what_lies_outside_its_region(name, pipeline):
    size = (32, 48)
    images = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0))
    regions = torch.zeros(2, *size, dtype=torch.bool)
    regions[:, 8:24, 8:24] = True
    settings = {
        "height": size[0],
        "width": size[1],
        "num_inference_steps": 4,
        **_scale(name, 2.0),
    }

    def draw(**more):
        return pipeline(["circle", "star"], source_images=images, output_type="pt", **settings, **more).images

    little, much = draw(strength=0.25), draw(strength=1.0)
    with torch.no_grad():
        alike = pipeline.decode(pipeline.encode_images(images)).clamp(0, 1)
    assert (little - alike).abs().mean() < (much - alike).abs().mean()
    drawn = draw(strength=0.75, regions=regions)
    outside = ~regions[:, None].expand_as(images)
    assert torch.equal(drawn[outside], images[outside])
    assert (drawn - images)[~outside].abs().mean() > 0.05


def test_saved_and_reloaded_it_draws_the_same(name, pipeline, tmp_path):
    noise = draw_latents([1], pipeline.latent_shape(32, 32))
    pipeline.save_pretrained(tmp_path)
    again = _quiet(CASES[name].pipeline_class.from_pretrained(tmp_path))
    again.max_sequence_length = LENGTH
    drawn = [_draw(each, [SHORT], noise, **_scale(name, 3.0)) for each in (pipeline, again)]
    torch.testing.assert_close(*drawn, rtol=0, atol=STOCK_TOLERANCE)
    twin = again.with_scheduler(type(again.scheduler).from_config(again.scheduler.config))
    assert (twin.guidance, twin.default_guidance_scale) == (pipeline.guidance, pipeline.default_guidance_scale)


def test_sizes_that_do_not_fit_are_named(pipeline):
    with pytest.raises(ValueError, match="height is 36; give a positive multiple of 8"):
        pipeline.latent_shape(36, 32)


def test_the_size_must_fit_factor_and_patch():
    # eight pixels a latent, two latents a patch
    stock = z_image.build()
    pipeline = UbGenZImagePipeline(**stock.components)
    pipeline.vae_scale_factor = 8
    assert pipeline.latent_shape(48, 32) == (8, 6, 4)
    assert pipeline.latent_shape() == (8, 128, 128)
    with pytest.raises(ValueError, match="width is 40; give a positive multiple of 16"):
        pipeline.latent_shape(48, 40)


def test_a_prompt_that_would_be_cut_is_refused_with_its_class(pipeline):
    length = 1024 if isinstance(pipeline, UbGenQwenImagePipeline) else LENGTH
    pipeline.check_prompt_lengths([SHORT, LONG])
    with pytest.raises(ValueError, match=rf"class name 'late' gives a prompt of \d+ tokens.*takes {length}"):
        pipeline.check_prompt_lengths([SHORT, "x" * (length + 1)], ["early", "late"])


def test_klein_is_distilled_as_its_configuration_says(stock_pipelines):
    klein, base = (_ours(name, stock_pipelines[name]) for name in ("klein", "klein_base"))
    assert (klein.guidance, klein.default_num_inference_steps, klein.default_guidance_scale) == ("none", 4, 1.0)
    assert (base.guidance, base.default_num_inference_steps, base.default_guidance_scale) == ("classifier-free", 50, 4)
    with pytest.raises(ValueError, match=r"guidance_scale is 3\.0, which has no effect"):
        klein(["circle"], guidance_scale=3.0)


def test_turbo_is_known_by_its_name_and_after_it_was_saved(stock_pipelines, tmp_path):
    stock = stock_pipelines["z_image"]
    stock.save_pretrained(tmp_path / "Z-Image-Turbo")
    turbo = UbGenZImagePipeline.from_pretrained(tmp_path / "Z-Image-Turbo")
    assert (turbo.guidance, turbo.default_num_inference_steps, turbo.default_guidance_scale) == ("none", 8, 1.0)
    with pytest.raises(ValueError, match=r"guidance_scale is 3\.0, which has no effect"):
        turbo(["circle"], guidance_scale=3.0)
    turbo.save_pretrained(tmp_path / "renamed")
    again = UbGenZImagePipeline.from_pretrained(tmp_path / "renamed")
    assert again.is_distilled and again.with_scheduler(again.scheduler).is_distilled
    base = UbGenZImagePipeline(**stock.components)
    assert (base.guidance, base.default_num_inference_steps, base.default_guidance_scale) == ("classifier-free", 50, 5)
    assert UbGenZImagePipeline.from_pretrained(tmp_path / "renamed", is_distilled=False).guidance == "classifier-free"


@pytest.mark.parametrize(
    ("path", "is_turbo"),
    [
        ("Tongyi-MAI/Z-Image-Turbo", True),
        ("/cache/models--Tongyi-MAI--Z-Image-Turbo/snapshots/0123abc", True),
        ("Tongyi-MAI/Z-Image", False),
        ("/models/turbo/z-image", False),
    ],
)
def test_names_of_turbo(stock_pipelines, path, is_turbo):
    pipeline = UbGenZImagePipeline(**stock_pipelines["z_image"].components)
    pipeline.register_to_config(_name_or_path=path)
    assert pipeline.is_distilled == is_turbo


def test_z_image_keeps_its_latents_in_float32(stock_pipelines):
    pipeline = _ours("z_image", stock_pipelines["z_image"])
    pipeline.transformer = copy.deepcopy(pipeline.transformer).to(torch.bfloat16)
    (row,) = pipeline.encode([SHORT])
    conditioning = pipeline.batch([row]).map(lambda features: features.bfloat16())
    latents = draw_latents([1], pipeline.latent_shape(32, 32))
    prediction = pipeline.predict(latents, torch.tensor(500.0), conditioning)
    assert pipeline.latents_dtype == prediction.dtype == torch.float32


@pytest.mark.parametrize(("kind", "num_layers"), [("klein-base", 36), ("dev", 40)])
def test_flux2_reads_the_text_encoders_layers_of_the_stock_call(kind, num_layers):
    stock = flux2.build(kind, num_text_layers=num_layers)
    pipeline = CASES[kind.replace("-", "_")].pipeline_class(**stock.components)
    quarter = num_layers // 4
    assert pipeline.text_layers() == (quarter, 2 * quarter, 3 * quarter)
    plain, _ = stock.encode_prompt(SHORT)
    (row,) = pipeline.encode([SHORT])
    assert torch.equal(row["encoder_hidden_states"], plain[0])


def test_flux2_with_guidance_embeds_or_without(stock_pipelines):
    noise = draw_latents([1], (16, 8, 8))
    dev = _ours("dev", stock_pipelines["dev"])
    assert dev.guidance == "embedded"
    low, high = (_draw(dev, [SHORT], noise, guidance_scale=scale) for scale in (1.0, 8.0))
    assert (low - high).abs().max() > 1e-3
    with pytest.raises(ValueError, match="negative_prompt is 'blue'"):
        dev(["circle"], negative_prompt="blue")
    without = _ours("dev", _quiet(flux2.build("dev", guidance_embeds=False)))
    assert without.guidance == "none"
    # klein-base ignores what the transformer could read, as its stock call does
    base = _ours("klein_base", _quiet(flux2.build("klein-base", guidance_embeds=True)))
    assert base.guidance == "classifier-free"


@pytest.mark.parametrize("name", ["z_image", "klein", "dev", "qwen_image"])
def test_parts_of_another_model_are_refused(name, stock_pipelines):
    stock = stock_pipelines[name]
    other = {"z_image": z_image.build, "qwen_image": qwen_image.build}.get(name, partial(flux2.build, name))
    wide = other(text_width=20) if name != "qwen_image" else other(latent_channels=8)
    part = {"text_encoder": wide.text_encoder} if name != "qwen_image" else {"vae": wide.vae}
    case = CASES[name]
    assert _ours(name, stock).family_misfit() is None
    assert "whose transformer takes" in case.pipeline_class(**{**stock.components, **part}).family_misfit()


LOADED_BY_DIFFUSERS = """
import sys
sys.modules["ubgen_pipeline"] = None  # importing it fails
import numpy as np
from diffusers import DiffusionPipeline

model, output, *custom = sys.argv[1:]
settings = {"custom_pipeline": custom[0]} if custom else {}
pipeline = DiffusionPipeline.from_pretrained(model, trust_remote_code=True, **settings)
assert type(pipeline).__module__.startswith("diffusers_modules."), type(pipeline)
pipeline.max_sequence_length = 256
drawn = pipeline(["circle", "star"], seed=3, num_inference_steps=2, height=32, width=32, output_type="np")
assert drawn.labels == [0, 1]
np.save(output, drawn.images)
if custom:
    pipeline.save_pretrained(output + ".model")
"""


@pytest.mark.parametrize("name", ["z_image", "klein", "dev", "qwen_image"])
def test_diffusers_loads_the_file_as_a_custom_pipeline_where_ubgen_is_not(name, stock_pipelines, tmp_path):
    pipeline = _ours(name, stock_pipelines[name])
    stock_pipelines[name].save_pretrained(tmp_path / "model")
    expected = pipeline(
        ["circle", "star"], seed=3, num_inference_steps=2, height=32, width=32, output_type="np"
    ).images
    (tmp_path / "draw.py").write_text(LOADED_BY_DIFFUSERS)
    environment = {**os.environ, "HF_HOME": str(tmp_path / "hf"), "HF_MODULES_CACHE": str(tmp_path / "modules")}
    environment.pop("PYTHONPATH", None)
    output = tmp_path / "images.npy"

    def draw(*arguments):
        command = [sys.executable, "draw.py", *map(str, arguments)]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        np.testing.assert_allclose(np.load(output), expected, rtol=0, atol=STOCK_TOLERANCE)

    draw(tmp_path / "model", output, sys.modules[type(pipeline).__module__].__file__)
    if name == "z_image":
        # what that class saved brings its code along
        draw(tmp_path / "images.npy.model", output)


class Attentions(TorchFunctionMode):
    """Keeps query and key of every attention of as many tokens."""

    def __init__(self, is_wanted):
        super().__init__()
        self.is_wanted, self.seen = is_wanted, []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is torch.nn.functional.scaled_dot_product_attention:
            given = {**dict(zip(("query", "key", "value", "attn_mask"), args)), **kwargs}
            if self.is_wanted(given["key"].shape[-2]):
                self.seen.append(given)
        return func(*args, **kwargs)


# 8 x 12 or 6 x 12 tokens of the image, which Z-Image fills up to multiples of 32
@pytest.mark.parametrize("size", [(32, 48), (24, 48)])
def test_class_maps_are_the_attention_to_the_words_of_the_prompt(name, pipeline, size):
    prompts, words = ["a red star at sea", "a small circle"], ["star", "circle"]
    token_size = pipeline.latent_shape(*size)[1:]
    if name in ("z_image", "qwen_image"):
        token_size = token_size[0] // 2, token_size[1] // 2
    num_image = token_size[0] * token_size[1]
    settings = pipeline.default_mask_settings()
    settings = replace(settings, cross_levels=(0,), self_level=0, self_power=0)
    attention = pipeline.mask_attention
    attention.check(settings)
    texts = [attention.texts(prompt, [word], settings) for prompt, word in zip(prompts, words)]
    conditioning, _ = pipeline.with_guidance(pipeline.batch(pipeline.encode(prompts)), 3.0)
    latents = draw_latents([1, 2], pipeline.latent_shape(*size))
    recorder = attention.recorder(texts, pipeline.latent_shape(*size)[1:], settings, 1)
    with torch.no_grad(), Attentions(lambda num_tokens: num_tokens > num_image + 30) as attentions, recorder:
        pipeline.predict(latents, torch.tensor(500.0), conditioning)
    (maps,) = recorder.result().cross_maps.values()
    # the first block with text and image; refiners of Z-Image see one of the two
    seen = attentions.seen[0]
    ids = _ids_of_features(name, pipeline, prompts)
    for row, word in enumerate(words):
        letters = pipeline.tokenizer(word, add_special_tokens=False).input_ids if name != "dev" else None
        letters = letters or pipeline.tokenizer.tokenizer(word, add_special_tokens=False).input_ids
        (first,) = [p for p in range(len(ids[row])) if ids[row][p : p + len(letters)] == letters]
        places = torch.arange(first, first + len(letters))
        if name == "z_image":
            places += num_image + -num_image % 32
        scores = seen["query"][row] @ seen["key"][row].mT / seen["query"].shape[-1] ** 0.5
        if seen.get("attn_mask") is not None:
            scores = scores.masked_fill(~seen["attn_mask"][row], float("-inf"))
        image = slice(num_image) if name == "z_image" else slice(-num_image, None)
        expected = scores.softmax(-1)[:, image, places].mean(dim=(0, 2))
        torch.testing.assert_close(maps[row, 0].flatten(), expected, rtol=1e-4, atol=1e-7)


def _ids_of_features(name, pipeline, prompts):
    """The token of each of the text features, as the stock pipelines make them."""
    ids = []
    for prompt in prompts:
        if name == "dev":
            messages = format_input([prompt], pipeline.system_message)
            tokens = pipeline.tokenizer.apply_chat_template(
                messages, tokenize=True, return_dict=True, padding="max_length", max_length=LENGTH
            )
            ids.append(tokens["input_ids"][0].tolist())
        elif name == "qwen_image":
            text = pipeline.prompt_template_encode.format(prompt)
            ids.append(pipeline.tokenizer(text).input_ids[pipeline.prompt_template_encode_start_idx :])
        else:
            message = {"role": "user", "content": prompt}
            text = pipeline.tokenizer.apply_chat_template([message], tokenize=False, add_generation_prompt=True)
            filled = {"padding": "max_length", "max_length": LENGTH} if name != "z_image" else {}
            ids.append(pipeline.tokenizer(text, **filled).input_ids)
    return ids


def test_annotations_change_no_image(name, pipeline):
    noise = draw_latents([1, 2], pipeline.latent_shape(32, 48))
    settings = {"seeds": [1, 2], "height": 32, "width": 48, "num_inference_steps": 2, "output_type": "pt"}
    settings |= {"prompts": ["a red star", "one circle at sea"], "latents": noise, **_scale(name, 2.0)}
    plain = pipeline(["star", "circle"], **settings)
    drawn = pipeline(["star", "circle"], annotations=["mask", "heatmap"], **settings)
    # class words are appended to a prompt that does not end with them
    again = pipeline(["star", "circle"], **{**settings, "prompts": drawn.prompts})
    assert torch.equal(drawn.images, again.images) and drawn.prompts[1] != plain.prompts[1]
    assert drawn.masks[0].shape == (32, 48) and set(np.unique(drawn.masks[0])) <= {0, 1, 255}
