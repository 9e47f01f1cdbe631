"""locks/ names one version of everything that pyproject.toml asks for, on every Python that it says is supported."""

import re
import tomllib

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from support import ROOT

LOCKS = ROOT / "locks"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PYTHONS = [line.rpartition(" ")[2] for line in PROJECT["classifiers"] if " :: 3." in line]
EXTRAS = PROJECT["optional-dependencies"]


def requirements(*extras: str) -> list[Requirement]:
    """What the project asks for with ``extras``, and with those that they name themselves."""
    lines = list(PROJECT["dependencies"])
    for extra in extras:
        lines += EXTRAS[extra]
    asked = [Requirement(line) for line in lines]
    own = {extra for one in asked if one.name == "ubgen" for extra in one.extras}
    if own - set(extras):
        return requirements(*extras, *(own - set(extras)))
    return [one for one in asked if one.name != "ubgen"]


def locked(name: str) -> dict[str, list[Version]]:
    """Versions by package; there are several where operating systems differ."""
    versions: dict[str, list[Version]] = {}
    for line in (LOCKS / f"{name}.txt").read_text().splitlines():
        if not line.startswith("#"):
            one = Requirement(line)
            (specifier,) = one.specifier
            assert specifier.operator == "==", line
            versions.setdefault(canonicalize_name(one.name), []).append(Version(specifier.version))
    return versions


FILES = [(f"python{python}", ("dev",)) for python in PYTHONS]
FILES += [(f"python{python}-all-extras", tuple(EXTRAS)) for python in PYTHONS]
FILES += [(f"python{PYTHONS[0]}-lowest", ("dev",))]


def test_there_are_no_other_files():
    assert {file.name for file in LOCKS.iterdir()} == {f"{name}.txt" for name, _ in FILES} | {"held-back.txt"}


@pytest.mark.parametrize(("name", "extras"), FILES)
def test_a_lock_holds_what_the_project_asks_for(name, extras):
    """A changed pyproject.toml needs ``make lock``."""
    versions = locked(name)
    held = [Requirement(line) for line in (LOCKS / "held-back.txt").read_text().splitlines() if line[0] != "#"]
    for one in requirements(*extras) + held:
        found = versions[canonicalize_name(one.name)]
        assert all(one.specifier.contains(version) for version in found), f"{one} against {found}"


def test_the_lowest_versions_are_the_declared_bounds():
    versions = locked(f"python{PYTHONS[0]}-lowest")
    bounds: dict[str, Version] = {}
    for one in requirements("dev"):
        name = canonicalize_name(one.name)
        lower = [Version(part.version) for part in one.specifier if part.operator == ">="]
        assert lower, f"{one} has no lower bound"
        bounds[name] = max([*lower, *([bounds[name]] if name in bounds else [])])
    # a bound below the first release that can be installed says nothing; it is to be that release
    assert {name: versions[name] for name in bounds} == {name: [bound] for name, bound in bounds.items()}


def test_locks_name_no_place_to_install_from():
    """Whoever installs takes the packages from an index of their own choice, PyTorch's for one kind of GPU as well."""
    for file in LOCKS.iterdir():
        assert not re.search(r"://|^\s*-|@|\.whl", file.read_text(), re.MULTILINE), file.name


def test_this_python_is_supported():
    assert PROJECT["requires-python"] == f">={PYTHONS[0]}"
    assert list(map(Version, PYTHONS)) == sorted(map(Version, PYTHONS))
