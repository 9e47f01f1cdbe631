"""One parser for every command: a dataclass of settings, filled from flags or from ``--config FILE.yaml``."""

import argparse
import dataclasses
import difflib
import errno
import itertools
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import yaml

from ..files.marked_up_text import read_yaml
from ..files.places import first_line, is_fault_of_store
from .console import close_stdout, print_any_text, say, say_error
from .library_internals import TrlParser
from .library_log import library_log

Settings = TypeVar("Settings")
# settings that name a folder to write into
_FOLDERS = ("output_dir", "work_dir", "prompt_features")


class SettingsParser(TrlParser):
    """TRL's parser, raising ``ValueError`` instead of leaving the process, and checking the YAML file's values too."""

    def __init__(self, settings_type: Any, **kwargs: Any):
        super().__init__([settings_type], allow_abbrev=False, **kwargs)
        self.add_argument("--config", metavar="FILE.yaml", help="YAML file of settings; flags override it")

    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message}. See --help.")

    def parse(self, argv: Sequence[str], defaults: Mapping[str, Any] | None = None) -> Any:
        """Settings from ``argv``, on top of the YAML file it names, on top of ``defaults`` and the dataclass's own.

        Raises:
            ValueError: an unknown flag or key, or a value of the wrong type.
        """
        for action in self._actions:
            if action.dest in (defaults or {}):
                action.default = (defaults or {})[action.dest]
        finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
        finder.add_argument("--config")
        finder.error = self.error
        if (config := finder.parse_known_args(list(argv))[0].config) is not None:
            self._set_defaults_from(Path(config))
        self._refuse_repeated_lists(argv)
        settings, *_, remaining = self.parse_args_into_dataclasses(
            list(argv), return_remaining_strings=True, look_for_args_file=False
        )
        if remaining:
            flags = [option for action in self._actions for option in action.option_strings if "_" not in option]
            raise ValueError(f"unknown argument {remaining[0]!r}{_nearest(remaining[0], flags)}. See --help.")
        for name in _FOLDERS:
            # an unset variable of a shell gives this, which would fill the working directory
            if getattr(settings, name, None) == "":
                raise ValueError(f"{name} is ''; give a folder, '.' for the one you are in.")
        return settings

    def _refuse_repeated_lists(self, argv: Sequence[str]) -> None:
        """Of a list that is given twice, argparse would take the second and drop the first without a word."""
        for action in self._actions:
            given = [word for word in argv if word.partition("=")[0] in action.option_strings]
            if action.nargs == "+" and len(given) > 1:
                flag = given[0].partition("=")[0]
                raise ValueError(f"{flag} is given {len(given)} times; give all its values after one {flag}.")

    def _set_defaults_from(self, file: Path) -> None:
        try:
            text = file.read_text(encoding="utf-8")
            values, written = read_yaml(text), read_yaml(text, as_text=True)
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise ValueError(f"--config is {str(file)!r}, which could not be read as YAML: {error}") from error
        if not isinstance(values, dict):
            raise ValueError(f"--config is {str(file)!r}, which holds no settings; write lines `name: value`.")
        actions = {action.dest: action for action in self._actions if action.dest not in ("config", "help")}
        for key, value in values.items():
            name = str(key).replace("-", "_")
            if name not in actions:
                raise ValueError(f"unknown key {str(key)!r} in {str(file)!r}{_nearest(name, list(actions))}.")
            if actions[name].type is str and value is not None and not isinstance(value, dict):
                # as it is written: YAML 1.1 reads 007, 1_000, 12:30:45 and no as something else
                value = written[key if isinstance(key, str) else str(key)]
            # a flag and its --no-… twin share a name
            checked = _checked(actions[name], value, file)
            for action in self._actions:
                if action.dest == name:
                    action.default, action.required = checked, False


def parse_settings(
    settings_type: type[Settings],
    argv: Sequence[str] | None = None,
    *,
    prog: str | None = None,
    description: str | None = None,
    defaults: Mapping[str, Any] | None = None,
) -> Settings:
    """Settings of that dataclass from flags or ``--config FILE.yaml``; flags win. ``--help`` prints and exits.

    Args:
        settings_type: dataclass, each field with ``metadata={"help": …}``.
        argv: the arguments after the command's name; None takes the process's own.
        prog: what ``--help`` calls the command.
        description: a docstring, whose first line ``--help`` shows.
        defaults: values that stand in for the dataclass's own defaults.

    Raises:
        ValueError: an unknown flag or YAML key (with the nearest one that exists), or a value of the wrong type.
    """
    parser = SettingsParser(settings_type, prog=prog, description=(description or "").partition("\n")[0])
    return parser.parse(sys.argv[1:] if argv is None else argv, defaults)


def name_leading(argv: Sequence[str], names: Sequence[str]) -> list[str]:
    """``argv`` with its leading arguments that are no flags turned into flags of these names, in order.

    Raises:
        ValueError: there are more of them than names.
    """
    leading = list(itertools.takewhile(lambda argument: not argument.startswith("-"), argv))
    if len(leading) > len(names):
        raise ValueError(
            f"unknown argument {leading[len(names)]!r}; this command takes {', '.join(names)}. See --help."
        )
    named = [part for name, value in zip(names, leading) for part in (f"--{name}", value)]
    return [*named, *argv[len(leading) :]]


def leading_folder(argv: Sequence[str], usage: str) -> tuple[str, list[str]]:
    """The argument that a command starts with, and the flags after it; empty where help is asked for.

    Raises:
        ValueError: there is none; the message shows ``usage``.
    """
    if argv and not argv[0].startswith("-"):
        return argv[0], list(argv[1:])
    if set(argv) & {"-h", "--help"}:
        return "", list(argv)
    raise ValueError(f"the dataset is missing; call {usage}.")


def run_command(body: Callable[[Sequence[str]], int | None], argv: Sequence[str] | None = None) -> int:
    """Run a command's body and return its exit code: what a user can cause is one line on stderr and code 2.

    Other exceptions are defects and keep their traceback. An interrupt returns 130, as a shell reports it. What
    libraries print meanwhile goes to a log.
    """
    print_any_text()
    with library_log():
        return _exit_code(body, sys.argv[1:] if argv is None else argv)


def _exit_code(body: Callable[[Sequence[str]], int | None], argv: Sequence[str]) -> int:
    try:
        return body(argv) or 0
    except KeyboardInterrupt:
        say("interrupted")
        return 130
    except ValueError as error:
        say_error(error)
    except BrokenPipeError:
        return close_stdout()
    except OSError as error:
        say_error(explain(error))
    except Exception as error:
        if not is_fault_of_store(error):
            raise
        say_error(f"a store could not be reached ({first_line(error)}); run the same command again when it can.")
    return 2


def explain(error: OSError) -> str:
    """One line that says what the operating system refused, and what to do."""
    where = f" ({error.filename})" if error.filename else ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return f"no space left to write{where}; free some and run the same command again: it resumes."
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"no permission to write or read{where}; choose another directory or change its permissions."
    return f"{error.strerror or error}{where}"


def _checked(action: argparse.Action, value: Any, file: Path) -> Any:
    """The YAML value as the flag's own type, or ``ValueError``; a dictionary is for a field that takes one."""
    if value is None or isinstance(value, dict):
        return value
    if action.nargs == "+":
        return [_converted(action, item, file) for item in (value if isinstance(value, list) else [value])]
    return value if isinstance(value, list) else _converted(action, value, file)


def _converted(action: argparse.Action, value: Any, file: Path) -> Any:
    try:
        # numbers go through their text, so that 0.5 is refused where a whole number is due
        converted = action.type(str(value)) if callable(action.type) else value
    except (ValueError, TypeError, argparse.ArgumentTypeError) as error:
        raise ValueError(f"{action.dest} in {str(file)!r} is {value!r}; {error}.") from error
    if action.choices is not None and converted not in action.choices:
        raise ValueError(
            f"{action.dest} in {str(file)!r} is {value!r}; choose one of {', '.join(map(str, action.choices))}."
        )
    return converted


def _nearest(name: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0)
    return f"; the nearest is {near[0]!r}" if near else ""


def field_help(help: str, default: Any = dataclasses.MISSING) -> Any:
    """A dataclass field with its help text; without a default it is required."""
    return dataclasses.field(default=default, metadata={"help": help})
