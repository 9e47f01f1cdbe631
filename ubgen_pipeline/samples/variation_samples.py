"""Samples that draw every row of a source in several ways, which depend on how the row was drawn."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from ..prompts.class_prompts import ClassPrompt
from ..prompts.diffugen_variations import DRAWN_FROM
from ..sample_seeds import sample_seed
from .sample import Sample
from .source_samples import SourceSamples


@dataclass(frozen=True)
class VariationSamples(SourceSamples):
    """Samples that are the variations of the source's rows: the first of each row, then the second, and so on.

    Raises:
        ValueError: as :class:`SourceSamples`; or rows that do not say what they were drawn from, or nothing to draw.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        attributes = self.source.rows.features.get("attributes")
        if missing := [name for name in DRAWN_FROM if not isinstance(attributes, dict) or name not in attributes]:
            raise ValueError(
                f"source is {self.source.source!r}, whose rows have no attribute {missing[0]!r}; give a dataset that"
                " `ubgen generate` drew from the configuration's txt2img section."
            )
        if not self._entries:
            raise ValueError(
                f"none of the {len(self.source)} rows of source {self.source.source!r} is to be drawn anew: they have"
                " the conditions already, or no description for their class, or no object in their masks."
            )

    @cached_property
    def _has_region(self) -> list[bool]:
        """Of every row, whether its mask shows what inpainting draws anew."""
        if self.settings.task != "inpaint":
            return [True] * len(self.source)
        wanted = [1 + label if self.settings.region == "object" else 0 for label in self.source.rows["label"]]
        masks = (row["mask"] for row in self.source.rows.select_columns("mask"))  # pyright: ignore[reportCallIssue, reportArgumentType]
        return [bool((np.asarray(mask) == value).any()) for mask, value in zip(masks, wanted)]

    @cached_property
    def _variations(self) -> list[list[ClassPrompt]]:
        """Of every source row, its prompts."""
        assert self.file.variations is not None
        variations = []
        for label, drawn_from, has_region in zip(self._labels, self.source.rows["attributes"], self._has_region):
            # a row of another file's template has empty attributes where the template does not use them
            is_known = has_region and all(drawn_from[name] is not None for name in DRAWN_FROM)
            item = self.classes[label]
            variations.append(self.file.variations.prompts(item, label, drawn_from) if is_known else [])
        return variations

    @cached_property
    def _entries(self) -> list[tuple[int, ClassPrompt]]:
        """Source row and prompt of one round of samples."""
        longest = max(map(len, self._variations))
        return [
            (row, prompts[turn])
            for turn in range(longest)
            for row, prompts in enumerate(self._variations)
            if turn < len(prompts)
        ]

    @cached_property
    def _entry_ranks(self) -> tuple[list[int], Counter[str]]:
        """Of every entry, how many of its class come before it; and the entries of each class, by its key."""
        counts: Counter[str] = Counter()
        ranks = []
        for _, prompt in self._entries:
            ranks.append(counts[prompt.key])
            counts[prompt.key] += 1
        return ranks, counts

    @property
    def notes(self) -> list[str]:
        """What of the source is left out, one sentence each."""
        bare = sum(not has_region for has_region in self._has_region)
        other = sum(not prompts for prompts in self._variations) - bare
        why = "show what is asked for already, or are of a class that has no descriptions"
        notes = [f"{bare} of {len(self.source)} rows of the source have no {self.settings.region} in their masks"]
        notes = notes if bare else []
        return [*notes, f"{other} of {len(self.source)} rows of the source {why}"] if other else notes

    def __len__(self) -> int:
        return len(self._entries) * self.settings.samples_per_source

    @property
    def turns(self) -> Sequence[int]:
        """See :class:`.Samples`."""
        return [prompt.label for _, prompt in self._entries]

    def source_index(self, index: int) -> int:
        """The source row that sample ``index`` is drawn from."""
        return self._entries[index % len(self._entries)][0]

    def sample(self, index: int) -> Sample:
        """See :class:`.Samples`."""
        round_number, place = divmod(index, len(self._entries))
        _, prompt = self._entries[place]
        ranks, counts = self._entry_ranks
        return Sample(
            index, prompt, sample_seed(self.seed, prompt.key, round_number * counts[prompt.key] + ranks[place])
        )

    def prompts(self) -> list[ClassPrompt]:
        """See :class:`.Samples`."""
        return list(dict.fromkeys(prompt for _, prompt in self._entries))

    def facts(self) -> dict[str, Any]:
        """Those of the source's samples, and what the variations are."""
        assert self.file.variations is not None
        return {**super().facts(), "variations": self.file.variations.facts()}
