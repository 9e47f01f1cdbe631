"""Draw a row of a generated dataset again from its own provenance, and say whether the image is the same.

Pixels depend on the batch by rounding, so the whole batch that the row was drawn in is drawn again where the dataset
still holds it. Everything comes from the row, its neighbours and the manifest; only where a local model or LoRA lies
now must be said.
"""

import io
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ..commands.console import say
from ..commands.settings_parser import field_help, name_leading, parse_settings, run_command
from ..files.folder_lock import STATE_FOLDER
from ..hub.access import check_repo_id, retried
from ..inference.presets import PRESETS, Preset
from ..models.sources import fingerprint

MANIFEST = f"{STATE_FOLDER}/manifest.json"


@dataclass(frozen=True)
class RegenerateSettings:
    """Settings of ``ubgen regenerate``."""

    dataset: str = field_help("folder of a generated dataset, or its id on the Hub")
    index: int = field_help("the row's index")
    output: str | None = field_help("PNG file to write; INDEX.png if not given", None)
    model: str | None = field_help("where the model lies now, if it came from a local folder", None)
    lora: str | None = field_help("where the LoRA lies now, if it came from a local folder", None)
    few_step_lora: str | None = field_help("where the preset's LoRA lies now, if it came from a local folder", None)
    device: str | None = field_help("that of the dataset if not given", None)

    def __post_init__(self) -> None:
        if self.index < 0:
            raise ValueError(f"index is {self.index}; give that of a row, from 0.")


@dataclass(frozen=True)
class Row:
    """A row as it is stored, and the rows of its batch in order, itself among them; without a manifest it is alone."""

    columns: dict[str, Any]
    batch: list[dict[str, Any]]
    manifest: dict[str, Any]
    batch_is_whole: bool


def main(argv: Sequence[str] | None = None) -> int:
    """``ubgen regenerate DATASET --index N``: 0 where the image is the same, 1 where it differs, 2 for an error."""
    return run_command(_body, argv)


def _body(argv: Sequence[str]) -> int:
    settings = parse_settings(
        RegenerateSettings,
        name_leading(argv, ["dataset"]),
        prog="ubgen regenerate",
        description=(__doc__ or "").split("\n")[0],
    )
    row = find_row(settings.dataset, settings.index)
    image = regenerate(
        row, model=settings.model, lora=settings.lora, few_step_lora=settings.few_step_lora, device=settings.device
    )
    output = Path(settings.output or f"{settings.index}.png").expanduser()
    image.save(output, format="PNG")
    alone = "" if row.batch_is_whole else "; its batch is not in the dataset any more, so it was drawn alone"
    difference = largest_difference(image, stored_image(row))
    if difference == 0:
        say(f"{output}: the same image, bit for bit")
        return 0
    say(f"{output}: differs by up to {difference} of 255{alone}")
    return 1


def find_row(dataset: str, index: int) -> Row:
    """The row of that index in a dataset's folder, or on the Hub.

    Raises:
        ValueError: no such dataset or row, or one that lacks the columns of ubgen's datasets.
    """
    import pyarrow.parquet

    source = _Files(dataset)
    manifest = source.manifest()
    for file in source.shards_with(index, manifest):
        table = pyarrow.parquet.read_table(file)
        if missing := {"image", "index", "prompt", "seed", "model"} - set(table.column_names):
            raise ValueError(f"dataset is {dataset!r}, whose rows lack {sorted(missing)[0]!r}: ubgen did not make it.")
        indices = table["index"].to_pylist()
        if index not in indices:
            continue
        batch_indices = _batch_of(index, manifest, source.batch_size(index)) if manifest else [index]
        whole = set(batch_indices) <= set(indices)
        wanted = batch_indices if whole else [index]
        batch = table.take([indices.index(i) for i in wanted]).to_pylist()
        return Row(batch[wanted.index(index)], batch, manifest, whole and bool(manifest))
    raise ValueError(f"index is {index}, which no row of {dataset!r} has.")


def regenerate(
    row: Row,
    *,
    model: str | None = None,
    lora: str | None = None,
    few_step_lora: str | None = None,
    device: str | None = None,
) -> Any:
    """The row's image, a ``PIL.Image``, drawn again.

    Args:
        row: see :func:`find_row`.
        model, lora, few_step_lora: where they lie now; None takes the row's own names.
        device: None takes the dataset's own, where this machine has it.

    Raises:
        ValueError: a model or LoRA that is not there or not the one that drew the row.
    """
    import torch
    from PIL import Image

    from ..inference.attention_kernels import OWN_ORDER, attention_order
    from ..inference.image_drawer import ImageDrawer
    from ..inference.packed_products import pack_products
    from ..inference.prepared_pipeline import prepare_pipeline
    from ..inference.settings import lora_weights
    from ..models.loading import SCHEDULERS, load_pipeline, resolve_model

    columns, manifest = row.columns, row.manifest
    if columns.get("task") is not None or manifest.get("embeddings"):
        what = "a source image" if columns.get("task") is not None else "textual inversions"
        raise ValueError(f"the row was drawn with {what}, which the dataset does not hold; generate it again instead.")
    model = str(model or columns["model"])
    _check_same("model", resolve_model(model), manifest)
    lora = _lora_of(row, "lora", lora)
    few_step_lora = _lora_of(row, "few_step_lora", few_step_lora)
    preset = PRESETS.get(columns.get("preset") or "", Preset("exact", ""))
    if columns.get("preset") is not None and columns["preset"] not in PRESETS:
        raise ValueError(f"the row was drawn with preset {columns['preset']!r}, which this version does not know.")
    if manifest.get("threads"):
        torch.set_num_threads(manifest["threads"])
    if device is None:
        device = manifest.get("device") or "cpu"
        device = device if device != "cuda" or torch.cuda.is_available() else "cpu"
    # of two names for one class the first has its usual settings
    names = {scheduler.__name__: name for name, scheduler in reversed(SCHEDULERS.items())}
    pipeline = load_pipeline(
        model,
        lora=lora,
        few_step_lora=few_step_lora,
        scheduler=manifest["scheduler"] if manifest else preset.settings.get("scheduler"),
        revision=columns.get("model_revision"),
        lora_revision=columns.get("lora_revision"),
        few_step_lora_revision=manifest.get("few_step_lora_revision"),
        torch_dtype=getattr(torch, manifest.get("dtype", "float32")),
        device=device,
    )
    if type(pipeline.scheduler).__name__ != columns["scheduler"]:
        from ..models.loading import set_scheduler

        if columns["scheduler"] not in names:
            raise ValueError(f"the row was drawn with {columns['scheduler']}, which this version does not know.")
        set_scheduler(pipeline, names[columns["scheduler"]])
    pipeline.set_progress_bar_config(disable=True)
    width, height = stored_image(row).size
    # a fused LoRA and text encoded alone round as they did then
    records_attention = bool(manifest.get("annotations"))
    dtype = manifest.get("dtype", "float32")
    prepare_pipeline(pipeline, lora_weights(lora or few_step_lora, dtype), records_attention=records_attention)
    if manifest.get("compile") != "on":
        pack_products(pipeline.denoiser_network)
    num_chunks = columns.get("num_prompt_chunks")
    drawer = ImageDrawer(pipeline, num_chunks=num_chunks)
    with attention_order(manifest.get("attention", OWN_ORDER)):
        drawn = drawer(
            [item["class_name"] for item in row.batch],
            [item["prompt"] for item in row.batch],
            seeds=[item["seed"] for item in row.batch],
            num_inference_steps=columns["num_inference_steps"],
            guidance_scale=columns["guidance_scale"],
            negative_prompt=columns["negative_prompt"],
            height=height,
            width=width,
            # those of the run, should the preset of that name have changed since
            **{name: manifest.get(name, value) for name, value in preset.shortcuts.items()},
        )
    return Image.fromarray(drawn.images()[[item["index"] for item in row.batch].index(columns["index"])])


def _lora_of(row: Row, column: str, given: str | None) -> str | None:
    """The LoRA that drew the row, from where it lies now."""
    recorded = row.columns.get(column)
    if recorded is None and given is not None:
        raise ValueError(f"{column} is {given!r}, and the row was drawn without one; leave it out.")
    lora = given or recorded
    _check_same(column, lora, row.manifest)
    if lora is not None and "/" not in lora and not Path(lora).expanduser().exists():
        raise ValueError(
            f"the row's LoRA came from a local folder called {lora!r}; say with {column} where it lies now."
        )
    return lora


def _check_same(name: str, source: str | None, manifest: dict[str, Any]) -> None:
    if name in manifest and fingerprint(source) != manifest[name] and Path(source or "").expanduser().exists():
        raise ValueError(f"{name} is {source!r}, which is not the one that drew the row; give the one that did.")


def stored_image(row: Row) -> Any:
    """The row's image as the dataset holds it, a ``PIL.Image``."""
    from PIL import Image

    return Image.open(io.BytesIO(row.columns["image"]["bytes"])).convert("RGB")


def largest_difference(image: Any, other: Any) -> int:
    """Largest difference of two images of one size, in steps of 1/255."""
    import numpy as np

    first, second = (np.asarray(item.convert("RGB"), dtype=np.int16) for item in (image, other))
    return int(abs(first - second).max())


def _batch_of(index: int, manifest: dict[str, Any], size: int) -> list[int]:
    """Indices of the rows that were drawn together with that row: batches start with the shard."""
    # a view of ubgen filter keeps the indices of the dataset that it was made from
    num_samples = manifest["filters"][0]["num_samples"] if "filters" in manifest else manifest["num_samples"]
    per_shard = manifest["samples_per_shard"]
    shard_start = index // per_shard * per_shard
    start = shard_start + (index - shard_start) // size * size
    return list(range(start, min(start + size, shard_start + per_shard, num_samples)))


class _Files:
    """The files of a dataset in a folder or on the Hub."""

    def __init__(self, dataset: str):
        self.dataset, self.folder = dataset, Path(dataset).expanduser()
        if self.folder.is_dir():
            self.names = sorted(f"data/{file.name}" for file in (self.folder / "data").glob("train-*.parquet"))
            if (self.folder / MANIFEST).is_file():
                self.names.append(MANIFEST)
        else:
            if self.folder.exists() or dataset.count("/") != 1:
                raise ValueError(f"dataset is {dataset!r}, which is neither a folder nor an id on the Hub.")
            check_repo_id("dataset", dataset)
            from huggingface_hub import HfApi

            self.names = retried(
                lambda: HfApi().list_repo_files(dataset, repo_type="dataset"), "reading the dataset", dataset
            )
        if not self._shards():
            raise ValueError(f"dataset is {dataset!r}, which holds no data/train-*.parquet; give a generated one.")

    def manifest(self) -> dict[str, Any]:
        """The settings of the run, or nothing where the dataset has no manifest."""
        settings = self._recorded.get("settings", {})
        # that of a command that draws nothing, such as annotate, says nothing of how rows were drawn
        return settings if "batch_size" in settings else {}

    def shards_with(self, index: int, manifest: dict[str, Any]) -> list[Path]:
        """Files that may hold the row; of a dataset with a manifest only the one that does is fetched."""
        shards = self._shards()
        if manifest and "filters" not in manifest:
            shards = [name for name in shards if name.startswith(f"data/train-{self._number(index):05d}-of-")]
        return [self._local(name) for name in shards]

    def batch_size(self, index: int) -> int:
        """The batch size that the row's shard was drawn with, which a full memory may have made smaller."""
        number = self._number(index)
        mark = self.folder / STATE_FOLDER / f"shard-{number:05d}.json"
        # the shards of a view are others
        is_view = "filters" in self._recorded["settings"]
        if (
            not is_view
            and mark.is_file()
            and "batch_size" in (statistics := json.loads(mark.read_text(encoding="utf-8")))
        ):
            return statistics["batch_size"]
        return self._recorded.get("batch_sizes", {}).get(str(number), self._recorded["settings"]["batch_size"])

    @cached_property
    def _recorded(self) -> dict[str, Any]:
        if MANIFEST not in self.names:
            return {}
        return json.loads(Path(self._local(MANIFEST)).read_text(encoding="utf-8"))

    def _number(self, index: int) -> int:
        return index // self._recorded["settings"]["samples_per_shard"]

    def _shards(self) -> list[str]:
        return sorted(name for name in self.names if name.startswith("data/train-") and name.endswith(".parquet"))

    def _local(self, name: str) -> Path:
        if self.folder.is_dir():
            return self.folder / name
        from huggingface_hub import HfApi

        return Path(
            retried(
                lambda: HfApi().hf_hub_download(self.dataset, name, repo_type="dataset"),
                "reading the dataset",
                self.dataset,
            )
        )


if __name__ == "__main__":
    sys.exit(main())
