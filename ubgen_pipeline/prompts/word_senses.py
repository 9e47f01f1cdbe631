"""WordNet's definitions of nouns, from the tables of ImageNet-21k's 21,844 synsets that timm installs. No torch."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cache

from .built_in_classes import library_file
from .class_entries import WNID, ClassName


def with_definitions(classes: Sequence[ClassName]) -> tuple[ClassName, ...]:
    """The classes, those without a definition given WordNet's: by their WordNet id, else by their name.

    Raises:
        ValueError: a name with several meanings (all are listed with their ids), or one that is not in the table.
    """
    return tuple(item if item.definition else replace(item, definition=_definition_of(item)) for item in classes)


def word_senses(name: str) -> dict[str, str]:
    """WordNet id -> definition of each meaning that a name has among ImageNet-21k's synsets; case does not matter."""
    return {wnid: _definitions()[wnid] for wnid in _senses().get(_normal(name), [])}


def named_by_wordnet(item: ClassName) -> ClassName:
    """A class whose name is a WordNet id, as ImageNet's folders have them, with the words that it stands for.

    Raises:
        ValueError: an id that is not in the table.
    """
    has_other_id = item.class_id is not None and not item.class_id.isdecimal()
    if not WNID.fullmatch(item.name) or has_other_id:
        return item
    if (words := _words().get(item.name)) is None:
        raise ValueError(
            f"class {item.name!r} is named by a WordNet id that timm's table does not hold; give it a name."
        )
    name, *synonyms = (word.strip() for word in words.split(","))
    return replace(item, name=name, class_id=item.name, synonyms=(*synonyms, *item.synonyms))


def _definition_of(item: ClassName) -> str:
    if item.class_id in _definitions():
        return _definitions()[item.class_id]
    senses = word_senses(item.name)
    if not senses:
        raise ValueError(
            f"class {item.name!r} has no definition, and WordNet's nouns in timm's table do not hold it; give it one."
        )
    if len(senses) > 1:
        listed = "; ".join(f"{wnid}: {text}" for wnid, text in senses.items())
        raise ValueError(
            f"class {item.name!r} has {len(senses)} meanings; give it a definition, or one of these ids. {listed}"
        )
    return next(iter(senses.values()))


def _normal(name: str) -> str:
    return " ".join(name.replace("_", " ").split()).casefold()


@cache
def _definitions() -> dict[str, str]:
    return dict(_rows("imagenet_synset_to_definition.txt"))


@cache
def _words() -> dict[str, str]:
    return dict(_rows("imagenet_synset_to_lemma.txt"))


@cache
def _senses() -> dict[str, list[str]]:
    senses: dict[str, list[str]] = {}
    for wnid, names in _words().items():
        for name in names.split(","):
            senses.setdefault(_normal(name), []).append(wnid)
    return senses


def _rows(file: str) -> list[tuple[str, str]]:
    lines = library_file("timm", f"data/_info/{file}").splitlines()
    return [(wnid, text.strip()) for wnid, tab, text in (line.partition("\t") for line in lines) if tab]
