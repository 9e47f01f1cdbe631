"""A pipeline made fast: the same images up to rounding, LoRAs in their place, and what happens without memory."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from support.random_loras import save_random_lora
from ubgen_pipeline.inference.prepared_pipeline import (
    compile_pipeline,
    find_batch_size,
    for_another_thread,
    is_out_of_memory,
    lowered_batch_size,
    prepare_pipeline,
)
from ubgen_pipeline.models.loading import load_pipeline

NAMES = ["circle", "star", "heart"]


@pytest.fixture(scope="module")
def loras(random_mini_model, tmp_path_factory):
    """Two that both change images."""
    return [save_random_lora(random_mini_model, tmp_path_factory.mktemp("lora"), seed=seed) for seed in (0, 1)]


def _latents(pipeline):
    pipeline.set_progress_bar_config(disable=True)
    return pipeline(NAMES, seeds=[1, 2, 3], num_inference_steps=3, output_type="latent").images


def test_prepared_equals_loaded_up_to_rounding(random_mini_model, loras):
    plain = _latents(load_pipeline(random_mini_model))
    beside = _latents(load_pipeline(random_mini_model, lora=loras[0]))
    prepared = load_pipeline(random_mini_model, lora=loras[0])
    prepare_pipeline(prepared, "fused", keeps_projections=False)
    assert not any("lora" in name for name, _ in prepared.unet.named_parameters())
    torch.testing.assert_close(_latents(prepared), beside, rtol=1e-4, atol=1e-4)
    assert (beside - plain).abs().max() > 0.01


def test_a_lora_is_not_fused_in_16_bits(random_mini_model, loras):
    pipeline = load_pipeline(random_mini_model, lora=loras[0], torch_dtype=torch.bfloat16)
    prepare_pipeline(pipeline, "beside", keeps_projections=False)
    own = {name: weight.dtype for name, weight in pipeline.unet.named_parameters()}
    assert any("lora_B" in name for name in own) and set(own.values()) == {torch.bfloat16}


def test_both_loras_act_and_are_fused(random_mini_model, loras):
    def weight(pipeline):
        prepare_pipeline(pipeline, "fused", keeps_projections=True)
        return pipeline.unet.mid_block.attentions[0].transformer_blocks[0].attn1.to_q.weight.detach().clone()

    base = load_pipeline(random_mini_model).unet.mid_block.attentions[0].transformer_blocks[0].attn1.to_q.weight
    changes = [weight(load_pipeline(random_mini_model, lora=lora)) - base for lora in loras]
    both = weight(load_pipeline(random_mini_model, lora=loras[0], few_step_lora=loras[1])) - base
    assert all(change.abs().max() > 1e-4 for change in changes)
    torch.testing.assert_close(both, sum(changes), rtol=1e-4, atol=1e-6)


def test_a_lora_in_the_format_of_published_ones_loads(random_mini_model, loras, tmp_path):
    """LCM's and Hyper-SD's come with the keys of the kohya scripts and an alpha each."""
    renamed = {}
    for key, value in load_file(loras[0] / "pytorch_lora_weights.safetensors").items():
        module, side = key.removeprefix("unet.").removesuffix(".weight").rsplit(".", 1)
        name = f"lora_unet_{module.replace('.', '_')}"
        renamed[f"{name}.{'lora_down' if side == 'lora_A' else 'lora_up'}.weight"] = value
        # half the rank, so that the product counts half
        renamed[f"{name}.alpha"] = torch.tensor(1.0)
    save_file(renamed, tmp_path / "few.safetensors")

    def weight(**lora):
        pipeline = load_pipeline(random_mini_model, **lora)
        if lora:
            prepare_pipeline(pipeline, "fused", keeps_projections=True)
        return pipeline.unet.mid_block.attentions[0].transformer_blocks[0].attn1.to_q.weight.detach()

    change = weight(lora=loras[0]) - weight()
    torch.testing.assert_close(
        weight(few_step_lora=tmp_path / "few.safetensors") - weight(), change / 2, rtol=1e-3, atol=1e-6
    )


def test_twins_share_weights_but_no_walk(random_mini_model):
    pipeline = load_pipeline(random_mini_model, scheduler="pndm")
    twin = for_another_thread(pipeline)
    assert twin.unet is pipeline.unet and twin.scheduler is not pipeline.scheduler
    assert twin.scheduler.config == pipeline.scheduler.config


def test_only_memory_errors_pass_through_compiling(random_mini_model):
    pipeline = load_pipeline(random_mini_model)

    def no_memory():
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        compile_pipeline(pipeline, no_memory)


def test_a_batch_that_does_not_fit_is_halved(monkeypatch):
    with pytest.raises(ValueError, match="batch_size is 1"):
        lowered_batch_size(1)
    for name in ("empty_cache", "reset_peak_memory_stats"):
        monkeypatch.setattr(torch.cuda, name, lambda: None)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: type("P", (), {"total_memory": 1000}))
    tried = []

    def draw(size):
        tried.append(size)
        if size > 16:
            raise torch.OutOfMemoryError("CUDA out of memory")

    # 8 samples leave a tenth of the memory free, 16 do not
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda: 100 * tried[-1])
    assert find_batch_size(draw, 64) == 8 and tried == [64, 32, 16, 8]
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda: 2000)
    # one sample alone may take more than that
    assert find_batch_size(draw, 4) == 1


def test_errors_that_mean_too_little_memory():
    assert is_out_of_memory(torch.OutOfMemoryError("x")) and is_out_of_memory(MemoryError())
    assert is_out_of_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes"))
    assert not is_out_of_memory(RuntimeError("shapes differ")) and not is_out_of_memory(ValueError("out of memory"))
