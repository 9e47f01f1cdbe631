"""Models of several families in diffusers' layout, with random weights: denoiser and VAE at their real size.

Their text encoders are as wide as the published ones. SDXL's are whole. Stable Diffusion 3.5 comes without its T5, in
whose place both pipelines take zeros, and the Qwen3 of the others has few layers and a token for each byte: a text is
encoded once a class, and takes no part in the time of an image.
"""

from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from benchmarks.real_size_families import REAL_SIZE_MODELS
from benchmarks.real_size_models import LORA_B_STD, build_tokenizer
from ubgen_pipeline.family import Family
from ubgen_pipeline.models.families import FAMILIES
from ubgen_pipeline.models.loading import load_pipeline
from ubgen_training.lora.adapter import LoraSettings, add_lora
from ubgen_training.lora.lora_files import save_lora

# those of REAL_SIZE_MODELS whose text encoders are built here, too
BUILT_MODELS = ("sd15", "sdxl", "sd35-medium", "z-image", "flux2-klein-base-4b")
LORA_RANK = 16
_NUM_QWEN_LAYERS = 4
_QWEN_MARKS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
_QWEN_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def build_random_model(name: str, folder: Path, *, device: str = "cpu") -> None:
    """Save the model of that name in its family's 16 bits; it is one of :data:`BUILT_MODELS`, made on ``device``."""
    real = REAL_SIZE_MODELS[name]
    kind = FAMILIES[real.family].pipeline_class()
    torch.manual_seed(0)
    with torch.device(device):
        parts: dict[str, Any] = {**real.networks(), **text_parts(real.family)}
    for part in parts.values():
        if isinstance(part, torch.nn.Module):
            part.to(getattr(torch, kind.default_gpu_dtype))
    # diffusers' own class stands in what it saves
    stock = next(base for base in kind.__mro__ if base.__name__ in FAMILIES[real.family].stock_names)
    stock(**parts, scheduler=real.scheduler(), **real.switches).save_pretrained(folder)


def build_random_lora(model: Path | str, folder: Path | str, rank: int = LORA_RANK) -> None:
    """Save a LoRA on the family's layers, of the size that training gives it."""
    pipeline: Family = load_pipeline(model, torch_dtype=torch.bfloat16)
    network = pipeline.denoiser_network
    add_lora(network, LoraSettings(rank), 2, pipeline.lora_targets)
    generator = torch.Generator().manual_seed(2)
    for weight_name, weight in network.named_parameters():
        if "lora_B" in weight_name:
            torch.nn.init.normal_(weight, std=LORA_B_STD, generator=generator)
    Path(folder).mkdir(parents=True, exist_ok=True)
    save_lora(pipeline, folder)


def text_parts(family: str) -> dict[str, Any]:
    """Text encoders and tokenizers of a pipeline, on torch's default device."""
    if family == "sdxl":
        first, second = _clip(768, 12, projected=False), _clip(1280, 32, projected=True)
    elif family == "sd3":
        first, second = _clip(768, 12, projected=True), _clip(1280, 32, projected=True)
    else:
        tokenizer = _qwen_tokenizer()
        config = transformers.Qwen3Config(
            hidden_size=2560,
            intermediate_size=9728,
            num_hidden_layers=_NUM_QWEN_LAYERS,
            num_attention_heads=32,
            num_key_value_heads=8,
            head_dim=128,
            vocab_size=len(tokenizer),
            max_position_embeddings=1024,
        )
        kind = transformers.Qwen3Model if family == "z-image" else transformers.Qwen3ForCausalLM
        return {"text_encoder": kind(config), "tokenizer": tokenizer}
    parts = {"text_encoder": first, "text_encoder_2": second}
    parts |= {"tokenizer": build_tokenizer(), "tokenizer_2": build_tokenizer()}
    return parts | ({"text_encoder_3": None, "tokenizer_3": None} if family == "sd3" else {})


def _clip(width: int, num_layers: int, *, projected: bool) -> CLIPTextModel | CLIPTextModelWithProjection:
    config = CLIPTextConfig(
        vocab_size=49408,
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=num_layers,
        num_attention_heads=width // 64,
        projection_dim=width,
        eos_token_id=2,
        hidden_act="quick_gelu" if width == 768 else "gelu",
    )
    return (CLIPTextModelWithProjection if projected else CLIPTextModel)(config)


def _qwen_tokenizer() -> transformers.Qwen2Tokenizer:
    vocabulary = {token: number for number, token in enumerate([*_QWEN_MARKS, *sorted(ByteLevel.alphabet())])}
    tokenizer = transformers.Qwen2Tokenizer(vocab=vocabulary, merges=[], model_max_length=512)
    tokenizer.add_special_tokens({"additional_special_tokens": list(_QWEN_MARKS[1:])})
    tokenizer.chat_template = _QWEN_TEMPLATE
    return tokenizer
