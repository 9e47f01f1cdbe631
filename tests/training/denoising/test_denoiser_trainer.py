"""The denoiser's trainer: the average that it exports, and the precisions that it computes in."""

import pytest
import torch
from safetensors.torch import load_file

from support.image_folders import save_class_folders
from support.small_trainings import LORA_FILE, NAMES, SETTINGS
from ubgen_pipeline.models.loading import load_pipeline
from ubgen_training.denoising.command import train
from ubgen_training.denoising.denoiser_config import DenoiserConfig
from ubgen_training.denoising.denoiser_model import DenoiserModel
from ubgen_training.lora.adapter import LoraSettings


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shapes")
    save_class_folders(folder, NAMES, 2)
    return folder


def config(folder, output_dir, model, **settings):
    return DenoiserConfig(
        dataset=str(folder), output_dir=str(output_dir), model_name_or_path=model, **{**SETTINGS, **settings}
    )


def test_the_average_is_that_of_every_update(tiny_model, folder, tmp_path):
    """The exported weights against the recurrence by hand, from the checkpoints' own weights."""
    settings = {"average_decay": 0.2, "learning_rate": 1e-2}
    out = train(config(folder, tmp_path / "out", tiny_model, **settings))
    start = DenoiserModel(load_pipeline(tiny_model), NAMES, lora=LoraSettings(2), seed=SETTINGS["seed"])
    layer = "mid_block.attentions.0.transformer_blocks.0.attn2.to_q"
    key = f"unet.{layer}.lora_A.weight"
    expected = dict(start.denoiser_network.named_parameters())[f"{layer}.lora_A.default.weight"].detach()
    for number, decay in ((1, 1 / 10), (2, 2 / 11), (3, 0.2)):
        trained = load_file(out / f"checkpoint-{number}" / LORA_FILE)[key]
        expected = decay * expected + (1 - decay) * trained
    torch.testing.assert_close(load_file(out / LORA_FILE)[key], expected)
    assert (expected - trained).abs().max() > 1e-3


@pytest.mark.parametrize("method", ["lora", "scratch"])
def test_mixed_precision(tiny_model, folder, tmp_path, monkeypatch, method):
    """bfloat16 arithmetic, float32 trained weights, frozen ones of a LoRA in bfloat16; the same to a rounding."""
    seen, forward = [], DenoiserModel.forward

    def spied(model, *inputs):
        network = model.denoiser_network
        types = [{p.dtype for p in network.parameters() if p.requires_grad is trained} for trained in (True, False)]
        layer = network.mid_block.resnets[0].conv1
        hook = layer.register_forward_hook(lambda module, arguments, output: seen.append((output.dtype, *types)))
        loss = forward(model, *inputs)
        hook.remove()
        assert loss.dtype == torch.float32
        return loss

    monkeypatch.setattr(DenoiserModel, "forward", spied)
    settings = {"train_method": method, "max_steps": 1, "save_strategy": "no", "average_decay": 0.0}
    weights = {}
    for bf16 in (False, True):
        out = train(config(folder, tmp_path / str(bf16), tiny_model, bf16=bf16, **settings))
        file = out / LORA_FILE if method == "lora" else out / "unet" / "diffusion_pytorch_model.safetensors"
        weights[bf16] = load_file(file)
    (plain, _, _), (mixed, trained, frozen) = seen
    assert (plain, mixed, trained) == (torch.float32, torch.bfloat16, {torch.float32})
    assert frozen == ({torch.bfloat16} if method == "lora" else set())
    assert any(not torch.equal(value, weights[False][name]) for name, value in weights[True].items())
    for name, value in weights[True].items():
        assert value.dtype == torch.float32
        # an update of AdamW moves a weight by the learning rate; a LoRA starts from weights drawn in bfloat16
        torch.testing.assert_close(value, weights[False][name], atol=2.5e-3, rtol=2**-7)
