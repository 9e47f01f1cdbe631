"""Operations of an image of a run: against those that a real call makes, and where there are none to tell."""

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from ubgen_pipeline.generation.image_operations import RunOperations
from ubgen_pipeline.generation.settings import GenerateSettings
from ubgen_pipeline.inference import machine_limit, operations
from ubgen_pipeline.models.loading import load_pipeline


@pytest.fixture(scope="module")
def pipeline(tiny_model):
    return load_pipeline(tiny_model)


def settings_of(folder, **changed):
    given = {"num_inference_steps": 3, "guidance_scale": 2.0, "class_names": ["circle"], "output_dir": str(folder)}
    return GenerateSettings(**given | changed)


def test_an_image_costs_what_a_call_does(pipeline, tmp_path):
    settings = settings_of(tmp_path)
    counted = RunOperations(pipeline, settings, "cpu", "float32", "none")
    (drawn,) = pipeline.encode(["a photo of a circle"])
    # plain products, since torch does not count the fused attention of a CPU
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as real:
        pipeline(["circle"], num_inference_steps=3, guidance_scale=2.0, seed=0)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as encoding:
        pipeline.encode(["a photo of a circle", ""])
    assert counted.of_image(pipeline, drawn) == real.get_total_flops() - encoding.get_total_flops() > 0
    assert counted.of_image(pipeline, None) is None
    assert not any(weight.is_meta for weight in pipeline.denoiser_network.parameters())


@pytest.mark.parametrize(
    ("changed", "quantization"),
    [({"guidance_interval": (0.2, 0.8)}, "none"), ({"true_cfg_scale": 2.0}, "none"), ({}, "8bit")],
)
def test_what_draws_otherwise_is_not_counted(pipeline, tmp_path, changed, quantization):
    (drawn,) = pipeline.encode(["a photo of a circle"])
    counted = RunOperations(pipeline, settings_of(tmp_path, **changed), "cpu", "float32", quantization)
    # nor is the machine measured, with which nothing would be compared
    counted.measure(1)
    assert counted.of_image(pipeline, drawn) is None and counted.limit is None


def test_what_cannot_be_counted_is_said_and_does_not_stop_the_run(pipeline, tmp_path, monkeypatch):
    def fail(*_):
        raise NotImplementedError("no meta kernel")

    monkeypatch.setattr(operations, "copy_on_meta", fail)
    with pytest.warns(UserWarning, match="operations cannot be counted: no meta kernel"):
        counted = RunOperations(pipeline, settings_of(tmp_path), "cpu", "float32", "none")
    assert counted.of_image(pipeline, pipeline.encode(["a circle"])[0]) is None


def test_threads_of_a_cpu_add_up_and_a_gpu_is_one(pipeline, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(
        machine_limit, "machine_limit", lambda device, dtype, folder: asked.append((device, dtype)) or 2e9
    )
    for device, dtype, limit in (("cpu", "float32", 8e9), ("cuda:1", "bfloat16", 2e9)):
        counted = RunOperations(pipeline, settings_of(tmp_path), device, dtype, "none")
        assert counted.limit is None
        counted.measure(4)
        assert counted.limit == limit
        assert asked[-1] == (device, getattr(torch, dtype))
