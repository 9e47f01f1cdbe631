"""Files with templates beside the classes, in YAML or JSON; what such a file says of other settings, too.

classes: [crane, {name: star, synonyms: [five-pointed star]}]    # or a built-in list, or another class file
templates: ["a {view} view of a {name}++ in {weather}"]          # or of each class its own: {crane: […], star: […]}
attributes: {view: [front, side], weather: [rain, snow]}
negative_prompt: blurry
max_prompts: 3            # of each class, chosen by the run's seed; all of them if not given
samples_per_prompt: 2     # 1 if not given
weights: true             # whether ++ and -- are read
written_by: {…}           # what `ubgen write-prompts` keeps of its settings; not read
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .class_lists import classes_of_data
from .class_prompts import ClassName, load_class_names
from .diffugen_variations import Variations
from .file_values import count, texts
from .templates import PromptTemplates

# what holds words, and is read as it is written: 007, 1.10 and no are words here
TEXT_KEYS = ("classes", "templates", "attributes", "negative_prompt")
# of a file that ``ubgen write-prompts`` wrote: its settings, by which it knows the file again
WRITTEN_BY = "written_by"
_KEYS = (
    "classes", "templates", "attributes", "negative_prompt", "max_prompts", "samples_per_prompt", "weights", WRITTEN_BY
)  # fmt: skip


@dataclass(frozen=True)
class PromptFile:
    """What a file with templates says.

    Attributes:
        classes: all classes, in the order of their labels.
        drawn: labels of the classes that are drawn, in turns.
        templates: templates and attributes.
        samples_per_prompt: images of each prompt, where the run does not say how many of each class.
        max_prompts: prompts of each class; None takes all.
        seed_range: first and last of the seeds to choose from; None means any.
        model: what the file was written for.
        settings: other settings of ``ubgen generate`` that the file gives values for.
        image_size: (height, width) for ``model``.
        embeddings: textual inversions for ``model``, as the setting of that name has them.
        task: what the file was read for.
        variations: what the rows of a source dataset are drawn anew as, in place of the templates.
        model_classes: what a labelling model calls the classes, by their names.
        notes: what the file says and this program does not follow.
    """

    classes: tuple[ClassName, ...]
    drawn: tuple[int, ...]
    templates: PromptTemplates
    samples_per_prompt: int = 1
    max_prompts: int | None = None
    seed_range: tuple[int, int] | None = None
    model: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    image_size: tuple[int, int] | None = None
    embeddings: tuple[str, ...] = ()
    task: str | None = None
    variations: Variations | None = None
    model_classes: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def defaults(self, model: str) -> dict[str, Any]:
        """Settings that stand in for the defaults when drawing with that model.

        A size and textual inversions belong to their own model.
        """
        own: dict[str, Any] = {}
        if model == self.model and self.image_size is not None:
            own |= dict(zip(("height", "width"), self.image_size))
        if model == self.model and self.embeddings:
            own["embeddings"] = list(self.embeddings)
        return {**self.settings, **own}

    def remarks(self, model: str, *, has_embeddings: bool) -> list[str]:
        """The notes, and what of the file does not count when drawing with that model."""
        remarks = list(self.notes)
        if self.model not in (None, model):
            remarks.append(
                f"it was written for {self.model}; drawing with {model!r} at its own size unless --model, --height or"
                " --width say otherwise"
            )
            if self.embeddings and not has_embeddings:
                remarks.append(
                    f"textual_inversion is {self.model}'s; its word is read as plain letters unless --embeddings"
                    " FILE=WORD gives one for this model"
                )
        return remarks


def prompt_file_from(data: Mapping[str, Any], folder: Path) -> PromptFile:
    """The prompt file of a mapping with ``templates``; a class file that it names is looked for in ``folder``.

    Raises:
        ValueError: an unknown key, a value of the wrong kind, an unknown placeholder, no classes.
    """
    if unknown := [key for key in data if key not in _KEYS]:
        raise ValueError(f"key {unknown[0]!r} is unknown; a file with templates has {', '.join(_KEYS)}.")
    if not data.get("classes"):
        raise ValueError("it has templates but no `classes`; give a list, a built-in list's name or a class file.")
    classes = tuple(_classes(data["classes"], folder))
    attributes = data.get("attributes") or {}
    if not isinstance(attributes, Mapping):
        raise ValueError(f"attributes is {attributes!r}; give a mapping from placeholder to a list of values.")
    weights = data.get("weights", True)
    if not isinstance(weights, bool):
        raise ValueError(f"weights is {weights!r}; give true or false.")
    templates = data["templates"]
    of_class = _class_templates(templates, classes) if isinstance(templates, Mapping) else {}
    settings = {}
    if data.get("negative_prompt") is not None:
        settings["negative_prompt"] = texts("negative_prompt", [data["negative_prompt"]])[0]
    return PromptFile(
        classes,
        tuple(range(len(classes))),
        PromptTemplates(
            () if of_class else texts("templates", [templates] if isinstance(templates, str) else templates),
            {str(name): texts(str(name), values) for name, values in attributes.items()},
            weighted=weights,
            of_class=of_class,
        ),
        samples_per_prompt=count("samples_per_prompt", data.get("samples_per_prompt", 1)),
        max_prompts=None if data.get("max_prompts") is None else count("max_prompts", data["max_prompts"]),
        settings=settings,
    )


def _class_templates(templates: Mapping[Any, Any], classes: Sequence[ClassName]) -> dict[str, tuple[str, ...]]:
    """Each class's own templates by its key; the mapping has them by its name, or by its id."""
    keys = {item.name: item.key for item in classes} | {item.key: item.key for item in classes}
    found: dict[str, tuple[str, ...]] = {}
    for name, own in templates.items():
        if str(name) not in keys:
            raise ValueError(
                f"templates has some for {str(name)!r}, which is none of the classes; correct it, or add the class."
            )
        key = keys[str(name)]
        if key in found:
            raise ValueError(f"templates has class {str(name)!r} twice, by its name and by its id; keep one.")
        found[key] = texts(f"templates of {name}", [own] if isinstance(own, str) else own)
    if missing := [item.name for item in classes if item.key not in found]:
        raise ValueError(f"templates has none for class {missing[0]!r}; give it some, or leave the class out.")
    return found


def _classes(classes: Any, folder: Path) -> Sequence[ClassName]:
    if isinstance(classes, str):
        beside = folder / Path(classes).expanduser()
        return load_class_names(beside if beside.is_file() else classes)
    if not isinstance(classes, (list, Mapping)):
        raise ValueError(f"classes is {classes!r}; give a list, a built-in list's name or a class file.")
    return load_class_names(classes_of_data(classes))
