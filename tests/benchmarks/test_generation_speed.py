"""The benchmark of generation: its loop draws as the run does, and its errors are those of the formulas."""

import dataclasses
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from torch.nn.attention import SDPBackend

from benchmarks import generation_speed
from benchmarks.generation_speed import BenchmarkSettings, compare, loop, relative_errors, within_minutes
from benchmarks.random_models import BUILT_MODELS, build_random_lora, text_parts
from benchmarks.real_size_families import REAL_SIZE_MODELS
from support.family_models import tiny_pipeline
from ubgen_pipeline.models.families import FAMILIES


def test_the_loop_is_drawn_with_the_runs_own_attention(orders):
    class Pipeline(SimpleNamespace):
        def __init__(self, **parts):
            super().__init__(components={"scheduler": self, "safety_checker": None}, device=torch.device("cpu"))
            self.scheduler, self.config = self, {}

        from_config = classmethod(lambda cls, config: cls())

        def with_scheduler(self, scheduler):
            return type(self)()

        def set_progress_bar_config(self, disable):
            pass

        def __call__(self, names, **arguments):
            return SimpleNamespace(images=torch.zeros(len(names), 1))

    settings = SimpleNamespace(num_inference_steps=1, guidance_scale=1.0, height=None, width=None)
    run = SimpleNamespace(num_threads=1, pipeline=Pipeline(), settings=settings, batch_size=2, attention="efficient")
    sample = SimpleNamespace(prompt=SimpleNamespace(name="a", prompt="a"), seed=0)
    assert len(loop(run, [sample] * 3)) == 3
    assert orders == [SDPBackend.EFFICIENT_ATTENTION]


def test_errors_are_relative_to_each_samples_reference():
    reference = torch.tensor([[3.0, 4.0], [0.0, 2.0]]).view(2, 1, 1, 2)
    latents = reference + torch.tensor([[0.0, 0.5], [0.0, 0.0]]).view(2, 1, 1, 2)
    assert relative_errors(latents, reference).tolist() == pytest.approx([0.1, 0.0])


@pytest.mark.parametrize(
    ("family", "built"),
    [("sdxl", {}), ("sd3", {}), ("sd3", {"with_t5": False}), ("z-image", {}), ("flux2-klein", {})],
    ids=["sdxl", "sd3", "sd3 without T5", "z-image", "flux2-klein"],
)
def test_the_stock_arm_of_a_family_draws_the_same_images(family, built, tmp_path, monkeypatch, capsys):
    for limit in ("product_rate", "copy_rate"):
        # they take seconds, and tests of their own
        monkeypatch.setattr(generation_speed, limit, lambda *_: 1e12)
    tiny_pipeline(family, **built).save_pretrained(tmp_path / "model")
    build_random_lora(tmp_path / "model", tmp_path / "lora", rank=2)
    settings = BenchmarkSettings(
        model=str(tmp_path / "model"),
        lora=str(tmp_path / "lora"),
        num_images=2,
        repeats=1,
        num_inference_steps=2,
        size=32,
        stock_batch_size=2,
        batch_size=2,
        compile="off",
        num_references=2,
        device="cpu",
    )
    compare(settings, tmp_path)
    printed = capsys.readouterr().out
    assert "images: 100.0% of 4 pairs at 40 dB or more" in printed
    assert ("error of ubgen over that of stock" in printed) != ("diffusers' own end in another layout" in printed)


@pytest.mark.parametrize("name", [name for name in BUILT_MODELS if name != "sd15"])
def test_random_models_have_text_encoders_of_the_published_width(name):
    real = REAL_SIZE_MODELS[name]
    with torch.device("meta"):
        parts = {**real.networks(), **text_parts(real.family)}
    pipeline = FAMILIES[real.family].pipeline_class()(**parts, scheduler=real.scheduler(), **real.switches)
    assert pipeline.family_misfit() is None
    pipeline.check_prompt_lengths(["a photo of a class"])


@pytest.mark.parametrize(
    ("tflop", "taken"),
    [
        # SD1.5, SDXL, FLUX.2-klein and Z-Image at the limit of an H100, by the count of results/cost.md
        (84.45, (3, 8, 50, 32)),
        (686.6, (1, 2, 12, 32)),
        (3_492, (1, 2, 8, 8)),
        (5_523, (1, 2, 8, 8)),
    ],
)
def test_on_a_gpu_a_large_model_is_measured_within_minutes(tflop, taken):
    settings = BenchmarkSettings(num_inference_steps=50)
    seconds_of_step = tflop / 50 / 798
    shorter = within_minutes(settings, seconds_of_step)
    assert (shorter.repeats, shorter.num_references, shorter.num_inference_steps, shorter.num_images) == taken
    assert shorter.stock_batch_size == min(16, shorter.num_images)
    drawn = shorter.num_images * (shorter.repeats + 1)
    # two turns of an arm at 20% of the limit and two at 40%; float32 takes 25 times as long
    seconds = (drawn * 2 * (5 + 2.5) + shorter.num_references * 25) * shorter.num_inference_steps * seconds_of_step
    assert seconds <= 360


def test_what_takes_too_long_at_its_smallest_is_measured_all_the_same():
    shorter = within_minutes(BenchmarkSettings(num_inference_steps=50), 1000.0)
    assert (shorter.repeats, shorter.num_inference_steps, shorter.num_images, shorter.stock_batch_size) == (1, 2, 2, 2)
    # what was asked for and is smaller stays
    asked = BenchmarkSettings(num_inference_steps=1, num_images=1, num_references=1)
    assert within_minutes(asked, 1000.0) == dataclasses.replace(asked, repeats=1, stock_batch_size=1)


def test_an_embedded_model_without_a_lora_gets_a_random_one(tmp_path):
    model, lora = generation_speed._models(BenchmarkSettings(model="mini-flow"), tmp_path, "cpu")
    assert model == "mini-flow"
    weights = load_file(Path(lora) / "pytorch_lora_weights.safetensors")
    assert weights and all(value.abs().sum() > 0 for value in weights.values())
    given = BenchmarkSettings(model="mini-flow", lora="mine")
    assert generation_speed._models(given, tmp_path / "none", "cpu") == ("mini-flow", "mine")
