"""Class maps for labelling, where a model may have one word for several of the dataset's classes. No torch.

A model's "car" is a sedan in a row of the class sedan, and an SUV in a row of that class.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..prompts.diffugen import model_class_map
from ..prompts.file_values import parse_class_map, read_mapping

if TYPE_CHECKING:
    from .annotators import Labelling


@dataclass(frozen=True)
class SharedWords:
    """A class map of one class per word, and which classes share a word.

    Attributes:
        class_map: the dataset's class for a class of the model's.
        stand_ins: for each label, that of the class which ``class_map`` has for its word; most stand for themselves.
    """

    class_map: Mapping[str, str]
    stand_ins: tuple[int, ...]

    def in_row(self, labelling: "Labelling", label: int | None) -> "Labelling":
        """What was found in a row of that label, with its own class in place of the one that shares its word."""
        if label is None:
            return labelling
        stand_in = self.stand_ins[label]
        if stand_in == label:
            return labelling
        mask = labelling.mask
        if mask is not None:
            mask = np.where(mask == 1 + stand_in, np.uint8(1 + label), mask)
        objects = [
            dataclasses.replace(item, value=1 + label) if item.value == 1 + stand_in else item
            for item in labelling.objects
        ]
        return dataclasses.replace(labelling, mask=mask, objects=objects)


def read_shared_words(entries: Sequence[str], class_names: Sequence[str]) -> SharedWords:
    """The class map of ``MODEL_CLASS=CLASS`` entries, and of DiffuGen configurations among them.

    A word that a configuration gives to several classes stands for the class of that name, or else the first.

    Args:
        entries: of the setting ``class_map``.
        class_names: of the dataset, in label order.

    Raises:
        ValueError: an entry that is neither, or a configuration whose map names none of the classes.
    """
    words: dict[str, str] = {}
    pairs = []
    for entry in entries:
        data = None if "=" in entry and not Path(entry).expanduser().is_file() else read_mapping(entry, "class_map")
        if data is None:
            pairs.append(entry)
            continue
        found = {name: word for name, word in model_class_map(data).items() if name in class_names}
        if not found:
            raise ValueError(
                f"class_map is {entry!r}, whose dataset_to_model_class_map names none of the classes"
                f" {', '.join(class_names[:20])}; give MODEL_CLASS=CLASS."
            )
        words |= found
    class_map: dict[str, str] = {}
    for name in sorted(words, key=class_names.index):
        if name == words[name] or words[name] not in class_map:
            class_map[words[name]] = name
    class_map |= parse_class_map(pairs, "class_map")
    names = [class_map.get(words[name], name) if name in words else name for name in class_names]
    # a class that the map leads to elsewhere is left to build_annotator to refuse
    stand_ins = [class_names.index(name) if name in class_names else label for label, name in enumerate(names)]
    return SharedWords(class_map, tuple(stand_ins))
