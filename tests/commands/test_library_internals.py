"""TRL's parser is imported without the search through all that is installed; a change of TRL fails here first."""

import importlib.metadata
import subprocess
import sys

import pytest

from ubgen_pipeline.commands.library_internals import InstalledDistributions, distributions_on_demand


def test_importing_the_parser_searches_nothing():
    program = """
import importlib.metadata

def searched():
    raise AssertionError("all that is installed was searched")

importlib.metadata.packages_distributions = searched
import ubgen_pipeline.commands.settings_parser
from trl.import_utils import _is_package_available
assert importlib.metadata.packages_distributions is searched
print(_is_package_available("transformers", return_version=True)[1])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == importlib.metadata.version("transformers")


def test_answers_are_those_of_the_whole_search():
    everything = importlib.metadata.packages_distributions()
    found = InstalledDistributions(lambda: everything)
    assert set(found) == set(everything) and len(found) == len(everything)
    # named otherwise than their packages, and the same
    assert found["PIL"] == everything["PIL"] == ["pillow"] and found["yaml"] == everything["yaml"]
    for package in ("transformers", "peft", "torch"):
        assert found[package] == [package] and package in everything[package]
    with pytest.raises(KeyError):
        found["no_such_package"]


def test_the_whole_search_waits_until_it_is_needed():
    searches = []
    found = InstalledDistributions(lambda: searches.append(1) or {"PIL": ["pillow"]})
    assert found["torch"] == ["torch"] and not searches
    assert found["PIL"] == ["pillow"] and found["PIL"] == ["pillow"] and searches == [1]


def test_the_librarys_own_function_is_put_back():
    own = importlib.metadata.packages_distributions
    with pytest.raises(ZeroDivisionError), distributions_on_demand():
        assert importlib.metadata.packages_distributions()["torch"] == ["torch"]
        raise ZeroDivisionError
    assert importlib.metadata.packages_distributions is own
