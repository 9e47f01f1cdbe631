"""The whole method on an embedded model: what `make demo` and `make demo MODEL=mini-flow` run.

    python -m benchmarks.demo --max-steps 40 --samples-per-class 20
    python -m benchmarks.demo --model mini-flow

Trains a LoRA without any image, generates a dataset with and without it, reads both back and prints one table. It goes
through the commands a user has; started again with the same settings it goes on where it stopped.
"""

import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import yaml
from datasets import Dataset, load_dataset

from benchmarks.contact_sheet import draw_contact_sheet
from benchmarks.evidence.stages import PROMPT_TEMPLATES
from ubgen_evaluation import class_accuracy, factor_entropy, own_share
from ubgen_pipeline.commands.console import INTERVAL_VARIABLE, is_terminal, relay, say_error
from ubgen_pipeline.commands.settings_parser import field_help, parse_settings, run_command
from ubgen_pipeline.mini import EMBEDDED_MODELS, mini_caption_lora_path, mini_lora_path
from ubgen_pipeline.mini.judges import predict_factors
from ubgen_pipeline.mini.scenes import (
    BACKGROUND_NAMES,
    CLASS_NAMES,
    OWN_BACKGROUND,
    OWN_TEXTURE,
    TEXTURE_NAMES,
    scenes,
)


class Plan(NamedTuple):
    """A file of ``training/configs``, generator updates, flags of ``ubgen generate``, and whether contexts are named.

    Where they are, the LoRA is trained on captions that name them, and one more dataset is drawn with such prompts and
    no LoRA.
    """

    training_config: str
    max_steps: int
    sampling: Mapping[str, float]
    has_contexts: bool


class Drawing(NamedTuple):
    """How a dataset is drawn: with a LoRA, with prompts that name contexts or with bare class names, and guided."""

    lora: Path | None
    has_contexts: bool
    # in place of the plan's
    guidance_scale: float | None = None


ROOT = Path(__file__).resolve().parents[1]
LORA_FILE = "pytorch_lora_weights.safetensors"
# the package's LoRAs by the model that they are for and by the name of their row
SHIPPED_LORAS = {
    "mini": {
        "tuned (shipped), contexts in its prompts": Drawing(Path(mini_caption_lora_path()), True),
        # it draws other backgrounds under the model's own guidance, too
        "tuned (shipped)": Drawing(Path(mini_lora_path()), False, guidance_scale=2.0),
    }
}
# how an embedded model is trained, and how its datasets are drawn: by default with its family's own steps and guidance
PLANS = {
    # without guidance, as it was trained: with it, the mini model draws a class on its own background alone
    "mini": Plan("mini_demo.yaml", 60, {"num_inference_steps": 10, "guidance_scale": 1.0}, True),
    "mini-flow": Plan("mini_flow.yaml", 20, {}, False),
}
OWN_BACKGROUND_INDEX = [BACKGROUND_NAMES.index(OWN_BACKGROUND[name]) for name in CLASS_NAMES]
OWN_TEXTURE_INDEX = [TEXTURE_NAMES.index(OWN_TEXTURE[name]) for name in CLASS_NAMES]


@dataclass(frozen=True)
class DemoSettings:
    """Settings of the demo."""

    model: str = field_help(f"the embedded model, {' or '.join(EMBEDDED_MODELS)}", "mini")
    output_dir: str | None = field_help(
        "folder for the LoRA, the datasets and the picture; demo for mini and demo/MODEL for others if not given",
        None,
    )
    training_config: str | None = field_help(
        "training settings; the model's own file of training/configs if not given", None
    )
    max_steps: int | None = field_help(
        f"generator updates; 0 skips the training and takes the shipped LoRAs only; if not given, "
        f"{', '.join(f'{plan.max_steps} for {model}' for model, plan in PLANS.items())}",
        None,
    )
    samples_per_class: int = field_help("images of each class and dataset", 8)
    num_inference_steps: int | None = field_help(
        "denoising steps of the datasets; 10 for mini and the family's own for others if not given", None
    )
    seed: int = field_help("seed of the training and of the datasets", 0)
    threads: int | None = field_help("CPU threads of every command; torch's own choice if not given", None)
    shipped_loras: bool = field_help("measure the longer-trained LoRAs of the package too, where there are any", True)
    loras: list[str] | None = field_help("more LoRAs to measure, files or folders; drawn with class names alone", None)

    def __post_init__(self) -> None:
        if self.model not in EMBEDDED_MODELS:
            raise ValueError(f"model is {self.model!r}; choose one of {', '.join(EMBEDDED_MODELS)}.")
        for name, least in (("max_steps", 0), ("samples_per_class", 1), ("num_inference_steps", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"{name} is {value}; give {least} or more.")
        if self.output_dir is None:
            object.__setattr__(self, "output_dir", "demo" if self.model == "mini" else f"demo/{self.model}")
        plan = PLANS[self.model]
        if self.training_config is None:
            object.__setattr__(self, "training_config", str(ROOT / "training" / "configs" / plan.training_config))
        if self.max_steps is None:
            object.__setattr__(self, "max_steps", plan.max_steps)


class Row(NamedTuple):
    """One line of the table: shares in [0, 1], entropy in bits, log2 10 = 3.32 at most; None: not measured."""

    name: str
    class_accuracy: float
    own_background: float
    own_texture: float
    background_entropy: float
    images_per_second: float | None


class CommandError(Exception):
    """A command that failed, after it said itself why."""


def run_demo(settings: DemoSettings) -> list[Row]:
    """Train, generate, read back, measure; prints the table and draws the picture.

    Raises:
        ValueError: a setting out of range, or a folder made with other settings.
        CommandError: a command failed.
    """
    folder = Path(str(settings.output_dir))
    has_contexts = PLANS[settings.model].has_contexts
    drawn: dict[str, Drawing] = {"base": Drawing(None, False)}
    if has_contexts:
        drawn["base, contexts in its prompts"] = Drawing(None, True)
    if settings.max_steps:
        drawn["tuned"] = Drawing(train(settings, folder / "lora"), has_contexts)
    if settings.shipped_loras:
        drawn |= SHIPPED_LORAS.get(settings.model, {})
    drawn |= {lora: Drawing(Path(lora), False) for lora in settings.loras or []}
    datasets, rows = {}, []
    for name, drawing in drawn.items():
        target = folder / re.sub(r"\W+", "-", name).strip("-")
        rate = generate(settings, drawing, target)
        datasets[name] = load_dataset(str(target), split="train")
        rows.append(measure(name, *arrays(datasets[name]), rate))
    rows += [reference_row(len(datasets["base"]), bias) for bias in (0.95, 0.0)]
    text = table(rows, len(datasets["base"]))
    (folder / "table.txt").write_text(text + "\n", encoding="utf-8")
    (folder / "table.json").write_text(json.dumps([row._asdict() for row in rows], indent=2) + "\n", encoding="utf-8")
    draw_contact_sheet({name: images_by_class(data) for name, data in datasets.items()}, folder / "contact_sheet.png")
    print(f"\n{text}\n\ncontact sheet: {folder / 'contact_sheet.png'}")
    return rows


def train(settings: DemoSettings, folder: Path) -> Path:
    """The LoRA of a training run with ``train_ubgen.py``, which is resumed, or only read where it is complete."""
    config = str(settings.training_config)
    record = {"training_config": Path(config).read_text(encoding="utf-8")}
    record |= {"max_steps": settings.max_steps, "seed": settings.seed}
    started, finished = folder / "demo_started.json", folder / "demo_finished.json"
    if started.is_file() and json.loads(started.read_text(encoding="utf-8")) != record:
        raise ValueError(f"output_dir holds a LoRA trained with other settings, {folder}; give another output_dir.")
    if not finished.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        started.write_text(json.dumps(record), encoding="utf-8")
        command = [sys.executable, str(ROOT / "training" / "train_ubgen.py"), "--config", config]
        command += ["--max_steps", str(settings.max_steps), "--seed", str(settings.seed), "--output_dir", str(folder)]
        # a run that is stopped shall lose a minute at most
        command += ["--save_steps", "10"]
        if any(folder.glob("checkpoint-*/trainer_state.json")):
            command += ["--resume_from_checkpoint", "last"]
        run(command, settings, folder / "training.log")
        finished.write_text(json.dumps(record), encoding="utf-8")
    return folder / LORA_FILE


def generate(settings: DemoSettings, drawing: Drawing, folder: Path) -> float | None:
    """Make a dataset with ``ubgen generate``; returns the images/s that it reported when it was made."""
    command = [str(Path(sys.executable).with_name("ubgen")), "generate", "--model", settings.model]
    if drawing.has_contexts:
        file = folder.with_name("prompts.yaml")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(yaml.safe_dump({"classes": list(CLASS_NAMES), **PROMPT_TEMPLATES}, sort_keys=False), "utf-8")
        command += ["--classes", str(file)]
    else:
        command += ["--class-names", *CLASS_NAMES]
    command += ["--samples-per-class", str(settings.samples_per_class)]
    sampling: dict[str, float] = {**PLANS[settings.model].sampling}
    if drawing.guidance_scale is not None:
        sampling["guidance_scale"] = drawing.guidance_scale
    if settings.num_inference_steps is not None:
        sampling["num_inference_steps"] = settings.num_inference_steps
    command += [part for name, value in sampling.items() for part in (f"--{name.replace('_', '-')}", str(value))]
    command += ["--seed", str(settings.seed), "--batch-size", "50", "--output-dir", str(folder)]
    if drawing.lora is not None:
        command += ["--lora", str(drawing.lora)]
    if settings.threads is not None:
        command += ["--threads", str(settings.threads)]
    log = folder.with_name(f"{folder.name}.log")
    rates = re.findall(r"([\d.]+) images/s", run(command, settings, log))
    rate_file = folder.with_name(f"{folder.name}_rate.json")
    if rates:
        rate_file.write_text(json.dumps(float(rates[-1])), encoding="utf-8")
    return json.loads(rate_file.read_text(encoding="utf-8")) if rate_file.is_file() else None


def run(command: Sequence[str], settings: DemoSettings, log: Path) -> str:
    """Run a command, showing and logging what it says; returns that."""
    print("\n$", " ".join(command), flush=True)
    environment = dict(os.environ)
    if settings.threads is not None:
        environment["OMP_NUM_THREADS"] = str(settings.threads)
    if is_terminal():
        # the command writes to us and sees no terminal, so it would take its time
        environment.setdefault(INTERVAL_VARIABLE, "1")
    log.parent.mkdir(parents=True, exist_ok=True)
    lines = []
    with (
        open(log, "a", encoding="utf-8") as stream,
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", env=environment
        ) as process,
    ):
        for line in process.stdout or ():
            relay(line.rstrip("\n"))
            stream.write(line)
            lines.append(line)
    if process.returncode:
        raise CommandError(f"a command failed with exit code {process.returncode}, see {log}")
    return "".join(lines)


def arrays(dataset: Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Images ``(N, 64, 64, 3)`` uint8 and labels ``(N,)``."""
    images = np.stack([np.asarray(image.convert("RGB")) for image in dataset["image"]])
    return images, np.asarray(dataset["label"])


def images_by_class(dataset: Dataset) -> dict[str, list[np.ndarray]]:
    images, labels = arrays(dataset)
    return {name: list(images[labels == label]) for label, name in enumerate(CLASS_NAMES)}


def measure(name: str, images: np.ndarray, labels: np.ndarray, images_per_second: float | None) -> Row:
    """What an independently trained classifier reads off the images; it is no part of any reward."""
    factors = predict_factors(images)
    return Row(
        name,
        class_accuracy(factors["class"], labels, len(CLASS_NAMES)).mean,
        own_share(factors["background"], OWN_BACKGROUND_INDEX, labels).mean,
        own_share(factors["texture"], OWN_TEXTURE_INDEX, labels).mean,
        factor_entropy(factors["background"], len(BACKGROUND_NAMES), labels, len(CLASS_NAMES)).mean,
        images_per_second,
    )


def reference_row(num_images: int, bias: float) -> Row:
    """The same measurement on as many rendered scenes, whose truth is known: it shows the judge's own mistakes.

    At 0.95, the bias of the world that the base model learnt, own shares are 95.5%; at 0, a tenth.
    """
    rendered = list(scenes(num_images, bias=bias, seed=1_000_003))
    labels = np.array([CLASS_NAMES.index(scene.factors.class_name) for scene in rendered])
    return measure(f"scenes, bias {bias:g}", np.stack([scene.image for scene in rendered]), labels, None)


def table(rows: Sequence[Row], num_images: int) -> str:
    """The rows as text."""
    columns = ("", "class accuracy", "own background", "own texture", "background entropy", "images/s")
    width = 2 + max(len(row.name) for row in rows)
    lines = [f"{columns[0]:<{width}}" + "".join(f"{name:>20}" for name in columns[1:])]
    for row in rows:
        entropy, rate = f"{row.background_entropy:.2f} bits", row.images_per_second
        shares = (f"{share:.1%}" for share in row[1:4])
        cells = [*shares, entropy, "-" if rate is None else f"{rate:.2f}"]
        lines.append(f"{row.name:<{width}}" + "".join(f"{cell:>20}" for cell in cells))
    error = 2 * math.sqrt(0.25 / num_images)
    lines.append(f"{num_images} images each; two standard errors of a share are at most {error:.1%}.")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Parse and run; 2 for a bad setting, 1 when a command failed."""

    def body(argv: Sequence[str]) -> int:
        settings = parse_settings(DemoSettings, argv, prog="python -m benchmarks.demo", description=__doc__)
        try:
            run_demo(settings)
        except CommandError as error:
            say_error(error)
            return 1
        return 0

    return run_command(body, argv)


if __name__ == "__main__":
    sys.exit(main())
