"""Kinds of LoRAs as other programs write them: loaded as plain diffusers or peft do, or as a merge by hand gives."""

import json
import re

import pytest
import torch
from diffusers import StableDiffusionPipeline
from peft import (
    LoHaConfig,
    LoKrConfig,
    LoraConfig,
    get_peft_model_state_dict,
    inject_adapter_in_model,
)
from safetensors.torch import save_file

from support.family_models import CASES
from ubgen_pipeline.inference.prepared_pipeline import prepare_pipeline
from ubgen_pipeline.models.loading import load_pipeline
from ubgen_pipeline.models.lora_loading import load_lora

UNET_LAYERS = ["to_q", "to_k", "to_out.0", "ff.net.0.proj", "conv1"]
TEXT_LAYERS = ["q_proj", "out_proj", "fc1"]
PATTERNS = {"rank_pattern": {"to_k": 3}, "alpha_pattern": {"to_q": 7}}
KINDS = {
    "plain": {"r": 2, "lora_alpha": 3},
    "dora": {"r": 2, "lora_alpha": 3, "use_dora": True},
    "rslora": {"r": 4, "lora_alpha": 3, "use_rslora": True},
    "per module": {"r": 2, "lora_alpha": 2, **PATTERNS},
    "dora per module": {"r": 2, "lora_alpha": 2, "use_dora": True, **PATTERNS},
}


def stock(model):
    pipeline = StableDiffusionPipeline.from_pretrained(model, use_safetensors=True)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def with_adapter(network, layers, seed=0, kind=LoraConfig, **settings):
    """The network with random adapters, large enough to change images, and their weights and settings."""
    torch.manual_seed(seed)
    config = kind(target_modules=layers, **settings)
    inject_adapter_in_model(config, network)
    for name, weight in network.named_parameters():
        if "lora_" in name or "hada_" in name or "lokr_" in name:
            scale = weight.detach() * 0.5 if "magnitude" in name else 0
            torch.nn.init.normal_(weight, std=0.2 if "lora_" in name else 0.5)
            weight.data += scale
    plain = {key: sorted(value) if isinstance(value, set) else value for key, value in config.to_dict().items()}
    weights = {key: value.detach().clone().contiguous() for key, value in get_peft_model_state_dict(network).items()}
    return weights, plain


def save_adapter(weights, settings, folder):
    """In peft's layout."""
    named = {f"base_model.model.{key}": value for key, value in weights.items()}
    save_file(named, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps(settings))


def draw(pipeline):
    generator = torch.Generator().manual_seed(0)
    embeds, _ = pipeline.encode_prompt("star", "cpu", 1, False)
    pipeline.set_progress_bar_config(disable=True)
    with torch.no_grad():
        latents = torch.randn(1, 4, 16, 16, generator=generator)
        return pipeline.unet(latents, 500, embeds).sample


def assert_equal_and_changed(pipeline, wanted, model):
    base = draw(stock(model))
    torch.testing.assert_close(draw(pipeline), wanted, rtol=1e-5, atol=1e-5)
    assert (wanted - base).abs().max() > 1e-2


@pytest.mark.parametrize("has_settings", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_what_diffusers_writes_is_loaded_as_diffusers_does(random_mini_model, tmp_path, kind, has_settings):
    maker = stock(random_mini_model)
    weights, settings = with_adapter(maker.unet, UNET_LAYERS, **KINDS[kind])
    text_weights, text_settings = with_adapter(maker.text_encoder, TEXT_LAYERS, 1, r=3, lora_alpha=2)
    more = {"unet_lora_adapter_metadata": settings, "text_encoder_lora_adapter_metadata": text_settings}
    StableDiffusionPipeline.save_lora_weights(
        tmp_path, weights, text_encoder_lora_layers=text_weights, **(more if has_settings else {})
    )
    plain = stock(random_mini_model)
    plain.load_lora_weights(tmp_path)
    ours = load_pipeline(random_mini_model, lora=tmp_path)
    assert_equal_and_changed(ours, draw(plain), random_mini_model)
    if has_settings:
        # and as the networks that it was taken from
        torch.testing.assert_close(draw(ours), draw(maker), rtol=1e-4, atol=1e-4)
    fused = load_pipeline(random_mini_model, lora=tmp_path)
    prepare_pipeline(fused, "fused", keeps_projections=True)
    assert not any("lora" in name for name in fused.text_encoder.state_dict())
    torch.testing.assert_close(draw(fused), draw(ours), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("part", ["unet", "text_encoder"])
def test_a_folder_of_pefts_is_loaded_as_peft_does(random_mini_model, tmp_path, kind, part):
    maker = stock(random_mini_model)
    layers = {"unet": UNET_LAYERS, "text_encoder": TEXT_LAYERS}[part]
    weights, settings = with_adapter(getattr(maker, part), layers, **KINDS[kind])
    save_file(
        {f"base_model.model.{key}": value for key, value in weights.items()}, tmp_path / "adapter_model.safetensors"
    )
    (tmp_path / "adapter_config.json").write_text(json.dumps(settings))
    assert_equal_and_changed(load_pipeline(random_mini_model, lora=tmp_path), draw(maker), random_mini_model)


@pytest.mark.parametrize(
    ("kind", "settings"), [(LoHaConfig, {"r": 2, "alpha": 3}), (LoKrConfig, {"r": 2, "alpha": 3})]
)
def test_other_adapters_of_pefts_are_loaded_as_peft_does(random_mini_model, tmp_path, kind, settings):
    maker = stock(random_mini_model)
    weights, stated = with_adapter(maker.unet, ["to_q", "to_k"], kind=kind, r=2, alpha=3)
    save_file(
        {f"base_model.model.{key}": value for key, value in weights.items()}, tmp_path / "adapter_model.safetensors"
    )
    (tmp_path / "adapter_config.json").write_text(json.dumps(stated))
    assert_equal_and_changed(load_pipeline(random_mini_model, lora=tmp_path), draw(maker), random_mini_model)
    (tmp_path / "adapter_config.json").write_text(json.dumps(stated | {"peft_type": "IA3"}))
    with pytest.raises(ValueError, match="peft_type 'IA3'; LORA, LOHA, LOKR are loaded"):
        load_pipeline(random_mini_model, lora=tmp_path)


def kohya_name(part, module):
    return {"unet": "lora_unet_", "text_encoder": "lora_te_text_model_"}[part] + module.replace(".", "_")


def layers_of(pipeline):
    """Some layers of each part, by kohya's name, with their weights."""
    for part, ends in (
        ("unet", ("attn1.to_q", "attn2.to_out.0", "ff.net.2", "conv1")),
        ("text_encoder", ("q_proj", "fc2")),
    ):
        for name, module in getattr(pipeline, part).named_modules():
            if name.endswith(ends):
                yield kohya_name(part, name.removeprefix("text_model.")), module.weight


def kohya_lora(pipeline, *, is_dora=False, seed=0):
    """A file of kohya's with another rank and alpha for every layer; ``pipeline`` gets it merged by hand."""
    torch.manual_seed(seed)
    file = {}
    for number, (name, weight) in enumerate(layers_of(pipeline)):
        rank, alpha = 1 + number % 3, 0.5 + number % 4
        # as most of them are, in 16 bits
        down = (torch.randn(rank, *weight.shape[1:]) * 0.3).half()
        up = (torch.randn(weight.shape[0], rank, *[1] * (weight.ndim - 2)) * 0.3).half()
        if number % 4 == 1 and weight.ndim == 2:
            # linear layers told as convolutions of one pixel
            down, up = down[..., None, None], up[..., None, None]
        file |= {f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up}
        # a layer without one is not scaled
        scale = 1.0 if number % 5 == 0 else alpha / rank
        if number % 5:
            file[f"{name}.alpha"] = torch.tensor(alpha)
        with torch.no_grad():
            weight += scale * (up.flatten(1).float() @ down.flatten(1).float()).reshape(weight.shape)
            if is_dora:
                norm = weight.flatten(1).norm(dim=1).reshape(-1, *[1] * (weight.ndim - 1))
                magnitude = norm * (0.5 + torch.rand_like(norm))
                weight *= magnitude / norm
                file[f"{name}.dora_scale"] = magnitude.clone()
    return file


@pytest.mark.parametrize("is_dora", [False, True])
def test_kohyas_files_equal_a_merge_by_hand(random_mini_model, tmp_path, is_dora):
    by_hand = stock(random_mini_model)
    save_file(kohya_lora(by_hand, is_dora=is_dora), tmp_path / "style.safetensors")
    ours = load_pipeline(random_mini_model, lora=tmp_path / "style.safetensors")
    wanted = {part: getattr(by_hand, part).state_dict() for part in ("unet", "text_encoder")}
    torch.testing.assert_close(draw(ours), draw(by_hand), rtol=1e-3, atol=1e-3)
    prepare_pipeline(ours, "fused", keeps_projections=True)
    for part, weights in wanted.items():
        for key, value in getattr(ours, part).state_dict().items():
            torch.testing.assert_close(value, weights[key], rtol=1e-5, atol=1e-5)


def test_magnitudes_of_inputs_are_refused(random_mini_model, tmp_path):
    file = kohya_lora(stock(random_mini_model), is_dora=True)
    key = next(key for key in file if key.endswith("to_q.dora_scale"))
    file[key] = torch.ones(1, file[key.replace("dora_scale", "lora_down.weight")].shape[1])
    save_file(file, tmp_path / "d.safetensors")
    with pytest.raises(ValueError, match=r"dora_scale is \(1, \d+\), a magnitude for each input"):
        load_pipeline(random_mini_model, lora=tmp_path / "d.safetensors")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("scaled_fp8", torch.tensor(1.0), "does not fit the model: 'scaled_fp8' belongs to no part of it"),
        ("{layer}.alpha", torch.tensor([1.0, 2.0]), r"\.alpha has 2 numbers; it has one"),
    ],
)
def test_what_else_is_in_a_file_of_kohyas_is_named(random_mini_model, tmp_path, name, value, message):
    pipeline = stock(random_mini_model)
    file = kohya_lora(pipeline)
    file[name.format(layer=next(iter(file)).partition(".")[0])] = value
    save_file(file, tmp_path / "style.safetensors")
    with pytest.raises(ValueError, match=message):
        load_lora(load_pipeline(random_mini_model), tmp_path / "style.safetensors")


def test_a_loha_of_kohyas_equals_a_merge_by_hand(random_mini_model, tmp_path):
    by_hand, file = stock(random_mini_model), {}
    torch.manual_seed(0)
    for name, weight in layers_of(by_hand):
        inputs = weight[0].numel()
        sides = {f"hada_w{n}_a": torch.randn(len(weight), 2) * 0.5 for n in (1, 2)}
        sides |= {f"hada_w{n}_b": torch.randn(2, inputs) * 0.5 for n in (1, 2)}
        file |= {f"{name}.{side}": value for side, value in sides.items()} | {f"{name}.alpha": torch.tensor(1.0)}
        change = (sides["hada_w1_a"] @ sides["hada_w1_b"]) * (sides["hada_w2_a"] @ sides["hada_w2_b"])
        with torch.no_grad():
            weight += 0.5 * change.reshape(weight.shape)
    save_file(file, tmp_path / "style.safetensors")
    ours = load_pipeline(random_mini_model, lora=tmp_path / "style.safetensors")
    prepare_pipeline(ours, "fused", keeps_projections=True)
    for part in ("unet", "text_encoder"):
        wanted = getattr(by_hand, part).state_dict()
        for key, value in getattr(ours, part).state_dict().items():
            torch.testing.assert_close(value, wanted[key], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kinds", [("dora", "dora per module"), ("plain", "dora")])
def test_two_of_which_one_is_a_dora_are_fused_as_they_act_together(random_mini_model, tmp_path, kinds):
    for number, kind in enumerate(kinds):
        weights, settings = with_adapter(stock(random_mini_model).unet, UNET_LAYERS, number, **KINDS[kind])
        StableDiffusionPipeline.save_lora_weights(tmp_path / str(number), weights, unet_lora_adapter_metadata=settings)
    pipeline = load_pipeline(random_mini_model, lora=[f"{tmp_path / '0'}:0.5", str(tmp_path / "1")])
    beside = draw(pipeline)
    prepare_pipeline(pipeline, "fused", keeps_projections=True)
    torch.testing.assert_close(draw(pipeline), beside, rtol=1e-3, atol=1e-3)


def test_sdxl_files_with_the_authors_names_load(tmp_path):
    """kohya's scripts train Stable Diffusion XL with the names of its first code."""
    pipeline = CASES["sdxl"].ours(CASES["sdxl"].build())
    layer = "input_blocks_3_1_transformer_blocks_0_attn1_to_q"
    weight = pipeline.unet.down_blocks[1].attentions[0].transformer_blocks[0].attn1.to_q.weight.detach().clone()
    down, up = torch.randn(2, weight.shape[1]), torch.randn(weight.shape[0], 2)
    file = {f"lora_unet_{layer}.lora_down.weight": down, f"lora_unet_{layer}.lora_up.weight": up}
    save_file(file | {f"lora_unet_{layer}.alpha": torch.tensor(1.0)}, tmp_path / "x.safetensors")
    load_lora(pipeline, tmp_path / "x.safetensors")
    prepare_pipeline(pipeline, "fused", keeps_projections=True)
    changed = pipeline.unet.down_blocks[1].attentions[0].transformer_blocks[0].attn1.to_q.weight
    torch.testing.assert_close(changed, weight + 0.5 * up @ down, rtol=1e-5, atol=1e-5)


def test_a_transformers_dora_is_loaded_as_diffusers_does(tmp_path):
    maker = CASES["sd3"].build()
    weights, settings = with_adapter(maker.transformer, ["to_q", "to_out.0"], r=2, lora_alpha=3, use_dora=True)
    maker.save_lora_weights(tmp_path, weights, transformer_lora_adapter_metadata=settings)
    plain = CASES["sd3"].build()
    plain.load_lora_weights(tmp_path)
    ours = CASES["sd3"].ours(CASES["sd3"].build())
    load_lora(ours, tmp_path)
    images = [CASES["sd3"].draw(item, ["a"]) for item in (CASES["sd3"].ours(plain), ours)]
    assert torch.equal(*images) and not torch.equal(images[0], CASES["sd3"].draw(CASES["sd3"].pipeline, ["a"]))


LAYER = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q"


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([f"{LAYER}.lokr_w1", f"{LAYER}.lokr_w2"], "which is a LoKr, and no LoRA .* merge it into the model"),
        ([f"{LAYER}.diff", f"{LAYER}.diff_b"], "full differences of weights"),
        ([f"{LAYER}.lora_down.weight", f"{LAYER}.lora_up.weight", f"{LAYER}.diff_b"], "full differences of weights"),
        ([f"{LAYER}.lora_down.weight", f"{LAYER}.lora_up.weight", f"{LAYER}.lora_mid.weight"], "a LoCon with a third"),
        ([f"{LAYER}.hada_w1_a", f"{LAYER}.hada_t1"], "a LoHa with a third factor"),
        ([f"{LAYER}.oft_blocks"], "an OFT"),
        ([f"{LAYER}.a1.weight", f"{LAYER}.b1.weight"], "a GLoRA"),
        (["emb_params"], "a textual inversion.*give it as an embedding"),
        (["model.diffusion_model.input_blocks.0.0.weight"], "a whole model in one file.*give it as the model"),
        (["control_model.input_blocks.0.0.weight"], "a ControlNet"),
        ([f"{LAYER}.lora_down.weight"], "lora_B is missing"),
        ([f"{LAYER}.lora_down.weight", f"{LAYER}.lora_up.weight", f"{LAYER}.unheard_of"], "unheard_of' belongs to no"),
        (["weight"], "could not be read|belongs to no part"),
    ],
)  # fmt: skip
def test_what_is_no_lora_is_called_by_its_name(random_mini_model, tmp_path, names, message):
    width = load_pipeline(random_mini_model).unet.mid_block.attentions[0].transformer_blocks[0].attn1.to_q.weight.shape
    shapes = {"lora_down.weight": (2, width[1]), "lora_up.weight": (width[0], 2)}
    tensors = {name: torch.zeros(shapes.get(name.partition(".")[2], (2, 2))) for name in names}
    save_file(tensors, tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match=message):
        load_pipeline(random_mini_model, lora=tmp_path / "x.safetensors")


def test_a_dora_of_kohyas_for_a_transformer_is_refused(tmp_path):
    layer = "lora_unet_double_blocks_0_img_attn_qkv"
    file = {f"{layer}.lora_down.weight": torch.zeros(2, 32), f"{layer}.lora_up.weight": torch.zeros(96, 2)}
    save_file(file | {f"{layer}.dora_scale": torch.ones(96, 1)}, tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match="which is a DoRA in kohya's layout"):
        load_lora(CASES["flux"].pipeline, tmp_path / "x.safetensors")


def test_pickles_and_several_files_are_refused(random_mini_model, tmp_path):
    (tmp_path / "pytorch_lora_weights.bin").write_bytes(b"x")
    for place in (tmp_path, tmp_path / "pytorch_lora_weights.bin"):
        with pytest.raises(ValueError, match=r"pickled \(pytorch_lora_weights\.bin\).*save_file"):
            load_pipeline(random_mini_model, lora=place)
    for name in "ab":
        save_file({"x": torch.zeros(1)}, tmp_path / f"{name}.safetensors")
    with pytest.raises(
        ValueError, match=re.escape("several files of weights (a.safetensors, b.safetensors); give one")
    ):
        load_pipeline(random_mini_model, lora=tmp_path)


def test_the_hub_is_read_as_a_folder_is(hub, random_mini_model, tmp_path):
    from huggingface_hub import HfApi

    maker = stock(random_mini_model)
    weights, settings = with_adapter(maker.unet, UNET_LAYERS, **KINDS["dora"])
    save_file(
        {f"base_model.model.{key}": value for key, value in weights.items()}, tmp_path / "adapter_model.safetensors"
    )
    (tmp_path / "adapter_config.json").write_text(json.dumps(settings))
    HfApi().create_repo("org/peft")
    HfApi().upload_folder(repo_id="org/peft", folder_path=tmp_path)
    assert_equal_and_changed(load_pipeline(random_mini_model, lora="org/peft:1"), draw(maker), random_mini_model)
