"""Operations of an image, counted without computing: those of a real call, for every family."""

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from benchmarks.operations import Operations, model_on_meta
from benchmarks.real_size_families import REAL_SIZE_MODELS, real_size_model
from support.family_models import FAMILY_NAMES, own_pipeline, tiny_pipeline
from ubgen_pipeline.inference import operations as operations_module
from ubgen_pipeline.inference.operations import ImageOperations, copy_on_meta, count_operations
from ubgen_pipeline.models.families import FAMILIES
from ubgen_pipeline.models.loading import load_pipeline
from ubgen_training.lora.adapter import LoraSettings, add_lora


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_attention_counts_the_same_wherever_it_runs(device):
    """Fused on the CPU, two matrix products on the meta device."""
    query = torch.zeros(2, 3, 50, 16, device=device)
    key, value = torch.zeros(2, 2, 3, 7, 16, device=device)
    queries_by_keys = weights_by_values = 2 * 3 * 50 * 7 * 16
    counted = count_operations(lambda: scaled_dot_product_attention(query, key, value))
    assert counted == 2 * (queries_by_keys + weights_by_values)


def test_operations_are_those_of_a_call(mini_model):
    pipeline = load_pipeline(mini_model, scheduler="pndm")
    pipeline.set_progress_bar_config(disable=True)

    def counted(**arguments):
        text = torch.zeros(1, 24, 96)
        texts = {"prompt_embeds": text, "negative_prompt_embeds": text}
        return count_operations(lambda: pipeline(["star"], num_inference_steps=4, **texts, **arguments))

    operations = Operations("mini")
    assert operations.of_an_image(4, 2.0) == counted()
    assert operations.of_an_image(4, 1.0) == counted(guidance_scale=1.0)
    assert operations.of_an_image(4, 2.0, "guidance-cutoff") == counted(guidance_until=0.6)
    assert operations.of_an_image(4, 2.0, "deep-cache") == counted(deep_features_every=3)


@pytest.mark.parametrize("name", FAMILY_NAMES)
def test_every_family_is_counted_by_its_own_code(name, tmp_path):
    stock = tiny_pipeline(name)
    stock.save_pretrained(tmp_path)
    pipeline = own_pipeline(name, stock)
    with torch.no_grad():
        text = pipeline.batch(pipeline.encode(["a photo"]))
    scale = 1.0 if pipeline.guidance == "none" else 3.0
    negative = {"negative_prompt_embeds": text} if pipeline.guidance == "classifier-free" else {}
    # the counter knows what a kernel of attention on the CPU does, with masks too
    drawn = count_operations(
        lambda: pipeline(
            ["star"],
            prompt_embeds=text,
            **negative,
            num_inference_steps=2,
            guidance_scale=scale,
            height=32,
            width=32,
        )
    )
    operations = Operations(str(tmp_path), 32)
    assert operations.of_an_image(2, scale) == pytest.approx(drawn, rel=1e-3)
    if pipeline.has_kept_features:
        # some of these UNets read more than the text; one of the two steps leaves layers out
        assert 0.5 * drawn < operations.of_an_image(2, scale, "deep-cache") < drawn


# weights of the published denoisers: of the headers of their files on the Hub where they are exact, and else what
# their authors say
WEIGHTS = {
    "sd15": 859_520_964,
    "sd21": 865_910_724,
    **dict.fromkeys(("sdxl", "sdxl-turbo", "sdxl-lightning"), 2_567_463_684),
    # beside them their files hold positions, 226 and 90 million numbers that are no weights
    "sd35-medium": 2_243_171_520,
    **dict.fromkeys(("sd35-large", "sd35-large-turbo"), 16_292_561_536 // 2 - 192**2 * 2432),
    "flux1-dev": 11_901_408_320,
    "flux1-schnell": 11_891_178_560,
    **dict.fromkeys(("z-image", "z-image-turbo"), 6_154_908_736),
    **dict.fromkeys(("flux2-klein-4b", "flux2-klein-base-4b"), 3_875_544_576),
    **dict.fromkeys(("flux2-klein-9b", "flux2-klein-base-9b"), 9_078_581_248),
    "flux2-dev": 32_223_281_152,
    "qwen-image": 20_430_401_088,
    # "1.6B" and "0.6B"
    **dict.fromkeys(("sana-1600m", "sana-sprint-1600m"), 1.6e9),
    "sana-600m": 0.6e9,
    "pixart-sigma": 610_856_096,
    "cogview4": 6_369_118_272,
    # "6.8B"
    "aura-flow": 6.8e9,
    "ernie-image": 8_033_490_048,
    # "2.6B"
    "lumina2": 2.6e9,
    # "8.9B"
    "chroma": 8.9e9,
}
# of the same files
AUTOENCODER_WEIGHTS = {"sd15": 83_653_863, "flux1-dev": 83_819_683, "qwen-image": 126_892_531}


@pytest.mark.parametrize("model", REAL_SIZE_MODELS)
def test_published_models_have_their_weights(model):
    pipeline, text = model_on_meta(model)
    published = WEIGHTS[model]
    counted = pipeline.denoiser_network.num_parameters()
    assert counted == (published if isinstance(published, int) else pytest.approx(published, rel=0.02))
    assert pipeline.vae.num_parameters() == AUTOENCODER_WEIGHTS.get(model, pipeline.vae.num_parameters())
    assert real_size_model(REAL_SIZE_MODELS[model].hub_id) is REAL_SIZE_MODELS[model]
    # what its text encoders make is as wide as the denoiser reads
    config = pipeline.denoiser_network.config
    names = ("cross_attention_dim", "joint_attention_dim", "cap_feat_dim", "caption_channels", "text_embed_dim")
    width = next(config[name] for name in (*reversed(names), "text_in_dim") if config.get(name))
    features = next(iter(text.tensors.values()))
    assert features[0].shape[-1] == width and pipeline.latent_shape(*[REAL_SIZE_MODELS[model].size] * 2)


def test_published_models_are_of_families():
    assert {model.family for model in REAL_SIZE_MODELS.values()} <= set(FAMILIES)


@pytest.mark.parametrize(
    ("model", "steps", "scale"),
    [
        ("sdxl-turbo", 4, 1),
        ("sdxl-lightning", 4, 1),
        ("sd35-large", 28, 4.5),
        ("sd35-large-turbo", 4, 1),
        ("flux1-schnell", 4, 1),
        ("z-image-turbo", 8, 1),
        ("flux2-klein-9b", 4, 1),
        ("sana-sprint-1600m", 2, 4.5),
    ],
)
def test_distilled_models_have_their_own_steps(model, steps, scale):
    pipeline, _ = model_on_meta(model)
    assert (pipeline.default_num_inference_steps, pipeline.default_guidance_scale) == (steps, scale)


@pytest.mark.parametrize(
    ("model", "teraflops"),
    [
        ("sd15", 84.45),
        ("sdxl", 50 * 2 * 6.76 + 10.47),
        ("sd35-medium", 28 * 2 * 11.25 + 10.47),
        ("z-image", 50 * 2 * 55.1 + 10.47),
        ("flux2-klein-base-4b", 50 * 2 * 34.8 + 10.47),
    ],
)
def test_published_models_have_their_operations(model, teraflops):
    assert Operations(model).of_an_image() == pytest.approx(teraflops * 1e12, rel=0.005)


def test_what_cannot_be_counted_is_named():
    with pytest.raises(ValueError, match=r"deep_features_every is 3, and the layers of .* cannot be left out"):
        Operations("flux2-klein-base-4b").of_an_image(preset="deep-cache")
    with pytest.raises(ValueError, match="model is 'no such model', which does not exist"):
        model_on_meta("no such model")
    with pytest.raises(ValueError, match=r"model_name_or_path is 'sd4'; choose one of sd15, sd21"):
        real_size_model("sd4", "model_name_or_path")


def test_operations_are_counted_beside_a_pipeline_that_draws(mini_model):
    pipeline = load_pipeline(mini_model, scheduler="pndm")
    with torch.no_grad():
        text = pipeline.batch(pipeline.encode(["a photo"])).floats(lambda value: value.to("meta"))
    counted = ImageOperations(copy_on_meta(pipeline), text, pipeline.latent_shape(None, None)).of_calls(3, 2.0)
    assert counted == Operations(mini_model).of_an_image(3, 2.0) > 0
    assert not any(weight.is_meta for weight in pipeline.denoiser_network.parameters())


def test_an_equal_model_is_not_counted_again(mini_model, monkeypatch):
    monkeypatch.setattr(operations_module, "_COUNTED", {})
    counted = Operations(mini_model).of_an_image(3, 2.0)
    calls = []
    monkeypatch.setattr(operations_module, "count_operations", lambda call: calls.append(call) or 1)
    # other steps make more of the same calls
    assert Operations(mini_model).of_an_image(3, 2.0) == counted and not calls
    assert Operations(mini_model).of_an_image(6, 2.0) > counted and not calls
    # what changes a call is counted: the size of the image, and layers beside those of the model
    Operations(mini_model, 128).of_an_image(3, 2.0)
    assert len(calls) == 2
    wider = Operations(mini_model)
    add_lora(wider.pipeline.denoiser_network, LoraSettings(2), 0, wider.pipeline.lora_targets)
    wider.of_an_image(3, 2.0)
    assert len(calls) == 3
