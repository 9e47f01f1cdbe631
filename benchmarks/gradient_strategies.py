"""Peak memory, time and gradient of each gradient strategy, side by side.

    python -m benchmarks.gradient_strategies --steps 20 --batch-size 4 --repeats 5

Each strategy runs in a process of its own, on the same class labels and noise: a training step is one rollout of the
sampler with a rank-16 LoRA at its initial weights, the rewards clip_alignment and quality of the mini world, and the
way back. On a CPU its seconds are those that the process computed, so that nothing else on the machine counts. The
cosine compares a step's LoRA gradient with that of `full`, and is the mean over the repeats. A strategy called
`drtune+equalised` is `drtune` with ``equalise_gradient_steps``.
"""

import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import load_file, save_file

from ubgen_pipeline.commands.console import say_error
from ubgen_pipeline.commands.settings_parser import field_help, parse_settings, run_command
from ubgen_pipeline.initial_latents import sample_seed
from ubgen_pipeline.mini.scenes import CLASS_NAMES
from ubgen_pipeline.models.clip_encoders import load_clip_encoder
from ubgen_pipeline.models.loading import load_pipeline
from ubgen_training.lora.adapter import LoraSettings
from ubgen_training.rewards.clip_alignment import ClipAlignmentReward
from ubgen_training.rewards.quality import load_quality_reward
from ubgen_training.sampler.gradient_steps import GRADIENT_STRATEGIES, GradientSteps, gradient_strategy
from ubgen_training.sampler.replays import Leap
from ubgen_training.sampler.sampler_model import SamplerModel, SamplingSettings
from ubgen_training.ubgen.ubgen_loss import UbGenLoss

FORWARD_ONLY = "no_gradient"
# behind a strategy's name: each step's gradient is divided by the step's weight
EQUALISED = "+equalised"
LORA_RANK = 16


@dataclass(frozen=True)
class BenchmarkSettings:
    """Settings of the benchmark."""

    steps: int = field_help("sampling steps", 20)
    gradient_steps: int = field_help("K of the strategies that have one; `steps` lists as many, from the noisiest", 5)
    batch_size: int = field_help("images per step", 4)
    repeats: int = field_help("measured steps of each strategy, after one that is not", 3)
    strategies: list[str] | None = field_help("some of the strategies only; not given: all", None)
    model: str = field_help("mini, a folder or a Hub id", "mini")
    scheduler: str = field_help("sampling schedule", "ddpm")
    guidance_scale: float = field_help("classifier-free guidance", 2.0)
    micro_batch_size: int | None = field_help("images decoded and rewarded together; not given: all", None)
    activation_checkpointing: bool = field_help("recompute the activations of UNet and VAE", False)
    seed: int = field_help("seed of the noise and of the strategies' draws", 0)
    device: str = field_help("cpu or cuda; auto takes a GPU where there is one", "auto")
    json: str | None = field_help("file that takes settings and rows as JSON", None)
    worker_folder: str | None = field_help("of the benchmark's own processes: measure here, write there", None)

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "repeats"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; give 1 or more.")
        for name in self.strategies or ():
            if name != FORWARD_ONLY:
                self.choose_gradient_steps(name, self.steps, torch.Generator())

    def choose_gradient_steps(self, strategy: str, num_steps: int, generator: torch.Generator) -> GradientSteps:
        """What ``strategy``, perhaps an equalised one, chooses of so many steps.

        Raises:
            ValueError: there is none of that name, it does not fit the steps, or it cannot be equalised.
        """
        choose = gradient_strategy(strategy.removesuffix(EQUALISED))
        chosen = choose(num_steps, self.gradient_steps, generator, step_list=range(self.gradient_steps))
        if not strategy.endswith(EQUALISED):
            return chosen
        if isinstance(chosen.replay, Leap):
            raise ValueError(
                f"strategies holds {strategy!r}, whose gradients do not run through the steps; leave it out."
            )
        return replace(chosen, equalise=True)


class Row(NamedTuple):
    """One line of the table: peak memory in bytes, median seconds of a step, cosine in [-1, 1] or None."""

    strategy: str
    peak_bytes: int
    seconds: float
    cosine: float | None


def measure(settings: BenchmarkSettings, strategy: str, folder: Path) -> None:
    """Run the strategy in this process; writes ``gradients.safetensors`` and ``measured.json`` into ``folder``."""
    device = settings.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    sampler, loss = build(settings, device)
    parameters = [p for p in sampler.parameters() if p.requires_grad]
    seconds, gradients = [], {}
    clock = time.process_time if device == "cpu" else time.perf_counter
    for repeat in range(settings.repeats + 1):
        labels = (torch.arange(settings.batch_size, device=device) + repeat) % len(CLASS_NAMES)
        seeds = [sample_seed(settings.seed, str(repeat), index) for index in range(settings.batch_size)]
        generator = torch.Generator().manual_seed(sample_seed(settings.seed, "strategy", repeat))
        start = clock()
        if strategy == FORWARD_ONLY:
            with torch.no_grad():
                sampler(labels, seeds)
        else:
            gradient_steps = settings.choose_gradient_steps(strategy, sampler.num_steps, generator)
            names = [CLASS_NAMES[label] for label in labels.tolist()]
            report = loss(sampler(labels, seeds, gradient_steps), names, labels, generator=generator, seeds=seeds)
            report.loss.backward()
            gradients[str(repeat)] = torch.cat([p.grad.flatten() for p in parameters if p.grad is not None]).cpu()
            sampler.zero_grad(set_to_none=True)
        if device != "cpu":
            torch.cuda.synchronize()
        seconds.append(clock() - start)
    save_file(gradients, folder / "gradients.safetensors")
    measured = {"peak_bytes": peak_bytes(device), "seconds": statistics.median(seconds[1:])}
    (folder / "measured.json").write_text(json.dumps(measured))


def build(settings: BenchmarkSettings, device: str) -> tuple[SamplerModel, UbGenLoss]:
    """The sampler with its LoRA, and the loss, on ``device``."""
    sampling = SamplingSettings(settings.steps, settings.guidance_scale, decode_batch_size=settings.micro_batch_size)
    pipeline = load_pipeline(settings.model, scheduler=settings.scheduler)
    sampler = SamplerModel(pipeline, CLASS_NAMES, LoraSettings(LORA_RANK), sampling).to(device)
    # as the trainer does
    sampler.speed_up_rollouts()
    if settings.activation_checkpointing:
        sampler.activation_checkpointing_enable()
    encoder = load_clip_encoder("mini").to(device)
    rewards = [ClipAlignmentReward(encoder, CLASS_NAMES), load_quality_reward("mini").to(device)]
    return sampler, UbGenLoss(rewards, [1.0, 0.1], encoder=encoder, micro_batch_size=settings.micro_batch_size)


def peak_bytes(device: str) -> int:
    """Peak of this process so far: of the GPU memory that torch held; on a CPU that of the resident set."""
    if device != "cpu":
        return torch.cuda.max_memory_allocated()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # macOS counts bytes, Linux KiB
    return peak if sys.platform == "darwin" else peak * 1024


def run_benchmark(settings: BenchmarkSettings) -> list[Row]:
    """Measure each strategy in a fresh process; ``full`` is always among them, for the cosines.

    Raises:
        RuntimeError: a process failed; its own message stands above.
    """
    wanted = list(settings.strategies or (FORWARD_ONLY, *GRADIENT_STRATEGIES))
    wanted = [name.replace("-", "_") for name in wanted]
    names = wanted if "full" in wanted else [*wanted, "full"]
    measured, gradients = {}, {}
    with tempfile.TemporaryDirectory() as scratch:
        for name in names:
            folder = Path(scratch) / name
            folder.mkdir()
            flags = flags_of(replace(settings, strategies=[name], json=None, worker_folder=str(folder)))
            if subprocess.run([sys.executable, "-m", "benchmarks.gradient_strategies", *flags]).returncode != 0:
                raise RuntimeError(f"measuring {name} failed")
            measured[name] = json.loads((folder / "measured.json").read_text())
            gradients[name] = load_file(folder / "gradients.safetensors")
    rows = [Row(name, **measured[name], cosine=mean_cosine(gradients[name], gradients["full"])) for name in names]
    if settings.json is not None:
        report = {"settings": asdict(settings), "torch": torch.__version__, "rows": [row._asdict() for row in rows]}
        Path(settings.json).write_text(json.dumps(report, indent=2) + "\n")
    return rows


def flags_of(settings: BenchmarkSettings) -> list[str]:
    """The command line that gives these settings."""
    flags = []
    for name, value in asdict(settings).items():
        if value is not None:
            flags += [f"--{name}", *(value if isinstance(value, list) else [str(value)])]
    return flags


def mean_cosine(own: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float | None:
    """Mean over the repeats of the cosine between two runs' gradients; None where one has none.

    The first repeat counts too: its time is not representative, its gradient is.
    """
    if not own:
        return None
    cosines = [torch.cosine_similarity(own[key].double(), other[key].double(), dim=0) for key in own]
    return torch.stack(cosines).mean().item()


def table(rows: Sequence[Row]) -> str:
    """The rows as text."""
    lines = [f"{'strategy':<22}{'peak memory':>14}{'s per step':>12}{'cosine with full':>19}"]
    for row in rows:
        cosine = "-" if row.cosine is None else f"{row.cosine:.3f}"
        lines.append(f"{row.strategy:<22}{row.peak_bytes / 1e6:>11.0f} MB{row.seconds:>12.2f}{cosine:>19}")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Parse and run; 2 for a bad setting, 1 when a process failed."""

    def body(argv: Sequence[str]) -> int:
        settings = parse_settings(
            BenchmarkSettings,
            argv,
            prog="python -m benchmarks.gradient_strategies",
            description=__doc__,
        )
        if settings.worker_folder is not None:
            measure(settings, (settings.strategies or ["full"])[0], Path(settings.worker_folder))
            return 0
        try:
            print(table(run_benchmark(settings)))
        except RuntimeError as error:
            say_error(error)
            return 1
        return 0

    return run_command(body, argv)


if __name__ == "__main__":
    sys.exit(main())
