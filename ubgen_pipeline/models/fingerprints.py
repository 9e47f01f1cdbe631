"""What a model, LoRA or embedding holds, as a hash: of the bytes that are loaded, whatever the files are called.

Version 0.1 hashed all JSON and safetensors files of a folder with their names. Such a hash in an older dataset still
stands for the same files: see :func:`in_earlier_words`.
"""

import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .loras import ADAPTER_FILE, ADAPTER_SETTINGS, LORA_FILE, adapter_settings, lora_file
from .model_files import INDEX, SETTINGS_FILES, loaded_files

MARK = "sha256:"
# what says who wrote a file of settings, and not what it is
_OF_THE_WRITER = ("_name_or_path", "_diffusers_version", "_commit_hash", "transformers_version")
_OLD = re.compile("[0-9a-f]{64}")
# what was hashed by this process, by its hash
_hashed: dict[str, tuple[str, str | None]] = {}


def fingerprint(source: str | None, variant: str | None = None) -> str | None:
    """SHA-256 of what is loaded of a model, LoRA or other file that is here; a Hub id stands for itself.

    Args:
        source: a folder or a file, or a Hub id.
        variant: of a model's weights.
    """
    path = None if source is None else Path(source).expanduser()
    if path is None or not path.exists():
        return source
    digest = hashlib.sha256()
    for name, content in _contents(path, variant):
        digest.update(f"{name}\0{content}\0".encode())
    found = MARK + digest.hexdigest()
    _hashed[found] = str(source), variant
    return found


def in_earlier_words(made: Any, recorded: Any) -> Any:
    """``made`` with the hashes of version 0.1 in place of today's, where ``recorded`` has them for the same files.

    Args:
        made: JSON values with hashes that :func:`fingerprint` gave in this process.
        recorded: those of an older manifest.
    """
    if isinstance(made, dict) and isinstance(recorded, dict):
        return {key: in_earlier_words(value, recorded.get(key)) for key, value in made.items()}
    if isinstance(made, list) and isinstance(recorded, list) and len(made) == len(recorded):
        return [in_earlier_words(*pair) for pair in zip(made, recorded)]
    if isinstance(made, str) and made in _hashed and isinstance(recorded, str):
        source, variant = _hashed[made]
        # some commands noted the name alone
        is_it = recorded == source or (is_earlier(recorded) and recorded in _earlier_hashes(source, variant))
        return recorded if is_it else made
    return made


def is_same(source: str, recorded: str, variant: str | None = None) -> bool:
    """Whether what lies there is what a manifest of any version has the hash of."""
    made = fingerprint(source, variant)
    return in_earlier_words(made, recorded) == recorded


def is_earlier(recorded: Any) -> bool:
    """Whether a manifest's value is a hash as version 0.1 made them."""
    return isinstance(recorded, str) and _OLD.fullmatch(recorded) is not None


def _contents(path: Path, variant: str | None) -> Iterator[tuple[str, str]]:
    """What is loaded: its place, which is no file's name, and a hash of its bytes."""
    for file in _loaded(path, variant):
        is_settings = file.name in SETTINGS_FILES or file.name in (INDEX, ADAPTER_SETTINGS)
        if file.suffix == ".yaml":
            yield "settings", _hash(file)
            continue
        place = file.parent.relative_to(path) if path.is_dir() else Path()
        # weights stand for their part, and settings for themselves
        yield (place / (file.name if is_settings else "weights")).as_posix(), _hash(file)


def _loaded(path: Path, variant: str | None) -> list[Path]:
    """The files that are loaded of a model, a LoRA or a file of another kind."""
    is_lora = path.is_dir() and any((path / name).is_file() for name in (LORA_FILE, ADAPTER_FILE))
    is_model = path.is_dir() and ((path / INDEX).is_file() or any((path / name).is_file() for name in SETTINGS_FILES))
    if is_model and (not is_lora or (path / INDEX).is_file()):
        return loaded_files(path, variant)
    if (file := lora_file(path)) is not None:
        # of a checkpoint in one file, what its authors say of it
        beside = file.with_suffix(".yaml") if path.is_file() and file.with_suffix(".yaml").is_file() else None
        return [file, *filter(None, [adapter_settings(file), beside])]
    # of what else a folder may hold, all
    return sorted(path.rglob("*.safetensors")) + sorted(path.rglob("*.json"))


def _hash(file: Path) -> str:
    with open(file, "rb") as stream:
        if file.suffix != ".json":
            return hashlib.file_digest(stream, "sha256").hexdigest()
        content = stream.read()
    try:
        settings = json.loads(content)
        kept = {key: value for key, value in settings.items() if key not in _OF_THE_WRITER}
        content = json.dumps(kept, sort_keys=True).encode()
    except (ValueError, AttributeError):
        # no JSON object: its bytes
        pass
    return hashlib.sha256(content).hexdigest()


def _earlier_hashes(source: str, variant: str | None) -> set[str]:
    """What version 0.1 may have made of it: of the files that are there, or of those that are loaded alone."""
    path = Path(source).expanduser()
    if path.is_file():
        return {_earlier_hash([path])}
    everything = sorted(path.rglob("*.safetensors")) + sorted(path.rglob("*.json"))
    loaded = set(_loaded(path, variant))
    return {_earlier_hash(everything), _earlier_hash([item for item in everything if item in loaded])}


def _earlier_hash(files: list[Path]) -> str:
    digest = hashlib.sha256()
    for file in files:
        with open(file, "rb") as stream:
            digest.update(f"{file.name}\0{hashlib.file_digest(stream, 'sha256').hexdigest()}\0".encode())
    return digest.hexdigest()
