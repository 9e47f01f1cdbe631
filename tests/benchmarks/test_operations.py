"""Operations of an image, counted without computing: those of a real call, for every family."""

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from benchmarks.operations import Operations, model_on_meta
from benchmarks.real_size_families import REAL_SIZE_MODELS, real_size_model
from support.family_models import FAMILY_NAMES, own_pipeline, tiny_pipeline
from ubgen_pipeline.inference import operations as operations_module
from ubgen_pipeline.inference.operations import ImageOperations, copy_on_meta, count_operations
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
    assert Operations(str(tmp_path), 32).of_an_image(2, scale) == pytest.approx(drawn, rel=1e-3)


@pytest.mark.parametrize(
    ("model", "parameters", "teraflops"),
    [
        ("sd15", 859.5e6, 84.45),
        ("sdxl", 2567.5e6, 50 * 2 * 6.76 + 10.47),
        # 226 million positions beside them are no parameters
        ("sd35-medium", 2243e6, 28 * 2 * 11.25 + 10.47),
        ("z-image", 6155e6, 50 * 2 * 55.1 + 10.47),
        ("flux2-klein-base-4b", 3876e6, 50 * 2 * 34.8 + 10.47),
    ],
)
def test_published_models_have_their_size(model, parameters, teraflops):
    operations = Operations(model)
    assert operations.pipeline.denoiser_network.num_parameters() == pytest.approx(parameters, rel=1e-3)
    assert operations.of_an_image() == pytest.approx(teraflops * 1e12, rel=0.005)
    assert real_size_model(REAL_SIZE_MODELS[model].hub_id) is REAL_SIZE_MODELS[model]


def test_what_cannot_be_counted_is_named():
    with pytest.raises(ValueError, match=r"deep_features_every is 3, and the layers of .* cannot be left out"):
        Operations("flux2-klein-base-4b").of_an_image(preset="deep-cache")
    with pytest.raises(ValueError, match="model is 'no such model', which does not exist"):
        model_on_meta("no such model")
    with pytest.raises(ValueError, match=r"model_name_or_path is 'sd4'; choose one of sd15, sdxl"):
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
