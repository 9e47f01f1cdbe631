"""Prompts with contexts where no language model is at hand: one template that names a value of each. No torch."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from ..prompts.class_entries import ClassName
from ..prompts.template_files import WRITTEN_BY
from ..prompts.templates import PromptTemplates
from .caption_file import class_entry
from .caption_requests import STYLE


def context_templates(
    classes: Sequence[ClassName],
    contexts: Mapping[str, Sequence[str]],
    max_prompts: int | None,
    settings: Mapping[str, Any],
) -> dict[str, Any]:
    """The content of a file with templates: each class in every combination of the values.

    Args:
        classes: in the order of their labels.
        contexts: values of each, such as places.
        max_prompts: prompts of each class; None takes all.
        settings: what the file was written with, which it keeps.

    Raises:
        ValueError: no contexts, or one whose name means something else in a template.
    """
    if not contexts:
        raise ValueError("contexts has none to write templates with; name some, or give a language_model.")
    named = {re.sub(r"\W", "_", name): tuple(values) for name, values in contexts.items()}
    begins = f"{{{STYLE}}}" if STYLE in named else "a photo"
    template = ", ".join([f"{begins} of a {{name}}", *(f"{{{key}}}" for key in named if key != STYLE)])
    try:
        PromptTemplates((template,), named, weighted=False)
    except ValueError as error:
        raise ValueError(f"contexts gives no template: {error}") from error
    data = {
        "classes": [class_entry(item) for item in classes],
        "templates": [template],
        "attributes": {key: list(values) for key, values in named.items()},
        "max_prompts": max_prompts,
        # values are plain text: what looks like a weight in them is none
        "weights": False,
        WRITTEN_BY: dict(settings),
    }
    return {key: value for key, value in data.items() if value is not None}
