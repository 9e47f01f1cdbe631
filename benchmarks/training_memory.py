"""Memory that a training from rewards takes on one device, counted without the device.

    python -m benchmarks.training_memory
    python -m benchmarks.training_memory --configs training/configs/sdxl_imagenet1k.yaml --batch-sizes 1 4
    python -m benchmarks.training_memory --configs training/configs/z_image_imagenet1k.yaml --models flux1-dev cogview4

The family's own code runs on torch's ``meta`` device, where tensors have sizes and no numbers: the denoiser at the
steps with gradient, one after another as in training, then its VAE and CLIP, forward and backward. Counted are all
tensors that are alive at a time. Attention counts as the fused kernels of GPUs run it, which keep no matrix of
attention. Left out are what kernels take for a moment, the CUDA context (about 0.5 GB), and fragmentation.

Shapes: B images, S x S pixels.
"""

import copy
import itertools
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
import yaml
from torch import nn
from torch.nn import functional
from transformers import CLIPConfig, CLIPModel

from benchmarks.live_memory import LiveMemory, MainMemory, fused_attention
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
# what becomes of activations, as activation_checkpointing and activation_offload
ACTIVATIONS = {
    "kept": (False, False),
    "recomputed": (True, False),
    "offloaded": (False, True),
    "both": (True, True),
}
# Q-Align as it is published, in 16 bits
QALIGN, QALIGN_BYTES = "q-future/one-align", 16.4e9
# AdamW's two averages, the gradient, the moving average of the LoRA and the LoRA itself, in float32
_FLOATS_OF_A_TRAINED_WEIGHT = 5


@dataclass(frozen=True)
class MemorySettings:
    """Settings of the count."""

    configs: list[str] | None = field_help("configurations of train_ubgen.py; those for ImageNet if not given", None)
    models: list[str] | None = field_help(
        "instead of a configuration's model, each at its own size, steps and guidance:"
        f" {', '.join(REAL_SIZE_MODELS)}, mini or a folder",
        None,
    )
    activations: list[str] | None = field_help(
        f"what becomes of activations: {', '.join(ACTIVATIONS)}; all four if not given", None
    )
    batch_sizes: list[int] | None = field_help("images a device; 1 and the configuration's own if not given", None)

    def __post_init__(self) -> None:
        if any(size < 1 for size in self.batch_sizes or ()):
            raise ValueError(f"batch_sizes holds {min(self.batch_sizes or ())}; give integers of at least 1.")
        if unknown := [name for name in self.activations or () if name not in ACTIVATIONS]:
            raise ValueError(f"activations holds {unknown[0]!r}; choose of {', '.join(ACTIVATIONS)}.")


@dataclass(frozen=True)
class MemoryCount:
    """Bytes on the device.

    Attributes:
        weights: frozen ones: denoiser, VAE, CLIP, and the scorer of quality.
        trained: the LoRA in float32 with its gradient, its average and the optimizer's state.
        kept: activations that the steps with gradient keep until the backward pass.
        working: what else is alive at the worst moment of it.
        text_encoders: not on the device: they stay in the CPU's memory once the prompts are encoded.
        offloaded: activations in the CPU's memory until the backward pass.
    """

    weights: float
    trained: float
    kept: float
    working: float
    text_encoders: float
    offloaded: float = 0.0

    @property
    def total(self) -> float:
        """At the worst moment."""
        return self.weights + self.trained + self.kept + self.working


class StepBytes(NamedTuple):
    """What steps with gradient keep on the device, what is alive beside that at the worst moment, and what they keep
    in main memory."""

    kept: int
    beside: int
    offloaded: int


def count_steps(
    pipeline: Family,
    text: Conditioning,
    shape: Sequence[int],
    *,
    rows: int,
    guidance_scale: float,
    num_steps: int,
    offload: bool = False,
) -> StepBytes:
    """Bytes of the steps, forward and backward.

    Args:
        pipeline: with a LoRA on its denoiser, on the ``meta`` device.
        text: one prompt's conditioning.
        shape: ``(C, h, w)`` of the latents.
        rows: B.
        guidance_scale: above 1 asks for two predictions, where the family has them.
        num_steps: that carry gradient.
        offload: activations wait in main memory.
    """
    network = pipeline.denoiser_network
    main_memory = MainMemory(network)
    latents = torch.zeros(rows, *shape, device="meta")
    given, scale = pipeline.with_guidance(text.rows([0] * rows), guidance_scale)
    given = given.guided(given) if scale > 1 else given
    memory, lived, moved = LiveMemory(network), [0], [0]
    with fused_attention(), memory, WithoutNumbers():
        timestep = torch.zeros((), device="meta")
        # each after the first keeps as much as the second
        for _ in range(2):
            memory.peak = memory.live
            # the backward pass is outside, and so is what it computes again
            with main_memory.offload() if offload else nullcontext():
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
            moved.append(main_memory.live)
        latents.sum().backward()
        del latents, prediction
    network.zero_grad(set_to_none=True)

    def of_all(first: int, both: int) -> int:
        return first + (num_steps - 1) * (both - first)

    return StepBytes(of_all(*lived[1:]), memory.peak - lived[2], of_all(*moved[1:]))


def count_images(
    pipeline: Family,
    shape: Sequence[int],
    *,
    rows: int,
    clip: nn.Module,
    offload: bool = False,
    in_parts: bool = False,
) -> tuple[int, int]:
    """Bytes alive at the worst moment of decoding B images, and of CLIP's features of them, forward and backward: on
    the device, and in main memory.

    Args:
        pipeline, shape, rows, offload: as of :func:`count_steps`.
        clip: the vision tower.
        in_parts: images are decoded in micro-batches, and again in the backward pass, where nothing is moved.
    """
    latents = torch.zeros(rows, *shape, device="meta", requires_grad=True)
    memory, main_memory = LiveMemory(pipeline.vae, clip), MainMemory(pipeline.vae, clip)
    with fused_attention(), memory, WithoutNumbers():
        with main_memory.offload() if offload and not in_parts else nullcontext():
            images = pipeline.decode(latents.to(pipeline.vae.dtype)).float()
        with main_memory.offload() if offload else nullcontext():
            features = clip(functional.interpolate(images, (224, 224))).pooler_output
        (images.sum() + features.sum()).backward()
        del images, features
    return memory.peak, main_memory.peak


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

    def count(self, batch_size: int, *, checkpointing: bool, offload: bool = False) -> MemoryCount:
        """Of that many images a device, activations kept or recomputed, there or in main memory."""
        config, pipeline = self.config, self.pipeline
        for network in (pipeline.denoiser_network, pipeline.vae):
            # a VAE that cannot is decoded again as a whole, which is its own worst moment all the same
            if checkpointing and network._supports_gradient_checkpointing:
                network.enable_gradient_checkpointing()
            else:
                network.disable_gradient_checkpointing()
            # layers are recomputed in training only, as the trainer has the denoiser
            network.train(checkpointing)
        is_recomputed_whole = checkpointing and not pipeline.vae._supports_gradient_checkpointing
        scale = pipeline.default_guidance_scale if config.guidance_scale is None else config.guidance_scale
        steps = count_steps(
            pipeline,
            self.text,
            self.shape,
            rows=batch_size,
            guidance_scale=scale,
            num_steps=config.num_gradient_steps,
            offload=offload,
        )
        images, moved = count_images(
            pipeline,
            self.shape,
            rows=min(config.reward_micro_batch_size or batch_size, batch_size),
            clip=self._clip,
            offload=offload,
            in_parts=config.reward_micro_batch_size is not None or is_recomputed_whole,
        )
        trained = _FLOATS_OF_A_TRAINED_WEIGHT * 4 * self.num_trained
        working, offloaded = max(steps.beside, images), steps.offloaded + moved
        return MemoryCount(self.weights, trained, steps.kept, working, self.text_encoders, offloaded)


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
        batch_sizes = settings.batch_sizes or sorted({1, config.per_device_train_batch_size})
        for model in settings.models or [None]:
            if model is not None:
                config = replace_sampling(config)
            memory = MemoryOf(config, dtype, model)
            for batch_size, kind in itertools.product(batch_sizes, settings.activations or ACTIVATIONS):
                checkpointing, offload = ACTIVATIONS[kind]
                count = memory.count(batch_size, checkpointing=checkpointing, offload=offload)
                figures = [count.weights, count.trained, count.kept, count.working, count.total]
                figures.append(count.text_encoders + count.offloaded)
                _print_row([memory.name, str(batch_size), kind, *(f"{figure / 1e9:.1f}" for figure in figures)])


def replace_sampling(config: UbGenConfig) -> UbGenConfig:
    """The configuration for any model: drawn as the model itself would be."""
    config = copy.copy(config)
    config.height = config.width = config.guidance_scale = None
    return config


def _print_row(cells: Sequence[str]) -> None:
    print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    sys.exit(main())
