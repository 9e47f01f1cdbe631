"""Samples from class prompts: which prompt and seed each of them has. No torch."""

import dataclasses
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from ..prompt_weights import has_weights, without_escapes
from ..prompts.class_file import ClassFile, read_class_file
from ..prompts.class_prompts import ClassName, ClassPrompt, class_prompts, load_class_names
from ..prompts.diffugen import is_diffugen_config, prompt_file_from_diffugen
from ..prompts.file_values import mapping_in
from ..prompts.template_files import TEXT_KEYS, PromptFile, prompt_file_from
from ..prompts.templates import PromptTemplates, check_number_of_prompts, chosen_positions, distinct_choices
from ..prompts.word_senses import with_definitions
from ..sample_seeds import sample_seed
from .sample import Sample, SampleInputs

SAMPLES_PER_CLASS = 10
_MAPPING_SUFFIXES = (".json", ".yaml", ".yml")


@dataclass(frozen=True)
class PromptSamples:
    """Samples from class names and templates. Classes take turns, and so do the prompts of each class.

    Attributes:
        file: classes, templates and what else decides the samples.
        seed: seed of the run.
        samples_per_class: images of each class that is drawn.
        positions: for each class that is drawn, which of its prompts are.
        allows_long_prompts: whether prompts longer than the tokenizer takes are meant to work.
    """

    file: PromptFile
    seed: int
    samples_per_class: int
    positions: tuple[Sequence[int], ...]
    allows_long_prompts: bool

    @property
    def classes(self) -> tuple[ClassName, ...]:
        """See :class:`.Samples`."""
        return self.file.classes

    @property
    def model_classes(self) -> Mapping[str, str]:
        """See :class:`.Samples`."""
        return self.file.model_classes

    def __len__(self) -> int:
        return len(self.file.drawn) * self.samples_per_class

    @property
    def turns(self) -> Sequence[int]:
        """See :class:`.Samples`."""
        return self.file.drawn

    def sample(self, index: int) -> Sample:
        """See :class:`.Samples`."""
        number, turn = divmod(index, len(self.file.drawn))
        label = self.file.drawn[turn]
        positions = self.positions[turn]
        round_number, place = divmod(number, len(positions))
        prompt = self.file.templates.prompt(self.classes[label], label, positions[place])
        if self.file.seed_range is None:
            return Sample(index, prompt, sample_seed(self.seed, prompt.key, number))
        rng = random.Random(sample_seed(self.seed, f"{prompt.key}/{positions[place]}", 0))
        return Sample(index, prompt, distinct_choices(rng, *self.file.seed_range, round_number + 1)[-1])

    def prompts(self) -> list[ClassPrompt]:
        """Every prompt of the run, once.

        Raises:
            ValueError: one that cannot be filled, or lacks its class's word.
        """
        prompts = []
        for label, positions in zip(self.file.drawn, self.positions):
            templates = self.file.templates
            prompts += [templates.prompt(self.classes[label], label, position) for position in positions]
        return prompts

    @property
    def attribute_names(self) -> Sequence[str]:
        """See :class:`.Samples`."""
        return self._attribute_names

    @cached_property
    def _attribute_names(self) -> list[str]:
        return list(dict.fromkeys(name for prompt in self.prompts() for name, _ in prompt.attributes))

    def facts(self) -> dict[str, Any]:
        """See :class:`.Samples`."""
        templates = dataclasses.asdict(self.file.templates)
        templates["templates"] = list(templates["templates"])
        templates["attributes"] = {name: list(values) for name, values in self.file.templates.attributes.items()}
        own = {key: list(values) for key, values in templates.pop("of_class").items()}
        facts = {**templates, "drawn": list(self.file.drawn), "seed_range": self.file.seed_range}
        facts |= {"of_class": own} if own else {}
        return {**facts, "model_classes": dict(self.model_classes)} if self.model_classes else facts

    @property
    def notes(self) -> Sequence[str]:
        """None: what does not count of a file with templates is said when it is read."""
        return ()

    def lineage(self, sample: Sample) -> dict[str, Any]:
        """Nothing: the prompt says it all."""
        return {}

    def inputs(self, samples: Sequence[Sample], size: tuple[int, int]) -> SampleInputs:
        """See :class:`.Samples`."""
        return SampleInputs([{} for _ in samples])

    def features(self) -> dict[str, Any]:
        """See :class:`.Samples`."""
        return {}


def read_prompt_file(source: str | Path | ClassFile, task: str | None = None) -> PromptFile | None:
    """The file if it holds templates, ours or DiffuGen's; None for what is an ordinary class list.

    Args:
        source: the file.
        task: which of a DiffuGen configuration's sections counts; None takes the file's own choice.

    Raises:
        ValueError: it could not be read, or says something that cannot be followed.
    """
    file = read_class_file(source)
    if file is None or file.suffix not in _MAPPING_SUFFIXES:
        return None
    try:
        data = mapping_in(file.text, file.suffix)
        if data is not None and "templates" in data:
            words = mapping_in(file.text, file.suffix, as_text=True) or {}
            data = {**data, **{key: words[key] for key in TEXT_KEYS if data.get(key) is not None}}
    except (ValueError, yaml.YAMLError) as error:
        raise ValueError(f"classes is {file.source!r}, which could not be read: {error}") from error
    if data is None or not (is_diffugen_config(data) or "templates" in data):
        return None
    try:
        if is_diffugen_config(data):
            return prompt_file_from_diffugen(data, file.path.parent, task)
        return prompt_file_from(data, file.path.parent)
    except ValueError as error:
        raise ValueError(f"classes is {file.source!r}: {error}") from error


def load_prompt_samples(
    source: str | Path | ClassFile | Sequence[str],
    *,
    template: str = "{name}",
    seed: int = 0,
    samples_per_class: int | None = None,
    max_prompts: int | None = None,
    negative_prompt: str | None = None,
    definitions: bool = False,
    task: str | None = None,
) -> PromptSamples:
    """The samples of class names or of a file.

    Args:
        source: class names, a class file, a built-in list, or a file with templates.
        template: prompt of a source without templates of its own.
        seed: seed of the run.
        samples_per_class: images of each class; None takes each prompt of a file with templates as often as it says,
            and ``SAMPLES_PER_CLASS`` for other sources.
        max_prompts: different prompts of each class, chosen by the seed; None takes what the file says, or all.
        negative_prompt: text to guide away from; weights in it make the run one with word weights.
        definitions: add each class's definition to its prompt.
        task: see :func:`read_prompt_file`.

    Raises:
        ValueError: anything wrong with the classes, templates or attributes, a product of too many prompts, a class
            word that is not in its prompt.
    """
    if isinstance(source, (str, Path)):
        source = read_class_file(source) or source
    file = read_prompt_file(source, task) if isinstance(source, ClassFile) else None
    is_long = file is not None or definitions
    if file is not None and template != "{name}":
        raise ValueError(
            f"template is {template!r}, but the class file has templates of its own; give one of the two."
        )
    if file is None:
        classes = tuple(load_class_names(source))
        if definitions and "{definition}" not in template:
            template = f"{template}, {{definition}}"
        if "{definition}" in template:
            classes = with_definitions(classes)
        class_prompts(classes, template)
        weighted = has_weights(template) or has_weights(negative_prompt or "")
        template = template if weighted else without_escapes(template)
        file = PromptFile(classes, tuple(range(len(classes))), PromptTemplates((template,), {}, weighted=weighted))
        samples_per_class = SAMPLES_PER_CLASS if samples_per_class is None else samples_per_class
    elif definitions or file.templates.uses_definitions:
        file = _with_definitions(file, definitions)
    counts = [file.templates.count(file.classes[label]) for label in file.drawn]
    cap = file.max_prompts if max_prompts is None else max_prompts
    used = [number if cap is None else min(number, cap) for number in counts]
    check_number_of_prompts(used)
    if samples_per_class is not None:
        used = [min(number, samples_per_class) for number in used]
    positions = tuple(
        chosen_positions(number, wanted, seed, file.classes[label].key)
        for label, number, wanted in zip(file.drawn, counts, used)
    )
    if samples_per_class is None:
        # classes with more synonyms have more prompts; all get the same number of images
        samples_per_class = max(used) * file.samples_per_prompt
    if file.seed_range is not None:
        low, high = file.seed_range
        if (rounds := -(-samples_per_class // min(used))) > high - low + 1:
            raise ValueError(
                f"seed_range holds {high - low + 1} seeds for {rounds} images of a prompt; widen it, or ask for fewer."
            )
    samples = PromptSamples(file, seed, samples_per_class, positions, is_long or file.templates.weighted)
    # raises where one cannot be filled
    samples.prompts()
    return samples


def _with_definitions(file: PromptFile, everywhere: bool) -> PromptFile:
    templates = file.templates
    if everywhere:
        templates = templates.each(
            lambda text: text if "{definition}" in text else f"{text.rstrip('. ')}, {{definition}}"
        )
    drawn = [file.classes[label] for label in file.drawn]
    defined = dict(zip(file.drawn, with_definitions(drawn)))
    classes = tuple(defined.get(label, item) for label, item in enumerate(file.classes))
    return dataclasses.replace(file, classes=classes, templates=templates)
