"""From the settings of a run to its samples: which of the four kinds the settings stand for. No torch.

classes names a file of captions      CaptionSamples
a source, and classes or none         SourceSamples
a source, and a file of variations    VariationSamples
anything else                         PromptSamples
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from ..prompts.class_file import ClassFile, read_class_file
from ..prompts.class_prompts import label_names
from ..prompts.file_values import parse_class_map
from ..prompts.template_files import PromptFile
from .caption_samples import load_caption_samples
from .prompt_samples import PromptSamples, load_prompt_samples, read_prompt_file
from .sample import Samples
from .source_dataset import SourceDataset
from .source_samples import SourceSamples, SourceSettings, check_task
from .variation_samples import VariationSamples


@dataclass(frozen=True)
class SampleSettings:
    """The settings that decide which samples a run has. Those of ``ubgen generate`` hold them, with their help."""

    class_names: Sequence[str] | None
    classes: str | None
    samples_per_class: int | None
    template: str
    definitions: bool
    max_prompts: int | None
    negative_prompt: str | None
    seed: int
    task: str
    source: str | None
    source_split: str
    source_class_map: Sequence[str] | None
    samples_per_source: int
    strength: float
    region: str
    region_margin: int


def load_samples(settings: SampleSettings, class_file: ClassFile | None = None) -> Samples:
    """The samples that these settings stand for.

    Args:
        settings: see :class:`SampleSettings`.
        class_file: the file that ``classes`` names, where it was read already; else it is read here.

    Raises:
        ValueError: classes, templates, captions or a source that cannot be read, or that do not go together.
    """
    check_task(settings.task, settings.source, settings.strength, settings.region, settings.region_margin)
    if class_file is None and settings.classes is not None:
        class_file = read_class_file(settings.classes)
    if class_file is not None:
        captions = load_caption_samples(
            class_file, settings.class_names, seed=settings.seed, samples_per_class=settings.samples_per_class or 1
        )
        if captions is not None and settings.source is not None:
            raise ValueError(
                f"classes is {settings.classes!r}, captions of their own images, and source is given; give one of"
                " them."
            )
        if captions is not None:
            return captions
    if settings.classes is not None and settings.class_names is not None:
        raise ValueError("give the classes either by class_names or by classes, a file or built-in list.")
    # without a file, classes is the name of a built-in list; other texts are refused where classes are read
    classes = class_file or settings.classes or settings.class_names
    if settings.source is None:
        return _prompt_samples(settings, classes or [])
    return _source_samples(settings, settings.source, classes)


def _prompt_samples(settings: SampleSettings, classes: ClassFile | str | Sequence[str]) -> PromptSamples:
    return load_prompt_samples(
        classes,
        template=settings.template,
        seed=settings.seed,
        samples_per_class=settings.samples_per_class,
        max_prompts=settings.max_prompts,
        negative_prompt=settings.negative_prompt,
        definitions=settings.definitions,
        task=settings.task,
    )


def _source_samples(
    settings: SampleSettings, name: str, classes: ClassFile | str | Sequence[str] | None
) -> SourceSamples:
    class_map = parse_class_map(settings.source_class_map or [], "source_class_map")
    how = SourceSettings(
        settings.task, settings.strength, settings.region, settings.region_margin, settings.samples_per_source
    )
    file = read_prompt_file(classes, settings.task) if isinstance(classes, ClassFile) else None
    if file is not None and file.variations is not None:
        return _variation_samples(settings, name, file, class_map, how)
    if classes is None:
        source = SourceDataset(name, settings.source_split, class_map=class_map)
        prompts = _prompt_samples(settings, source.new_names)
    else:
        prompts = _prompt_samples(settings, classes)
        source = SourceDataset(name, settings.source_split, label_names(prompts.classes), class_map)
    fields = {item.name: getattr(prompts, item.name) for item in dataclasses.fields(PromptSamples)}
    return SourceSamples(**fields, source=source, settings=how)


def _variation_samples(
    settings: SampleSettings, name: str, file: PromptFile, class_map: dict[str, str], how: SourceSettings
) -> VariationSamples:
    given = {
        "template": settings.template != "{name}",
        "definitions": settings.definitions,
        "max_prompts": settings.max_prompts,
    }
    if wrong := [setting for setting, value in given.items() if value]:
        raise ValueError(
            f"{wrong[0]} is given, but classes is {settings.classes!r}, which says how each source row is drawn; leave"
            " it out."
        )
    source = SourceDataset(name, settings.source_split, label_names(file.classes), class_map)
    return VariationSamples(file, settings.seed, settings.samples_per_source, (), True, source=source, settings=how)
