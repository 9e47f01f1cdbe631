"""What the operator of the Space decides: environment variables, read once when it starts."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from ubgen_pipeline.mini import EMBEDDED_MODELS, mini_lora_path
from ubgen_pipeline.mini.scenes import CLASS_NAMES
from ubgen_pipeline.models.loras import split_lora
from ubgen_pipeline.prompts.class_prompts import ClassName, label_names, load_class_names

PREFIX = "UBGEN_"
BASE, TUNED, SECOND = "base", "tuned", "second"
TUNED_VARIANTS = (TUNED, SECOND)


@dataclass(frozen=True)
class SpaceSettings:
    """Settings of the Space; the variable of a field is ``UBGEN_`` and its name in capitals.

    Attributes:
        model: ``mini``, ``mini-flow``, a folder in diffusers layout, the checkpoint of a whole model in one file, or a
            Hub id.
        variant: of the model's weights, such as ``fp16``; None takes the plain ones, or what there is.
        lora: the LoRA that is compared with the base, or two, separated by a comma: folder, file or Hub id, each with
            ``:STRENGTH`` after it where that is not 1; for ``mini`` the shipped one.
        classes: class file or built-in list; the mini world's ten for its models, else ``imagenet1k``.
        datasets: Hub ids and local folders offered for browsing, separated by commas. Visitors may type any public
            Hub id beside them, but no folder.
        report: report.json of ``ubgen evaluate``, shown in the tab on bias.
        device: where the model runs; None takes CUDA where there is one.
        max_samples: images of one model per request.
        max_steps: denoising steps per request.
        max_queue: requests that wait; more are turned away.
        max_gpu_seconds: for which a request may borrow a GPU where one is lent; a longer one is refused.
    """

    model: str = "mini"
    variant: str | None = None
    lora: tuple[str, ...] = ()
    classes: str | None = None
    datasets: tuple[str, ...] = ()
    report: str | None = None
    device: str | None = None
    max_samples: int = 8
    max_steps: int = 50
    max_queue: int = 16
    max_gpu_seconds: int = 120

    def __post_init__(self) -> None:
        for name in ("max_samples", "max_steps", "max_queue", "max_gpu_seconds"):
            if getattr(self, name) < 1:
                raise ValueError(f"{PREFIX}{name.upper()} is {getattr(self, name)}; give 1 or more.")
        if self.report is not None and not Path(self.report).is_file():
            raise ValueError(f"{PREFIX}REPORT is {self.report!r}, which is no file; give a report.json.")
        if not self.lora and self.model == "mini" and Path(mini_lora_path()).is_file():
            object.__setattr__(self, "lora", (mini_lora_path(),))
        if len(self.lora) > len(TUNED_VARIANTS):
            raise ValueError(f"{PREFIX}LORA names {len(self.lora)} LoRAs; give {len(TUNED_VARIANTS)} at most.")
        if without := [entry for entry in self.lora if split_lora(entry, f"{PREFIX}LORA")[1] == 0]:
            raise ValueError(f"{PREFIX}LORA is {without[0]!r}, which draws what the base draws; leave it out.")

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> "SpaceSettings":
        """Settings from the variables that are set and not empty.

        Raises:
            ValueError: a value that is out of range or of another type.
        """
        values: dict[str, Any] = {}
        for field in fields(cls):
            text = environment.get(PREFIX + field.name.upper(), "").strip()
            if not text:
                continue
            if isinstance(field.default, int):
                if not text.isascii() or not text.isdigit():
                    raise ValueError(f"{PREFIX}{field.name.upper()} is {text!r}; give an integer.")
                values[field.name] = int(text)
            elif isinstance(field.default, tuple):
                values[field.name] = tuple(part.strip() for part in text.split(",") if part.strip())
            else:
                values[field.name] = text
        return cls(**values)

    @property
    def is_mini(self) -> bool:
        """Whether the model is one of the mini world."""
        return self.model in EMBEDDED_MODELS

    @property
    def variants(self) -> dict[str, str]:
        """What can be drawn from, base first, and how visitors see it: of a folder, its last part only."""
        shown = {BASE: "Base"}
        if len(self.lora) == 1:
            shown[TUNED] = "Tuned"
        elif self.lora:
            names = [Path(source).name if Path(source).exists() else source for source in self.lora]
            if len(set(names)) < len(names):
                names = [f"{name} ({number})" for number, name in enumerate(names, 1)]
            shown |= zip(TUNED_VARIANTS, names)
        return shown

    @property
    def shown_model(self) -> str:
        """The model's name for visitors: of a folder, its last part only."""
        folder = Path(self.model).expanduser()
        return folder.resolve().name if folder.is_dir() else self.model

    def class_choices(self) -> dict[str, ClassName]:
        """The classes by the name that tells them apart, in order."""
        source = self.classes or (list(CLASS_NAMES) if self.is_mini else "imagenet1k")
        classes = load_class_names(source)
        return dict(zip(label_names(classes), classes))

    def dataset_choices(self) -> dict[str, str]:
        """Offered datasets: what visitors see, a folder's last part only, and where it is."""
        shown: dict[str, str] = {}
        for source in self.datasets:
            folder = Path(source).expanduser()
            name = folder.resolve().name if folder.is_dir() else source
            while name in shown:
                name += "_"
            shown[name] = str(folder.resolve()) if folder.is_dir() else source
        return shown
