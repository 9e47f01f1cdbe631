"""The embedded world and models: small enough for two CPU cores, real enough to measure the method."""

from pathlib import Path

# the names under which every command that asks for a model knows the embedded ones
EMBEDDED_MODELS = ("mini", "mini-flow")


def embedded_model_path(name: str) -> str:
    """Folder of the embedded model of that name, one of :data:`EMBEDDED_MODELS`."""
    return {"mini": mini_model_path, "mini-flow": mini_flow_path}[name]()


def mini_model_path() -> str:
    """Folder of the mini model, a Stable-Diffusion-layout pipeline; ``--model mini`` names it on every command."""
    return str(Path(__file__).parent / "model")


def mini_flow_path() -> str:
    """Folder of the mini flow model, a pipeline in Stable Diffusion 3's layout: ``--model mini-flow``."""
    return str(Path(__file__).parent / "flow")


def mini_clip_path() -> str:
    """Folder of the mini CLIP (``config.json`` and ``model.safetensors``), see :mod:`ubgen_pipeline.mini.clip`."""
    return str(Path(__file__).parent / "clip")


def mini_lora_path() -> str:
    """The file of a LoRA of the mini model for bare class names, trained on images that the other one has drawn."""
    return str(Path(__file__).parent / "lora" / "pytorch_lora_weights.safetensors")


def mini_caption_lora_path() -> str:
    """The file of one for prompts that name texture and background, of ``training/configs/mini_captioned.yaml``."""
    return str(Path(__file__).parent / "caption_lora" / "pytorch_lora_weights.safetensors")
