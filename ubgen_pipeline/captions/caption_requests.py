"""What a language model is asked for: one caption of one class in one setting. No torch.

A setting has a value of each asked-for context, such as place and light. The captions of a class go through the values
of each context in an order of their own, so that each value occurs as often as the others.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..prompts.class_entries import ClassName
from ..sample_seeds import sample_seed

NUMBER, STYLE = "number of objects", "style"
CONTEXTS: dict[str, tuple[str, ...]] = {
    "place": (
        "indoors", "outdoors in nature", "in a town or city", "by or in the water", "at a workplace",
        "before a plain background",
    ),
    "light": (
        "bright daylight", "an overcast sky", "low sun in the morning or evening", "artificial light at night",
        "light from behind",
    ),
    "view": (
        "from the front", "from the side", "from above", "from below", "from far away", "from very close",
        "partly hidden behind something",
    ),
    NUMBER: ("exactly one", "two", "several"),
    STYLE: ("a sharp photograph", "a casual snapshot", "a grainy old photograph"),
}  # fmt: skip
# what the option calls them
SHORT_NAMES = {"number": NUMBER}
# for models without a chat template, which go on with a list of examples
_EXAMPLES = (
    (
        "lighthouse",
        (
            "by or in the water",
            "low sun in the morning or evening",
            "from far away",
            "exactly one",
            "a casual snapshot",
        ),
        "A casual snapshot of a distant lighthouse on a rocky shore, lit by the low evening sun.",
    ),
    (
        "teapot",
        ("indoors", "artificial light at night", "from above", "two", "a sharp photograph"),
        "A sharp photograph from above of a teapot and a second teapot on a kitchen table under a lamp.",
    ),
)


@dataclass(frozen=True)
class CaptionRequest:
    """One caption that is asked for.

    Attributes:
        item: the class.
        slot: which of the class's captions it will be, from 0.
        attempt: how many answers for this slot were refused before.
        setting: (context, value) pairs.
        seed: of the answer; of all the other requests it is independent.
    """

    item: ClassName
    slot: int
    attempt: int
    setting: tuple[tuple[str, str], ...]
    seed: int

    def instruction(self) -> str:
        """What a model that answers is told."""
        described = f" ({self.item.definition})" if self.item.definition else ""
        lines = [f"Write a caption of a picture that shows: {self.item.name}{described}."]
        lines += [f"- {context}: {value}" for context, value in self.setting]
        lines += [
            "Where one of these is impossible for what is shown, choose what comes nearest.",
            f'It is one sentence of at most 25 words with the words "{self.item.name}" as they stand here. It names'
            " what can be seen and nothing else.",
            "Answer with the caption alone.",
        ]
        return "\n".join(lines)

    def beginning(self) -> str:
        """What a model that only goes on with a text is given; the caption is the rest of its last line."""
        asked = {context for context, _ in self.setting}
        parts = []
        for name, values, caption in _EXAMPLES:
            setting = [pair for pair in zip(CONTEXTS, values) if pair[0] in asked]
            parts.append(f"{_listed(name, None, setting)} {caption}")
        return "\n\n".join([*parts, _listed(self.item.name, self.item.definition, self.setting)])


def _listed(name: str, definition: str | None, setting: Sequence[tuple[str, str]]) -> str:
    described = f" ({definition})" if definition else ""
    lines = [f"Picture of: {name}{described}", *(f"{context}: {value}" for context, value in setting)]
    return "\n".join([*lines, f'Caption with the words "{name}":'])


def parse_contexts(entries: Sequence[str] | None) -> dict[str, tuple[str, ...]]:
    """The values of each context that is asked for.

    Args:
        entries: names in :data:`CONTEXTS` (or ``number``), ``NAME=VALUE|VALUE|…`` for other values or another context,
            or ``none`` alone; None takes all of :data:`CONTEXTS`.

    Raises:
        ValueError: an unknown name without values, an empty value, or a name that occurs twice.
    """
    if entries is None:
        return dict(CONTEXTS)
    if list(entries) == ["none"]:
        return {}
    contexts: dict[str, tuple[str, ...]] = {}
    for entry in entries:
        name, sign, listed = (part.strip() for part in entry.partition("="))
        name = SHORT_NAMES.get(name, name)
        values = tuple(value.strip() for value in listed.split("|")) if sign else CONTEXTS.get(name, ())
        if not name or not values:
            raise ValueError(
                f"contexts holds {entry!r}; choose among place, light, view, number, style and none, or write"
                " NAME=VALUE|VALUE for one of your own."
            )
        if not all(values):
            raise ValueError(f"contexts holds {entry!r}, with an empty value; write NAME=VALUE|VALUE.")
        if name in contexts:
            raise ValueError(f"contexts names {name!r} twice; keep one.")
        contexts[name] = values
    return contexts


def setting_of(item: ClassName, slot: int, contexts: Mapping[str, Sequence[str]], seed: int) -> tuple:
    """(context, value) pairs for a slot of a class; len(values) slots on end have each value of a context once."""
    pairs = []
    for context, values in contexts.items():
        turn, place = divmod(slot, len(values))
        rng = random.Random(sample_seed(seed, f"{context} of {item.key}", turn))
        pairs.append((context, rng.sample(values, len(values))[place]))
    return tuple(pairs)


def caption_request(
    item: ClassName, slot: int, attempt: int, contexts: Mapping[str, Sequence[str]], seed: int
) -> CaptionRequest:
    """The request for that slot of a class after so many refused answers, as a function of these alone."""
    own_seed = sample_seed(seed, f"caption {slot} of {item.key}", attempt)
    return CaptionRequest(item, slot, attempt, setting_of(item, slot, contexts, seed), own_seed)
