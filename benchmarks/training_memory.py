"""Memory that a training from rewards takes on one device, counted without the device.

    python -m benchmarks.training_memory
    python -m benchmarks.training_memory --configs training/configs/sdxl_imagenet1k.yaml --batch-sizes 1 4

The family's own code runs on torch's ``meta`` device, where tensors have sizes and no numbers: the denoiser at the
steps with gradient, one after another as in training, then its VAE and CLIP, forward and backward. Counted are all
tensors that are alive at a time. Attention counts as the fused kernels of GPUs run it, which keep no matrix of
attention. Left out are what kernels take for a moment, the CUDA context (about 0.5 GB), and fragmentation.

Shapes: B images, S x S pixels.
"""

import sys
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import CLIPConfig, CLIPModel

from benchmarks.operations import model_on_meta
from benchmarks.real_size_families import REAL_SIZE_MODELS, real_size_model
from ubgen_pipeline.commands.settings_parser import field_help, parse_settings, run_command
from ubgen_pipeline.conditioning import Conditioning
from ubgen_pipeline.family import Family
from ubgen_pipeline.inference.operations import WithoutNumbers
from ubgen_pipeline.latent_denoising import guided_prediction
from ubgen_training.lora.adapter import LoraSettings, add_lora
from ubgen_training.ubgen.ubgen_config import UbGenConfig

CONFIGS = "training/configs/{}_imagenet1k.yaml"
DEFAULT_CONFIGS = tuple(
    CONFIGS.format(name) for name in ("sd15", "sdxl", "sd35_medium", "flux2_klein_base_4b", "z_image")
)
# Q-Align as it is published, in 16 bits
QALIGN, QALIGN_BYTES = "q-future/one-align", 16.4e9
# AdamW's two averages, the gradient, the moving average of the LoRA and the LoRA itself, in float32
_FLOATS_OF_A_TRAINED_WEIGHT = 5


@dataclass(frozen=True)
class MemorySettings:
    """Settings of the count."""

    configs: list[str] | None = field_help("configurations of train_ubgen.py; those for ImageNet if not given", None)
    model: str | None = field_help(
        f"instead of a configuration's model: {', '.join(REAL_SIZE_MODELS)}, mini or a folder", None
    )
    batch_sizes: list[int] | None = field_help("images a device; 1 and the configuration's own if not given", None)

    def __post_init__(self) -> None:
        if any(size < 1 for size in self.batch_sizes or ()):
            raise ValueError(f"batch_sizes holds {min(self.batch_sizes or ())}; give integers of at least 1.")


@dataclass(frozen=True)
class MemoryCount:
    """Bytes on the device.

    Attributes:
        weights: frozen ones: denoiser, VAE, CLIP, and the scorer of quality.
        trained: the LoRA in float32 with its gradient, its average and the optimizer's state.
        kept: activations that the steps with gradient keep until the backward pass.
        working: what else is alive at the worst moment of it.
        text_encoders: not on the device: they stay in the CPU's memory once the prompts are encoded.
    """

    weights: float
    trained: float
    kept: float
    working: float
    text_encoders: float

    @property
    def total(self) -> float:
        """At the worst moment."""
        return self.weights + self.trained + self.kept + self.working


class LiveMemory(TorchDispatchMode):
    """Bytes of the tensors on the ``meta`` device that are alive, and the most at one time.

    Args:
        networks: whose weights do not count.
    """

    def __init__(self, *networks: nn.Module):
        super().__init__()
        self.live = self.peak = 0
        weights = [weight for network in networks for weight in (*network.parameters(), *network.buffers())]
        # an address is used again once its tensor is gone, and these stay
        self._known = {weight.untyped_storage()._cdata for weight in weights}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, torch.Tensor) and tensor.is_meta:
                self._note(tensor.untyped_storage())
        return made

    def _note(self, storage: torch.UntypedStorage) -> None:
        if storage._cdata in self._known:
            return
        self._known.add(storage._cdata)
        self.live += storage.nbytes()
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._forget, storage._cdata, storage.nbytes())

    def _forget(self, address: int, size: int) -> None:
        self._known.discard(address)
        self.live -= size


class _FusedAttention(torch.autograd.Function):
    """Keeps what fused kernels keep: queries, keys, values, the output, and one number for each query."""

    @staticmethod
    def forward(ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        output = query.new_empty(*query.shape[:-1], value.shape[-1])
        ctx.save_for_backward(query, key, value, output, query.new_empty(query.shape[:-1], dtype=torch.float32))
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(torch.empty_like(value) for value in ctx.saved_tensors[:3])


@contextmanager
def fused_attention() -> Iterator[None]:
    """Attention as the fused kernels of GPUs run it, of shapes without numbers."""
    own = functional.scaled_dot_product_attention
    functional.scaled_dot_product_attention = lambda query, key, value, *_, **__: _FusedAttention.apply(
        query, key, value
    )
    try:
        yield
    finally:
        functional.scaled_dot_product_attention = own


def count_steps(
    pipeline: Family, text: Conditioning, shape: Sequence[int], *, rows: int, guidance_scale: float, num_steps: int
) -> tuple[int, int]:
    """(bytes that the steps keep, bytes beside them at the worst moment of the backward pass).

    Args:
        pipeline: with a LoRA on its denoiser, on the ``meta`` device.
        text: one prompt's conditioning.
        shape: ``(C, h, w)`` of the latents.
        rows: B.
        guidance_scale: above 1 asks for two predictions, where the family has them.
        num_steps: that carry gradient.
    """
    network = pipeline.denoiser_network
    latents = torch.zeros(rows, *shape, device="meta")
    given, scale = pipeline.with_guidance(text.rows([0] * rows), guidance_scale)
    given = given.guided(given) if scale > 1 else given
    memory, lived = LiveMemory(network), [0]
    with fused_attention(), memory, WithoutNumbers():
        timestep = torch.zeros((), device="meta")
        # each after the first keeps as much as the second
        for _ in range(2):
            prediction = guided_prediction(
                lambda *inputs: pipeline.predict(inputs[0].to(network.dtype), *inputs[1:]).float(),
                latents,
                timestep,
                given,
                scale,
                pipeline.guide,
            )
            latents = latents + prediction
            lived.append(memory.live)
        memory.peak = memory.live
        latents.sum().backward()
        del latents, prediction
    network.zero_grad(set_to_none=True)
    return lived[1] + (num_steps - 1) * (lived[2] - lived[1]), memory.peak - lived[2]


def count_images(pipeline: Family, shape: Sequence[int], *, rows: int, clip: nn.Module) -> int:
    """Bytes alive at the worst moment of decoding B images, and of CLIP's features of them, forward and backward."""
    latents = torch.zeros(rows, *shape, device="meta", requires_grad=True)
    memory = LiveMemory(pipeline.vae, clip)
    with fused_attention(), memory, WithoutNumbers():
        images = pipeline.decode(latents.to(pipeline.vae.dtype)).float()
        features = clip(functional.interpolate(images, (224, 224))).pooler_output
        (images.sum() + features.sum()).backward()
        del images, features
    return memory.peak


def build_clip() -> CLIPModel:
    """CLIP ViT-L/14, in float32 as the rewards take it."""
    shared = {"num_attention_heads": 16, "num_hidden_layers": 24, "hidden_size": 1024, "intermediate_size": 4096}
    config = CLIPConfig(
        text_config={"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12},
        vision_config={**shared, "image_size": 224, "patch_size": 14},
        projection_dim=768,
    )
    return CLIPModel(config).requires_grad_(False)


def read_config(file: str) -> tuple[UbGenConfig, torch.dtype]:
    """A configuration as a device of its precision would read it, and that precision.

    Raises:
        ValueError: no such file, or settings that cannot work.
    """
    if not Path(file).is_file():
        raise ValueError(f"configs holds {file!r}, which is no file; give YAML files of train_ubgen.py.")
    written = yaml.safe_load(Path(file).read_text())
    dtype = torch.float16 if written.get("fp16") else torch.bfloat16 if written.get("bf16") else torch.float32
    # 16 bits need a device that has them
    flags = ["--config", file, "--use_cpu", "--fp16", "false", "--bf16", "false"]
    return parse_settings(UbGenConfig, flags, prog="training_memory"), dtype


class MemoryOf:
    """Counts for one configuration.

    Args:
        config: of the training.
        dtype: of the frozen weights.
        model: instead of the configuration's.

    Raises:
        ValueError: a model whose size is not known.
    """

    def __init__(self, config: UbGenConfig, dtype: torch.dtype, model: str | None = None):
        self.config = config
        name = model or config.model_name_or_path
        by_id = {real.hub_id: short for short, real in REAL_SIZE_MODELS.items()}
        self.name = by_id.get(name, name)
        self.pipeline, self.text = model_on_meta(self.name, dtype)
        own_size = REAL_SIZE_MODELS[self.name].size if self.name in REAL_SIZE_MODELS else None
        self.shape = self.pipeline.latent_shape(config.height or own_size, config.width or own_size)
        num_frozen = sum(self._bytes(network) for network in (self.pipeline.denoiser_network, self.pipeline.vae))
        with torch.device("meta"):
            clip = build_clip()
        self._clip, weights = clip.vision_model, num_frozen + self._bytes(clip)
        self.weights = weights + (QALIGN_BYTES if config.quality_model == QALIGN else 0)
        settings = LoraSettings(config.lora_rank, config.lora_alpha, config.lora_target_modules)  # pyright: ignore
        add_lora(self.pipeline.denoiser_network, settings, 0, self.pipeline.lora_targets)
        self.num_trained = sum(w.numel() for w in self.pipeline.denoiser_network.parameters() if w.requires_grad)
        self.text_encoders = 0.0
        if self.name in REAL_SIZE_MODELS:
            self.text_encoders = real_size_model(self.name).text_parameters * dtype.itemsize

    @staticmethod
    def _bytes(network: nn.Module) -> int:
        return sum(weight.numel() * weight.element_size() for weight in (*network.parameters(), *network.buffers()))

    def count(self, batch_size: int, *, checkpointing: bool) -> MemoryCount:
        """Of that many images a device, activations kept or recomputed."""
        config, pipeline = self.config, self.pipeline
        for network in (pipeline.denoiser_network, pipeline.vae):
            if checkpointing:
                network.enable_gradient_checkpointing()
            else:
                network.disable_gradient_checkpointing()
            # layers are recomputed in training only, as the trainer has the denoiser
            network.train(checkpointing)
        scale = pipeline.default_guidance_scale if config.guidance_scale is None else config.guidance_scale
        kept, beside = count_steps(
            pipeline,
            self.text,
            self.shape,
            rows=batch_size,
            guidance_scale=scale,
            num_steps=config.num_gradient_steps,
        )
        decoded = min(config.reward_micro_batch_size or batch_size, batch_size)
        working = max(beside, count_images(pipeline, self.shape, rows=decoded, clip=self._clip))
        trained = _FLOATS_OF_A_TRAINED_WEIGHT * 4 * self.num_trained
        return MemoryCount(self.weights, trained, kept, working, self.text_encoders)


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, count and print; 2 for a bad setting."""
    return run_command(_body, argv)


def _body(argv: Sequence[str]) -> None:
    settings = parse_settings(MemorySettings, argv, prog="python -m benchmarks.training_memory", description=__doc__)
    columns = [
        "model",
        "images a device",
        "activations",
        "weights",
        "LoRA, optimizer",
        "kept",
        "working",
        "total",
        "CPU",
    ]
    _print_row(columns)
    _print_row(["---"] * len(columns))
    for file in settings.configs or DEFAULT_CONFIGS:
        config, dtype = read_config(file)
        memory = MemoryOf(config, dtype, settings.model)
        own = config.per_device_train_batch_size
        for batch_size in settings.batch_sizes or sorted({1, own}):
            for checkpointing in (False, True):
                count = memory.count(batch_size, checkpointing=checkpointing)
                figures = (count.weights, count.trained, count.kept, count.working, count.total, count.text_encoders)
                kind = "recomputed" if checkpointing else "kept"
                _print_row([memory.name, str(batch_size), kind, *(f"{figure / 1e9:.1f}" for figure in figures)])


def _print_row(cells: Sequence[str]) -> None:
    print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    sys.exit(main())
