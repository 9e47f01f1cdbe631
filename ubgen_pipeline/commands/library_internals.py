"""TRL's parser of settings, imported without a search through every package that is installed.

When TRL is imported, it asks ``importlib.metadata`` which distribution each importable package belongs to. That reads
the list of files of everything in the environment, which takes longer than the rest of ``ubgen COMMAND --help``. TRL
has no setting that leaves this out. Here the question is answered package by package, as TRL asks for them.
"""

import importlib.metadata
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property


class InstalledDistributions(Mapping[str, list[str]]):
    """The distributions that each importable package belongs to, looked up when they are asked for.

    Args:
        list_all: gives the whole mapping; it is called for a package whose distribution has another name than itself.
    """

    def __init__(self, list_all: Callable[[], Mapping[str, list[str]]]):
        self._list_all = list_all

    @cached_property
    def _all(self) -> Mapping[str, list[str]]:
        return self._list_all()

    def __getitem__(self, package: str) -> list[str]:
        try:
            importlib.metadata.distribution(package)
        except importlib.metadata.PackageNotFoundError:
            return self._all[package]
        return [package]

    def __iter__(self) -> Iterator[str]:
        return iter(self._all)

    def __len__(self) -> int:
        return len(self._all)


@contextmanager
def distributions_on_demand() -> Iterator[None]:
    """Within this, ``importlib.metadata.packages_distributions`` searches nothing by itself."""
    list_all = importlib.metadata.packages_distributions
    importlib.metadata.packages_distributions = lambda: InstalledDistributions(list_all)  # pyright: ignore[reportAttributeAccessIssue]
    try:
        yield
    finally:
        importlib.metadata.packages_distributions = list_all


with distributions_on_demand():
    from trl.scripts.utils import TrlParser

__all__ = ["InstalledDistributions", "TrlParser", "distributions_on_demand"]
