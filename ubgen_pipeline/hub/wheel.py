"""A wheel of the running ubgen, put together from its files: the same whether it is installed or lies in a clone."""

import base64
import hashlib
import io
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import distribution
from importlib.util import find_spec
from pathlib import Path

PACKAGES = ("ubgen_pipeline", "ubgen_training", "ubgen_evaluation", "ubgen_hub_cards")
SPACE = "ubgen_space"
# folders of data within a package; other folders are ours where they are packages themselves, and what else lies about
# in a clone stays out
DATA = ("ubgen_pipeline/mini",)
SUFFIXES = (".py", ".jinja", ".json", ".yaml", ".txt", ".css", ".md", ".safetensors")
_TAG = "py3-none-any"
# equal files give an equal wheel: a zip file's earliest time, for all
_TIME = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True)
class Wheel:
    """A wheel's name, its bytes, and the requirements that it states."""

    name: str
    content: bytes
    requirements: tuple[str, ...]


def space_files() -> list[Path]:
    """The files of the Space: beside this package, ``ubgen_space`` where it is installed, ``space`` in a clone.

    Raises:
        ValueError: they are in neither.
    """
    return [file for file, _ in _files(_space_folder(), SPACE)]


def pack_wheel() -> Wheel:
    """The wheel, in memory (about 27 MB, most of it the mini models). Tests hold its files against one that is built.

    Raises:
        ValueError: a part of ubgen is not there.
    """
    ubgen = distribution("ubgen")
    metadata = ubgen.read_text("METADATA") or ubgen.read_text("PKG-INFO")
    if metadata is None:
        raise ValueError("the installed ubgen has no metadata; install it again with pip.")
    information = f"ubgen-{ubgen.version}.dist-info"
    contents = {name: file.read_bytes() for folder in _folders() for file, name in _files(*folder)}
    contents |= {
        f"{information}/{name}": text.encode()
        for name, text in (
            ("METADATA", metadata),
            ("WHEEL", f"Wheel-Version: 1.0\nGenerator: ubgen\nRoot-Is-Purelib: true\nTag: {_TAG}\n"),
            ("entry_points.txt", ubgen.read_text("entry_points.txt") or ""),
            ("licenses/LICENSE", ubgen.read_text("licenses/LICENSE") or _clone_license()),
        )
        if text
    }
    record = f"{information}/RECORD"
    lines = [f"{name},{_digest(content)},{len(content)}" for name, content in contents.items()]
    contents[record] = "\n".join([*lines, f"{record},,", ""]).encode()
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, content in contents.items():
            entry = zipfile.ZipInfo(name, _TIME)
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, content, zipfile.ZIP_DEFLATED)
    requirements = tuple(line for line in ubgen.requires or () if "extra ==" not in line)
    return Wheel(f"ubgen-{ubgen.version}-{_TAG}.whl", packed.getvalue(), requirements)


def _folders() -> Iterator[tuple[Path, str]]:
    for package in PACKAGES:
        spec = find_spec(package)
        if spec is None or spec.origin is None:
            raise ValueError(f"{package} is missing from the installed ubgen; install it again with pip.")
        yield Path(spec.origin).resolve().parent, package
    yield _space_folder(), SPACE


def _clone_license() -> str:
    """The text beside the packages: metadata that setuptools leaves in a clone holds no licence."""
    file = Path(__file__).resolve().parents[2] / "LICENSE"
    return file.read_text(encoding="utf-8") if file.is_file() else ""


def _space_folder() -> Path:
    beside = Path(__file__).resolve().parents[2]
    for folder in (beside / SPACE, beside / "space"):
        if (folder / "app.py").is_file():
            return folder
    raise ValueError("the Space's files are missing from the installed ubgen; install it again with pip.")


def _files(folder: Path, package: str) -> Iterator[tuple[Path, str]]:
    """Files of the package in a folder and their names in a wheel."""
    for file in sorted(folder.rglob("*")):
        path = file.relative_to(folder)
        name = f"{package}/{path.as_posix()}"
        in_packages = all((folder / parent / "__init__.py").is_file() for parent in path.parents if parent.name)
        is_ours = in_packages or name.startswith(tuple(f"{data}/" for data in DATA))
        if is_ours and file.suffix in SUFFIXES and "__pycache__" not in path.parts and file.is_file():
            yield file, name


def _digest(content: bytes) -> str:
    return "sha256=" + base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
