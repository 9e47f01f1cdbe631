"""Where a model or LoRA comes from: the name it may be published under, its commit on the Hub, its licence."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from ..mini import EMBEDDED_MODELS
from .loras import Lora

if TYPE_CHECKING:
    from ubgen_hub_cards.dataset_card import Source

_FRONT_MATTER = re.compile(r"---\n(.*?)\n---(\n|$)", re.DOTALL)
MINI_LICENCE = {"license": "apache-2.0"}
_LICENCE_KEYS = ("license", "license_name", "license_link")


@dataclass(frozen=True)
class GeneratorSource:
    """The model and LoRAs as the user named them, and their commits on the Hub where they come from there.

    ``model_revision`` of a checkpoint in one file is that of the model that completes it, see :func:`model_commit`.
    ``few_step_lora`` is one that was distilled for a few steps, which some presets add to the others.
    """

    model: str
    model_revision: str | None = None
    loras: tuple[Lora, ...] = ()
    few_step_lora: Lora | None = None

    @property
    def acts(self) -> bool:
        """Whether any LoRA changes the model."""
        return any(lora.strength != 0 for lora in (*self.loras, self.few_step_lora) if lora is not None)


def public_name(source: str | None) -> str | None:
    """A model's name as it may be published: of a path on this machine, its last part only."""
    if source is not None and Path(source).expanduser().exists():
        return Path(source).expanduser().resolve().name
    return source


def hub_commit(source: str | None, revision: str | None = None) -> str | None:
    """Commit that ``revision`` of a Hub model stands for now, from the cache where the Hub cannot be asked.

    None for an embedded model, for a path, and where neither Hub nor cache knows it: loading says what is wrong.
    """
    if source is None or source in EMBEDDED_MODELS or Path(source).expanduser().exists():
        return None
    # imported here, like the cards below: `--help` of most commands imports this module
    import httpx2
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HFValidationError, RevisionResolutionError

    try:
        return str(HfApi().resolve_revision(source, revision=revision).resolved)
    except (httpx2.HTTPError, HFValidationError, RevisionResolutionError, OSError):
        return None


def completing_model_of(source: str | None) -> str | None:
    """Hub id of the model whose settings and parts complete a checkpoint in one file; None for all other models."""
    file = None if source is None else Path(source).expanduser()
    if file is None or not file.is_file():
        return None
    # imported here: it loads torch
    from .single_file_kinds import completing_model, kind_of_file

    try:
        return completing_model(kind_of_file(file))
    except (KeyError, ValueError):
        # loading says what is wrong
        return None


def model_commit(source: str, revision: str | None = None) -> str | None:
    """:func:`hub_commit` of a model; of a checkpoint in one file, that of the model that completes it."""
    return hub_commit(completing_model_of(source) or source, revision)


def model_source(source: str, commit: str | None) -> "Source":
    """Public name, commit and licence: as the model's own card states it, if it can be read, and what is to know of
    it before the images train other models."""
    # imported here: a dry run imports this module, and should not wait for the libraries behind the cards
    from ubgen_hub_cards.dataset_card import Source

    name = public_name(source) or source
    if source in EMBEDDED_MODELS:
        return Source(name, None, MINI_LICENCE)
    if commit is None or Path(source).expanduser().exists():
        licence = _local_licence(Path(source).expanduser())
        return Source(name, commit, licence, licence_note(source), completed_by=completing_model_of(source))
    import httpx2
    from huggingface_hub import HfApi

    try:
        card = HfApi().model_info(source, revision=commit).card_data
        stated = card.to_dict() if card is not None else {}
    except (httpx2.HTTPError, OSError):
        stated = {}
    return Source(name, commit, _licence(stated), licence_note(source, commit))


def licence_note(source: str, commit: str | None = None) -> str | None:
    """What the model's family says of the licence of its checkpoints; None where it says nothing, or is not known."""
    # imported here, since a family's file loads diffusers
    from .families import FAMILIES, denoiser_config, family_of_model

    try:
        family = FAMILIES[family_of_model(source, commit)]
        return family.pipeline_class().licence_note_of(denoiser_config(source, commit))
    except (OSError, ValueError):
        return None


def _local_licence(folder: Path) -> dict[str, str]:
    try:
        match = _FRONT_MATTER.match((folder / "README.md").read_text(encoding="utf-8"))
        stated = yaml.safe_load(match[1]) if match else {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        stated = {}
    return _licence(stated if isinstance(stated, dict) else {})


def _licence(stated: dict) -> dict[str, str]:
    return {key: stated[key] for key in _LICENCE_KEYS if isinstance(stated.get(key), str)}
