"""The two arms of ``benchmarks.training_speed``: what both share, and how they take turns."""

import resource
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from benchmarks.machine_limits import synchronize
from benchmarks.stock_training import StockFlowTraining, StockTraining, flat_gradient, stock_arm_of
from ubgen_pipeline.commands.settings_parser import field_help
from ubgen_pipeline.mini import EMBEDDED_MODELS
from ubgen_pipeline.mini.scenes import CLASS_NAMES
from ubgen_pipeline.models.clip_encoders import load_clip_encoder
from ubgen_pipeline.models.loading import load_pipeline
from ubgen_training.lora.adapter import LoraSettings
from ubgen_training.rewards.clip_alignment import ClipAlignmentReward
from ubgen_training.rewards.quality import load_quality_reward
from ubgen_training.sampler.gradient_steps import GRADIENT_STRATEGIES, GradientSteps, gradient_strategy
from ubgen_training.sampler.sampler_model import SamplerModel, SamplingSettings
from ubgen_training.ubgen.ubgen_config import UbGenConfig
from ubgen_training.ubgen.ubgen_trainer import UbGenTrainer

ARMS = ("stock", "ubgen")
QUALITY_WEIGHT = 0.1
# of the LoRA's second factor. At zero, where training starts, the first factor would have no gradient; this is about
# where the paper's training ends
LORA_B_STD = 2e-3


@dataclass(frozen=True)
class BenchmarkSettings:
    """Settings of the benchmark."""

    model: str = field_help(
        f"{', '.join(EMBEDDED_MODELS)}, random-sd15 (built here, at its real size), or a folder of Stable Diffusion 1,"
        " 2 or 3",
        "mini",
    )
    strategies: list[str] = field(
        default_factory=lambda: ["even_k", "last_k", "random_tail", "drtune", "refl"],
        metadata={"help": f"gradient strategies, of {', '.join(GRADIENT_STRATEGIES)}"},
    )
    num_inference_steps: int | None = field_help(
        "sampling steps; 20 for embedded models and 50 else, if not given", None
    )
    num_gradient_steps: int = field_help("K", 5)
    batch_size: int | None = field_help("images of a step; 2 with the scorer 7b and 4 else, if not given", None)
    repeats: int = field_help("steps of each arm and strategy that count, after one that does not", 3)
    scheduler: str | None = field_help(
        "of both arms; if not given ddpm, or the own one of a model of flow matching", None
    )
    guidance_scale: float = field_help("of both arms", 2.0)
    lora_rank: int | None = field_help("of both arms; 16 for embedded models and 128 else, if not given", None)
    compile_rollout: str = field_help("of ubgen: auto, on or off; on with a GPU, if not given", "")
    reward_micro_batch_size: int | None = field_help("of ubgen: images decoded and rewarded together", None)
    activation_checkpointing: bool = field_help("of ubgen", False)
    quality: str = field_help("scorer of both arms: mini, 7b (Q-Align's size, random weights), or a folder", "mini")
    dtype: str | None = field_help("of both arms; bfloat16 on a GPU and float32 elsewhere, if not given", None)
    clock: str = field_help(
        "wall, or process: the process's own time, which other work on the CPU disturbs less", "wall"
    )
    memory: bool = field_help("measure peak memory, in a process for each arm", True)
    device: str | None = field_help("cpu or cuda; a GPU where there is one, if not given", None)
    worker: str | None = field_help("of the benchmark's own processes: the arm, and the file it writes", None)

    def __post_init__(self) -> None:
        for name in ("num_gradient_steps", "batch_size", "repeats"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ValueError(f"{name} is {value}; give 1 or more.")
        for name in self.strategies:
            gradient_strategy(name)
        if self.clock not in ("wall", "process"):
            raise ValueError(f"clock is {self.clock!r}; choose wall or process.")

    @property
    def read_clock(self) -> Callable[[], float]:
        """The chosen clock."""
        return time.process_time if self.clock == "process" else time.perf_counter

    def filled_in(self, scratch: Path) -> "BenchmarkSettings":
        """With what depends on machine and model; builds the random models in ``scratch``."""
        device = self.device or ("cuda" if torch.cuda.is_available() else "cpu")
        is_mini, model = self.model in EMBEDDED_MODELS, self.model
        if model == "random-sd15":
            from benchmarks.real_size_models import build_clip, build_sd15

            model = str(scratch / "sd15")
            build_sd15(model)
            build_clip(scratch / "clip")
        own_scheduler = None if stock_arm_of(model) is StockFlowTraining else "ddpm"
        return replace(
            self,
            model=model,
            device=device,
            scheduler=self.scheduler or own_scheduler,
            # the stock arm keeps 17 GB of activations for each image of SD1.5: four do not fit 80 GB beside 7b
            batch_size=self.batch_size or (2 if self.quality == "7b" else 4),
            num_inference_steps=self.num_inference_steps or (20 if is_mini else 50),
            lora_rank=self.lora_rank or (16 if is_mini else 128),
            dtype=self.dtype or ("bfloat16" if device.startswith("cuda") else "float32"),
            compile_rollout=self.compile_rollout or ("on" if device.startswith("cuda") else "auto"),
        )

    @property
    def clip_model(self) -> str:
        """CLIP of real size beside a model that was built here, else the mini one."""
        beside = Path(self.model).parent / "clip"
        return str(beside) if beside.is_dir() else "mini"


class Arms:
    """Both arms, or one of them, on the same rewards."""

    def __init__(self, settings: BenchmarkSettings, names: Sequence[str], folder: Path):
        self.settings, self.device = settings, str(settings.device)
        encoder = load_clip_encoder(settings.clip_model).to(self.device)
        clip, quality = ClipAlignmentReward(encoder, CLASS_NAMES), build_quality(settings).to(self.device)
        self.rewards = [(clip, 1.0), (quality, QUALITY_WEIGHT)]
        self.stock = self._stock(settings.dtype) if "stock" in names else None
        self.trainer = self._trainer(folder) if "ubgen" in names else None

    def _stock(self, dtype: str | None) -> StockTraining:
        settings = self.settings
        assert settings.lora_rank and settings.num_inference_steps
        return stock_arm_of(settings.model)(
            settings.model,
            CLASS_NAMES,
            self.rewards,
            lora_rank=settings.lora_rank,
            num_inference_steps=settings.num_inference_steps,
            guidance_scale=settings.guidance_scale,
            scheduler=settings.scheduler,
            dtype=getattr(torch, str(dtype)),
            device=self.device,
        )

    def _trainer(self, folder: Path) -> UbGenTrainer:
        settings, dtype = self.settings, getattr(torch, str(self.settings.dtype))
        assert settings.lora_rank and settings.num_inference_steps and settings.batch_size
        num_updates = len(settings.strategies) * (settings.repeats + 1)
        config = UbGenConfig(
            output_dir=str(folder / "lora"),
            scheduler=settings.scheduler,
            num_inference_steps=settings.num_inference_steps,
            num_gradient_steps=settings.num_gradient_steps,
            guidance_scale=settings.guidance_scale,
            lora_rank=settings.lora_rank,
            per_device_train_batch_size=settings.batch_size,
            class_repeats=settings.batch_size,
            max_steps=num_updates,
            reward_funcs=["clip_alignment", "quality"],
            reward_weights=[1.0, QUALITY_WEIGHT],
            reward_micro_batch_size=settings.reward_micro_batch_size,
            activation_checkpointing=settings.activation_checkpointing,
            compile_rollout=settings.compile_rollout,
            adversarial_weight=0.0,
            lora_average_decay=0.0,
            reference_steps=0,
            heldout_steps=0,
            sample_steps=0,
            save_strategy="no",
            logging_steps=num_updates,
            disable_tqdm=True,
            use_cpu=self.device == "cpu",
            bf16=dtype == torch.bfloat16,
            fp16=dtype == torch.float16,
        )
        pipeline = load_pipeline(settings.model, scheduler=settings.scheduler, torch_dtype=dtype)
        sampling = SamplingSettings(
            settings.num_inference_steps, settings.guidance_scale, decode_batch_size=settings.reward_micro_batch_size
        )
        sampler = SamplerModel(pipeline, CLASS_NAMES, LoraSettings(settings.lora_rank), sampling)
        generator = torch.Generator().manual_seed(0)
        for name, parameter in sampler.denoiser_network.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=LORA_B_STD, generator=generator)
        return UbGenTrainer(sampler, config, CLASS_NAMES, [reward for reward, _ in self.rewards])


class Turns(TrainerCallback):
    """Times each update of the trainer; after each, lets the other arm take the same step from the same weights."""

    def __init__(self, arms: Arms, after_update: Callable[["Turns"], None]):
        self.arms, self.after_update = arms, after_update
        assert arms.trainer is not None
        self.sampler: SamplerModel = arms.trainer._sampler
        self.parameters = {n: p for n, p in self.sampler.denoiser_network.named_parameters() if p.requires_grad}
        self.sampler.register_forward_pre_hook(self._note_inputs, with_kwargs=True)
        self.inputs: tuple[torch.Tensor, list[int], GradientSteps]
        self.before: dict[str, torch.Tensor] = {}
        self.gradient = torch.empty(0)
        self.seconds = 0.0
        self.strategy = ""
        self._lost = 0.0

    def _note_inputs(self, module: Any, arguments: Any, inputs: dict[str, Any]) -> None:
        self.inputs = (inputs["labels"], inputs["seeds"], inputs["gradient_steps"])

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        strategies = self.arms.settings.strategies
        # the first step of every strategy does not count; these steps come before all others
        self.strategy = strategies[state.global_step % len(strategies)]
        args.gradient_strategy = self.strategy
        args.gradient_step_list = list(range(self.arms.settings.num_gradient_steps))
        self.before = {name: p.detach().clone() for name, p in self.parameters.items()}
        reset_peak(self.arms.device)
        self._start = now(self.arms.settings)

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        start = now(self.arms.settings)
        self.gradient = flat_gradient(self.parameters)
        self._lost = now(self.arms.settings) - start

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.seconds = now(self.arms.settings) - self._start - self._lost
        self.after_update(self)


def build_quality(settings: BenchmarkSettings) -> Any:
    """The quality reward."""
    if settings.quality != "7b":
        return load_quality_reward(settings.quality, getattr(torch, str(settings.dtype)))
    from transformers.utils.constants import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

    from ubgen_training.rewards.qalign.model import QAlignModel, QAlignSettings
    from ubgen_training.rewards.qalign.score import PixelSettings, QAlignPrompt, QAlignReward

    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float16)
    try:
        with torch.device(str(settings.device)):
            model = QAlignModel(QAlignSettings.from_config({"model_type": "mplug_owl2"}))
    finally:
        torch.set_default_dtype(before)
    # buffers too, which a checkpoint would fill
    for weight in (*model.parameters(), *model.buffers()):
        torch.nn.init.normal_(weight, std=0.02) if weight.ndim > 1 else torch.nn.init.ones_(weight)
    pixels = PixelSettings(model.settings.vision.image_size, tuple(OPENAI_CLIP_MEAN), tuple(OPENAI_CLIP_STD))
    # as many tokens as Q-Align's question has
    prompt = QAlignPrompt(tuple(range(1, 18)), tuple(range(20, 31)), (100, 200, 300, 400, 500))
    return QAlignReward(model, prompt, pixels)


def now(settings: BenchmarkSettings) -> float:
    """Seconds on the chosen clock, the device's work included."""
    synchronize(str(settings.device))
    return settings.read_clock()


def reset_peak(device: str) -> None:
    """Let a GPU's peak start anew from what it holds now. A CPU's peak is the process's and cannot be reset."""
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats()


def peak_bytes(device: str) -> int:
    """Peak of the GPU memory that torch held; on a CPU the peak of the resident set."""
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # macOS counts bytes, Linux KiB
    return peak if sys.platform == "darwin" else peak * 1024
