"""Prompts from templates with ``{placeholders}``: all combinations of values, or some chosen by the seed. No torch."""

import itertools
import math
import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache

from ..prompt_weights import escape_weights, plain_text
from ..sample_seeds import sample_seed
from .choices import Choice, parse_choice
from .class_prompts import ClassName, ClassPrompt

MAX_PROMPTS = 1_000_000
_BRACES = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")
# filled from the class; all other placeholders are attributes
CLASS_FIELDS = ("name", "synonym", "definition", "class_id")


@dataclass(frozen=True)
class PromptTemplates:
    """Templates and the values of their placeholders.

    Attributes:
        templates: texts with ``{name}``, ``{synonym}`` (the name and each of its synonyms), ``{definition}``,
            ``{class_id}``, attributes and choices (see :mod:`.choices`). ``{x}++`` weights all the words that stand
            for x.
        attributes: placeholder -> its values.
        name_field: a further placeholder that stands for the class's name.
        combine_all: combine all attributes with every template, also those that it does not use.
        weighted: whether the texts are read for word weights; names and definitions then are escaped.
        of_class: class's key -> templates of that class, in place of ``templates``.
    """

    templates: tuple[str, ...]
    attributes: Mapping[str, tuple[str, ...]]
    name_field: str = "name"
    combine_all: bool = False
    weighted: bool = True
    of_class: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not (self.templates or self.of_class):
            raise ValueError("templates is empty; give at least one text with {name}.")
        if empty := [key for key, own in self.of_class.items() if not own]:
            raise ValueError(f"templates has none for class {empty[0]!r}; give at least one text with {{name}}.")
        for name, values in self.attributes.items():
            if name in (*CLASS_FIELDS, self.name_field) or not name.isidentifier():
                raise ValueError(
                    f"attribute {name!r} cannot be a placeholder; rename it to letters, digits and underscores, other"
                    f" than {', '.join(CLASS_FIELDS)}."
                )
            if not values:
                raise ValueError(f"attribute {name!r} has no values; give at least one, or leave it out.")
        known = {*CLASS_FIELDS, self.name_field, *self.attributes}
        for template in self.all_templates:
            if unknown := [name for name in template_fields(template) if name not in known]:
                raise ValueError(
                    f"template is {template!r}, with the unknown placeholder {{{unknown[0]}}}; give it values among"
                    f" the attributes, or use one of {', '.join(f'{{{name}}}' for name in sorted(known))}."
                )
            self._choices(template)

    @property
    def all_templates(self) -> list[str]:
        """Those of every class."""
        return [*self.templates, *(template for own in self.of_class.values() for template in own)]

    @property
    def uses_definitions(self) -> bool:
        return any("definition" in template_fields(template) for template in self.all_templates)

    def each(self, change: Callable[[str], str]) -> "PromptTemplates":
        """The same with every template changed."""
        own = {key: tuple(map(change, texts)) for key, texts in self.of_class.items()}
        return replace(self, templates=tuple(map(change, self.templates)), of_class=own)

    def templates_of(self, item: ClassName) -> tuple[str, ...]:
        """The templates that the class is drawn with."""
        return self.of_class.get(item.key, self.templates)

    def count(self, item: ClassName) -> int:
        """Number of different combinations for a class."""
        return sum(math.prod(map(len, axes.values())) for axes in self._axes(item))

    def prompt(self, item: ClassName, label: int, position: int) -> ClassPrompt:
        """The class's prompt at a position in ``range(count(item))``; the last attribute changes fastest.

        Raises:
            ValueError: the class lacks what the template asks for, or its word is not in the prompt.
        """
        axes: dict[str, Sequence[str]] = {}
        template = ""
        for template, axes in zip(self.templates_of(item), self._axes(item)):  # noqa: B007
            size = math.prod(map(len, axes.values()))
            if position < size:
                break
            position -= size
        chosen: dict[str, str] = {}
        for name in reversed(axes):
            position, index = divmod(position, len(axes[name]))
            chosen[name] = axes[name][index]
        chosen = dict(reversed(chosen.items()))
        word = chosen.pop("synonym", item.name)
        text = self._fill(template, item, word, chosen)
        found = check_class_word(text, (item.name, *item.synonyms), weighted=self.weighted)
        if not {"name", "synonym", self.name_field} & set(template_fields(template)):
            # the template itself says by which of its words it calls the class
            word = found
        several = self.attributes or self.of_class or len(self.templates) > 1
        given = {**chosen, "template": template} if several else {}
        return ClassPrompt(label, item.name, text, item.key, tuple(given.items()), word, self.weighted)

    def _axes(self, item: ClassName) -> list[dict[str, Sequence[str]]]:
        """For each template, what it is combined with; of many templates of one class it is found out once."""
        if item.key not in self.of_class:
            return self._new_axes(item)
        if item.key not in self._kept_axes:
            self._kept_axes[item.key] = self._new_axes(item)
        return self._kept_axes[item.key]

    @cached_property
    def _kept_axes(self) -> dict[str, list[dict[str, Sequence[str]]]]:
        return {}

    def _new_axes(self, item: ClassName) -> list[dict[str, Sequence[str]]]:
        axes = []
        for template in self.templates_of(item):
            fields = template_fields(template)
            own: dict[str, Sequence[str]] = {
                name: values for name, values in self.attributes.items() if self.combine_all or name in fields
            }
            if "synonym" in fields:
                own = {"synonym": (item.name, *item.synonyms), **own}
            axes.append({**own, **self._choices(template)})
        return axes

    def _choices(self, template: str) -> dict[str, Sequence[str]]:
        """What a template's choices are made from, by the names that they are remembered under."""
        try:
            return self._checked_choices(template)
        except ValueError as error:
            raise ValueError(f"template is {template!r}; {error}") from error

    def _checked_choices(self, template: str) -> dict[str, Sequence[str]]:
        found: dict[str, Sequence[str]] = {}
        texts: dict[str, str] = {}
        for name, choice in _named_choices(template):
            values: Sequence[str] = choice.options
            if choice.attribute is not None:
                if name not in self.attributes:
                    raise ValueError(f"{{{choice.text}}} chooses from {name!r}; give it values among the attributes.")
                values = self.attributes[name]
            elif name in self.attributes:
                raise ValueError(f"the attribute {name!r} has the name that a choice gets; rename it.")
            elif names := [value for value in choice.options if value in self.attributes or value in CLASS_FIELDS]:
                raise ValueError(
                    f"{{{choice.text}}} chooses the word {names[0]!r}, which is the name of a placeholder; list"
                    " values, or one attribute that has them all."
                )
            if name in template_fields(template) or texts.get(name, choice.text) != choice.text:
                raise ValueError(f"{name!r} is filled in in two ways; list its values under a second name for one.")
            texts[name] = choice.text
            found[name] = choice.of(values)
        return found

    def _fill(self, template: str, item: ClassName, word: str, attributes: Mapping[str, str]) -> str:
        own = {self.name_field: item.name, "name": item.name, "synonym": word}
        own |= {"definition": item.definition, "class_id": item.class_id}
        text = ""
        pieces = _pieces(template)
        names = iter([name for name, _ in _named_choices(template)])
        for number, (literal, placeholder) in enumerate(pieces):
            # at the beginning, what follows a choice of nothing has lost its blank, too
            text += literal.removeprefix(" ") if number and not text else literal
            if placeholder is None:
                continue
            following = pieces[number + 1][0] if number + 1 < len(pieces) else ""
            name = next(names) if isinstance(placeholder, Choice) else placeholder
            value = attributes[name] if name in attributes else own[name]
            if isinstance(placeholder, Choice) and not value:
                # nothing was chosen: no blank is left over, either
                text = text[:-1] if text.endswith(" ") and not following[:1].isalnum() else text
                continue
            if not value:
                raise ValueError(
                    f"template asks for {{{name}}}, which class {item.name!r} does not have; add it to the class."
                )
            if self.weighted and name not in attributes:
                value = escape_weights(value)
            if self.weighted and " " in value and re.match(r"\+\+|--", following):
                # signs hold for the last word only, unless the words are in parentheses
                value = f"({value})"
            text += value
        return text


def template_fields(template: str) -> list[str]:
    """Placeholders of a template, in order; choices are none.

    Raises:
        ValueError: unbalanced braces, an empty placeholder, one with an attribute, an index, a format or a
            conversion, or a choice that cannot be read.
    """
    return [name for _, name in _pieces(template) if isinstance(name, str)]


def _named_choices(template: str) -> list[tuple[str, Choice]]:
    """A template's choices in order, each with the attribute that it chooses from, or else ``choice_1``, ``choice_2``,
    …"""
    choices = [choice for _, choice in _pieces(template) if isinstance(choice, Choice)]
    numbers = itertools.count(1)
    return [(choice.attribute or f"choice_{next(numbers)}", choice) for choice in choices]


@lru_cache(maxsize=4096)
def _pieces(template: str) -> list[tuple[str, str | Choice | None]]:
    """Literal text and the placeholder after it, None at the end."""
    pieces: list[tuple[str, str | Choice | None]] = []
    literal, place = "", 0
    for found in _BRACES.finditer(template):
        literal += template[place : found.start()]
        place = found.end()
        if found[0] in ("{{", "}}"):
            literal += found[0][0]
        elif found[1] is None:
            raise ValueError(
                f"template is {template!r}, with a brace without its other half, or one within others. Write {{{{ and"
                " }} for braces."
            )
        else:
            pieces.append((literal, _placeholder(template, found[1])))
            literal = ""
    return [*pieces, (literal + template[place:], None)]


def _placeholder(template: str, text: str) -> str | Choice:
    try:
        choice = parse_choice(text)
    except ValueError as error:
        raise ValueError(f"template is {template!r}; {error}") from error
    if choice is None and not text.isidentifier():
        raise ValueError(f"template is {template!r}; a placeholder is a bare name such as {{name}}, no {text!r}.")
    return choice or text


def check_class_word(prompt: str, words: Sequence[str], *, weighted: bool) -> str:
    """The first of the class's words that stands in the prompt; case does not matter.

    Raises:
        ValueError: none of them does.
    """
    # plain_text comes second: it is slow, and seldom needed
    for text in (prompt, plain_text(prompt)) if weighted else (prompt,):
        if (word := class_word_in(text, words)) is not None:
            return word
    raise ValueError(
        f"class {words[0]!r} is not in its prompt {prompt!r}; write {{name}} where it belongs, or list the word that"
        " stands for it among the class's synonyms."
    )


def class_word_in(text: str, words: Sequence[str]) -> str | None:
    """The first of the words that stands in the text, whole, whatever its case and blanks; None: none does."""
    text = _normal(text)
    return next((word for word in words if re.search(rf"(?<!\w){re.escape(_normal(word))}(?!\w)", text)), None)


def _normal(text: str) -> str:
    return " ".join(text.split()).casefold()


def chosen_positions(count: int, wanted: int | None, seed: int, key: str) -> Sequence[int]:
    """All positions in order; or, where fewer are wanted, that many different ones, chosen by the seed and class.

    More of them begin with the same ones.
    """
    if wanted is None or wanted >= count:
        return range(count)
    return distinct_choices(random.Random(sample_seed(seed, f"prompts of {key}", 0)), 0, count - 1, wanted)


def distinct_choices(rng: random.Random, low: int, high: int, count: int) -> list[int]:
    """``count`` different integers in [low, high], chosen uniformly; the range must hold as many."""
    drawn: dict[int, None] = {}
    while len(drawn) < count:
        drawn[rng.randint(low, high)] = None
    return list(drawn)


def check_number_of_prompts(counts: Sequence[int]) -> None:
    """Refuse a product that nobody can have meant; ``counts`` holds the prompts of each class."""
    if (total := sum(counts)) > MAX_PROMPTS:
        cap = max(MAX_PROMPTS // len(counts), 1)
        raise ValueError(
            f"the templates and attributes give {total:,} prompts for {len(counts)} classes, more than"
            f" {MAX_PROMPTS:,}; set max_prompts to at most {cap:,}, and that many are chosen for each class by the"
            " run's seed."
        )
