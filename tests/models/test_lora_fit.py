"""What is looked at before a LoRA is added: its numbers, and whether its parts take one."""

import json
import re

import pytest
import torch
from peft import LoraConfig, get_peft_model_state_dict, inject_adapter_in_model
from safetensors.torch import save_file

from support.family_models import CASES
from ubgen_pipeline import load_pipeline
from ubgen_pipeline.models.lora_loading import fuse_loras, load_lora

LAYER = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q"


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"lora_up.weight": lambda up: up * float("nan")}, "lora_B.weight holds NaN or infinity"),
        ({"lora_down.weight": lambda down: down + float("inf")}, "lora_A.weight holds NaN or infinity"),
        ({"alpha": lambda _: torch.tensor(float("nan"))}, "attn1.to_q.alpha is nan"),
        ({"lora_up.weight": lambda up: up.to(torch.int8)}, "lora_B.weight holds torch.int8, and no real numbers"),
        ({"lora_down.weight": lambda x: x[:0], "lora_up.weight": lambda x: x[:, :0]}, "lora_A.weight is empty, (0, "),
    ],
)
def test_numbers_that_are_none_are_named(random_mini_model, tmp_path, changed, message):
    pipeline = load_pipeline(random_mini_model)
    shape = pipeline.unet.mid_block.attentions[0].transformer_blocks[0].attn1.to_q.weight.shape
    file = {"lora_down.weight": torch.ones(2, shape[1]), "lora_up.weight": torch.ones(shape[0], 2)}
    file |= {"alpha": torch.tensor(1.0)}
    file |= {name: change(file[name]) for name, change in changed.items()}
    save_file({f"{LAYER}.{name}": value for name, value in file.items()}, tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match=f"lora is '.*', which is damaged: .*{re.escape(message)}"):
        load_lora(pipeline, tmp_path / "x.safetensors")
    assert not pipeline.get_list_adapters()


@pytest.mark.parametrize("data", [b"", b"<!DOCTYPE html>" * 20, b"version https://git-lfs.github.com/spec/v1\n" * 3])
def test_what_is_no_safetensors_file_is_said_to_be_none(random_mini_model, tmp_path, data):
    (tmp_path / "x.safetensors").write_bytes(data)
    with pytest.raises(ValueError, match="which is no safetensors file, or not the whole of one"):
        load_pipeline(random_mini_model, lora=tmp_path / "x.safetensors")


def save_adapter(network, layers, folder):
    config = LoraConfig(r=2, lora_alpha=3, target_modules=layers, init_lora_weights=False)
    inject_adapter_in_model(config, network)
    weights = get_peft_model_state_dict(network)
    save_file(
        {f"base_model.model.{key}": value.contiguous() for key, value in weights.items()},
        folder / "adapter_model.safetensors",
    )
    settings = {key: sorted(value) if isinstance(value, set) else value for key, value in config.to_dict().items()}
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    return weights


@pytest.mark.parametrize(
    ("family", "part", "layers"),
    [("sd3", "text_encoder_3", ["q"]), ("flux", "text_encoder_2", ["q"]), ("qwen-image", "text_encoder", ["q_proj"])],
)
def test_a_text_encoder_for_which_diffusers_has_no_lora_is_named(tmp_path, family, part, layers):
    """peft would add it, and diffusers neither scale it nor take it off again."""
    save_adapter(getattr(CASES[family].build(), part), layers, tmp_path)
    pipeline = CASES[family].ours(CASES[family].build())
    with pytest.raises(ValueError, match=f"it changes the {part}, and diffusers loads LoRAs for transformer"):
        load_lora(pipeline, tmp_path)


@pytest.mark.parametrize("part", ["text_encoder", "text_encoder_2"])
def test_of_two_text_encoders_the_one_of_its_widths_gets_it(tmp_path, part):
    weights = save_adapter(getattr(CASES["sd3"].build(), part), ["q_proj"], tmp_path)
    pipeline = CASES["sd3"].ours(CASES["sd3"].build())
    layer = "encoder.layers.0.self_attn.q_proj"
    prefix = "text_model." if hasattr(getattr(pipeline, part), "text_model") else ""
    before = getattr(pipeline, part).state_dict()[f"{prefix}{layer}.weight"].clone()
    load_lora(pipeline, tmp_path)
    fuse_loras(pipeline)
    (down,) = [value for key, value in weights.items() if key.endswith(f"{layer}.lora_A.weight")]
    (up,) = [value for key, value in weights.items() if key.endswith(f"{layer}.lora_B.weight")]
    after = getattr(pipeline, part).state_dict()[f"{prefix}{layer}.weight"]
    torch.testing.assert_close(after, before + 1.5 * up @ down, rtol=1e-5, atol=1e-5)


def test_a_layer_of_a_second_text_encoder_that_is_not_there_is_named(random_mini_model, tmp_path):
    layer = "lora_te2_text_model_encoder_layers_0_self_attn_q_proj"
    save_file(
        {f"{layer}.lora_down.weight": torch.ones(2, 96), f"{layer}.lora_up.weight": torch.ones(96, 2)},
        tmp_path / "x.safetensors",
    )
    with pytest.raises(ValueError, match=f"'{layer}.lora_.*' belongs to no part of it"):
        load_pipeline(random_mini_model, lora=tmp_path / "x.safetensors")
