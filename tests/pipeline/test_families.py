"""What every family of the registry must do, on its tiny models: see ``support/family_models.py``.

Diffusers' own pipelines are the reference. Prompts have other lengths, and sizes are no squares, so that what a batch
is made of would show.
"""

import inspect
import json
from bisect import bisect_left
from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers.utils.dynamic_modules_utils import get_relative_imports
from peft import LoraConfig, PeftModel, get_peft_model_state_dict, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from torch.overrides import TorchFunctionMode

from support import ROOT
from support.family_models import CASES, FAMILY_NAMES, QUICK, TinyModels, own_pipeline, tiny_pipeline
from ubgen_pipeline.call_arguments import TextSettings
from ubgen_pipeline.class_tokens import fit_prompt
from ubgen_pipeline.initial_latents import step_generators
from ubgen_pipeline.latent_denoising import denoising_steps
from ubgen_pipeline.mask_settings import MaskSettings
from ubgen_pipeline.models.families import FAMILIES
from ubgen_pipeline.models.loading import FLOW_SCHEDULERS, load_pipeline, set_scheduler
from ubgen_pipeline.models.lora_loading import load_lora
from ubgen_pipeline.scheduler_noise import is_flow_scheduler

PROMPTS = ["a circle", "a photo of a star in the evening"]
# equal arithmetic, but for what a kernel may choose per call; and for batches of other sizes and fillings
TOLERANCE, BATCH_TOLERANCE = 1e-5, 1e-4


@pytest.fixture(scope="module", params=CASES)
def case(request):
    return CASES[request.param]


# those with distinct code; other kinds differ in numbers alone
@pytest.fixture(scope="module", params=FAMILY_NAMES)
def family(request):
    return CASES[request.param]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return TinyModels(tmp_path_factory.mktemp("models"))


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


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"height": 36}, r"height is 36; give a positive multiple of \d+, of which (32|40) is nearest"),
        ({"width": -8}, r"width is -8; give a positive multiple"),
        ({"weighted_prompts": True}, "weighted_prompts is True"),
        ({"deep_features_every": 2}, "deep_features_every is 2"),
        ({"eta": 0.5}, "eta is 0.5"),
        ({"prompt_embeds": torch.zeros(2, 3, 4), "negative_prompt_embeds": torch.zeros(2, 3, 4)}, "prompt_embeds"),
    ],
)
def test_what_a_family_cannot_do_is_refused_by_name(family, arguments, message):
    pipeline = family.pipeline
    able = {"weighted_prompts": pipeline.has_word_weights, "deep_features_every": pipeline.has_kept_features}
    if not able.get(next(iter(arguments)), False):
        with pytest.raises(ValueError, match=message):
            family.draw(pipeline, PROMPTS, **arguments)


# those whose stock call has the defaults that the models' authors recommend
@pytest.mark.parametrize("name", ["sana", "sana-sprint", "pixart-sigma", "cogview4", "lumina2", "aura-flow"])
def test_what_is_left_out_is_as_in_the_stock_call(name):
    kind = FAMILIES[name].pipeline_class()
    parameters = inspect.signature(type(CASES[name].stock).__call__).parameters
    for own in ("num_inference_steps", "guidance_scale"):
        assert getattr(kind, f"default_{own}") == parameters[own].default
    assert kind.max_sequence_length == parameters["max_sequence_length"].default


def test_guidance_of_a_distilled_model_is_refused(case):
    if case.pipeline.guidance == "none":
        with pytest.raises(ValueError, match=r"guidance_scale is 3\.0, which has no effect on this distilled model"):
            case.pipeline(["thing"], guidance_scale=3.0, **QUICK)


def test_each_prompt_is_encoded_alone_and_what_was_encoded_is_taken(family):
    pipeline, given = family.pipeline, [*PROMPTS, PROMPTS[0]]
    rows = pipeline.encode(given)
    assert given == [*PROMPTS, PROMPTS[0]] and rows[0] is rows[2]
    (alone,) = pipeline.encode(PROMPTS[1:])
    assert alone.tensors.keys() == rows[1].tensors.keys()
    if family.family != "sdxl":
        # its prompts are encoded in one batch, as they are for Stable Diffusion
        assert all(torch.equal(alone.tensors[name], value) for name, value in rows[1].tensors.items())
    negative = None
    if pipeline.guidance == "classifier-free":
        negative = pipeline.batch(pipeline.encode(["", ""], TextSettings(negative=True)))
    record = pipeline.batch(rows[:2])
    drawn = family.draw(pipeline, PROMPTS, prompt_embeds=record, negative_prompt_embeds=negative)
    torch.testing.assert_close(drawn, family.draw(pipeline, PROMPTS), rtol=0, atol=TOLERANCE)


def test_prompts_are_as_long_as_the_model_reads_and_captions_are_cut_to_it(family):
    pipeline = family.pipeline
    longest = bisect_left(range(1, 1200), True, key=lambda count: not _fits(pipeline, "a" * count))
    # at the limit the last letter still matters
    last = [pipeline.encode(["a" * (longest - 1) + letter])[0] for letter in "bc"]
    assert any(not torch.equal(*values) for values in zip(*(row.tensors.values() for row in last)))
    with pytest.raises(ValueError, match=r"class name 'late' gives a prompt of \d+ tokens, .*takes \d+"):
        pipeline.check_prompt_lengths([PROMPTS[0], "a" * (longest + 1)], ["early", "late"])
    caption = "word " * (longest // 4)
    cut = fit_prompt(pipeline.prompt_tokenizer, caption + "; star", ["star"], pipeline.prompt_tokens)
    pipeline.check_prompt_lengths([cut])
    # no word more would fit
    assert cut.endswith("word; star") and not _fits(pipeline, f"word {cut}")


def _fits(pipeline, prompt):
    try:
        pipeline.check_prompt_lengths([prompt])
    except ValueError:
        return False
    return True


def test_parts_of_another_model_are_named(family):
    pipeline = family.ours(family.build())
    assert pipeline.family_misfit() is None
    network = pipeline.denoiser_network
    network.register_to_config(in_channels=network.config.in_channels + 4)
    assert f"takes {network.config.in_channels} channels" in pipeline.family_misfit()


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


def _sample(pipeline, noise, gradient_steps):
    """Images of our loop, with gradient."""
    with torch.no_grad():
        conditioning = pipeline.batch(pipeline.encode(PROMPTS))
        negative = pipeline.batch(pipeline.encode(["", ""], TextSettings(negative=True)))
    conditioning, scale = pipeline.with_guidance(conditioning, 3.0)
    timesteps = pipeline.timesteps(2, noise.shape[1:])
    *_, last = denoising_steps(
        pipeline.predict,
        pipeline.scheduler,
        noise,
        conditioning,
        negative=negative,
        guidance_scale=scale,
        guide=pipeline.guide,
        timesteps=timesteps,
        generators=step_generators([1, 2]),
        gradient_steps=gradient_steps,
    )
    return pipeline.decode(last.latents)


def _with_lora(case):
    """A new pipeline with a LoRA on all that the family targets."""
    pipeline = case.ours(case.build())
    for network in pipeline.networks.values():
        network.requires_grad_(False)
    config = LoraConfig(r=2, lora_alpha=4, init_lora_weights=False, target_modules=list(pipeline.lora_targets))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        inject_adapter_in_model(config, pipeline.denoiser_network)
        for layer in _lora_layers(pipeline):
            # as strong as to be seen in an image
            torch.nn.init.normal_(layer.lora_B["default"].weight, std=0.3)
    return pipeline


def _lora_layers(pipeline):
    return [layer for layer in pipeline.denoiser_network.modules() if isinstance(layer, LoraLayer)]


def test_every_matrix_of_the_lora_gets_the_right_gradient(family):
    pipeline = _with_lora(family)
    # but for the scheduler and some layers, which count in float32 whatever they are given
    for network in pipeline.networks.values():
        network.double()
    weights = {key: weight for key, weight in pipeline.denoiser_network.named_parameters() if weight.requires_grad}
    noise = family.noise(2).double()

    def loss():
        return _sample(pipeline, noise, [0, 1]).square().mean()

    loss().backward()
    assert weights and not [key for key, weight in weights.items() if weight.grad is None or not weight.grad.any()]
    # along the gradient the slope is its norm
    norm = torch.stack([weight.grad.norm() for weight in weights.values()]).norm()
    direction = {key: weight.grad / norm for key, weight in weights.items()}
    values = []
    with torch.no_grad():
        for step in (1e-3, -2e-3):
            for key, weight in weights.items():
                weight += step * direction[key]
            values.append(loss())
    torch.testing.assert_close((values[0] - values[1]) / 2e-3, norm, rtol=1e-2, atol=1e-6)


def test_a_lora_goes_through_plain_diffusers_and_back(family, tmp_path):
    pipeline = _with_lora(family)
    layers, config = (
        get_peft_model_state_dict(pipeline.denoiser_network),
        pipeline.denoiser_network.peft_config["default"].to_dict(),
    )
    part = pipeline.denoiser_part
    settings = {name: sorted(value) if isinstance(value, set) else value for name, value in config.items()}
    type(pipeline).save_lora_weights(
        tmp_path, **{f"{part}_lora_layers": layers, f"{part}_lora_adapter_metadata": settings}
    )
    drawn, plain = family.draw(pipeline, PROMPTS), family.draw(family.pipeline, PROMPTS)
    assert (drawn - plain).abs().max() > 1e-3

    stock, again = family.build(), family.ours(family.build())
    if hasattr(stock, "load_lora_weights"):
        stock.load_lora_weights(tmp_path)
    else:
        # diffusers has no loader for this denoiser, so that peft reads its own file
        stock.transformer = PeftModel.from_pretrained(stock.transformer, tmp_path).base_model.model
    torch.testing.assert_close(family.draw_stock(stock, PROMPTS), drawn, rtol=0, atol=BATCH_TOLERANCE)
    load_lora(again, tmp_path)
    torch.testing.assert_close(family.draw(again, PROMPTS), drawn, rtol=0, atol=TOLERANCE)
    none, half = (family.draw(again, PROMPTS, cross_attention_kwargs={"scale": scale}) for scale in (0.0, 0.5))
    torch.testing.assert_close(none, plain, rtol=0, atol=TOLERANCE)
    assert min((half - plain).abs().max(), (half - drawn).abs().max()) > 1e-4
    # half of it once and half of it twice is all of it
    load_lora(again, tmp_path)
    again.set_adapters(again.get_list_adapters()[part], [0.5, 0.5])
    torch.testing.assert_close(family.draw(again, PROMPTS), drawn, rtol=0, atol=TOLERANCE)
    again.fuse_lora()
    again.unload_lora_weights()
    assert not _lora_layers(again)
    torch.testing.assert_close(family.draw(again, PROMPTS), drawn, rtol=0, atol=BATCH_TOLERANCE)


class _Attentions(TorchFunctionMode):
    """Keeps what enters every attention."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is torch.nn.functional.scaled_dot_product_attention:
            self.seen.append({**dict(zip(("query", "key", "value", "attn_mask"), args)), **(kwargs or {})})
        return func(*args, **(kwargs or {}))


def _probabilities(seen, row):
    """``(queries, keys)``, the mean over heads, by the definition."""
    query, key, mask = seen["query"][row], seen["key"][row], seen.get("attn_mask")
    key = key.repeat_interleave(len(query) // len(key), dim=0)
    scores = query @ key.mT * (seen.get("scale") or query.shape[-1] ** -0.5)
    if mask is not None:
        mask = mask[row if len(mask) > 1 else 0]
        scores = scores.masked_fill(~mask, float("-inf")) if mask.dtype == torch.bool else scores + mask
    return scores.softmax(-1).mean(dim=0)


def test_masks_change_no_image_and_are_the_attention_to_the_words(case):
    pipeline, words = case.pipeline, ["circle", "star"]
    prompts = ["a circle", "in the evening a photo of a star"]
    if case.family == "sdxl":
        masks = replace(pipeline.default_mask_settings(), self_power=0, class_prompt=False)
    else:
        # of the prompts themselves
        prompts_own = {"source": "attention", "class_prompt": False, "self_power": 0, "cross_levels": (0,)}
        masks = replace(pipeline.default_mask_settings(), **prompts_own)
    settings = {"annotations": ["mask", "heatmap"], "mask_settings": masks, "seeds": [1, 2], "prompts": prompts}
    size = {"num_inference_steps": 2, "height": 64, "width": 32, "output_type": "pt"}
    together = pipeline(words, **settings, **size)
    assert torch.equal(together.images, case.draw(pipeline, prompts, (64, 32)))
    assert together.masks[0].shape == (64, 32) and set(np.unique(together.masks[0])) <= {0, 1, 255}
    alone = pipeline(words, **settings, batch_size=1, **size)
    for one, other in zip(together.annotations, alone.annotations):
        np.testing.assert_allclose(one.heat_maps, other.heat_maps, rtol=0, atol=1e-2)
    if case.family == "sdxl":
        # a UNet's are compared by hand in test_attention_maps.py
        return

    attention, latent_size = pipeline.mask_attention, pipeline.latent_shape(64, 32)[1:]
    texts = [attention.texts(prompt, [word], masks) for prompt, word in zip(prompts, words)]
    conditioning, _ = pipeline.with_guidance(pipeline.batch(pipeline.encode(prompts)), 3.0)
    pipeline.timesteps(2, pipeline.latent_shape(64, 32))
    recorder = attention.recorder(texts, latent_size, masks, 1)
    seen = _Attentions()
    layer = attention.layers[0]
    with torch.no_grad(), recorder:
        # inside the recorder's own, whose further calls it does not see
        handles = [
            layer.register_forward_pre_hook(lambda *_: seen.__enter__() and None),
            layer.register_forward_hook(lambda *_: seen.__exit__(None, None, None)),
        ]
        pipeline.predict(case.noise(2, (64, 32)), pipeline.scheduler.timesteps[0], conditioning)
        for handle in handles:
            handle.remove()
    ((token_size, maps),) = recorder.result().cross_maps.items()
    num_image = token_size[0] * token_size[1]
    # a call of both samples, or of one each
    rows = [(seen.seen[0], 0), (seen.seen[0], 1)] if len(seen.seen) == 1 else [(call, 0) for call in seen.seen]
    for sample, (call, row) in enumerate(rows):
        weights, found = texts[sample][0], _probabilities(call, row)
        places = weights.nonzero().flatten()
        if pipeline.text_position == "last":
            # what fills the image up lies between
            image, places = slice(num_image), places + num_image + -num_image % attention.image_tokens_unit
        elif pipeline.text_position == "first":
            begin = len(weights) if attention.text_lengths != "filled" else found.shape[0] - num_image
            image, places = slice(begin, begin + num_image), places + attention.num_before
        else:
            image = slice(None)
        expected = (found[image][:, places] * weights[weights > 0]).sum(dim=1)
        torch.testing.assert_close(maps[sample, 0].flatten(), expected, rtol=1e-4, atol=1e-7)


def test_the_words_of_masks_are_where_the_text_encoders_read_them(family):
    """The tokens that enter a text encoder spell the word at the places of its weights."""
    pipeline = family.pipeline
    if family.family == "sdxl":
        return
    read = {}
    handles = [
        encoder.register_forward_pre_hook(
            lambda _, given, named, name=name: read.update({name: (named.get("input_ids", *given[:1]))[0].tolist()}),
            with_kwargs=True,
        )
        for name, encoder in pipeline.text_networks.items()
    ]
    (row,) = pipeline.encode(["a big star at sea"])
    for handle in handles:
        handle.remove()
    attention = pipeline.mask_attention
    weights = attention.texts("a big star at sea", ["star"], MaskSettings(class_prompt=False))
    torch.testing.assert_close(weights.sum(), torch.tensor(1.0))
    num_features = len(next(value for value in row.tensors.values() if value.ndim == 2))
    assert weights.shape[1] <= max(num_features, pipeline.prompt_tokens)
    first = 0
    for _, length in attention.readers:
        places = weights[0, first : first + length].nonzero().flatten().tolist()
        assert any(_spelled(pipeline, name, ids, places, num_features, length) for name, ids in read.items())
        first += length


def _spelled(pipeline, name, ids, places, num_features, length):
    tokenizer = getattr(pipeline, name.replace("text_encoder", "tokenizer"))
    # features of a template are left out at the beginning
    for dropped in {0, len(ids) - num_features, len(ids) - length}:
        taken = [ids[place + dropped] for place in places if 0 <= place + dropped < len(ids)]
        if tokenizer.decode(taken).replace(" ", "") == "star":
            return True
    return False


def test_a_folder_that_diffusers_saved_is_enough(family, models, tmp_path):
    pipeline = load_pipeline(models.folder(family.family))
    pipeline.set_progress_bar_config(disable=True)
    line = FAMILIES[family.family]
    assert type(pipeline).__name__ == line.class_name
    images = pipeline(["circle"], seed=3, output_type="np", **QUICK).images
    assert images.shape == (1, 32, 32, 3) and images.std() > 0.01
    # saved with its code, it is of the same family
    pipeline.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "model_index.json").read_text())["_class_name"] == [line.module, line.class_name]
    named = get_relative_imports(ROOT / f"ubgen_pipeline/{line.module}.py")
    assert {file.stem for file in tmp_path.glob("*.py")} == {line.module, *named}
    again = load_pipeline(tmp_path)
    again.set_progress_bar_config(disable=True)
    np.testing.assert_array_equal(again(["circle"], seed=3, output_type="np", **QUICK).images, images)
    twin = again.with_scheduler(type(again.scheduler).from_config(again.scheduler.config))
    assert (twin.guidance, twin.default_guidance_scale) == (pipeline.guidance, pipeline.default_guidance_scale)


def _row(name):
    """What the page says of a family, read off the tiny model."""
    pipeline = load_pipeline("mini") if name == "sd" else own_pipeline(name, tiny_pipeline(name))
    words = {
        "negative prompt": pipeline.guidance == "classifier-free",
        "word weights": pipeline.has_word_weights,
        "textual inversion": pipeline.has_textual_inversion,
        "deep-cache": pipeline.has_kept_features,
    }
    try:
        pipeline.default_mask_settings()
        masks = "yes"
    except ValueError:
        masks = "no"
    kind = "flow" if is_flow_scheduler(pipeline.scheduler) else "noise"
    if pipeline.scheduler.config.get("prediction_type") == "trigflow":
        kind = "its own"
    cells = [
        name,
        FAMILIES[name].stock_names[0],
        f"{pipeline.guidance}, {pipeline.default_guidance_scale:g}",
        str(pipeline.default_num_inference_steps),
        kind,
        pipeline.default_gpu_dtype,
        masks,
        ", ".join(word for word, is_there in words.items() if is_there) or "-",
    ]
    return f"| {' | '.join(cells)} |"


def test_the_page_says_what_each_family_can_do():
    page = (ROOT / "docs" / "families.md").read_text(encoding="utf-8")
    table = page.split("<!-- families: begin -->\n")[1].split("<!-- families: end -->")[0]
    head = "| family | class | guidance and its default | steps | schedulers | on a GPU | masks | and |\n"
    assert table == head + "|---" * 8 + "|\n" + "".join(f"{_row(name)}\n" for name in FAMILIES)
