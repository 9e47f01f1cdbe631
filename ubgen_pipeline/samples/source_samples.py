"""Samples that start from the rows of a dataset: which source row, prompt and seed each of them has.

Importable without torch; only :meth:`SourceSamples.inputs` needs it.
"""

import dataclasses
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ..files.image_codecs import png_bytes
from .prompt_samples import PromptSamples
from .sample import Sample, SampleInputs
from .source_dataset import REGIONS, TASKS, SourceDataset, SourceRow


@dataclass(frozen=True)
class SourceSettings:
    """How images are drawn from source images.

    Attributes:
        task: ``image-to-image`` or ``inpaint``.
        strength: share of the steps that an image goes through, in (0, 1].
        region: what inpainting draws anew: ``object`` or ``background``.
        region_margin: pixels that the region is grown by.
        samples_per_source: images drawn from each source row.
    """

    task: str
    strength: float
    region: str
    region_margin: int
    samples_per_source: int


def check_task(task: str, source: str | None, strength: float, region: str, region_margin: int) -> None:
    """Raise ``ValueError`` for values out of range, a task without a source, or a source without a task."""
    if task not in TASKS:
        raise ValueError(f"task is {task!r}; choose one of {', '.join(TASKS)}.")
    if (task == TASKS[0]) != (source is None):
        raise ValueError(
            f"task is {task!r} and source {source!r}; image-to-image and inpaint need a source dataset, and"
            " text-to-image takes none."
        )
    if not 0 < strength <= 1:
        raise ValueError(f"strength is {strength}; choose above 0, up to 1.")
    if region not in REGIONS:
        raise ValueError(f"region is {region!r}; choose one of {', '.join(REGIONS)}.")
    if region_margin < 0:
        raise ValueError(f"region_margin is {region_margin}; choose 0 or more.")


@dataclass(frozen=True)
class SourceSamples(PromptSamples):
    """Samples of which number i is drawn from source row i mod R; each class's prompts take turns over its rows.

    Raises:
        ValueError: the source has a class that is not drawn, or inpainting is asked of a source without masks.
    """

    source: SourceDataset
    settings: SourceSettings

    def __post_init__(self) -> None:
        for label in set(self._labels):
            if label not in self.file.drawn:
                raise ValueError(f"the source's class {self.classes[label].name!r} has no prompt; add one.")
        if self.settings.task == "inpaint" and not self.source.has_masks:
            raise ValueError(
                f"source is {self.source.source!r}, which has no column 'mask'; inpainting needs one: generate it with"
                " --annotations mask, or add masks with `ubgen annotate`."
            )

    def __len__(self) -> int:
        return len(self.source) * self.settings.samples_per_source

    @cached_property
    def _labels(self) -> list[int]:
        return self.source.labels()

    @cached_property
    def _ranks(self) -> tuple[list[int], Counter[int]]:
        """Of every source row, how many rows of its class come before it; and the rows of each class."""
        counts: Counter[int] = Counter()
        ranks = []
        for label in self._labels:
            ranks.append(counts[label])
            counts[label] += 1
        return ranks, counts

    @property
    def turns(self) -> list[int]:
        """See :class:`.Samples`."""
        return self._labels

    def source_index(self, index: int) -> int:
        """The source row that sample ``index`` is drawn from."""
        return index % len(self.source)

    def sample(self, index: int) -> Sample:
        """See :class:`.Samples`."""
        round_number, row = divmod(index, len(self.source))
        label, (ranks, counts) = self._labels[row], self._ranks
        number = round_number * counts[label] + ranks[row]
        turn = self.file.drawn.index(label)
        return dataclasses.replace(super().sample(number * len(self.file.drawn) + turn), index=index)

    def facts(self) -> dict[str, Any]:
        """Those of the prompts, and the source and how it is used."""
        source = {"fingerprint": self.source.fingerprint(), "split": self.source.split}
        return {**super().facts(), "source": {**source, **dataclasses.asdict(self.settings)}}

    def lineage(self, sample: Sample) -> dict[str, Any]:
        """The source row."""
        return {"source_index": self.source_index(sample.index)}

    def inputs(self, samples: Sequence[Sample], size: tuple[int, int]) -> SampleInputs:
        """The source rows of these samples, cut to ``size`` (H, W), and what the dataset's rows say about them."""
        region = self.settings.region if self.settings.task == "inpaint" else None
        rows = [
            self.source.row(self.source_index(sample.index), size, region, self.settings.region_margin)
            for sample in samples
        ]
        return SampleInputs([self._columns(row) for row in rows], self._arguments(rows))

    def features(self) -> dict[str, Any]:
        """See :class:`.Samples`."""
        from datasets import Image, Value

        types: dict[str, Any] = {name: Value("string") for name in ("task", "source_dataset", "source_split")}
        types |= {"source_index": Value("int64"), "strength": Value("float64")}
        if self.settings.task == "inpaint":
            types["region"] = Value("string")
        if self.source.has_masks:
            types["mask"] = Image(mode="L")
        return types

    def _arguments(self, rows: Sequence[SourceRow]) -> dict[str, Any]:
        """What the pipeline is called with: images ``(B, 3, H, W)`` in [0, 1], and regions ``(B, H, W)`` bool."""
        import numpy as np
        import torch

        pixels = np.stack([np.asarray(row.image, np.float32) / 255 for row in rows])
        given: dict[str, Any] = {
            "source_images": torch.from_numpy(pixels).permute(0, 3, 1, 2),
            "strength": self.settings.strength,
        }
        regions = [row.region for row in rows if row.region is not None]
        if regions:
            given["regions"] = torch.from_numpy(np.stack(regions))
        return given

    def _columns(self, row: SourceRow) -> dict[str, Any]:
        """Where a row of the dataset comes from, and the mask that it keeps."""
        values = {
            "task": self.settings.task,
            "source_dataset": self.source.public_name(),
            "source_split": self.source.split,
            "source_index": row.index,
            "strength": self.settings.strength,
        }
        if self.settings.task == "inpaint":
            values["region"] = self.settings.region
        if row.mask is not None:
            values["mask"] = {"bytes": png_bytes(row.mask), "path": None}
        return values
