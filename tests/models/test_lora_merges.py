"""Adapters of transformers with strengths, DoRA, rsLoRA, and ranks and alphas per layer: as a merge by hand gives."""

import json

import pytest
import torch
from peft import LoraConfig
from safetensors.torch import save_file

from support.family_models import CASES
from ubgen_pipeline.models.lora_loading import attach_loras, fuse_loras
from ubgen_pipeline.models.loras import Lora

RANK, ALPHA = 4, 3.0
FAMILIES = ("sd3", "flux", "lumina2")


def random_adapter(network, targets, kind):
    """Factors, ranks and alphas of every target by name, and peft's settings that say the same."""
    generator = torch.Generator().manual_seed(1)
    layers, ranks, alphas = {}, {}, {}
    for name, module in network.named_modules():
        if isinstance(module, torch.nn.Linear) and name.endswith(tuple(f".{target}" for target in targets)):
            number = len(layers)
            ranks[name], alphas[name] = (1 + number % 3, 0.5 + number % 4) if "per" in kind else (RANK, ALPHA)
            layer = {
                "lora_A.weight": torch.randn(ranks[name], module.in_features, generator=generator) * 0.3,
                "lora_B.weight": torch.randn(module.out_features, ranks[name], generator=generator) * 0.3,
            }
            if "dora" in kind:
                stretched = 0.5 + torch.rand(module.out_features, generator=generator)
                layer["lora_magnitude_vector"] = module.weight.detach().norm(dim=1) * stretched
            layers[name] = layer
    patterns = {"rank_pattern": ranks, "alpha_pattern": alphas} if "per" in kind else {}
    settings = LoraConfig(
        r=RANK,
        lora_alpha=ALPHA,
        target_modules=sorted(layers),
        use_dora="dora" in kind,
        use_rslora="rs" in kind,
        **patterns,
    ).to_dict()
    return layers, ranks, alphas, {**settings, "target_modules": sorted(layers), "peft_type": "LORA"}


def save(layers, settings, part, layout, folder):
    weights = {f"{name}.{side}": value for name, layer in layers.items() for side, value in layer.items()}
    if layout == "peft":
        (folder / "adapter_config.json").write_text(json.dumps(settings, default=str))
        save_file(
            {f"base_model.model.{key}": value for key, value in weights.items()}, folder / "adapter_model.safetensors"
        )
        return
    stated = {f"{part}.{key}": value for key, value in settings.items()}
    save_file(
        {f"{part}.{key}": value for key, value in weights.items()},
        folder / "pytorch_lora_weights.safetensors",
        metadata={"format": "pt", "lora_adapter_metadata": json.dumps(stated, default=str)},
    )


@pytest.mark.parametrize("layout", ["diffusers", "peft"])
@pytest.mark.parametrize("kind", ["dora", "rs per", "dora per"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_transformers_adapter_of_any_strength_equals_a_merge_by_hand(tmp_path, family, kind, layout):
    strength = -1.5 if layout == "peft" else 0.5
    pipeline = CASES[family].ours(CASES[family].build())
    network = pipeline.denoiser_network
    layers, ranks, alphas, settings = random_adapter(network, pipeline.lora_targets, kind)
    wanted, before = {}, {}
    for name, layer in layers.items():
        before[name] = network.get_submodule(name).weight.detach().clone()
        scale = strength * alphas[name] / (ranks[name] ** 0.5 if "rs" in kind else ranks[name])
        wanted[name] = before[name] + scale * layer["lora_B.weight"] @ layer["lora_A.weight"]
        if "dora" in kind:
            wanted[name] *= (layer["lora_magnitude_vector"] / wanted[name].norm(dim=1))[:, None]
    save(layers, settings, pipeline.denoiser_part, layout, tmp_path)
    attach_loras(pipeline, [(Lora(str(tmp_path), strength), "lora")])
    fuse_loras(pipeline)
    for name, weight in wanted.items():
        torch.testing.assert_close(network.get_submodule(name).weight, weight, rtol=1e-5, atol=1e-5)
        assert (weight - before[name]).abs().max() > 1e-2


def test_settings_that_are_missing_beside_an_adapter_are_named(tmp_path):
    pipeline = CASES["pixart-sigma"].pipeline
    layers, *_, settings = random_adapter(pipeline.denoiser_network, ["to_q"], "plain")
    save(layers, settings, pipeline.denoiser_part, "diffusers", tmp_path)
    with pytest.raises(ValueError, match=r"adapter_config\.json, in which .* ranks and alphas, is missing"):
        attach_loras(pipeline, [(Lora(str(tmp_path)), "lora")])
