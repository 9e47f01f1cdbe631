"""Shortcuts that draw faster and not the same images, by name; never taken unless asked for. No torch.

Here stands what each of them does. How much faster it is, and what the images lose, ``benchmarks.lossy_presets``
measures.
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
        settings: what it sets of ``GenerateSettings``.
        shortcuts: arguments of the pipeline's call.
        needs_lora: whether it takes a LoRA that was distilled for a few steps.
    """

    about: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    shortcuts: Mapping[str, Any] = field(default_factory=dict)
    needs_lora: bool = False

    @property
    def reuses_features(self) -> bool:
        """Whether some steps skip layers, whose attention then cannot be read, and which compiled code runs whole."""
        return self.shortcuts.get("deep_features_every", 1) > 1


PRESETS: dict[str, Preset] = {
    "guidance-cutoff": Preset(
        "guidance for the first 60% of the steps only",
        shortcuts={"guidance_until": 0.6},
    ),
    "deep-cache": Preset(
        "deep layers of the UNet at every third step only",
        shortcuts={"deep_features_every": 3},
    ),
    "dpm-20": Preset(
        "20 steps of DPM-Solver++ (Lu et al. 2022)",
        settings={"scheduler": "dpm++", "num_inference_steps": 20},
    ),
    "unipc-10": Preset(
        "10 steps of UniPC (Zhao et al. 2023)",
        settings={"scheduler": "unipc", "num_inference_steps": 10},
    ),
    "dpm-20-cutoff": Preset(
        "20 steps of DPM-Solver++, guidance for the first 60% of them only",
        settings={"scheduler": "dpm++", "num_inference_steps": 20},
        shortcuts={"guidance_until": 0.6},
    ),
    "lcm-4": Preset(
        "4 steps with an LCM LoRA (Luo et al. 2023), without guidance",
        settings={"scheduler": "lcm", "num_inference_steps": 4, "guidance_scale": 1.0},
        needs_lora=True,
    ),
    "hyper-8": Preset(
        "8 steps with a Hyper-SD LoRA (Ren et al. 2024), without guidance",
        settings={"scheduler": "ddim-trailing", "num_inference_steps": 8, "guidance_scale": 1.0},
        needs_lora=True,
    ),
    "hyper-4": Preset(
        "4 steps with a Hyper-SD LoRA (Ren et al. 2024), without guidance",
        settings={"scheduler": "ddim-trailing", "num_inference_steps": 4, "guidance_scale": 1.0},
        needs_lora=True,
    ),
}
FEW_STEP_PRESETS = tuple(name for name, preset in PRESETS.items() if preset.needs_lora)


@dataclass(frozen=True)
class PresetSettings:
    """Which shortcut to take, and the LoRA that some need."""

    preset: str | None = field_help(
        f"a lossy shortcut, faster and not the same images: {', '.join(PRESETS)}; none if not given", None
    )
    few_step_lora: str | None = field_help(
        f"folder, file or Hub id of the LoRA distilled for a few steps that {', '.join(FEW_STEP_PRESETS)} need; with"
        " :STRENGTH after it where that is not 1",
        None,
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

    def reuses_features(self) -> bool:
        """See :attr:`Preset.reuses_features`."""
        return self.preset is not None and PRESETS[self.preset].reuses_features


def describe(name: str) -> str:
    """One line about that preset, for the console: that it is lossy, and what it does."""
    return f"preset {name} is lossy: {PRESETS[name].about}; the images are not those of the model without it"
