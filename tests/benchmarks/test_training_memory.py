"""Counted memory of a training: against what the allocator gave to the same training, and the configurations."""

import gc
import itertools
import weakref
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.real_size_families import REAL_SIZE_MODELS
from benchmarks.training_memory import DEFAULT_CONFIGS, MemoryOf, count_steps, main, read_config
from support import ROOT
from support.family_models import TinyModels
from ubgen_pipeline.latent_denoising import guided_prediction
from ubgen_pipeline.models.loading import load_pipeline
from ubgen_training.lora.adapter import LoraSettings, add_lora
from ubgen_training.sampler import activation_offload
from ubgen_training.ubgen.ubgen_config import UbGenConfig

ROWS, STEPS, SCALE = 2, 3, 3.0


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return TinyModels(tmp_path_factory.mktemp("tiny"))


def most_allocated(call):
    """Bytes that the call had allocated at its worst moment, by the allocator's own record."""
    # what earlier tests left would be freed meanwhile, and be taken off
    gc.collect()
    gc.disable()
    try:
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
            call()
    finally:
        gc.enable()
    results = record.profiler.kineto_results
    changes = sorted((event.start_ns(), event.nbytes()) for event in results.events() if event.name() == "[memory]")
    live = peak = 0
    for _, change in changes:
        live += change
        peak = max(peak, live)
    return peak


def copies_in_main_memory(monkeypatch):
    """Bytes of the copies that the offload made and that are alive, and the most at one time."""
    count, empty_like = SimpleNamespace(live=0, peak=0), torch.empty_like

    def noted(tensor, **kwargs):
        made = empty_like(tensor, **kwargs)
        if "pin_memory" in kwargs and not made.is_meta:
            count.live += made.nbytes
            count.peak = max(count.peak, count.live)
            weakref.finalize(made, forget, made.nbytes)
        return made

    def forget(size):
        count.live -= size

    monkeypatch.setattr(torch, "empty_like", noted)
    return count


@pytest.mark.parametrize("name", ["sd", "sd3", "flux2-klein", "z-image"])
def test_steps_take_what_the_allocator_gives_them(name, folders, random_mini_model, monkeypatch):
    model = random_mini_model if name == "sd" else str(folders.folder(name))
    size = {"height": 64, "width": 64}
    config = UbGenConfig(output_dir="unused", use_cpu=True, lora_rank=2, model_name_or_path=model, **size)
    memory = MemoryOf(config, torch.float32)
    pipeline = load_pipeline(model)
    add_lora(pipeline.denoiser_network, LoraSettings(2), 0, pipeline.lora_targets)
    with torch.no_grad():
        text, scale = pipeline.with_guidance(pipeline.batch(pipeline.encode(["a photo"] * ROWS)), SCALE)
    given = text.guided(text) if scale > 1 else text
    noise, time = torch.randn(ROWS, *memory.shape), torch.tensor(500.0)

    def steps(offload):
        latents = noise.clone()
        weights = pipeline.denoiser_network.parameters()
        with activation_offload.offload_activations(weights, from_cpu=True) if offload else nullcontext():
            for _ in range(STEPS):
                latents = latents + guided_prediction(pipeline.predict, latents, time, given, scale, pipeline.guide)
        latents.sum().backward()

    drawn = {"rows": ROWS, "guidance_scale": SCALE, "num_steps": STEPS}
    # activations of these models are small
    monkeypatch.setattr(activation_offload, "_LEAST_BYTES", 4096)
    copied = copies_in_main_memory(monkeypatch)
    for checkpointing, offload in itertools.product((False, True), (False, True)):
        for network in (memory.pipeline.denoiser_network, pipeline.denoiser_network):
            network.train(checkpointing)
            if checkpointing:
                network.enable_gradient_checkpointing()
        counted = count_steps(memory.pipeline, memory.text, memory.shape, offload=offload, **drawn)
        if not offload:
            # the first call fills caches that stay
            steps(offload)
            pipeline.denoiser_network.zero_grad()
        copied.peak = 0
        # main memory and device are the same here, but their worst moments are not
        most = most_allocated(lambda offload=offload: steps(offload))
        assert sum(counted) == pytest.approx(most, rel=0.15 if offload else 0.1)
        assert counted.offloaded == pytest.approx(copied.peak, rel=0.1) and bool(counted.offloaded) == offload
        assert copied.live == 0
        pipeline.denoiser_network.zero_grad()


def test_every_configuration_for_imagenet_is_read_and_its_model_is_known():
    for file in DEFAULT_CONFIGS:
        config, dtype = read_config(str(ROOT / file))
        assert config.classes == "imagenet1k" and dtype.itemsize == 2
        assert config.model_name_or_path in {model.hub_id for model in REAL_SIZE_MODELS.values()}


def test_sd15_takes_what_was_once_reckoned():
    """About 8.6 GB for five steps under guidance at 512 pixels, 1.55 where they are recomputed, 3 for the VAE."""
    memory = MemoryOf(*read_config(str(ROOT / DEFAULT_CONFIGS[0])))
    kept, recomputed = (memory.count(1, checkpointing=checkpointing) for checkpointing in (False, True))
    moved = memory.count(1, checkpointing=False, offload=True)
    # all but small tensors, of the steps and of VAE and CLIP; what two layers save is there twice
    assert moved.kept < 0.05 * kept.kept and moved.offloaded == pytest.approx(kept.kept + kept.working, rel=0.2)
    assert (kept.kept, recomputed.kept) == (pytest.approx(8.6e9, rel=0.1), pytest.approx(1.55e9, rel=0.1))
    assert kept.working == pytest.approx(3.2e9, rel=0.1) and recomputed.working < 0.6 * kept.working
    assert kept.total == kept.weights + kept.trained + kept.kept + kept.working
    # rank 128 in 128 layers
    assert memory.num_trained == 25_509_888


def test_the_command_prints_a_table_and_names_what_is_wrong(random_mini_model, tmp_path, capsys):
    (tmp_path / "own.yaml").write_text("class_names: [a, b]\nbf16: true\nnum_gradient_steps: 1\nlora_rank: 2\n")
    flags = ["--configs", str(tmp_path / "own.yaml"), "--models", random_mini_model, "--batch-sizes", "1"]
    assert main(flags) == 0
    lines = capsys.readouterr().out.strip().splitlines()
    assert [line.split(" | ")[2] for line in lines[2:]] == ["kept", "recomputed", "offloaded", "both"]
    figures = [[float(cell) for cell in line.strip("| ").split(" | ")[3:]] for line in lines[2:]]
    # weights, LoRA, kept, working, total, and main memory
    assert all(row[4] == pytest.approx(sum(row[:4]), abs=0.2) for row in figures)
    assert (
        main(["--configs", "no.yaml"]) == 2 and "configs holds 'no.yaml', which is no file" in capsys.readouterr().err
    )
    assert main(["--batch-sizes", "0"]) == 2 and "batch_sizes holds 0" in capsys.readouterr().err
    assert (
        main(["--activations", "gone"]) == 2 and "activations holds 'gone'; choose of kept" in capsys.readouterr().err
    )
