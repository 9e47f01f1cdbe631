"""One image to come, and what all kinds of samples have in common. No torch.

A run's samples are of one of four kinds: class prompts (:class:`.PromptSamples`), captions of a file
(:class:`.CaptionSamples`), the rows of a source dataset (:class:`.SourceSamples`) or variations of such rows
(:class:`.VariationSamples`). Whoever draws, records or lists them knows :class:`Samples` only.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from ..prompts.class_prompts import ClassName, ClassPrompt


@dataclass(frozen=True)
class Sample:
    """One image to be drawn; everything about it is known before a model is loaded.

    Attributes:
        index: its place in the dataset, from 0.
        prompt: its class and text.
        seed: of its initial latents, from 0 to 2**63 - 1.
    """

    index: int
    prompt: ClassPrompt
    seed: int


@dataclass(frozen=True)
class SampleInputs:
    """What a batch of N samples brings beside prompts and seeds.

    Attributes:
        columns: of each of the N rows, what the kind of samples adds to it.
        arguments: what the pipeline is called with for the batch.
    """

    columns: Sequence[Mapping[str, Any]]
    arguments: Mapping[str, Any] = field(default_factory=dict)


class Samples(Protocol):
    """The samples of a run, in the order of their indices. Classes take turns, so that any prefix is balanced."""

    @property
    def classes(self) -> Sequence[ClassName]:
        """All classes, in the order of their labels."""
        ...

    @property
    def samples_per_class(self) -> int:
        """Images of each class, caption or source row, whichever takes turns."""
        ...

    @property
    def turns(self) -> Sequence[int]:
        """Labels of the first samples; sample i has label ``turns[i % len(turns)]``."""
        ...

    @property
    def allows_long_prompts(self) -> bool:
        """Whether prompts longer than the tokenizer takes are meant to work."""
        ...

    @property
    def attribute_names(self) -> Sequence[str]:
        """Names of the prompts' attributes, each of which some prompt has."""
        ...

    @property
    def model_classes(self) -> Mapping[str, str]:
        """What a labelling model calls the classes, by their names; empty where nothing says so."""
        ...

    @property
    def notes(self) -> Sequence[str]:
        """What was left out, one sentence each, for the user to read."""
        ...

    def __len__(self) -> int: ...

    def sample(self, index: int) -> Sample:
        """The sample of that index in ``range(len(samples))``."""
        ...

    def prompts(self) -> Sequence[ClassPrompt]:
        """Every prompt of the run, once."""
        ...

    def facts(self) -> dict[str, Any]:
        """What decides prompts, seeds and sources beside classes and run seed, as JSON values for the manifest."""
        ...

    def lineage(self, sample: Sample) -> dict[str, Any]:
        """What the sample comes from beside its prompt, as JSON values that a dry run lists."""
        ...

    def inputs(self, samples: Sequence[Sample], size: tuple[int, int]) -> SampleInputs:
        """What these samples bring beside prompts and seeds, for images of that size (H, W)."""
        ...

    def features(self) -> dict[str, Any]:
        """The types, of ``datasets``, of the columns in :meth:`inputs`."""
        ...
