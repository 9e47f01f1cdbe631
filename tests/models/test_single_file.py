"""Checkpoints of a whole model in one file: the weights and settings they were made of, without a network."""

import numpy as np
import pytest
import torch
from datasets import load_dataset
from diffusers import (
    AutoencoderKL,
    EDMDPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    PNDMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from support.image_folders import save_class_folders
from support.original_layout import save_original, save_original_2
from support.small_trainings import NAMES, SETTINGS
from ubgen_pipeline.commands.main import main
from ubgen_pipeline.models.families import denoiser_config
from ubgen_pipeline.models.fingerprints import fingerprint
from ubgen_pipeline.models.loading import load_pipeline
from ubgen_pipeline.models.single_file_kinds import family_of_file, kind_of_file
from ubgen_pipeline.models.single_file_settings import clip_tokenizer
from ubgen_training.denoising.command import train
from ubgen_training.denoising.denoiser_config import DenoiserConfig

FLUX = "double_blocks.0.img_attn.norm.key_norm.scale"
AURA = ("double_layers.0.attn.w2q.weight", "double_layers.0.attn.w1q.weight", "cond_seq_linear.weight",
        "t_embedder.mlp.0.weight")  # fmt: skip
NOISE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}


def encoder(kind, act, layers=2, width=64):
    config = CLIPTextConfig(
        vocab_size=49408, hidden_size=width, intermediate_size=96, num_hidden_layers=layers,
        num_attention_heads=width // 64,
        projection_dim=width, hidden_act=act, bos_token_id=49406, eos_token_id=49407, pad_token_id=1,
    )  # fmt: skip
    return kind(config)


def vae(**settings):
    return AutoencoderKL(
        block_out_channels=(32, 32, 64, 64), layers_per_block=1, latent_channels=4,
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4, **settings,
    )  # fmt: skip


@pytest.fixture(scope="module")
def stock():
    """A small Stable Diffusion 1 with the vocabulary of the real one."""
    torch.manual_seed(0)
    return StableDiffusionPipeline(
        unet=UNet2DConditionModel(
            sample_size=64, block_out_channels=(32, 64), layers_per_block=1, cross_attention_dim=64,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), attention_head_dim=8,
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        ),
        vae=vae(sample_size=512),
        text_encoder=encoder(CLIPTextModel, "quick_gelu"),
        tokenizer=clip_tokenizer("<|endoftext|>"),
        scheduler=PNDMScheduler(skip_prk_steps=True, set_alpha_to_one=False, **NOISE),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def stock_xl():
    torch.manual_seed(1)
    return StableDiffusionXLPipeline(
        unet=UNet2DConditionModel(
            sample_size=128, block_out_channels=(32, 64, 128), layers_per_block=2, cross_attention_dim=192,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            attention_head_dim=(1, 1, 2), transformer_layers_per_block=(1, 1, 2), use_linear_projection=True,
            addition_embed_type="text_time", addition_time_embed_dim=256,
            projection_class_embeddings_input_dim=128 + 6 * 256,
        ),
        vae=vae(sample_size=1024, scaling_factor=0.13025, force_upcast=True),
        text_encoder=encoder(CLIPTextModel, "quick_gelu"),
        text_encoder_2=encoder(CLIPTextModelWithProjection, "gelu", 10, 128),
        tokenizer=clip_tokenizer("<|endoftext|>"),
        tokenizer_2=clip_tokenizer("!"),
        scheduler=EulerDiscreteScheduler(timestep_spacing="leading", **NOISE),
        add_watermarker=False,
    )  # fmt: skip


def assert_same_model(pipeline, stock):
    for name, part in stock.components.items():
        if isinstance(part, torch.nn.Module):
            own = getattr(pipeline, name).state_dict()
            for key, value in part.state_dict().items():
                assert torch.equal(own[key], value), f"{name}.{key}"
    for name in ("unet", "vae"):
        own, wanted = getattr(pipeline, name).config, getattr(stock, name).config
        for key in ("sample_size", "block_out_channels", "down_block_types", "up_block_types", "layers_per_block"):
            assert list(np.atleast_1d(own[key])) == list(np.atleast_1d(wanted[key])), key
    assert type(pipeline.scheduler) is type(stock.scheduler)
    assert torch.equal(pipeline.scheduler.alphas_cumprod, stock.scheduler.alphas_cumprod)


def assert_same_images(pipeline, stock):
    images = []
    for item in (pipeline, stock):
        item.set_progress_bar_config(disable=True)
        more = {"prompts": ["a star"]} if item is pipeline else {"prompt": "a star"}
        first = (["star"],) if item is pipeline else ()
        latents = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
        drawn = item(*first, **more, latents=latents, num_inference_steps=2, guidance_scale=3.0, height=128, width=128,
                     output_type="np")  # fmt: skip
        images.append(drawn.images)
    np.testing.assert_allclose(images[0], images[1], rtol=0, atol=1e-4)


def test_stable_diffusion_1(stock, tmp_path):
    file = save_original(stock, tmp_path / "community.safetensors")
    assert (kind_of_file(file), family_of_file(file)) == ("v1", "sd")
    pipeline = load_pipeline(file)
    assert_same_model(pipeline, stock)
    assert_same_images(pipeline, stock)


def test_stable_diffusion_xl(stock_xl, tmp_path):
    file = save_original(stock_xl, tmp_path / "community.safetensors")
    assert (kind_of_file(file), family_of_file(file)) == ("xl_base", "sdxl")
    pipeline = load_pipeline(file)
    assert_same_model(pipeline, stock_xl)
    assert_same_images(pipeline, stock_xl)


def test_playground_has_noise_and_latents_of_its_own(stock_xl, tmp_path):
    mean, std = [-1.7, 1.9, -1.4, 2.5], [8.5, 5.9, 6.5, 5.2]
    parts = {**stock_xl.components, "vae": vae(scaling_factor=0.5, latents_mean=mean, latents_std=std)}
    theirs = StableDiffusionXLPipeline(
        **parts | {"scheduler": EDMDPMSolverMultistepScheduler()}, add_watermarker=False
    )
    weights = load_file(save_original(theirs, tmp_path / "p.safetensors"))
    marks = {"edm_mean": torch.tensor(mean).view(1, 4, 1, 1), "edm_std": torch.tensor(std).view(1, 4, 1, 1)}
    save_file(weights | marks, tmp_path / "p.safetensors")
    assert_same_images(load_pipeline(tmp_path / "p.safetensors"), theirs)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "model.diffusion_model.time_embed.2.bias",
            r"whose unet has [\d,]+ numbers, and one of its kind .* is damaged",
        ),
        ("first_stage_model.encoder.down.1.downsample.conv.bias", "whose vae has .* numbers, and one of its kind"),
        (
            "cond_stage_model.transformer.text_model.final_layer_norm.bias",
            "'final_layer_norm.bias' of its text_encoder",
        ),
    ],
)
def test_a_weight_that_is_missing_is_no_empty_one(stock, name, message, tmp_path):
    weights = load_file(save_original(stock, tmp_path / "x.safetensors"))
    del weights[name]
    save_file(weights, tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match=f"model is '.*x.safetensors', .*{message}"):
        load_pipeline(tmp_path / "x.safetensors")


def test_layers_that_the_settings_have_no_place_for_are_not_left_out(stock, tmp_path):
    weights = load_file(save_original(stock, tmp_path / "good.safetensors"))
    unet = "model.diffusion_model."
    deeper = {
        name.replace("blocks.0", "blocks.1"): weight.clone()
        for name, weight in weights.items()
        if name.startswith(f"{unet}middle_block.1.transformer_blocks.0")
    }
    cases = [
        (deeper, "whose unet has .* numbers, and one of its kind .* its layers are others"),
        ({f"{unet}time_embed.cond_proj.weight": torch.zeros(32, 256)}, "its layers are others"),
        # of a model that follows depth, and of one that varies images
        (
            {f"{unet}input_blocks.0.0.weight": torch.zeros(32, 5, 3, 3)},
            "reads more than an image's latents and a text",
        ),
        ({f"{unet}label_emb.0.0.weight": torch.zeros(128, 64)}, "reads more than an image's latents and a text"),
        (
            {f"{unet}out.2.scale_weight": torch.ones(1)},
            r"are quantized, .*\(model.diffusion_model.out.2.scale_weight\)",
        ),
    ]
    for more, message in cases:
        save_file(weights | more, tmp_path / "x.safetensors")
        with pytest.raises(ValueError, match=message):
            load_pipeline(tmp_path / "x.safetensors")


def test_what_is_predicted_is_said_by_the_file_or_beside_it(stock, stock_xl, tmp_path):
    def predicted(file):
        config = load_pipeline(file).scheduler.config
        return config.prediction_type, config.get("rescale_betas_zero_snr", False)

    file = save_original(stock, tmp_path / "a.safetensors")
    assert predicted(file) == ("epsilon", False)
    before = fingerprint(str(file))
    (tmp_path / "a.yaml").write_text("model: {params: {parameterization: v}}")
    assert predicted(file) == ("v_prediction", False) and fingerprint(str(file)) != before
    (tmp_path / "a.yaml").write_text("model: {params: {parameterization: x0}}")
    with pytest.raises(ValueError, match=r"a\.yaml has the parameterization 'x0'; eps and v are known"):
        load_pipeline(file)
    stated = save_original(stock, tmp_path / "b.safetensors", {"modelspec.prediction_type": "v"})
    assert predicted(stated) == ("v_prediction", False)
    weights = load_file(save_original(stock_xl, tmp_path / "xl.safetensors"))
    save_file(weights | {"v_pred": torch.tensor([]), "ztsnr": torch.tensor([])}, tmp_path / "marked.safetensors")
    assert predicted(tmp_path / "marked.safetensors") == ("v_prediction", True)


def test_stable_diffusion_2_says_which_it_is(stock, tmp_path):
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=96, block_out_channels=(32, 64), layers_per_block=2, cross_attention_dim=1024,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), attention_head_dim=(1, 1),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"), use_linear_projection=True,
    )  # fmt: skip
    config = CLIPTextConfig(
        vocab_size=100, hidden_size=1024, intermediate_size=64, num_hidden_layers=2, num_attention_heads=16,
        projection_dim=1024, hidden_act="gelu",
    )  # fmt: skip
    encoder_2 = CLIPTextModelWithProjection(config)
    file = save_original_2(unet, stock.vae, encoder_2, tmp_path / "two.safetensors")
    assert (kind_of_file(file), family_of_file(file)) == ("v2", "sd")
    with pytest.raises(ValueError, match=r"noise at 512 pixels and velocities at 768.*beside it as two\.yaml"):
        load_pipeline(file)
    for stated, size in (("v", 768), ("eps", 512)):
        (tmp_path / "two.yaml").write_text(f"model: {{params: {{parameterization: {stated}}}}}")
        pipeline = load_pipeline(file)
        assert pipeline.vae.config.sample_size == size and pipeline.tokenizer.pad_token == "!"
        assert all(torch.equal(pipeline.unet.state_dict()[key], value) for key, value in unet.state_dict().items())
        own = pipeline.text_encoder.state_dict()
        for key, value in encoder_2.text_model.state_dict().items():
            assert torch.equal(own[key.removeprefix("text_model.")], value), key
    # which it does not use, and files made from diffusers' folders do not have
    weights = load_file(file)
    del weights["cond_stage_model.model.text_projection"]
    save_file(weights, file)
    assert all(torch.equal(value, own[key]) for key, value in load_pipeline(file).text_encoder.state_dict().items())


def test_a_dataset_is_drawn_resumed_and_drawn_again(stock, tmp_path, capsys):
    file = save_original(stock, tmp_path / "style.safetensors")
    common = ["--model", str(file), "--class-names", "star", "--samples-per-class", "1", "--height", "64"]
    common += ["--width", "64", "--num-inference-steps", "1", "--output-dir", str(tmp_path / "d")]
    assert main(["generate", *common]) == 0, capsys.readouterr().err
    (row,) = load_dataset(str(tmp_path / "d"), split="train")
    assert row["model"] == "style.safetensors"
    moved = str(file.rename(tmp_path / "renamed.safetensors"))
    again = ["regenerate", str(tmp_path / "d"), "--index", "0", "--model", moved, "--output", str(tmp_path / "0.png")]
    assert main(again) == 0, capsys.readouterr().err
    # masks are made as the family makes them, by the denoiser's configuration
    assert denoiser_config(moved)["cross_attention_dim"] == 64


@pytest.mark.parametrize(
    ("names", "kind", "family"),
    [
        ({FLUX: (1,), "img_in.weight": (8, 64), "guidance_in.in_layer.bias": (1,)}, "flux-dev", "flux"),
        ({FLUX: (1,), "img_in.weight": (8, 64)}, "flux-schnell", "flux"),
        ({"model.diffusion_model.joint_blocks.37.x_block.mlp.fc1.weight": (1,)}, "sd35_large", "sd3"),
        (dict.fromkeys(AURA, (1,)), "auraflow", "aura-flow"),
    ],
)
def test_other_families_are_known_and_say_what_is_missing(names, kind, family, tmp_path, hub):
    tensors = {name: torch.zeros(shape) for name, shape in names.items()} | {"transformer.x": torch.zeros(1)}
    save_file(tensors, tmp_path / "x.safetensors")
    assert (kind_of_file(tmp_path / "x.safetensors"), family_of_file(tmp_path / "x.safetensors")) == (kind, family)
    with pytest.raises(ValueError, match=rf"a checkpoint of {kind} in one file, whose settings and .* Give "):
        load_pipeline(tmp_path / "x.safetensors")


def test_bad_files(stock, tmp_path):
    file = save_original(stock, tmp_path / "good.safetensors")
    for arguments, message in (
        ({"variant": "fp16"}, "variant is 'fp16', and model is the file .*leave it out"),
        ({"quantization": "int8"}, "quantization is 'int8', and model is the file"),
    ):
        with pytest.raises(ValueError, match=message):
            load_pipeline(file, **arguments)
    weights = load_file(file)
    nine = torch.zeros(32, 9, 3, 3)
    cases = {
        "lora.safetensors": ({"lora_unet_x.lora_down.weight": nine}, "is a LoRA and no whole model; give it as lora"),
        "other.safetensors": ({"x": nine}, "of no model that is known"),
        "inpaint.safetensors": (weights | {"model.diffusion_model.input_blocks.0.0.weight": nine}, "kind inpainting"),
        "part.safetensors": ({k: v for k, v in weights.items() if "first_stage" not in k}, "lacks the weights"),
    }
    for name, (tensors, message) in cases.items():
        save_file(tensors, tmp_path / name)
        with pytest.raises(ValueError, match=message):
            load_pipeline(tmp_path / name)
    (tmp_path / "model.ckpt").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"model is '.*model\.ckpt', which is pickled .*run code.*save_file"):
        load_pipeline(tmp_path / "model.ckpt")
    (tmp_path / "model.txt").write_bytes(b"x")
    with pytest.raises(ValueError, match="is no safetensors file"):
        load_pipeline(tmp_path / "model.txt")


@pytest.mark.parametrize("pad", ["!", "<|endoftext|>"])
def test_the_tokenizer_is_clips(pad):
    from open_clip import get_tokenizer

    texts = ["a photo of a great white shark", "Café, 3 dogs?", "an  ox's\nhorn"]
    own = clip_tokenizer(pad)(texts).input_ids
    theirs = get_tokenizer("ViT-L-14")(texts).tolist()
    assert own == [[number for number in row if number != 0] for row in theirs]
    assert clip_tokenizer(pad).pad_token_id == {"!": 0, "<|endoftext|>": 49407}[pad]


def test_a_training_starts_from_a_file(stock, tmp_path):
    save_class_folders(tmp_path / "shapes", NAMES, 2)
    file = save_original(stock, tmp_path / "style.safetensors")
    settings = {**SETTINGS, "max_steps": 1, "train_method": "lora"}
    config = DenoiserConfig(
        dataset=str(tmp_path / "shapes"), output_dir=str(tmp_path / "out"), model_name_or_path=str(file), **settings
    )
    trained = train(config)
    assert load_pipeline(file, lora=trained).get_list_adapters()
