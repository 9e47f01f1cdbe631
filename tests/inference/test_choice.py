"""How a dataset is drawn on this machine: as the user says, else as the dataset was begun, else as the machine can."""

import pytest
import torch

from ubgen_pipeline.inference.choice import choose_inference, use_threads, wanted_dtype, wanted_offload
from ubgen_pipeline.inference.packed_products import PackedLinear
from ubgen_pipeline.inference.settings import Inference, InferenceSettings
from ubgen_pipeline.models.loading import load_pipeline


@pytest.mark.parametrize(
    ("given", "begun", "device", "expected"),
    [
        ("bfloat16", {"dtype": "float16"}, "cuda:0", "bfloat16"),
        (None, {"dtype": "float16"}, "cpu", "float16"),
        (None, None, "cuda:1", "float16"),
        (None, None, "cpu", "float32"),
        (None, {}, "cpu", "float32"),
    ],
)
def test_precision(given, begun, device, expected):
    assert wanted_dtype(InferenceSettings(dtype=given), begun, device) == expected


@pytest.mark.parametrize(
    ("given", "begun", "expected"), [(None, None, "none"), (None, {"offload": "text"}, "text"), ("group", {}, "group")]
)
def test_what_waits_on_the_cpu(given, begun, expected):
    assert wanted_offload(InferenceSettings(offload=given), begun, "cuda:1") == expected


def test_nothing_waits_for_the_cpu_on_itself():
    assert wanted_offload(InferenceSettings(), None, "cpu") == "none"
    with pytest.raises(ValueError, match="offload is 'text', and the device is the CPU"):
        wanted_offload(InferenceSettings(), {"offload": "text"}, "cpu")


@pytest.mark.parametrize(
    ("given", "begun", "latent_pixels", "at_once", "expected"),
    [
        # small batches share the cores: four at the same time on one thread each
        (None, None, 256, True, (1, 4)),
        # large ones get all of them, one after the other
        (None, None, 4096, True, (4, 1)),
        (None, None, 256, False, (4, 1)),
        (2, None, 256, True, (2, 2)),
        (None, {"threads": 3}, 256, True, (3, 1)),
        (8, None, 256, True, (8, 1)),
    ],
)
def test_threads(monkeypatch, given, begun, latent_pixels, at_once, expected):
    used = []
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    monkeypatch.setattr(torch, "set_num_threads", used.append)
    num_at_once = use_threads(InferenceSettings(threads=given), begun, latent_pixels, at_once)
    assert (used[0], num_at_once) == expected


def choose(model, begun=None, **settings):
    pipeline = load_pipeline(model)
    chosen = choose_inference(
        InferenceSettings(**settings), begun, pipeline, lambda size: pytest.fail("nothing is drawn on a CPU"),
        has_lora=False, latent_pixels=256, num_denoiser_samples=10, is_compilable=True,
    )  # fmt: skip
    packed = any(isinstance(module, PackedLinear) for module in pipeline.unet.modules())
    return chosen, packed


def test_a_new_dataset_on_a_cpu(random_mini_model, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    chosen, packed = choose(random_mini_model)
    # 8 samples of 16 x 16 latents: as many as stay in a core's cache
    assert chosen == Inference(8, 2, "float32", "off", "none", "auto", not_finite="marked")
    assert packed == torch.backends.mkldnn.is_available()
    assert choose(random_mini_model, batch_size=5)[0].batch_size == 5


def test_a_resume_takes_what_the_dataset_was_begun_with(random_mini_model):
    begun = Inference(3, 1, "float32", "off", "none").facts()
    chosen, _ = choose(random_mini_model, begun)
    assert chosen == Inference(3, 1, "float32", "off", "none", "auto")


def test_a_dataset_begun_with_compiled_code_needs_a_compiler(random_mini_model, monkeypatch):
    monkeypatch.setattr("ubgen_pipeline.inference.choice.compile_pipeline", lambda pipeline, draw: False)
    with pytest.raises(ValueError, match="compile was on when this dataset was begun, but fails here"):
        choose(random_mini_model, Inference(3, 1, "float32", "on", "none").facts())
    # a new dataset goes on without
    assert choose(random_mini_model, compile="on", batch_size=1)[0].compile == "off"
