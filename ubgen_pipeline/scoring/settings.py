"""Which scores rows get, and by which models. No torch."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..commands.settings_parser import field_help
from ..mini import EMBEDDED_MODELS
from ..models.fingerprints import fingerprint
from ..models.sources import public_name

SCORES = ("clip", "duplicates", "safety")
CLIP_TEMPLATE = "a photo of a {name}"
# the CLIP whose text encoder Stable Diffusion 1.x reads prompts with
CLIP_MODEL = "openai/clip-vit-large-patch14"


@dataclass(frozen=True)
class ScoreSettings:
    """What to score rows with; nothing is left out for its score."""

    scores: list[str] | None = field_help(
        "columns of scores: clip (fit to the own class, zero-shot class), duplicates (perceptual hash), safety (flag)",
        None,
    )
    clip_model: str | None = field_help(
        f"mini, or a CLIP of transformers or open_clip (open_clip:ARCHITECTURE/PRETRAINED); {CLIP_MODEL}, and mini for"
        " images of the mini models, if not given",
        None,
    )
    clip_template: str = field_help("a class's text for the CLIP, with {name}", CLIP_TEMPLATE)
    safety_checker: str | None = field_help(
        "folder or Hub id of a StableDiffusionSafetyChecker, or of a model with one; the generator's own if not given",
        None,
    )

    def wanted_scores(self) -> tuple[str, ...]:
        """The scores asked for, in their fixed order.

        Raises:
            ValueError: an unknown one, or a setting without its score.
        """
        asked = self.scores or ()
        if unknown := [name for name in asked if name not in SCORES]:
            raise ValueError(f"scores holds {unknown[0]!r}; choose from {', '.join(SCORES)}.")
        if "{name}" not in self.clip_template:
            raise ValueError(f"clip_template is {self.clip_template!r}; it must hold {{name}}, as {CLIP_TEMPLATE!r}.")
        given = {
            "clip_model": ("clip", self.clip_model is not None),
            "clip_template": ("clip", self.clip_template != CLIP_TEMPLATE),
            "safety_checker": ("safety", self.safety_checker is not None),
        }
        for setting, (score, is_given) in given.items():
            if is_given and score not in asked:
                raise ValueError(f"{setting} is given without the score it is for; add --scores {score}.")
        return tuple(name for name in SCORES if name in asked)

    def clip_for(self, generator: str | None) -> str:
        """The CLIP's name, for images of that generator."""
        return self.clip_model or ("mini" if generator in EMBEDDED_MODELS else CLIP_MODEL)

    def score_facts(self, generator: str | None) -> dict[str, dict[str, Any]]:
        """How each score is made, for the manifest and the card, as JSON values.

        Args:
            generator: the name of the model that drew the images, where it is known.
        """
        wanted, facts = self.wanted_scores(), {}
        if "clip" in wanted:
            facts["clip"] = {**_source(self.clip_for(generator)), "template": self.clip_template}
        if "duplicates" in wanted:
            facts["duplicates"] = {}
        if "safety" in wanted:
            facts["safety"] = {} if self.safety_checker is None else _source(self.safety_checker)
        return facts


def _source(name: str) -> dict[str, str | None]:
    """A model's name as it may be published, and what its files hold."""
    # open_clip:local-dir:FOLDER, mini:FOLDER
    prefix, mark, path = name.rpartition(":")
    if mark and Path(path).expanduser().exists():
        return {"model": f"{prefix}:{public_name(path)}", "fingerprint": fingerprint(path)}
    return {"model": public_name(name), "fingerprint": fingerprint(name)}
