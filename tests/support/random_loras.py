"""LoRAs with random weights, large enough to change images."""

from pathlib import Path

import torch
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict

from ubgen_pipeline.models.loading import load_pipeline


def save_random_lora(model: str, folder: Path, *, rank: int = 2, seed: int = 0) -> Path:
    """Save a LoRA for that model in diffusers format, and give its folder."""
    pipeline = load_pipeline(model)
    pipeline.unet.add_adapter(LoraConfig(r=rank, lora_alpha=rank, target_modules=["to_q", "to_k", "to_v", "to_out.0"]))
    torch.manual_seed(seed)
    for name, weight in pipeline.unet.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.05)
    pipeline.save_lora_weights(folder, unet_lora_layers=get_peft_model_state_dict(pipeline.unet))
    return folder
