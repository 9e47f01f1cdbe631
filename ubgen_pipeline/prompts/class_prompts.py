"""Class lists and prompts: from names, a file or a built-in list to one prompt per class. No torch."""

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from .built_in_classes import BUILT_IN_LISTS, built_in_entries, built_in_name
from .class_entries import ClassName, classes_from
from .class_file import ClassFile, read_class_file
from .class_lists import read_class_list
from .word_senses import named_by_wordnet

# characters that show nothing, and marks that turn the direction of what follows; joiners, which some scripts need,
# are no such characters
_UNSEEN = re.compile(
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\u2800"
    "\u3164\ufeff\uffa0\ufff9-\ufffb\U000e0000-\U000e007f]"
)
_JOINERS = re.compile("[\u200c\u200d]")
# folders of datasets for YOLO, COCO and PASCAL VOC, in small letters, and their files that list classes
_DATASET_FOLDERS = ("images", "labels", "annotations", "jpegimages", "imagesets")
_DATASET_FILES = ("data.yaml", "dataset.yaml", "class_names.json", "classes.txt")


@dataclass(frozen=True)
class ClassPrompt:
    """A class as it is drawn: its label (position in the list), name, prompt and key.

    ``attributes`` are (placeholder, value) pairs that a template was filled with; ``word`` is what stands for the
    class in the prompt, where that may be a synonym; empty means the name. ``weighted`` says whether the prompt is
    read for word weights, so that a backslash is part of its spelling.
    """

    label: int
    name: str
    prompt: str
    key: str
    attributes: tuple[tuple[str, str], ...] = ()
    word: str = ""
    weighted: bool = False
    # whether a prompt that is too long for the model loses words at its end; if not, it is refused
    is_cut_to_fit: ClassVar[bool] = False

    @property
    def shown_words(self) -> tuple[str, ...]:
        """The names of all classes that the image shows, as they stand in the prompt."""
        return (self.word or self.name,)

    @property
    def shown_labels(self) -> tuple[int, ...]:
        """The labels of those classes."""
        return (self.label,)


def load_class_names(source: str | Path | ClassFile | Sequence[Any]) -> list[ClassName]:
    """Classes in order, from a list (names or objects), a file, or the name of a built-in list.

    A file is a table parted by commas, semicolons or tabs (with or without a header ``name``, ``id`` or ``wnid``,
    ``label`` or ``index`` with numbers, ``definition``, ``synonyms`` parted by semicolons), JSON, JSON lines, YAML, or
    plain lines, whose words may stand beside a number (``0: star``, ``star,0``) or after a WordNet id (``n01440764
    tench, Tinca tinca``: name and synonyms). JSON and YAML hold a list of names or of objects, a mapping from name to
    definition, from name to label, or from ids to names where the keys are WordNet ids or numbers; it may stand under
    a key that torchvision, transformers, Ultralytics or COCO use. Numbers decide on the labels. What follows a comma
    and a blank in a line or in transformers' ``id2label`` is a synonym. A name that is a WordNet id becomes its words.
    A folder stands for its class folders, as torchvision numbers them. Built-in lists: see ``BUILT_IN_LISTS``.

    Raises:
        ValueError: nothing there, an unreadable file or one that is no class list, no classes, an empty name, numbers
            that leave a label out, names, ids or keys that occur twice, or names that differ in case, blanks or
            composed letters alone and have no ids.
    """
    if isinstance(source, (str, Path, ClassFile)):
        classes = _load(source)
    else:
        classes = classes_from(list(source))
    classes = [named_by_wordnet(item) for item in classes]
    try:
        _check(classes)
    except ValueError as error:
        if not isinstance(source, (str, Path, ClassFile)):
            raise
        named = source.source if isinstance(source, ClassFile) else str(source)
        raise ValueError(f"classes is {named!r}: {error}") from error
    return classes


def label_names(classes: Sequence[ClassName]) -> list[str]:
    """Names for ``datasets.ClassLabel``, all different: a name that occurs twice gets its class's id appended."""
    counts = Counter(item.name for item in classes)
    names = [f"{item.name} ({item.class_id})" if counts[item.name] > 1 else item.name for item in classes]
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise ValueError(
            f"class names hold {twice[0]!r}, which is also what another class is told apart by; rename it."
        )
    return names


def class_prompts(
    classes: Sequence[ClassName], template: str = "{name}", *, argument: str = "template"
) -> list[ClassPrompt]:
    """One prompt per class: the template with ``{name}``, and where wanted ``{definition}`` or ``{class_id}``, filled.

    ``argument`` is what the caller's user calls the template, for errors.

    Raises:
        ValueError: a template without ``{name}`` or with another field, or a class that lacks what it asks for.
    """
    try:
        parsed = [piece for piece in string.Formatter().parse(template) if piece[1] is not None]
    except ValueError as error:
        raise ValueError(f"{argument} is {template!r}; {error}.") from error
    if formatted := [field for _, field, form, conversion in parsed if form or conversion]:
        raise ValueError(
            f"{argument} is {template!r}; a placeholder is a bare name such as {{name}}, without a format or a"
            f" conversion as {formatted[0]!r} has. Write {{{{ and }}}} for braces."
        )
    # {name.x} and {name[0]} count as other fields, too
    fields = {field for _, field, _, _ in parsed if field is not None}
    if "name" not in fields or fields - {"name", "definition", "class_id"}:
        raise ValueError(
            f"{argument} is {template!r}; it must hold {{name}} and may hold {{definition}} and {{class_id}}, no"
            " other."
        )
    prompts = []
    for label, item in enumerate(classes):
        values = {"name": item.name, "definition": item.definition, "class_id": item.class_id}
        if missing := [field for field in sorted(fields) if not values[field]]:
            raise ValueError(f"{argument} asks for {missing[0]}, which class {item.name!r} does not have; add it.")
        prompts.append(ClassPrompt(label, item.name, template.format(**values), item.key))
    return prompts


def _load(source: str | Path | ClassFile) -> list[ClassName]:
    if isinstance(source, str) and (built_in := built_in_name(source)) is not None:
        return [ClassName(*entry) for entry in built_in_entries(built_in)]
    if (file := read_class_file(source)) is None:
        folder = Path(str(source)).expanduser()
        if folder.is_dir():
            return [ClassName(name) for name in class_folder_names(folder)]
        lists = ", ".join(BUILT_IN_LISTS)
        raise ValueError(f"classes is {str(source)!r}, which is no file; give a file, or one of the lists {lists}.")
    return read_class_list(file)


def class_folder_names(folder: Path) -> list[str]:
    """The class folders of a folder of images, in the order in which torchvision's ``ImageFolder`` numbers them.

    Raises:
        ValueError: there are none, or they are splits, which hold the class folders, or parts of a dataset in another
            layout.
    """
    names = sorted(item.name for item in folder.iterdir() if item.is_dir() and not item.name.startswith("."))
    if not names:
        raise ValueError(f"classes is {str(folder)!r}, a folder without class folders; give one, or a class file.")
    if splits := [name for name in ("train", "val", "valid", "validation", "test") if name in names]:
        raise ValueError(
            f"classes is {str(folder)!r}, whose folders are splits; give {str(folder / splits[0])!r} for its classes."
        )
    if parts := [name for name in names if name.lower() in _DATASET_FOLDERS]:
        files = [folder / name for name in _DATASET_FILES if (folder / name).is_file()]
        way_out = repr(str(files[0])) if files else "its file of classes, or the folder that holds the class folders"
        raise ValueError(
            f"classes is {str(folder)!r}, whose folders are those of a dataset ({', '.join(parts)}) and no classes;"
            f" give {way_out}."
        )
    if names == ["data"] and (folder / "README.md").is_file():
        raise ValueError(
            f"classes is {str(folder)!r}, a dataset of shards and no class list; give the class file that it was made"
            " of."
        )
    return names


def _check(classes: Sequence[ClassName]) -> None:
    if not classes:
        raise ValueError("the class list is empty; give at least one class name.")
    for position, item in enumerate(classes):
        if not item.name.strip():
            raise ValueError(f"class {position} has an empty name; give it one, or leave it out.")
        if not all(word.strip() for word in item.synonyms):
            raise ValueError(f"class {item.name!r} has an empty synonym; leave it out.")
        for text in (item.name, item.class_id or "", item.definition or "", *item.synonyms):
            # control characters would end a line in a card or a file; lone surrogates cannot be written at all
            if bad := [char for char in text if unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp")]:
                raise ValueError(f"class {item.name!r} holds the control character {bad[0]!r}; remove it.")
            if unseen := _UNSEEN.search(text):
                raise ValueError(f"class {item.name!r} holds {unseen[0]!a}, which nobody sees; remove it.")
    if twice := [
        key for key, count in Counter(item.class_id for item in classes if item.class_id).items() if count > 1
    ]:
        raise ValueError(f"class id {twice[0]!r} occurs twice; give each class its own id.")
    counts = Counter(item.name for item in classes)
    spelt, seen = {}, {}
    for item in classes:
        # text encoders read these as one
        other = spelt.setdefault(spelling(item.name), item)
        if other.name != item.name and item.class_id is None:
            raise ValueError(
                f"class names {other.name!r} and {item.name!r} are one to a text encoder; remove one, or give both"
                " ids."
            )
        other = seen.setdefault(_look(item.name), item)
        if other.name != item.name and item.class_id is None:
            raise ValueError(f"class names {other.name!a} and {item.name!a} look alike; remove one, or give both ids.")
    if twice := [item.name for item in classes if counts[item.name] > 1 and item.class_id is None]:
        raise ValueError(f"class name {twice[0]!r} occurs twice without ids; give each an id, or remove one.")
    if twice := [key for key, count in Counter(item.key for item in classes).items() if count > 1]:
        raise ValueError(f"{twice[0]!r} is the id of one class and the name of another; give both an id of their own.")


def spelling(name: str) -> str:
    """A name as CLIP's tokenizer reads it: without case, and with one blank for several."""
    return " ".join(unicodedata.normalize("NFC", name).casefold().split())


def _look(name: str) -> str:
    """The same for names that look the same: letters of full width, ligatures, and joiners between letters."""
    return spelling(unicodedata.normalize("NFKC", _JOINERS.sub("", name)))
