"""Training: a step as users write it beside one of ``UbGenTrainer``, for each gradient strategy.

    python -m benchmarks.training_speed
    python -m benchmarks.training_speed --model random-sd15 --quality 7b

Both arms train the same LoRA on the same labels and noise with the rewards clip_alignment and quality; the stock arm
stands in ``benchmarks.stock_training``. They take turns, A B A B, in one process, each step from the same weights. The
table gives medians, and the cosine of the two LoRA gradients, the lowest of all steps. Peak memory is measured in a
process of its own for each arm. The second command builds its models with random weights at their real size, needs no
network, and takes 16 bits on a GPU.
"""

import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path

import torch

from benchmarks.machine_limits import copy_rate, exact_float32, machine_line, product_rate
from benchmarks.training_arms import ARMS, Arms, BenchmarkSettings, Turns, now, peak_bytes, reset_peak
from ubgen_pipeline.commands.console import say_error
from ubgen_pipeline.commands.settings_parser import parse_settings, run_command
from ubgen_pipeline.inference.operations import count_operations
from ubgen_pipeline.mini import EMBEDDED_MODELS
from ubgen_pipeline.mini.scenes import CLASS_NAMES
from ubgen_training.lora.adapter import adapters_disabled
from ubgen_training.sampler.gradient_steps import GradientSteps, gradient_strategy


def compare(settings: BenchmarkSettings, scratch: Path) -> None:
    """Measure both arms and print the table."""
    device, dtype = str(settings.device), getattr(torch, str(settings.dtype))
    print(machine_line(device))
    limit, copying = product_rate(device, dtype, settings.read_clock), copy_rate(device)
    print(f"limits: matrix product {limit / 1e12:.3f} TFLOP/s in {settings.dtype}, copy {copying / 1e9:.1f} GB/s")
    peaks = measure_peaks(settings, scratch) if settings.memory else {}
    arms = Arms(settings, ARMS, scratch)
    seconds: dict[tuple[str, str], list[float]] = {}
    cosines: dict[str, list[float]] = {}
    chosen: dict[str, list[GradientSteps]] = {}
    errors: dict[str, float] = {}

    def after_update(turns: Turns) -> None:
        stock = arms.stock
        assert stock is not None
        stock.load(turns.before)
        start = now(settings)
        stock.step(*turns.inputs)
        seconds.setdefault(("stock", turns.strategy), []).append(now(settings) - start)
        seconds.setdefault(("ubgen", turns.strategy), []).append(turns.seconds)
        chosen.setdefault(turns.strategy, []).append(turns.inputs[2])
        cosines.setdefault(turns.strategy, []).append(cosine(turns.gradient, stock.gradient()))
        # 16-bit gradients differ by rounding, and this tells whose are nearer to the exact ones
        if dtype != torch.float32 and not errors:
            reference = arms._stock("float32")
            reference.denoiser.enable_gradient_checkpointing()
            reference.load(turns.before)
            with exact_float32():
                reference.step(*turns.inputs)
            errors["stock"] = cosine(stock.gradient(), reference.gradient())
            errors["ubgen"] = cosine(turns.gradient, reference.gradient())

    assert arms.trainer is not None
    turns = Turns(arms, after_update)
    arms.trainer.add_callback(turns)
    arms.trainer.train()
    parts = counted_parts(arms, turns)
    print(f"counted, one image: denoiser {parts[0] / 1e9:.1f} GFLOP a call, decoding and rewards {parts[1] / 1e9:.1f}")
    name = settings.model if settings.model in EMBEDDED_MODELS else "model"
    print(
        f"{name}: {settings.num_inference_steps} steps, K = "
        f"{settings.num_gradient_steps}, batch {settings.batch_size}, {settings.clock} time\n"
    )
    print(f"{'strategy':<13}{'stock':>11}{'ubgen':>11}{'ratio':>8}{'of limit':>10}{'cosine':>10}{'peak memory':>20}")
    for name in settings.strategies:
        one, other = (statistics.median(seconds[arm, name][1:]) for arm in ARMS)
        counted = statistics.mean(operations(gradient_steps, parts, settings) for gradient_steps in chosen[name][1:])
        memory = " -> ".join(f"{peaks[arm][name] / 1e9:.2f}" for arm in ARMS) + " GB" if peaks else "-"
        print(
            f"{name:<13}{settings.batch_size / one:>7.3f} /s{settings.batch_size / other:>8.3f} /s"
            f"{one / other:>7.2f}x{counted / other / limit:>10.0%}{min(cosines[name]):>10.5f}{memory:>20}"
        )
    spread = max(max(times[1:]) / min(times[1:]) for times in seconds.values())
    print(f"\nimages trained on a second; slowest step over fastest of one kind: at most {spread:.2f}")
    for arm, value in errors.items():
        print(f"{arm}: cosine {value:.5f} with the gradient in float32 ({settings.strategies[0]}, first step)")


def counted_parts(arms: Arms, turns: Turns) -> tuple[float, float]:
    """Operations of one image, forward only: of a denoiser's call without LoRA, and of decoding and the rewards."""
    sampler, device = turns.sampler, arms.device
    latents = torch.zeros(1, *sampler.latent_shape, device=device)
    timestep = torch.tensor(1, device=device)

    def decode_and_reward() -> None:
        images = sampler.decode(latents)
        for reward, _ in arms.rewards:
            reward(images, CLASS_NAMES[:1], torch.zeros(1, dtype=torch.int64, device=device))

    with adapters_disabled(sampler.denoiser_network):
        call = count_operations(lambda: sampler.predict(latents, timestep, sampler.conditioning.rows(slice(1))))
        return call, count_operations(decode_and_reward)


def operations(gradient_steps: GradientSteps, parts: tuple[float, float], settings: BenchmarkSettings) -> float:
    """Fewest operations of a step. The weights are frozen, so a backward pass costs as much as the forward pass."""
    assert settings.num_inference_steps is not None and settings.batch_size is not None
    calls = settings.num_inference_steps if gradient_steps.stop_at is None else gradient_steps.stop_at + 1
    rows = 1 + (settings.guidance_scale > 1)
    return settings.batch_size * ((calls + len(gradient_steps.steps)) * rows * parts[0] + 2 * parts[1])


def measure_peaks(settings: BenchmarkSettings, scratch: Path) -> dict[str, dict[str, int]]:
    """Peak bytes of each arm for each strategy, in processes of their own; small ones at the same time."""
    # the allocator of a GPU can be reset before each strategy; that of a CPU may keep what it once took
    on_gpu = str(settings.device).startswith("cuda")
    if on_gpu:
        # torch would withhold from those processes the memory that measuring the limits took
        torch.cuda.empty_cache()
    groups = [settings.strategies] if on_gpu else [[name] for name in settings.strategies]
    tasks = list(itertools.product(ARMS, groups))
    with ThreadPoolExecutor(os.cpu_count() if settings.model in EMBEDDED_MODELS and not on_gpu else 1) as pool:
        found = pool.map(lambda task: _peaks_of(settings, *task, scratch), tasks)
        peaks: dict[str, dict[str, int]] = {arm: {} for arm in ARMS}
        for (arm, _), values in zip(tasks, found):
            peaks[arm] |= values
    return peaks


def _peaks_of(settings: BenchmarkSettings, arm: str, strategies: list[str], scratch: Path) -> dict[str, int]:
    file = scratch / f"peaks-{arm}-{strategies[0]}.json"
    worker = replace(settings, strategies=strategies, repeats=1, worker=f"{arm} {file}")
    if subprocess.run([sys.executable, "-m", "benchmarks.training_speed", *flags_of(worker)]).returncode != 0:
        raise RuntimeError(f"measuring the memory of {arm} failed; its own message stands above.")
    return json.loads(file.read_text())


def work(settings: BenchmarkSettings, scratch: Path) -> None:
    """Body of a process that measures one arm: writes its peaks of memory."""
    arm, _, file = str(settings.worker).partition(" ")
    arms, peaks = Arms(settings, [arm], scratch), {}
    if arms.trainer is not None:

        def after_update(turns: Turns) -> None:
            peaks[turns.strategy] = peak_bytes(arms.device)

        arms.trainer.add_callback(Turns(arms, after_update))
        arms.trainer.train()
    for name in settings.strategies * 2 if arms.stock is not None else ():
        assert arms.stock is not None and settings.num_inference_steps is not None
        gradient_steps = gradient_strategy(name)(
            settings.num_inference_steps,
            settings.num_gradient_steps,
            torch.Generator().manual_seed(0),
            step_list=range(settings.num_gradient_steps),
        )
        reset_peak(arms.device)
        labels = torch.arange(settings.batch_size, device=arms.device) % len(CLASS_NAMES)
        arms.stock.step(labels, list(range(settings.batch_size)), gradient_steps)
        peaks[name] = peak_bytes(arms.device)
    Path(file).write_text(json.dumps(peaks))


def flags_of(settings: BenchmarkSettings) -> list[str]:
    """The command line that gives these settings."""
    flags = []
    for name, value in asdict(settings).items():
        if value is not None and value != "":
            flags += [f"--{name}", *(value if isinstance(value, list) else [str(value)])]
    return flags


def cosine(one: torch.Tensor, other: torch.Tensor) -> float:
    """Cosine of two gradients ``(P,)``, in [-1, 1]."""
    return torch.cosine_similarity(one.double(), other.double(), dim=0).item()


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, measure and print; 2 for a bad setting, 1 when a process failed."""
    return run_command(_body, argv)


def _body(argv: Sequence[str]) -> int:
    settings = parse_settings(BenchmarkSettings, argv, prog="python -m benchmarks.training_speed", description=__doc__)
    with tempfile.TemporaryDirectory() as scratch:
        if settings.worker is not None:
            work(settings, Path(scratch))
            return 0
        settings = settings.filled_in(Path(scratch))
        try:
            compare(settings, Path(scratch))
        except torch.OutOfMemoryError:
            size = settings.batch_size or 1
            say_error(
                f"batch_size is {size}, for which this GPU's memory is too small; give"
                f" --batch-size {max(1, size // 2)}."
            )
            return 1
        except RuntimeError as error:
            say_error(error)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
