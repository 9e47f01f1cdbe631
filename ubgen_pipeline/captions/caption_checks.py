"""From what a language model answered to a caption, or to the reason why it is none. No torch."""

import re
import unicodedata
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from ..prompts.class_entries import ClassName
from ..prompts.templates import class_word_in

# why an answer is refused, as the table's columns are called
EMPTY, CUT_OFF, WITHOUT_CLASS, NEAR_DUPLICATE = "empty", "cut off", "without class", "near-duplicates"
REASONS = (EMPTY, CUT_OFF, WITHOUT_CLASS, NEAR_DUPLICATE)
_THOUGHTS = re.compile(r"<think>.*?</think>|^.*</think>", re.DOTALL)
_LIST_MARK = re.compile(r"^(?:[-*•]\s+|\d+[.)]\s+|#+\s+)")
_LABEL = re.compile(r"^\W*caption\W*:\W*", re.IGNORECASE)
_QUOTES = "\"'“”\u2018\u2019«»`*_ "
# as class names are typed: the apostrophe, and the hyphen at which no line ends
_TYPED = {0x2019: "'", 0x2011: "-"}
_IRREGULAR = {
    "man": "men", "woman": "women", "child": "children", "person": "people", "mouse": "mice", "goose": "geese",
    "foot": "feet", "tooth": "teeth", "ox": "oxen", "knife": "knives", "leaf": "leaves", "wolf": "wolves",
    "calf": "calves", "loaf": "loaves", "shelf": "shelves", "scarf": "scarves", "half": "halves", "thief": "thieves",
    "sheep": "sheep", "deer": "deer", "fish": "fish", "potato": "potatoes", "tomato": "tomatoes", "cactus": "cacti",
}  # fmt: skip
# they end with man and take an s
_ORDINARY_MEN = ("human", "german", "roman", "ottoman", "talisman", "caiman", "shaman")


@dataclass(frozen=True)
class Answer:
    """What a language model wrote; ``is_whole`` unless it was stopped within."""

    text: str
    is_whole: bool


@dataclass(frozen=True)
class Caption:
    """A caption as it is kept.

    Attributes:
        text: one line.
        word: by which of its words, or their plurals, it calls the class, spelt as in the class file.
    """

    text: str
    word: str


def read_caption(answer: Answer, item: ClassName) -> Caption | str:
    """The caption of an answer, or the one of :data:`REASONS` for which it is none.

    Of a text of several lines the first with words counts; list marks, quotes, a leading "Caption:" and what a model
    thinks between ``<think>`` marks are left out. An answer that was cut off counts up to its last whole sentence.
    """
    text = _THOUGHTS.sub("", answer.text)
    if "<think>" in text:
        # still thinking when it was stopped
        return CUT_OFF
    lines = [line for line in (_plain_line(line) for line in text.split("\n")) if re.search(r"\w", line)]
    if not lines:
        return EMPTY
    caption = lines[0]
    if not answer.is_whole and len(lines) == 1:
        sentence = re.match(r".*[.!?](?=\s|$)", caption)
        if sentence is None:
            return CUT_OFF
        caption = sentence.group()
    words = (item.name, *item.synonyms)
    word = class_word_in(caption, (*words, *map(plural, words)))
    return WITHOUT_CLASS if word is None else Caption(caption, word)


def plural(name: str) -> str:
    """The English plural of a name's last word."""
    first, space, last = name.rpartition(" ")
    lower = last.lower()
    if lower in _IRREGULAR:
        last = _IRREGULAR[lower]
    elif re.search(r"(s|x|z|ch|sh)$", lower):
        last += "es"
    elif re.search(r"[^aeiou]y$", lower):
        last = last[:-1] + "ies"
    elif lower.endswith("man") and lower not in _ORDINARY_MEN:
        last = last[:-2] + "en"
    else:
        last += "s"
    return f"{first}{space}{last}"


def content_words(caption: Caption) -> frozenset[str]:
    """The caption's words without those that stand for the class, which all captions of the class share."""
    own = set(_words(caption.word))
    return frozenset(word for word in _words(caption.text) if word not in own)


def is_near_duplicate(words: frozenset[str], others: Collection[frozenset[str]], max_similarity: float) -> bool:
    """Whether one of the others shares more than ``max_similarity`` of the words (Jaccard's index of the two sets)."""
    return any(_similarity(words, other) > max_similarity for other in others)


def template_of(caption: Caption, item: ClassName) -> str:
    """The caption as a template: braces written twice, and ``{name}`` where the class's own name stands."""
    text = caption.text.replace("{", "{{").replace("}", "}}")
    name = r"\s+".join(map(re.escape, item.name.replace("{", "{{").replace("}", "}}").split()))
    return re.sub(rf"(?<!\w){name}(?!\w)", "{name}", text, flags=re.IGNORECASE)


def plural_words(captions: Sequence[Caption], item: ClassName) -> list[str]:
    """The words that the captions call the class by and that the class does not list yet."""
    known = {word.casefold() for word in (item.name, *item.synonyms)}
    return [word for word in dict.fromkeys(caption.word for caption in captions) if word.casefold() not in known]


def _similarity(words: frozenset[str], others: frozenset[str]) -> float:
    union = len(words | others)
    return len(words & others) / union if union else 1.0


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", unicodedata.normalize("NFKC", text).casefold())


def _plain_line(line: str) -> str:
    composed = unicodedata.normalize("NFC", line)
    # control characters, and marks that show nothing
    text = "".join(" " if unicodedata.category(char)[0] == "C" else char for char in composed)
    text = _LABEL.sub("", _LIST_MARK.sub("", " ".join(text.split()))).strip(_QUOTES)
    return text.translate(_TYPED)
