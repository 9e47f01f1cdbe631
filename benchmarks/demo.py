"""The whole method on the embedded mini model: what `make demo` runs.

    python benchmarks/demo.py --max-steps 40 --samples-per-class 20

Trains a LoRA from the ten class names, generates a dataset with and without it, reads both back and prints one table.
It goes through the commands a user has; started again with the same settings it goes on where it stopped.
"""

import argparse
import dataclasses
import json
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
from datasets import Dataset, load_dataset
from PIL import Image, ImageDraw, ImageFont

from ubgen_evaluation import class_accuracy, factor_entropy, own_share
from ubgen_pipeline.mini.classifiers import predict_factors
from ubgen_pipeline.mini.scenes import BACKGROUND_NAMES, CLASS_NAMES, OWN_BACKGROUND, OWN_TEXTURE, TEXTURE_NAMES
from ubgen_pipeline.settings_parser import field_help, parse_settings, run_command

ROOT = Path(__file__).resolve().parents[1]
LORA_FILE = "pytorch_lora_weights.safetensors"


@dataclass(frozen=True)
class DemoSettings:
    """Settings of the demo."""

    output_dir: str = field_help("folder for the LoRA, the datasets and the picture", "demo")
    config: str = field_help("training settings", str(ROOT / "training" / "configs" / "mini.yaml"))
    max_steps: int | None = field_help("generator updates; those of the training settings if not given", None)
    samples_per_class: int = field_help("images of each class and dataset", 20)
    num_inference_steps: int = field_help("denoising steps of the datasets", 50)
    seed: int = field_help("seed of the datasets and of the training", 0)
    threads: int | None = field_help("CPU threads of every command; torch's own choice if not given", None)
    train_arguments: list[str] = field(
        default_factory=list, metadata={"help": "further flags of train_ubgen.py, after all others"}
    )

    def __post_init__(self) -> None:
        for name in ("samples_per_class", "num_inference_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; give 1 or more.")


class Row(NamedTuple):
    """One line of the table; the shares lie in [0, 1], the entropy is in bits, of log2 10 = 3.32 at most."""

    name: str
    class_accuracy: float
    own_background: float
    own_texture: float
    background_entropy: float
    images_per_second: float
