"""The ``ubgen`` command. Subcommands are found by entry point, so each lives with what it runs."""

import ast
import sys
from collections.abc import Sequence
from importlib.metadata import EntryPoint, entry_points, version
from importlib.util import find_spec
from pathlib import Path

from .console import close_stdout, print_any_text, say_error


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``ubgen SUBCOMMAND …`` and return its exit code."""
    print_any_text()
    argv = list(sys.argv[1:] if argv is None else argv)
    commands = {item.name: item for item in sorted(entry_points(group="ubgen.commands"), key=lambda item: item.name)}
    if not argv or argv[0] in ("-h", "--help"):
        width = max(map(len, commands), default=0)
        lines = [f"  {name:<{width}}  {_summary(item)}" for name, item in commands.items()]
        try:
            print("usage: ubgen COMMAND [--help] ...", "", "commands:", *lines, sep="\n", flush=True)
        except BrokenPipeError:
            return close_stdout()
        return 0 if argv else 2
    if argv[0] == "--version":
        print(f"ubgen {version('ubgen')}")
        return 0
    if argv[0] not in commands:
        say_error(f"unknown command {argv[0]!r}; choose one of {', '.join(commands)}.")
        return 2
    return commands[argv[0]].load()(argv[1:])


def _summary(command: EntryPoint) -> str:
    """First line of the module's docstring, read without importing it or the packages that it is in."""
    package, *parts = command.module.split(".")
    # of a module in a package it would import the package, and one of ours imports numpy
    spec = find_spec(package)
    for place in (spec and spec.submodule_search_locations) or ():
        file = Path(place, *parts).with_suffix(".py")
        if file.is_file():
            docstring = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
            return docstring.partition("\n")[0]
    return ""
