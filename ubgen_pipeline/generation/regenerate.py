"""Draw a row of a generated dataset again from its own provenance, and say whether the image is the same.

Pixels depend on the batch by rounding, so the whole batch that the row was drawn in is drawn again where the dataset
still holds it. Everything comes from the row, its neighbours and the manifest; only where a local model or LoRA lies
now must be said.
"""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..commands.console import say
from ..commands.settings_parser import field_help, name_leading, parse_settings, run_command
from ..dataset.columns import BLACK, NOT_FINITE_COLUMN, REDRAWN
from ..files.image_codecs import image_encoder, rgb_image
from ..files.places import check_is_local
from ..inference.diversity_options import stored_diversity
from ..inference.presets import PRESETS, Preset
from ..mini import EMBEDDED_MODELS
from ..models.devices import usable_device
from ..models.fingerprints import is_same
from ..models.loras import Lora, split_lora, stored_few_step_lora, stored_loras
from ..models.sources import GeneratorSource
from .row_lookup import FoundRow, find_row, stored_image

if TYPE_CHECKING:
    from ..pipeline import UbGenPipeline
    from .row_drawer import RowSettings


@dataclass(frozen=True)
class RegenerateSettings:
    """Settings of ``ubgen regenerate``."""

    dataset: str = field_help("folder of a generated dataset, or its id on the Hub")
    index: int = field_help("the row's index")
    output: str | None = field_help("PNG file to write; INDEX.png if not given", None)
    model: str | None = field_help("where the model lies now, if it came from a local folder", None)
    lora: list[str] | None = field_help(
        "where the LoRAs lie now, in their order, if they came from local folders", None
    )
    few_step_lora: str | None = field_help("where the preset's LoRA lies now, if it came from a local folder", None)
    device: str | None = field_help("that of the dataset if not given", None)

    def __post_init__(self) -> None:
        if self.index < 0:
            raise ValueError(f"index is {self.index}; give that of a row, from 0.")
        check_is_local(self.output, "output")


def main(argv: Sequence[str] | None = None) -> int:
    """``ubgen regenerate DATASET --index N``: 0 where the image is the same, 1 where it differs, 2 for an error."""
    return run_command(_body, argv)


def _body(argv: Sequence[str]) -> int:
    settings = parse_settings(
        RegenerateSettings,
        name_leading(argv, ["dataset"]),
        prog="ubgen regenerate",
        description=__doc__,
    )
    row = find_row(settings.dataset, settings.index)
    image = regenerate(
        row, model=settings.model, lora=settings.lora, few_step_lora=settings.few_step_lora, device=settings.device
    )
    output = Path(settings.output or f"{settings.index}.png").expanduser()
    image.save(output, format="PNG")
    alone = "" if row.batch_is_whole else "; its batch is not in the dataset any more, so it was drawn alone"
    difference = largest_difference(as_stored(image, row), stored_image(row))
    if difference == 0:
        say(f"{output}: the same image, bit for bit")
        return 0
    say(f"{output}: differs by up to {difference} of 255{alone}")
    return 1


def regenerate(
    row: FoundRow,
    *,
    model: str | None = None,
    lora: str | Sequence[str] | None = None,
    few_step_lora: str | None = None,
    device: str | None = None,
) -> Any:
    """The row's image, a ``PIL.Image``, drawn again.

    Args:
        row: see :func:`.find_row`.
        model, lora, few_step_lora: where they lie now; None takes the row's own names. Strengths are the row's.
        device: None takes the dataset's own, where this machine has it.

    Raises:
        ValueError: a model or LoRA that is not there or not the one that drew the row.
    """
    import torch
    from PIL import Image

    from ..inference.attention_kernels import OWN_ORDER, attention_order
    from ..inference.packed_products import pack_products
    from .row_drawer import RowDrawer

    columns, manifest = row.columns, row.manifest
    settings = _row_settings(row, model, lora, few_step_lora)
    if columns.get(NOT_FINITE_COLUMN) == BLACK:
        raise ValueError("the row's image was not finite when it was drawn, and is stored black; draw another row.")
    was_redrawn = columns.get(NOT_FINITE_COLUMN) == REDRAWN
    # such an image was drawn by itself
    batch = [columns] if was_redrawn else row.batch
    dtype = "float32" if was_redrawn else manifest.get("dtype", "float32")
    if manifest.get("threads"):
        torch.set_num_threads(manifest["threads"])
    own = str(manifest.get("device") or "cpu")
    own = own if own != "cuda" or torch.cuda.is_available() else "cpu"
    pipeline = settings.load(usable_device(device or own), dtype)
    _use_scheduler(pipeline, columns["scheduler"])
    settings.prepare(pipeline, dtype)
    if manifest.get("compile") != "on":
        pack_products(pipeline.denoiser_network)
    drawer = RowDrawer(pipeline, settings, columns.get("num_prompt_chunks"))
    with attention_order(manifest.get("attention", OWN_ORDER)):
        drawn = drawer.draw(*([item[name] for item in batch] for name in ("class_name", "prompt", "seed")))
    return Image.fromarray(drawn.images()[[item["index"] for item in batch].index(columns["index"])])


def _row_settings(
    row: FoundRow, model: str | None, lora: str | Sequence[str] | None, few_step_lora: str | None
) -> "RowSettings":
    """What the row was drawn with, from its columns and the manifest, and from where its models lie now."""
    from ..models.loading import resolve_model
    from .row_drawer import RowSettings

    columns, manifest = row.columns, row.manifest
    if columns.get("task") is not None or manifest.get("embeddings"):
        what = "a source image" if columns.get("task") is not None else "textual inversions"
        raise ValueError(f"the row was drawn with {what}, which the dataset does not hold; generate it again instead.")
    is_named = model or "/" in columns["model"] or columns["model"] in EMBEDDED_MODELS or columns.get("model_revision")
    if not is_named and not Path(columns["model"]).expanduser().exists():
        raise ValueError(
            f"the row's model came from a local folder or file called {columns['model']!r}; say with model where it"
            " lies now."
        )
    model = str(model or columns["model"])
    _check_same("model", resolve_model(model), manifest, manifest.get("variant"))
    few_steps = stored_few_step_lora({**manifest, **columns})
    source = GeneratorSource(
        model,
        columns.get("model_revision"),
        _loras_now("lora", stored_loras(columns), [lora] if isinstance(lora, str) else lora, manifest),
        next(iter(_loras_now("few_step_lora", few_steps, few_step_lora and [few_step_lora], manifest)), None),
    )
    name = columns.get("preset")
    if name is not None and name not in PRESETS:
        raise ValueError(f"the row was drawn with preset {name!r}, which this version does not know.")
    preset = PRESETS[name] if name is not None else Preset("exact")
    width, height = stored_image(row).size
    return RowSettings(
        source=source,
        scheduler=manifest["scheduler"] if manifest else preset.settings.get("scheduler"),
        num_inference_steps=columns["num_inference_steps"],
        guidance_scale=columns["guidance_scale"],
        negative_prompt=columns["negative_prompt"],
        height=height,
        width=width,
        preset=name,
        # the manifest's values count: a newer version may give the preset of that name others
        shortcuts={argument: manifest.get(argument, value) for argument, value in preset.shortcuts.items()},
        diversity=stored_diversity(columns),
        records_attention=bool(manifest.get("annotations")),
        variant=manifest.get("variant"),
        quantization=manifest.get("quantization", "none"),
        true_cfg_scale=columns.get("true_cfg_scale"),
    )


def _use_scheduler(pipeline: "UbGenPipeline", class_name: str) -> None:
    """Give the pipeline the scheduler of that class, where it has another: rows without a manifest say the class."""
    from ..models.loading import SCHEDULERS, set_scheduler

    if type(pipeline.scheduler).__name__ == class_name:
        return
    # where two names stand for one class, the first is the one with the class's usual settings
    names = {scheduler.__name__: name for name, scheduler in reversed(SCHEDULERS.items())}
    if class_name not in names:
        raise ValueError(f"the row was drawn with {class_name}, which this version does not know.")
    set_scheduler(pipeline, names[class_name])


def _loras_now(
    name: str, recorded: Sequence[Lora], given: Sequence[str] | None, manifest: Mapping[str, Any]
) -> tuple[Lora, ...]:
    """The LoRAs that drew the row, from where they lie now."""
    if given and len(given) != len(recorded):
        how_many = f"with {len(recorded)}" if recorded else "without one"
        fix = "; give each, in that order" if recorded else "; leave it out"
        raise ValueError(f"{name} is {' '.join(given)!r}, and the row was drawn {how_many}{fix}.")
    # of several, and of one with a strength, the manifest holds a list
    hashes = manifest.get(name)
    hashes = hashes if isinstance(hashes, list) else [hashes] * len(recorded)
    loras = []
    for place, lora in enumerate(recorded):
        if given:
            source, strength = split_lora(given[place], name)
            if strength not in (None, lora.strength):
                raise ValueError(
                    f"{name} is {given[place]!r}, and the row was drawn with strength {lora.strength:g}; leave it out."
                )
            lora = replace(lora, source=source)
        if name in manifest:
            _check_same(name, lora.source, {name: hashes[place]})
        if "/" not in lora.source and not Path(lora.source).expanduser().exists():
            raise ValueError(
                f"the row's LoRA came from a local folder called {lora.source!r}; say with {name} where it lies now."
            )
        loras.append(lora)
    return tuple(loras)


def _check_same(name: str, source: str, manifest: Mapping[str, Any], variant: str | None = None) -> None:
    if name in manifest and Path(source).expanduser().exists() and not is_same(source, manifest[name], variant):
        raise ValueError(f"{name} is {source!r}, which is not the one that drew the row; give the one that did.")


def as_stored(image: Any, row: FoundRow) -> Any:
    """The image, a ``PIL.Image``, as the dataset would hold it: with the loss of the dataset's codec, if any."""
    import numpy as np
    from PIL import Image

    data = image_encoder(row.manifest.get("codec", "png"))(np.asarray(rgb_image(image)))
    return rgb_image(Image.open(io.BytesIO(data)))


def largest_difference(image: Any, other: Any) -> int:
    """Largest difference of two images of one size, in steps of 1/255."""
    import numpy as np

    first, second = (np.asarray(rgb_image(item), dtype=np.int16) for item in (image, other))
    return int(abs(first - second).max())
