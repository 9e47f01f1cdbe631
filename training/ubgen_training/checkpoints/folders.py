"""Checkpoint folders: which are complete, which is the newest, and whether one belongs to the run that resumes.

A folder is filled under a hidden name and renamed once all of its files are on the disk. Its last file,
``checkpoint.json``, lists the others with their sizes, so that a folder cut short or copied in part is recognised.
It also tells by a fingerprint which model the run started from, because a model's name may stand for other weights.
"""

import hashlib
import json
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ubgen_pipeline.files.whole_files import move_into_place

MANIFEST_FILE = "checkpoint.json"
# of a model's weights, those that its fingerprint is made from
VALUES_PER_TENSOR = 64


def partial_folder(folder: Path) -> Path:
    """The hidden name that ``folder`` is filled under."""
    return folder.with_name(f".{folder.name}.partial")


def commit_checkpoint(folder: Path, facts: dict[str, Any]) -> None:
    """Seal what lies in the partial folder with a manifest holding ``facts``, and rename it to ``folder``.

    Files and folder are flushed to the disk first. A folder of that name, left from an earlier run, is replaced.
    """
    partial = partial_folder(folder)
    files = {str(file.relative_to(partial)): file.stat().st_size for file in _files(partial)}
    (partial / MANIFEST_FILE).write_text(json.dumps({**facts, "files": files}, indent=2) + "\n")
    move_into_place(partial, folder)


def read_manifest(folder: str | Path) -> dict[str, Any]:
    """The facts a complete checkpoint was sealed with.

    Raises:
        ValueError: the folder is no complete checkpoint; the message says what is missing.
    """
    file = Path(folder) / MANIFEST_FILE
    try:
        manifest = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f"{folder} holds no complete checkpoint: it lacks a readable {MANIFEST_FILE}.") from error
    for name, size in manifest["files"].items():
        path = Path(folder) / name
        if not path.is_file() or path.stat().st_size != size:
            raise ValueError(f"{folder} holds no complete checkpoint: {name} is missing or not of {size} bytes.")
    return manifest


def checkpoint_step(folder: Path) -> int | None:
    """N of a folder called ``checkpoint-N``; None for other names."""
    prefix, _, number = folder.name.rpartition("-")
    return int(number) if prefix == "checkpoint" and number.isdecimal() else None


def newest_checkpoint(output_dir: str | Path) -> Path | None:
    """The newest complete checkpoint in ``output_dir``, or None; warns of each newer one that was cut short."""
    folders = [folder for folder in Path(output_dir).glob("checkpoint-*") if checkpoint_step(folder) is not None]
    for folder in sorted(folders, key=lambda folder: checkpoint_step(folder) or 0, reverse=True):
        try:
            read_manifest(folder)
        except ValueError as error:
            warnings.warn(f"skipped: {error}", stacklevel=2)
        else:
            _warn_of_partial(output_dir, newer_than=checkpoint_step(folder) or 0)
            return folder
    _warn_of_partial(output_dir, newer_than=-1)
    return None


def find_checkpoint(resume_from_checkpoint: str | bool | None, output_dir: str | Path) -> str | None:
    """The checkpoint folder meant: a folder, or with ``true`` or ``last`` the newest complete one in ``output_dir``.

    Raises:
        ValueError: there is none, or it is not complete.
    """
    if resume_from_checkpoint is None or str(resume_from_checkpoint).lower() == "false":
        return None
    if str(resume_from_checkpoint).lower() not in ("true", "last"):
        try:
            read_manifest(str(resume_from_checkpoint))
        except ValueError as error:
            raise ValueError(
                f"resume_from_checkpoint is {str(resume_from_checkpoint)!r}, but {error} "
                "Give a checkpoint-N folder, or 'last' for the newest in output_dir."
            ) from error
        return str(resume_from_checkpoint)
    newest = newest_checkpoint(output_dir)
    if newest is None:
        raise ValueError(
            f"resume_from_checkpoint is given, but output_dir {str(output_dir)!r} holds no complete checkpoint."
        )
    return str(newest)


def check_same_run(folder: Path, settings_file: str, settings: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
    """Hold a checkpoint against the run that resumes from it.

    Args:
        folder: a complete checkpoint.
        settings_file: the file in it with the settings it was made with.
        settings: those of now that must be the same; one that the file does not know is let pass.
        facts: the part of the manifest that must be the same: ``model``, ``class_names`` and, where given, the names
            of the ``rewards``, which a trainer that is built in Python takes apart from its settings.

    Raises:
        ValueError: it is another trainer's, of another model, of other classes, or of other settings; they are named.
    """
    file, manifest = folder / settings_file, read_manifest(folder)
    if not file.is_file():
        raise ValueError(f"{folder} lacks {settings_file}: another trainer wrote it; resume with that one.")
    saved = json.loads(file.read_text())
    differing = [name for name in settings if name in saved and saved[name] != settings[name]]
    if differing:
        listed = "; ".join(f"{name} was {saved[name]!r} and is {settings[name]!r}" for name in differing)
        raise ValueError(
            f"{folder} was trained with other settings: {listed}. Resume with the same ones, or start a new run."
        )
    if manifest["class_names"] != facts["class_names"]:
        raise ValueError(
            f"{folder} was trained on {len(manifest['class_names'])} other class names or another order; resume with "
            "the same class_names or classes."
        )
    if manifest.get("rewards", facts.get("rewards")) != facts.get("rewards"):
        raise ValueError(
            f"{folder} was trained on the rewards {manifest.get('rewards')}, and reward_funcs now holds "
            f"{facts.get('rewards')}; resume with the same ones, in the same order."
        )
    if manifest["model"] != facts["model"]:
        raise ValueError(
            f"{folder} was trained from another model: model_name_or_path was {saved.get('model_name_or_path')!r}, "
            "and the one given now has other weights; resume with the model it was trained from."
        )


@torch.no_grad()
def model_fingerprint(modules: Mapping[str, nn.Module]) -> str:
    """A hash of the names, shapes and some evenly spaced values of all parameters but those of a LoRA.

    Some values rather than all, because a model may hold gigabytes; two trainings of one architecture differ in them.
    """
    digest = hashlib.sha256()
    for prefix, module in sorted(modules.items()):
        for name, parameter in sorted(module.named_parameters()):
            if "lora_" in name:
                continue
            stride = max(parameter.numel() // VALUES_PER_TENSOR, 1)
            values = parameter.detach().flatten()[::stride][:VALUES_PER_TENSOR].float().cpu()
            # an adapted layer keeps its own weight under another name
            digest.update(f"{prefix}.{name.replace('.base_layer', '')} {tuple(parameter.shape)}".encode())
            digest.update(values.numpy().tobytes())
    return digest.hexdigest()[:16]


def _files(folder: Path) -> Iterable[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _warn_of_partial(output_dir: str | Path, newer_than: int) -> None:
    for partial in Path(output_dir).glob(".checkpoint-*.partial"):
        step = checkpoint_step(Path(partial.name.removeprefix(".").removesuffix(".partial")))
        if step is not None and step > newer_than:
            warnings.warn(f"skipped: {partial} was cut short while it was written.", stacklevel=3)
