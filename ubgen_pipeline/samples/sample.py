"""One image to come: what it is drawn from, known before any model loads."""

from dataclasses import dataclass

from ..prompts.class_prompts import ClassPrompt


@dataclass(frozen=True)
class Sample:
    """One image to be drawn; everything about it is known before a model is loaded."""

    index: int
    prompt: ClassPrompt
    seed: int
