"""SD1.5 and CLIP ViT-L/14 at their real size with random weights, for measurements without a download.

    python -m benchmarks.real_size_models FOLDER

writes FOLDER/sd15, a LoRA of rank 128 for it in FOLDER/lora, and FOLDER/clip. The component configurations are those
of the published models, so time and memory are theirs; the images are noise.
"""

import sys
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from open_clip.tokenizer import SimpleTokenizer
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPTextConfig, CLIPTextModel, CLIPTokenizer

LORA_RANK = 128
# about where the paper's training ends
LORA_B_STD = 2e-3


def build_tokenizer() -> CLIPTokenizer:
    """OpenAI's tokenizer, rebuilt from the merges that open_clip carries; the token ids are the same."""
    source = SimpleTokenizer()
    merges = sorted(source.bpe_ranks, key=source.bpe_ranks.__getitem__)
    vocabulary = {
        token.replace("<start_of_text>", "<|startoftext|>").replace("<end_of_text>", "<|endoftext|>"): number
        for token, number in source.encoder.items()
    }
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=77)


def build_unet() -> UNet2DConditionModel:
    """SD1.5's UNet."""
    unet = UNet2DConditionModel(
        sample_size=64,
        block_out_channels=(320, 640, 1280, 1280),
        cross_attention_dim=768,
        attention_head_dim=8,
        layers_per_block=2,
    )
    assert 859e6 < unet.num_parameters() < 860e6
    return unet


def build_vae() -> AutoencoderKL:
    """The autoencoder of Stable Diffusion 1.5, with random weights in float32."""
    return AutoencoderKL(
        block_out_channels=(128, 256, 512, 512),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
        latent_channels=4,
        sample_size=512,
    )


def sd15_components() -> dict[str, Any]:
    """The arguments of a pipeline of Stable Diffusion 1.5, in float32 and without a safety checker."""
    torch.manual_seed(0)
    text_config = CLIPTextConfig(
        vocab_size=49408,
        hidden_size=768,
        intermediate_size=3072,
        num_hidden_layers=12,
        num_attention_heads=12,
        max_position_embeddings=77,
        projection_dim=768,
        eos_token_id=2,
    )
    vae = build_vae()
    unet = build_unet()
    scheduler = PNDMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", skip_prk_steps=True, steps_offset=1
    )
    return {
        "vae": vae,
        "text_encoder": CLIPTextModel(text_config),
        "tokenizer": build_tokenizer(),
        "unet": unet,
        "scheduler": scheduler,
        "safety_checker": None,
        "feature_extractor": None,
        "requires_safety_checker": False,
    }


def build_sd15(folder: Path | str) -> None:
    """Save a Stable Diffusion 1.5 in 16 bits."""
    parts = sd15_components()
    halved = {name: part.half() if isinstance(part, torch.nn.Module) else part for name, part in parts.items()}
    StableDiffusionPipeline(**halved).save_pretrained(folder)


def build_lora(folder: Path | str) -> None:
    """Save a LoRA of rank 128 on the attention of SD1.5's UNet, of the size that training gives it."""
    torch.manual_seed(2)
    unet = build_unet()
    targets = ["to_q", "to_k", "to_v", "to_out.0"]
    unet.add_adapter(
        LoraConfig(r=LORA_RANK, lora_alpha=LORA_RANK, init_lora_weights="gaussian", target_modules=targets)
    )
    for name, weight in unet.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=LORA_B_STD)
    StableDiffusionPipeline.save_lora_weights(folder, unet_lora_layers=get_peft_model_state_dict(unet))


def build_clip(folder: Path | str) -> None:
    """Save a CLIP ViT-L/14 in 16 bits, in transformers' layout."""
    torch.manual_seed(1)
    text = {
        "vocab_size": 49408,
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "max_position_embeddings": 77,
        "projection_dim": 768,
        "eos_token_id": 2,
    }
    vision = {
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "image_size": 224,
        "patch_size": 14,
        "projection_dim": 768,
    }
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=768))
    assert 427e6 < model.num_parameters() < 429e6
    model.half().save_pretrained(folder)
    build_tokenizer().save_pretrained(folder)
    CLIPImageProcessor().save_pretrained(folder)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    build_sd15(Path(sys.argv[1]) / "sd15")
    build_lora(Path(sys.argv[1]) / "lora")
    build_clip(Path(sys.argv[1]) / "clip")
