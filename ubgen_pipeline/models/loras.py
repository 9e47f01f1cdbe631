"""LoRAs as users name them: where they lie, how strong they are, what rows and manifests say of them. No torch."""

import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# a name on the Hub, with its owner or, for some old ones, without
HUB_ID = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")
# diffusers' own file, and peft's with its settings and what it puts before each weight's name
LORA_FILE = "pytorch_lora_weights.safetensors"
ADAPTER_FILE, ADAPTER_SETTINGS = "adapter_model.safetensors", "adapter_config.json"
PEFT_PREFIX = "base_model.model."
# files of a training beside the LoRA
_BESIDE = re.compile("scheduler|optimizer|checkpoint")
# as the safetensors library has it
_MOST_HEADER = 100_000_000
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


@dataclass(frozen=True)
class Lora:
    """One LoRA of a run.

    Attributes:
        source: folder, file or Hub id.
        strength: what its change of the weights is multiplied by; 0 leaves the model as it is.
        revision: on the Hub.

    Raises:
        ValueError: a strength that is no finite number: all images would be black.
    """

    source: str
    strength: float = 1.0
    revision: str | None = None

    def __post_init__(self) -> None:
        try:
            strength = float(self.strength)
        except (TypeError, ValueError):
            strength = math.nan
        if not math.isfinite(strength):
            raise ValueError(
                f"the LoRA {self.source!r} has the strength {self.strength!r}; give a finite number, such as 0.5."
            )
        # a number of numpy's goes into no manifest
        object.__setattr__(self, "strength", strength)


# what callers may give: one or several, each with or without its strength
LoraLike = str | Path | Lora | Sequence[str | Path | Lora] | None


def split_lora(entry: str | Path, argument: str = "lora") -> tuple[str, float | None]:
    """``PATH`` or ``PATH:strength`` as (source, strength), the strength None where it is not given.

    What follows the last colon is a strength only if it is a number and what stands before it exists or is spelt like
    a Hub id; so a path may hold colons. A path that exists as it is written, colon and number included, is that path.

    Raises:
        ValueError: nothing there, or a strength that is no number, one of two, or one without a LoRA.
    """
    text = str(entry)
    if not text:
        raise ValueError(f"{argument} is ''; give a folder, file or Hub id, or leave it out.")
    if _exists(text):
        return text, None
    if _is_number(text):
        raise ValueError(f"{argument} is {text!r}, a strength without a LoRA; give them together, as PATH:{text}.")
    head, colon, tail = text.rpartition(":")
    if not colon:
        return text, None
    is_hub_id = "/" in head and HUB_ID.fullmatch(head) is not None
    if _is_number(tail) and (_exists(head) or HUB_ID.fullmatch(head)):
        return head, float(tail)
    first, _, other = head.rpartition(":")
    if _is_number(tail) and _is_number(other) and (_exists(first) or HUB_ID.fullmatch(first)):
        raise ValueError(f"{argument} is {text!r}, with two strengths; give {first}:{other} or {first}:{tail}.")
    if _exists(head) or is_hub_id:
        raise ValueError(
            f"{argument} is {text!r}, whose strength {tail!r} is no number; give {head} or, for half of it,"
            f" {head}:0.5."
        )
    return text, None


def as_loras(given: LoraLike, revision: str | None = None, argument: str = "lora") -> tuple[Lora, ...]:
    """What a caller gave, in order.

    Args:
        given: one or several; see :func:`split_lora` for how each is written.
        revision: on the Hub, of the only one.
        argument: what the caller's user calls them, for errors.

    Raises:
        ValueError: an entry that cannot be read, or a revision beside several.
    """
    entries = [given] if isinstance(given, (str, Path, Lora)) else list(given or ())
    if revision is not None and len(entries) != 1:
        raise ValueError(f"{argument}_revision is {revision!r} beside {len(entries)} LoRAs; it belongs to one.")
    loras = []
    for entry in entries:
        if isinstance(entry, Lora):
            loras.append(entry)
            continue
        source, strength = split_lora(entry, argument)
        loras.append(Lora(source, 1.0 if strength is None else strength, revision))
    return tuple(loras)


def lora_columns(loras: Sequence[Lora], told: Callable[[str], str | None]) -> dict[str, Any]:
    """What a row or a manifest says of them.

    One of strength 1, or none, is told as a text, as before there were several; all else as lists, with the strengths.

    Args:
        told: what stands for a source: its public name, or a hash of what it holds.
    """
    if is_plain(loras):
        (source, revision) = (told(loras[0].source), loras[0].revision) if loras else (None, None)
        return {"lora": source, "lora_revision": revision}
    return {
        "lora": [told(item.source) for item in loras],
        "lora_revision": [item.revision for item in loras],
        "lora_strength": [item.strength for item in loras],
    }


def few_step_columns(lora: Lora | None, told: Callable[[str], str | None]) -> dict[str, Any]:
    """The same of the LoRA that a preset takes: its strength stands there where it is not 1."""
    if lora is None:
        return {"few_step_lora": None}
    strength = {} if lora.strength == 1 else {"few_step_lora_strength": lora.strength}
    return {"few_step_lora": told(lora.source), **strength}


def is_plain(loras: Sequence[Lora]) -> bool:
    """Whether there is none, or one of strength 1."""
    return not loras or (len(loras) == 1 and loras[0].strength == 1)


def stored_loras(columns: Mapping[str, Any]) -> tuple[Lora, ...]:
    """Those that :func:`lora_columns` told of; none where it did not."""
    names, revisions = columns.get("lora"), columns.get("lora_revision")
    if names is None:
        return ()
    if isinstance(names, str):
        return (Lora(names, 1.0, revisions),)
    return tuple(
        Lora(name, strength, revision)
        for name, revision, strength in zip(names, revisions or [None] * len(names), columns["lora_strength"])
    )


def stored_few_step_lora(columns: Mapping[str, Any]) -> tuple[Lora, ...]:
    """The one that :func:`few_step_columns` told of, with the revision beside it; none where it did not."""
    name = columns.get("few_step_lora")
    if name is None:
        return ()
    return (Lora(name, columns.get("few_step_lora_strength", 1.0), columns.get("few_step_lora_revision")),)


def lora_names(names: Iterable[str]) -> list[str]:
    """Of the names of files in one folder those that may be its LoRA: the one of a usual name, or else each other.

    What trainings leave beside a LoRA is none, as diffusers has it.
    """
    found = [name for name in sorted(names) if name.endswith(".safetensors") and not _BESIDE.search(name)]
    for usual in (LORA_FILE, ADAPTER_FILE):
        if usual in found:
            return [usual]
    return found


def lora_file(path: Path) -> Path | None:
    """The file of weights in a LoRA's folder, or the file itself; None where there is none, or more than one."""
    if not path.is_dir():
        return path if path.is_file() else None
    found = lora_names(file.name for file in path.iterdir() if file.is_file())
    return path / found[0] if len(found) == 1 else None


def adapter_settings(file: Path) -> Path | None:
    """``adapter_config.json`` beside a LoRA's file whose weights have peft's names; None where it is not read."""
    place = file.with_name(ADAPTER_SETTINGS)
    if not place.is_file():
        return None
    return place if any(key.startswith(PEFT_PREFIX) for key in weight_names(file)) else None


def weight_names(file: Path) -> list[str]:
    """Names of the tensors in a safetensors file; none where it is not one. Only its header is read."""
    try:
        with open(file, "rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if length > _MOST_HEADER:
                return []
            header = json.loads(stream.read(length))
        return [key for key in header if key != "__metadata__"]
    except (OSError, ValueError, TypeError):
        return []


def _is_number(text: str) -> bool:
    """Whether it is a number as users write strengths; one too large to be held is none."""
    return _NUMBER.fullmatch(text) is not None and math.isfinite(float(text))


def _exists(path: str) -> bool:
    try:
        return bool(path) and Path(path).expanduser().exists()
    # a text too long for a path, or with a user's name that nobody has
    except (OSError, RuntimeError):
        return False
