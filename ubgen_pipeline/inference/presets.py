"""Shortcuts that draw faster and not the same images, by name; never taken unless asked for. No torch.

Each says how much faster it is and how far its images are off, as ``benchmarks/lossy_presets.py`` measured it.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..commands.settings_parser import field_help


@dataclass(frozen=True)
class Preset:
    """A shortcut.

    Attributes:
        about: what it does, in a few words.
        measured: its speed and drift on the mini model, as in docs/performance.md.
        settings: what it sets of ``GenerateSettings``.
        shortcuts: arguments of the pipeline's call.
        needs_lora: whether it takes a LoRA that was distilled for a few steps.
    """

    about: str
    measured: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    shortcuts: Mapping[str, Any] = field(default_factory=dict)
    needs_lora: bool = False

    @property
    def reuses_features(self) -> bool:
        """Whether some steps skip layers, whose attention then cannot be read, and which compiled code runs whole."""
        return self.shortcuts.get("deep_features_every", 1) > 1


def _measured(
    speed: float, class_accuracy: float, own_background: float, read_alike: float, fid: float, decibels: float
) -> str:
    return (
        f"{speed:.2f} times as fast; class accuracy {class_accuracy:.1f}% ({_EXACT_ACCURACY:.1f}% without), own"
        f" background {own_background:.1f}% ({_EXACT_BACKGROUND:.1f}%); {read_alike:.1f}% of the images are read alike"
        f" by the judge, FID to the exact ones is {fid:.2f}, median PSNR {decibels:.1f} dB"
    )


_EXACT_ACCURACY, _EXACT_BACKGROUND = 92.5, 37.5
PRESETS: dict[str, Preset] = {
    "guidance-cutoff": Preset(
        "guidance for the first 60% of the steps only",
        _measured(1.27, 90.8, 37.5, 84.2, 0.33, 37.7),
        shortcuts={"guidance_until": 0.6},
    ),
    "deep-cache": Preset(
        "deep layers of the UNet at every third step only",
        _measured(1.46, 92.5, 37.5, 83.3, 0.21, 41.7),
        shortcuts={"deep_features_every": 3},
    ),
    "dpm-20": Preset(
        "20 steps of DPM-Solver++ (Lu et al. 2022)",
        _measured(2.54, 90.0, 36.7, 90.0, 0.19, 42.5),
        settings={"scheduler": "dpm++", "num_inference_steps": 20},
    ),
    "unipc-10": Preset(
        "10 steps of UniPC (Zhao et al. 2023)",
        _measured(4.86, 93.3, 35.0, 71.7, 0.87, 35.5),
        settings={"scheduler": "unipc", "num_inference_steps": 10},
    ),
    "dpm-20-cutoff": Preset(
        "20 steps of DPM-Solver++, guidance for the first 60% of them only",
        _measured(3.16, 90.8, 36.7, 83.3, 0.52, 36.1),
        settings={"scheduler": "dpm++", "num_inference_steps": 20},
        shortcuts={"guidance_until": 0.6},
    ),
    "lcm-4": Preset(
        "4 steps with an LCM LoRA (Luo et al. 2023), without guidance",
        _measured(20.68, 75.0, 44.2, 18.3, 5.59, 16.7),
        settings={"scheduler": "lcm", "num_inference_steps": 4, "guidance_scale": 1.0},
        needs_lora=True,
    ),
    "hyper-8": Preset(
        "8 steps with a Hyper-SD LoRA (Ren et al. 2024), without guidance",
        _measured(11.20, 88.3, 41.7, 65.8, 0.71, 28.7),
        settings={"scheduler": "ddim-trailing", "num_inference_steps": 8, "guidance_scale": 1.0},
        needs_lora=True,
    ),
    "hyper-4": Preset(
        "4 steps with a Hyper-SD LoRA for so many, without guidance",
        _measured(20.29, 88.3, 43.3, 59.2, 1.14, 26.1),
        settings={"scheduler": "ddim-trailing", "num_inference_steps": 4, "guidance_scale": 1.0},
        needs_lora=True,
    ),
}
FEW_STEP_PRESETS = tuple(name for name, preset in PRESETS.items() if preset.needs_lora)


@dataclass(frozen=True)
class PresetSettings:
    """The flag that takes a shortcut, and the LoRA that some need."""

    preset: str | None = field_help(
        f"a lossy shortcut, faster and not the same images: {', '.join(PRESETS)}; none if not given", None
    )
    few_step_lora: str | None = field_help(
        f"folder, file or Hub id of the LoRA distilled for a few steps that {', '.join(FEW_STEP_PRESETS)} need", None
    )

    def apply_preset(self) -> None:
        """Set what the preset sets.

        Raises:
            ValueError: no such preset, another value given beside it, a LoRA missing or too many, or something asked
                for that the preset would spoil.
        """
        if self.preset is None:
            if self.few_step_lora is not None:
                raise ValueError(
                    f"few_step_lora is given without a preset that takes it; add preset {', '.join(FEW_STEP_PRESETS)}."
                )
            return
        if self.preset not in PRESETS:
            raise ValueError(f"preset is {self.preset!r}; choose one of {', '.join(PRESETS)}.")
        preset = PRESETS[self.preset]
        if preset.needs_lora != (self.few_step_lora is not None):
            what = "needs one; name it" if preset.needs_lora else "takes none; leave it out"
            raise ValueError(f"few_step_lora is {self.few_step_lora!r}, and preset {self.preset!r} {what}.")
        defaults = {item.name: item.default for item in dataclasses.fields(self)}
        for name, value in preset.settings.items():
            if getattr(self, name) not in (defaults[name], value):
                raise ValueError(
                    f"{name} is {getattr(self, name)!r} beside preset {self.preset!r}, which sets {value!r}; leave one"
                    " of them out."
                )
            object.__setattr__(self, name, value)
        if preset.reuses_features and self.compile == "on":  # pyright: ignore[reportAttributeAccessIssue]
            raise ValueError(f"compile is on, which preset {self.preset!r} does not work with; give off or auto.")
        if preset.reuses_features and self.wanted_annotations():  # pyright: ignore[reportAttributeAccessIssue]
            raise ValueError(
                f"annotations need the attention of every step, of which preset {self.preset!r} skips some; take"
                " another preset, or annotate the finished dataset with `ubgen annotate`."
            )

    def shortcuts(self) -> dict[str, Any]:
        """Arguments of the pipeline's call."""
        return dict(PRESETS[self.preset].shortcuts) if self.preset is not None else {}

    def any_lora(self) -> str | None:
        """A LoRA of the run, whichever; None where there is none."""
        return self.lora or self.few_step_lora  # pyright: ignore[reportAttributeAccessIssue]

    def reuses_features(self) -> bool:
        """See :attr:`Preset.reuses_features`."""
        return self.preset is not None and PRESETS[self.preset].reuses_features

    def preset_facts(self) -> dict[str, Any]:
        """What the rows say of it; nothing where there is none, so that exact datasets have no such columns."""
        if self.preset is None:
            return {}
        from ..models.sources import public_name

        return {"preset": self.preset, "few_step_lora": public_name(self.few_step_lora)}


def describe(name: str) -> str:
    """One line about that preset: what it does and what it costs."""
    preset = PRESETS[name]
    return f"preset {name} is lossy: {preset.about}. On the mini model: {preset.measured} (docs/performance.md)"
