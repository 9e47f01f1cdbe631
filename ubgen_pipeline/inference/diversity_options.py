"""How images of a class are made to differ more without training, as settings of a command. No torch."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..commands.settings_parser import field_help
from ..diversity_settings import DIVERSITY_METHODS, Cads, as_cads, check_interval

_CADS_SETTINGS = {f"cads_{item.name}": item for item in dataclasses.fields(Cads)}


@dataclass(frozen=True)
class DiversitySettings:
    """Noise in the conditioning, and where guidance takes part."""

    diversity: str | None = field_help(
        f"images of a class differ more: {', '.join(DIVERSITY_METHODS)} (noise in the conditioning at the first"
        " steps); none if not given",
        None,
    )
    cads_tau1: float | None = field_help("of cads: time, from 1 (noise) to 0, of the last noise; 0.6", None)
    cads_tau2: float | None = field_help("of cads: time until which the conditioning is noise alone; 0.9", None)
    cads_scale: float | None = field_help("of cads: strength of the noise; 0.25", None)
    cads_psi: float | None = field_help("of cads: share of the rescaling, from 0 to 1; 1", None)
    guidance_interval: list[float] | None = field_help(
        "guide at steps whose share of noise is between these two numbers from 0 to 1; all steps if not given", None
    )

    def check_diversity(self) -> None:
        """Raise ``ValueError`` for a method or a number that cannot be."""
        as_cads(self.diversity)
        given = [name for name in _CADS_SETTINGS if getattr(self, name) is not None]
        if given and self.diversity is None:
            raise ValueError(f"{given[0]} is {getattr(self, given[0])} without diversity; add --diversity cads.")
        self.diversity_arguments()

    def diversity_arguments(self) -> dict[str, Any]:
        """Arguments of the pipeline's call, those that are given alone."""
        arguments: dict[str, Any] = {}
        if self.diversity is not None:
            given = {name: getattr(self, name) for name in _CADS_SETTINGS}
            numbers = {_CADS_SETTINGS[name].name: float(value) for name, value in given.items() if value is not None}
            arguments["diversity"] = Cads(**numbers)
        if self.guidance_interval is not None:
            arguments["guidance_interval"] = check_interval(self.guidance_interval)
        return arguments


def diversity_columns(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """What rows and manifest say of those arguments of a call, as JSON values; nothing of what is not given."""
    columns: dict[str, Any] = {}
    if (cads := arguments.get("diversity")) is not None:
        columns["diversity"] = {"method": "cads", **dataclasses.asdict(cads)}
    if (interval := arguments.get("guidance_interval")) is not None:
        columns["guidance_interval"] = list(interval)
    return columns


def stored_diversity(columns: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a call that a row's columns stand for.

    Raises:
        ValueError: a method that this version does not know.
    """
    arguments: dict[str, Any] = {}
    if (stored := columns.get("diversity")) is not None:
        method, numbers = stored["method"], {name: value for name, value in stored.items() if name != "method"}
        if method not in DIVERSITY_METHODS:
            raise ValueError(f"the row was drawn with diversity {method!r}, which this version does not know.")
        arguments["diversity"] = Cads(**numbers)
    if (interval := columns.get("guidance_interval")) is not None:
        arguments["guidance_interval"] = check_interval(interval)
    return arguments
