"""DiffuGen's dataset configurations (Shenoda and Kim 2023), read as they are: one section for each of three tasks.

``txt2img``: every template of ``prompts`` is combined with all five attribute lists, whether it uses them or not, and
each prompt gives ``seed_count_per_prompt`` images with seeds from ``seed_range``. ``img2img`` and ``inpaint`` draw
the rows of ``source_dataset`` anew (``diffugen_variations``). What else a file says becomes the default of a flag, or
a note that it does not count.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .class_prompts import load_class_names
from .diffugen_variations import CONDITIONS, OtherConditions, OtherObjects, Variations
from .file_values import count, texts
from .template_files import PromptFile
from .templates import PromptTemplates, check_number_of_prompts

# DiffuGen's name of each task
SECTIONS = {"text-to-image": "txt2img", "image-to-image": "img2img", "inpaint": "inpaint"}
# in the order of nested loops: the first changes slowest
_LISTS = {
    "view_points": "view_point",
    "object_names": "object_name",
    "times_of_day": "time_of_day",
    "sky_conditions": "sky_condition",
    "weather_conditions": "weather_condition",
}
_OTHER_CONDITIONS = {list_name: name for list_name, name in _LISTS.items() if name in CONDITIONS}
_COMMON = ("stable_diffusion_model", "negative_prompt", "textual_inversion")
_READ = {
    "text-to-image": (*_COMMON, *_LISTS, "prompts", "seed_range", "seed_count_per_prompt"),
    "image-to-image": (*_COMMON, *_OTHER_CONDITIONS, "source_dataset"),
    # each class has a key of its own here, too
    "inpaint": (*_COMMON, "source_dataset"),
}
_READ_ABOVE = (
    *SECTIONS.values(), "task", "dataset_name", "dataset_root", "image_format", "image_size", "steps",
    "dataset_classes", "dataset_to_model_class_map", "unsupervised", "deterministic", "images_per_shard",
)  # fmt: skip
_IGNORED = {
    "image_count": "the number of images is that of the prompts times seed_count_per_prompt",
    "label_model": "label the finished dataset with `ubgen annotate DIR --model MODEL --class-map FILE`, where FILE is"
    " this one",
}
# what DiffuGen writes beside an image that it labels by attention
_ANNOTATIONS = ["mask", "heatmap", "box", "polygon"]
_CODECS = {"png": "png", "jpg": "jpeg", "jpeg": "jpeg"}


def is_diffugen_config(data: Mapping[str, Any]) -> bool:
    """Whether the mapping has one of DiffuGen's sections."""
    sources = (data[name] for name in ("img2img", "inpaint") if isinstance(data.get(name), Mapping))
    return isinstance(data.get("txt2img"), Mapping) or any("source_dataset" in section for section in sources)


def prompt_file_from_diffugen(data: Mapping[str, Any], folder: Path, task: str | None = None) -> PromptFile:
    """The prompt file of a DiffuGen configuration.

    Labels follow ``dataset_classes``; objects that are not among them come after, in the order of ``object_names``.

    Args:
        data: what the file holds.
        folder: where it lies; what it names is looked for from the working directory, and then from there.
        task: whose section counts; None takes what the file's ``task`` says, or the first that it has a section for.
            Without a section for image-to-image or inpainting the templates of ``txt2img`` are taken.

    Raises:
        ValueError: a missing or wrong value, or an unknown placeholder.
    """
    task = task or _task_of(data)
    drawing = data.get("txt2img") or {}
    section = data.get(SECTIONS[task])
    notes = []
    if section is None and task == "text-to-image":
        raise ValueError(f"it has no section txt2img; give task {_task_of(data)!r}.")
    if section is None:
        section = drawing
        notes.append(f"it has no section {SECTIONS[task]}; the prompts of txt2img take turns over the source's rows")
    if not isinstance(section, Mapping) or not isinstance(drawing, Mapping):
        raise ValueError(f"its section {SECTIONS[task]} is {section!r}; give it fields.")
    if section is drawing:
        _require(section, "txt2img", (*_LISTS, "prompts"))
    objects = texts("object_names", drawing.get("object_names", []))
    classes = load_class_names(
        list(dict.fromkeys((*texts("dataset_classes", data.get("dataset_classes", [])), *objects)))
    )
    names = [item.name for item in classes]
    drawn = tuple(names.index(name.strip()) for name in dict.fromkeys(objects))
    variations = None
    if section is not drawing:
        drawn, variations = tuple(range(len(names))), _variations(task, section, names)
    embeddings, words = _embeddings(section.get("textual_inversion", drawing.get("textual_inversion")), folder)
    model_classes, unmapped = _model_classes(data.get("dataset_to_model_class_map"), [names[label] for label in drawn])
    settings = _settings(data, {**drawing, **section}, task)
    if variations is not None:
        settings["source"] = find_beside(texts("source_dataset", [section["source_dataset"]])[0], folder)
    templates = _templates(drawing)
    notes += _notes(data, section, task if section is not drawing else "text-to-image", names) + unmapped
    notes += [
        f"textual_inversion teaches {word}, which stands in no prompt"
        for word in words
        if not any(word in text for text in templates.templates)
    ]
    return PromptFile(
        tuple(classes),
        drawn,
        templates,
        samples_per_prompt=count("seed_count_per_prompt", drawing.get("seed_count_per_prompt", 1)),
        seed_range=_seed_range(drawing.get("seed_range")),
        model={**drawing, **section}.get("stable_diffusion_model"),
        settings=settings,
        image_size=_image_size(data.get("image_size")),
        embeddings=embeddings,
        task=task,
        variations=variations,
        model_classes=model_classes,
        notes=tuple(notes),
    )


def model_class_map(data: Mapping[str, Any]) -> dict[str, str]:
    """``dataset_to_model_class_map``: what the labelling model calls each of the dataset's classes.

    Raises:
        ValueError: it is no mapping between texts.
    """
    given = data.get("dataset_to_model_class_map") or {}
    if not isinstance(given, Mapping) or not all(isinstance(text, str) for pair in given.items() for text in pair):
        raise ValueError(f"dataset_to_model_class_map is {given!r}; give a mapping from class to the model's class.")
    return {name.strip(): word.strip() for name, word in given.items()}


def find_beside(name: str, folder: Path) -> str:
    """Where the file or folder of that name is: from the working directory, or from ``folder`` or the one above it.

    DiffuGen's files name others from the root of its project, in whose folder ``datasets`` they lie themselves.
    """
    places = (Path(name).expanduser(), folder / name, folder.parent / name)
    return str(next((place for place in places if place.exists()), name))


def _task_of(data: Mapping[str, Any]) -> str:
    present = [task for task, section in SECTIONS.items() if isinstance(data.get(section), Mapping)]
    given = data.get("task")
    if given is None:
        return present[0]
    by_name = {**{section: task for task, section in SECTIONS.items()}, **{task: task for task in SECTIONS}}
    if given not in by_name:
        raise ValueError(f"task is {given!r}; choose one of {', '.join(SECTIONS.values())}.")
    return by_name[given]


def _require(section: Mapping[str, Any], name: str, fields: Sequence[str]) -> None:
    if missing := [field for field in fields if field not in section]:
        kind = "a folder or Hub id" if missing[0] == "source_dataset" else "a list of texts"
        raise ValueError(f"{name} has no {missing[0]}; give it {kind}.")


def _templates(drawing: Mapping[str, Any]) -> PromptTemplates:
    if "prompts" not in drawing:
        return PromptTemplates(("{object_name}",), {}, name_field="object_name")
    lists = {name: texts(list_name, drawing.get(list_name, [])) for list_name, name in _LISTS.items()}
    del lists["object_name"]
    return PromptTemplates(texts("prompts", drawing["prompts"]), lists, name_field="object_name", combine_all=True)


def _variations(task: str, section: Mapping[str, Any], names: Sequence[str]) -> Variations:
    if task == "image-to-image":
        _require(section, "img2img", ("source_dataset", *_OTHER_CONDITIONS))
        values = {name: texts(list_name, section[list_name]) for list_name, name in _OTHER_CONDITIONS.items()}
        if empty := [name for name, items in values.items() if not items]:
            raise ValueError(f"img2img has no values for {empty[0]}; give at least one.")
        check_number_of_prompts([len(values[CONDITIONS[0]]) * len(values[CONDITIONS[1]]) * len(values[CONDITIONS[2]])])
        return OtherConditions(values)
    _require(section, "inpaint", ("source_dataset",))
    found = {name: texts(name, section[name]) for name in names if name in section}
    if not any(found.values()):
        raise ValueError(f"inpaint describes none of the classes {', '.join(names[:20])}; give CLASS: [descriptions].")
    return OtherObjects(found)


def _settings(data: Mapping[str, Any], section: Mapping[str, Any], task: str) -> dict[str, Any]:
    """Values of ``ubgen generate``'s settings."""
    settings: dict[str, Any] = {"task": task}
    if section.get("negative_prompt") is not None:
        settings["negative_prompt"] = texts("negative_prompt", [section["negative_prompt"]])[0]
    if "steps" in data:
        settings["num_inference_steps"] = count("steps", data["steps"])
    if "images_per_shard" in data:
        settings["samples_per_shard"] = count("images_per_shard", data["images_per_shard"])
    if data.get("image_format") in _CODECS:
        settings["codec"] = _CODECS[data["image_format"]]
    if "dataset_root" in data and "dataset_name" in data:
        parts = texts("dataset_root and dataset_name", [data["dataset_root"], data["dataset_name"]])
        settings["output_dir"] = str(Path(*parts) / SECTIONS[task])
    if task == "inpaint":
        # as diffusers' inpainting does: nothing of the old object is left
        settings["strength"] = 1.0
    if task == "text-to-image" and data.get("unsupervised") is True:
        settings["annotations"] = list(_ANNOTATIONS)
    return settings


def _embeddings(given: Any, folder: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Entries for the setting ``embeddings``, and the words that they teach, where those are named."""
    if given is None:
        return (), ()
    if not isinstance(given, Mapping) or not isinstance(given.get("weights"), str):
        raise ValueError(f'textual_inversion is {given!r}; give {{"weights": FILE, "keyword": WORD}}.')
    file, word = find_beside(given["weights"], folder), given.get("keyword")
    if word is None:
        return (file,), ()
    return (f"{file}={texts('keyword', [word])[0]}",), (str(word),)


def _model_classes(given: Any, drawn: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """The labelling model's classes of those drawn, and notes on what the map leaves open."""
    mapping = model_class_map({"dataset_to_model_class_map": given})
    missing = [name for name in drawn if name not in mapping]
    notes = []
    if mapping and missing:
        notes.append(f"dataset_to_model_class_map has no {missing[0]!r}; rows of it have no model_class")
    return mapping, notes


def _notes(data: Mapping[str, Any], section: Mapping[str, Any], task: str, names: Sequence[str]) -> list[str]:
    """What the file says and this program does not follow."""
    notes = [f"{name} is not read: {why}" for name, why in _IGNORED.items() if name in data or name in section]
    if data.get("image_format") not in (None, *_CODECS):
        notes.append(f"image_format is {data['image_format']!r}, which is not read; choose a codec")
    if data.get("deterministic") is False:
        notes.append("deterministic is false, which is not followed: equal seeds give equal images")
    others = [other for other in SECTIONS if other != task and isinstance(data.get(SECTIONS[other]), Mapping)]
    notes += [f"its section {SECTIONS[other]} is drawn with --task {other}" for other in others]
    known = (*_READ[task], *(names if task == "inpaint" else ()), *_IGNORED)
    unknown = [name for name in data if name not in (*_READ_ABOVE, *_IGNORED)]
    unknown += [f"{SECTIONS[task]}.{name}" for name in section if name not in known]
    notes += [f"{name} is not read: it is no field of DiffuGen's, or no class" for name in unknown]
    foreign = [name for name in model_class_map(data) if name not in names]
    notes += [f"dataset_to_model_class_map has {name!r}, which is no class of the dataset" for name in foreign]
    return notes


def _seed_range(value: Any) -> tuple[int, int] | None:
    if value is None:
        return None
    try:
        low, high = value["min"], value["max"]
    except (TypeError, KeyError) as error:
        raise ValueError(f'seed_range is {value!r}; give {{"min": …, "max": …}}.') from error
    if not (isinstance(low, int) and isinstance(high, int) and 0 <= low <= high < 2**63):
        raise ValueError(f"seed_range is {value!r}; give whole numbers with 0 <= min <= max < 2**63.")
    return low, high


def _image_size(value: Any) -> tuple[int, int] | None:
    if value is None:
        return None
    if not isinstance(value, Mapping) or not {"height", "width"} <= set(value):
        raise ValueError(f'image_size is {value!r}; give {{"width": …, "height": …}}.')
    return count("image_size.height", value["height"]), count("image_size.width", value["width"])
