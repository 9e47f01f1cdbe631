"""What a pipeline's file must name beside what it imports itself: diffusers' loader copies no other.

From a folder that loader takes the file and what it imports from ``.x`` itself, found by a regular expression, and not
what those import; from the Hub it goes on through all. ``make helper-imports`` writes the missing names into the file
of each family, below ``if TYPE_CHECKING:``, where they cost nothing and other tools take them for what they are.
"""

import ast
import re
import sys
from pathlib import Path

CODE = Path(__file__).parents[2] / "ubgen_pipeline"
_HEAD = "if TYPE_CHECKING:\n    # what those import, named for diffusers' loader by `make helper-imports`\n"
_BLOCK = re.compile(r"^if TYPE_CHECKING:\n(?:    .*\n)+", re.MULTILINE)


def siblings(file: Path) -> set[str]:
    """Files of the root that a file imports when it is run, without their ending."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    # not those below `if TYPE_CHECKING:`
    run = [item for item in tree.body if isinstance(item, ast.ImportFrom)]
    return {item.module for item in run if item.level == 1 and item.module}


def all_siblings(file: Path) -> set[str]:
    """The same, with what those import, and so on."""
    found: set[str] = set()
    left = siblings(file)
    while left:
        found |= left
        left = {name for each in left for name in siblings(file.with_name(f"{each}.py"))} - found
    return found


def with_helpers(file: Path) -> str:
    """The file's text with all names that it lacks."""
    text = file.read_text(encoding="utf-8")
    missing = sorted(all_siblings(file) - siblings(file))
    lines = [
        f"    from .{name} import {_first_name(file.with_name(f'{name}.py'))}  # noqa: F401\n" for name in missing
    ]
    block = _HEAD + "".join(lines)
    if _BLOCK.search(text):
        return _BLOCK.sub(lambda _: block, text, count=1)
    if "TYPE_CHECKING" not in text:
        text = text.replace("from typing import ", "from typing import TYPE_CHECKING, ", 1)
    imports = [item for item in ast.parse(text).body if isinstance(item, (ast.Import, ast.ImportFrom))]
    before = text.splitlines(keepends=True)
    end = imports[-1].end_lineno
    return "".join([*before[:end], "\n", block, *before[end:]])


def _first_name(file: Path) -> str:
    """Of a class or function in the file, for something to be imported."""
    names = [
        item.name for item in ast.parse(file.read_text()).body if isinstance(item, (ast.ClassDef, ast.FunctionDef))
    ]
    return next(name for name in names if not name.startswith("_"))


if __name__ == "__main__":
    for each in sorted(CODE.glob("pipeline*.py")):
        text = each.read_text(encoding="utf-8")
        if "(ClassNameCall" in text and text != (new := with_helpers(each)):
            each.write_text(new, encoding="utf-8")
            print(each.name, file=sys.stderr)
