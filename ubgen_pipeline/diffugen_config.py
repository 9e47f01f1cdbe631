"""DiffuGen's dataset configurations (Shenoda and Kim 2023), read as they are: their ``txt2img`` section.

Every template of ``prompts`` is combined with all five attribute lists, whether it uses them or not, and each prompt
is drawn ``seed_count_per_prompt`` times with seeds from ``seed_range``.
"""

from collections.abc import Mapping
from typing import Any

from .class_prompts import load_class_names
from .prompt_files import PromptFile, count, texts
from .prompt_templates import PromptTemplates

# in the order of the product; the first changes slowest
_LISTS = {
    "view_points": "view_point",
    "object_names": "object_name",
    "times_of_day": "time_of_day",
    "sky_conditions": "sky_condition",
    "weather_conditions": "weather_condition",
}
_IGNORED = {
    "image_count": "the number of images is that of the prompts times seed_count_per_prompt",
    "label_model": "name a segmenter of your own to label with one",
    "textual_inversion": "load its weights into the model, or the keyword is read as plain letters",
}


def is_diffugen_config(data: Mapping[str, Any]) -> bool:
    """Whether the mapping has DiffuGen's section for text-to-image."""
    return isinstance(data.get("txt2img"), Mapping) and "prompts" in data["txt2img"]


def prompt_file_from_diffugen(data: Mapping[str, Any]) -> PromptFile:
    """The prompt file of a DiffuGen configuration.

    Labels follow ``dataset_classes``; objects that are not among them come after, in the order of ``object_names``.

    Raises:
        ValueError: a missing or wrong value, or an unknown placeholder.
    """
    section = data["txt2img"]
    if missing := [name for name in (*_LISTS, "prompts") if name not in section]:
        raise ValueError(f"txt2img has no {missing[0]}; give it a list of texts.")
    lists = {name: texts(name, section[name]) for name in _LISTS}
    objects = lists.pop("object_names")
    listed = texts("dataset_classes", data.get("dataset_classes", []))
    classes = load_class_names(list(dict.fromkeys((*listed, *objects))))
    names = [item.name for item in classes]
    settings: dict[str, Any] = {}
    if section.get("negative_prompt") is not None:
        settings["negative_prompt"] = texts("negative_prompt", [section["negative_prompt"]])[0]
    if "steps" in data:
        settings["num_inference_steps"] = count("steps", data["steps"])
    if "images_per_shard" in data:
        settings["samples_per_shard"] = count("images_per_shard", data["images_per_shard"])
    model = section.get("stable_diffusion_model")
    return PromptFile(
        tuple(classes),
        tuple(names.index(name.strip()) for name in dict.fromkeys(objects)),
        PromptTemplates(
            texts("prompts", section["prompts"]),
            {_LISTS[name]: values for name, values in lists.items()},
            name_field="object_name",
            combine_all=True,
        ),
        samples_per_prompt=count("seed_count_per_prompt", section.get("seed_count_per_prompt", 1)),
        seed_range=_seed_range(section.get("seed_range")),
        model=model,
        settings=settings,
        image_size=_image_size(data.get("image_size")),
        notes=tuple(f"{name} is not read: {why}" for name, why in _IGNORED.items() if name in {**data, **section}),
    )


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
