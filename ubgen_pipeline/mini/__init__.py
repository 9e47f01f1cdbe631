"""The embedded world and model: small enough for two CPU cores, real enough to measure the method."""

from pathlib import Path


def mini_model_path() -> str:
    """Folder of the mini model, a Stable-Diffusion-layout pipeline; ``--model mini`` names it on every command."""
    return str(Path(__file__).parent / "model")


def mini_clip_path() -> str:
    """Folder of the mini CLIP (``config.json`` and ``model.safetensors``), see :mod:`ubgen_pipeline.mini.clip`."""
    return str(Path(__file__).parent / "clip")


def mini_lora_path() -> str:
    """The file of the LoRA that ships with the mini model, trained with ``training/configs/mini_variety.yaml``."""
    return str(Path(__file__).parent / "lora" / "pytorch_lora_weights.safetensors")
