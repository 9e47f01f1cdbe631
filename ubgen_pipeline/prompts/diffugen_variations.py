"""What DiffuGen's ``img2img`` and ``inpaint`` sections make of a source row. No torch.

Both build on how the row was drawn: its ``attributes``, as a run of the ``txt2img`` section writes them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from .class_prompts import ClassName, ClassPrompt
from .templates import PromptTemplates

VIEW_POINT, CONDITIONS = "view_point", ("time_of_day", "sky_condition", "weather_condition")
# of a row drawn from the ``txt2img`` section
DRAWN_FROM = ("template", VIEW_POINT, *CONDITIONS)


class Variations(Protocol):
    """What a source row is drawn again as."""

    def prompts(self, item: ClassName, label: int, drawn_from: Mapping[str, str]) -> list[ClassPrompt]:
        """The prompts for a row of that class, drawn from the attributes ``DRAWN_FROM``; there may be none."""
        ...

    def facts(self) -> dict[str, Any]:
        """What decides them, as JSON values."""
        ...


@dataclass(frozen=True)
class OtherConditions:
    """Image-to-image: the row's own template with every combination of other times, skies and weathers.

    A value that is part of the row's own one is left out: a row by "day" is not drawn by "day" again.

    Attributes:
        values: for each of ``CONDITIONS``, what to set it to.
    """

    values: Mapping[str, tuple[str, ...]]

    def prompts(self, item: ClassName, label: int, drawn_from: Mapping[str, str]) -> list[ClassPrompt]:
        """See :class:`Variations`."""
        other = {
            name: tuple(value for value in values if value not in drawn_from[name])
            for name, values in self.values.items()
        }
        if not all(other.values()):
            return []
        axes = {VIEW_POINT: (drawn_from[VIEW_POINT],), **other}
        templates = PromptTemplates((drawn_from["template"],), axes, name_field="object_name", combine_all=True)
        return [templates.prompt(item, label, position) for position in range(templates.count(item))]

    def facts(self) -> dict[str, Any]:
        """See :class:`Variations`."""
        return {name: list(values) for name, values in self.values.items()}


@dataclass(frozen=True)
class OtherObjects:
    """Inpainting: other objects of the row's class, seen from the row's view point, in place of its own.

    Attributes:
        descriptions: of each class that has some; rows of other classes are not drawn.
    """

    descriptions: Mapping[str, tuple[str, ...]]

    def prompts(self, item: ClassName, label: int, drawn_from: Mapping[str, str]) -> list[ClassPrompt]:
        """See :class:`Variations`."""
        return [
            ClassPrompt(
                label,
                item.name,
                f"a {drawn_from[VIEW_POINT]} view of {description}",
                item.key,
                (*((name, drawn_from[name]) for name in (VIEW_POINT, *CONDITIONS)), ("description", description)),
                description,
            )
            for description in self.descriptions.get(item.name, ())
        ]

    def facts(self) -> dict[str, Any]:
        """See :class:`Variations`."""
        return {name: list(values) for name, values in self.descriptions.items()}
