"""What every family of the registry must do, on its tiny models: see ``support/family_models.py``.

How they draw is in ``test_family_drawing.py``, their masks are in ``test_family_masks.py``.
"""

import inspect
import json
from bisect import bisect_left

import numpy as np
import pytest
import torch
from diffusers.utils.dynamic_modules_utils import get_relative_imports
from peft import LoraConfig, PeftModel, get_peft_model_state_dict, inject_adapter_in_model
from peft.tuners.lora import LoraLayer

from support import ROOT
from support.family_models import (
    BATCH_TOLERANCE,
    CASES,
    PROMPTS,
    QUICK,
    TOLERANCE,
    TinyModels,
    own_pipeline,
    tiny_pipeline,
)
from ubgen_pipeline.call_arguments import TextSettings
from ubgen_pipeline.class_tokens import fit_prompt
from ubgen_pipeline.initial_latents import step_generators
from ubgen_pipeline.latent_denoising import denoising_steps
from ubgen_pipeline.models.families import FAMILIES
from ubgen_pipeline.models.loading import load_pipeline
from ubgen_pipeline.models.lora_loading import load_lora
from ubgen_pipeline.scheduler_noise import is_flow_scheduler


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return TinyModels(tmp_path_factory.mktemp("models"))


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
@pytest.mark.parametrize("name", ["sana", "sana-sprint", "pixart-sigma", "cogview4", "lumina2", "aura-flow", "chroma"])
def test_what_is_left_out_is_as_in_the_stock_call(name):
    kind = FAMILIES[name].pipeline_class()
    parameters = inspect.signature(type(CASES[name].stock).__call__).parameters
    for own in ("num_inference_steps", "guidance_scale"):
        assert getattr(kind, f"default_{own}") == parameters[own].default
    assert kind.max_sequence_length == parameters["max_sequence_length"].default


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
        # that images are drawn from others, and that this is refused, is tested with their drawing
        "from images": any(hasattr(pipeline.scheduler, name) for name in ("add_noise", "scale_noise")),
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
