"""What a class list was understood as, and what in it is drawn otherwise than its author meant. No torch."""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .class_entries import ClassName
from .class_prompts import spelling
from .word_senses import word_senses

_CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])")
# alphabets of which a word has one; those of East Asia are mixed
_ALPHABETS = ("LATIN", "GREEK", "CYRILLIC", "ARMENIAN", "HEBREW", "ARABIC", "SYRIAC", "THAANA", "NKO")
# shorter names differ in one letter and mean quite other things
_LEAST_LETTERS = 5


@dataclass(frozen=True)
class ClassCheck:
    """One class of a list.

    Attributes:
        label: its number.
        item: what was read.
        look_alikes: labels of other classes that have its spelling but for a letter, its meaning, or its synonyms.
        warnings: sentences without the class's name at their beginning.
    """

    label: int
    item: ClassName
    look_alikes: tuple[int, ...]
    warnings: tuple[str, ...]


def check_classes(
    classes: Sequence[ClassName], tokens_of: Callable[[str], Sequence[int]] | None = None
) -> list[ClassCheck]:
    """Look at every class.

    Args:
        classes: in label order.
        tokens_of: gives a name's tokens, as the model that is to draw reads them; None compares spellings as CLIP's
            tokenizer does, without case and blanks.
    """
    tokens = [tuple(tokens_of(item.name)) if tokens_of else spelling(item.name) for item in classes]
    equal = _groups([[key] for key in tokens])
    alike = _groups([_keys(item) for item in classes])
    checks = []
    for label, item in enumerate(classes):
        same = sorted(equal[label])
        warnings = _warnings(item)
        if same:
            others = ", ".join(f"{classes[other].name!r} (label {other})" for other in same)
            warnings.insert(0, f"has the tokens of {others}: a model draws them alike; tell them apart by definitions")
        checks.append(ClassCheck(label, item, tuple(sorted(alike[label] | equal[label])), tuple(warnings)))
    return checks


def writing_warnings(name: str) -> list[str]:
    """What is odd about how a name is written, as sentences without the name at their beginning."""
    warnings = []
    if "_" in name:
        warnings.append(
            f"has underscores, which are read as signs: write {' '.join(name.replace('_', ' ').split())!r}"
        )
    if _CAMEL.search(name):
        warnings.append(
            f"is written in camel case, which is read as one word: write {_CAMEL.sub(' ', name).lower()!r}"
        )
    if name.replace(".", "").isdecimal():
        warnings.append("is a number: if it stands for a name, give the name")
    if ", " in name or re.search("[;|]", name):
        warnings.append("holds several words parted by commas or signs: give the others as synonyms")
    if re.match("[#%;]|--|//", name) or " #" in name:
        warnings.append("looks like a comment: if it is one, remove it")
    if re.fullmatch("[\"'`\u2018\u201c].*[\"'`\u2019\u201d]", name):
        warnings.append("is in quotes, which are drawn, too: remove them")
    if meant := _meant(name):
        warnings.append(
            f"seems to be UTF-8 that a program read as another encoding, of {meant!r}: write that, or save the list"
            " anew as UTF-8"
        )
    elif mixed := [word for word in re.findall(r"[^\W\d_]+", name) if len(_alphabets(word)) > 1]:
        warnings.append(
            f"has letters of several alphabets in {mixed[0]!r} ({', '.join(_alphabets(mixed[0]))}): where they are not"
            " meant, save the list anew as UTF-8, or write the word with letters of one"
        )
    if re.match(r"\d+[._-](?=\D)", name):
        warnings.append("begins with a number and a sign: if it numbers the class, remove it")
    return warnings


def _meant(name: str) -> str | None:
    """What a name was before a program read its UTF-8 as Windows-1252 or Latin 1, as in ``cafÃ©``; None for others."""
    for encoding in ("cp1252", "latin-1"):
        try:
            meant = name.encode(encoding).decode("utf-8")
        except UnicodeError:
            continue
        return meant if meant != name else None
    return None


def _alphabets(word: str) -> list[str]:
    """Those of the word's letters, of which readers take one for another."""
    found = {unicodedata.name(letter, "").partition(" ")[0] for letter in word}
    return [alphabet.capitalize() for alphabet in _ALPHABETS if alphabet in found]


def _warnings(item: ClassName) -> list[str]:
    name, warnings = item.name, writing_warnings(item.name)
    senses = word_senses(name)
    if len(senses) > 1 and item.class_id not in senses and not item.definition:
        listed = "; ".join(f"{wnid}: {text}" for wnid, text in list(senses.items())[:4])
        warnings.append(f"has {len(senses)} meanings in WordNet: give an id or a definition ({listed})")
    return warnings


def _keys(item: ClassName) -> set[str]:
    """What two classes that are easily taken for each other have in common."""
    keys = set()
    for word in (item.name, *item.synonyms):
        plain = re.sub(r"[\W_]+", "", _CAMEL.sub(" ", word).casefold())
        plain = plain.removesuffix("s") if len(plain) >= _LEAST_LETTERS else plain
        keys.add(f"word {plain}")
        if len(plain) >= _LEAST_LETTERS:
            keys |= {f"letters {plain[:place]}{plain[place + 1 :]}" for place in range(len(plain))}
            keys.add(f"letters {plain}")
    known = word_senses(item.name)
    keys |= {f"meaning {wnid}" for wnid in ([item.class_id] if item.class_id in known else known)}
    return keys


def _groups(keys: Sequence[Sequence[object] | set[str]]) -> list[set[int]]:
    """For each entry the others that share a key with it."""
    holders: dict[object, list[int]] = defaultdict(list)
    for place, own in enumerate(keys):
        for key in own:
            holders[key].append(place)
    found: list[set[int]] = [set() for _ in keys]
    for places in holders.values():
        for place in places:
            found[place].update(places)
    return [others - {place} for place, others in enumerate(found)]
