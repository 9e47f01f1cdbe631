"""Show what a class list was understood as, before anything is drawn: ``ubgen check-names --classes FILE``."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ubgen_pipeline.commands.console import say_warning, table
from ubgen_pipeline.commands.settings_parser import field_help, parse_settings
from ubgen_pipeline.prompts.class_checks import ClassCheck, check_classes
from ubgen_pipeline.prompts.class_prompts import load_class_names

_LONGEST_CELL = 40
_MOST_LISTED = 3
FLAGS = ("--classes", "--class-names", "--class_names")


@dataclass(frozen=True)
class ClassListSettings:
    """Settings of ``ubgen check-names --classes FILE``."""

    classes: str | None = field_help("class file, folder of class folders, or a built-in list", None)
    class_names: list[str] | None = field_help("class names, instead of a file", None)
    model: str | None = field_help(
        "the model that is to draw, whose tokenizer tells which names are one to it; CLIP's rules if not given", None
    )

    def __post_init__(self) -> None:
        if (self.classes is None) == (self.class_names is None):
            raise ValueError("classes and class_names are given, or neither is; give one of them.")


def show_class_list(argv: Sequence[str]) -> list[ClassCheck]:
    """Print the table on stdout and the warnings on stderr.

    Raises:
        ValueError: settings, a class list or a tokenizer that cannot be read.
    """
    settings = parse_settings(ClassListSettings, argv, prog="ubgen check-names --classes FILE", description=__doc__)
    # exactly one of them is given
    classes = load_class_names(settings.classes if settings.classes is not None else settings.class_names or [])
    checks = check_classes(classes, None if settings.model is None else load_tokens_of(settings.model))
    print(class_list_table(checks))
    for check in checks:
        for warning in check.warnings:
            say_warning(f"{check.item.name!r} (label {check.label}) {warning}")
    return checks


def class_list_table(checks: Sequence[ClassCheck]) -> str:
    """A line for each class: label, id, name, synonyms, definition, and the classes that it is easily taken for."""
    lines = []
    for check in checks:
        item = check.item
        alike = [checks[other].item.name for other in check.look_alikes]
        cells = (item.class_id or "", item.name, ", ".join(item.synonyms), item.definition or "", _listed(alike))
        lines.append((str(check.label), *map(_short, cells)))
    return table(("label", "id", "name", "synonyms", "definition", "look-alikes"), lines)


def load_tokens_of(model: str) -> Callable[[str], Sequence[int]]:
    """A function from a name to the tokens that a model reads it as.

    Raises:
        ValueError: no tokenizer there.
    """
    from transformers import AutoTokenizer

    from ubgen_pipeline.models.loading import resolve_model

    source = resolve_model(model)
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, subfolder="tokenizer")
    except (OSError, ValueError, KeyError) as error:
        line = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(f"model is {model!r}, whose tokenizer could not be loaded: {line}") from error
    return lambda name: tokenizer(name)["input_ids"]


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:_MOST_LISTED]) + (" …" if len(names) > _MOST_LISTED else "")


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST_CELL else text[: _LONGEST_CELL - 1] + "…"
