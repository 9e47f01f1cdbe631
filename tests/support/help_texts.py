"""What ``--help`` prints for many commands, in one process, because most of a command's time is that of its imports.

    python -m support.help_texts '{"generate": ["-m", "ubgen_pipeline", "generate"], …}'

prints a JSON object: the text of each.
"""

import io
import json
import os
import runpy
import subprocess
import sys
from contextlib import redirect_stdout
from pathlib import Path

from . import ROOT
from .warm_python import warm_programs


def help_texts(commands: dict[str, list[str]], folder: Path = ROOT) -> dict[str, str]:
    """The text of each, by its name.

    Args:
        commands: what stands behind ``python``: a script or ``-m`` and a module, and arguments.
        folder: where they are started.

    Raises:
        AssertionError: one of them failed.
    """
    path = os.pathsep.join([str(ROOT / "tests"), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [warm_programs() / "python", "-m", "support.help_texts", json.dumps(commands)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def main() -> None:
    texts = {name: _help_text(words) for name, words in json.loads(sys.argv[1]).items()}
    print(json.dumps(texts))


def _help_text(words: list[str]) -> str:
    printed, path = io.StringIO(), [*sys.path]
    try:
        with redirect_stdout(printed):
            if words[0] == "-m":
                # one that another command has imported runs from its source like the rest
                sys.modules.pop(words[1], None)
                sys.argv = [words[1], *words[2:], "--help"]
                runpy.run_module(words[1], run_name="__main__", alter_sys=True)
            else:
                sys.argv = [*words, "--help"]
                sys.path[0] = str(Path(words[0]).parent)
                runpy.run_path(words[0], run_name="__main__")
    except SystemExit as end:
        if end.code:
            raise RuntimeError(f"{words} ended with {end.code!r}") from end
    finally:
        sys.path[:] = path
    return printed.getvalue()


if __name__ == "__main__":
    main()
