"""Measure bias, transfer, fidelity and diversity of backbones and datasets, side by side, and write a report.

ubgen evaluate --backbones biased tuned --mini-world --output-dir REPORT
ubgen evaluate --datasets base tuned --mini-world --output-dir REPORT --write-bias-report
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from ubgen_pipeline.commands.console import say
from ubgen_pipeline.commands.settings_parser import parse_settings, run_command
from ubgen_pipeline.models.devices import usable_device

from .bias_text import bias_text
from .evaluate_settings import EvaluateSettings
from .evaluation_report import ReportTable, write_report


def evaluate(settings: EvaluateSettings) -> list[ReportTable]:
    """Measure everything that the settings name, and write the report; features are kept for the next time.

    Raises:
        ValueError: a backbone, dataset or set that cannot be used; nothing is written then.
    """
    import numpy as np

    from ubgen_pipeline.dataset.card import add_bias_report
    from ubgen_pipeline.dataset.labelled_images import load_labelled_images
    from ubgen_pipeline.dataset.shards import open_dataset
    from ubgen_pipeline.models.clip_encoders import load_clip_encoder

    from .backbone_measures import measure_backbone
    from .backbones import load_backbone
    from .dataset_measures import Reference, measure_contexts, measure_dataset
    from .feature_extraction import extract_features

    if settings.write_bias_report:
        # before anything is measured
        for name in settings.datasets or ():
            open_dataset(name)
    device = usable_device(settings.device)
    encoder = None if settings.clip_model is None else load_clip_encoder(settings.clip_model).to(device)
    tables = []
    if settings.backbones:
        columns = {}
        for name in settings.backbones:
            say(f"backbone {name}")
            columns[name] = measure_backbone(load_backbone(name, device), settings)
        tables.append(ReportTable("Backbones", columns))
    if settings.datasets:
        backbone, columns = load_backbone(settings.feature_backbone, device), {}
        reference: Reference | None = None
        if settings.reference is not None:
            real = load_labelled_images(
                settings.reference, split=settings.reference_split, skip_damaged=settings.skip_damaged
            )
            features = extract_features(
                backbone, real.rows, batch_size=settings.batch_size, cache_dir=settings.cache_folder
            ).features
            reference = Reference(features, np.array(real.rows["label"]), real.class_names, settings.reference)
        contexts = {}
        for name in settings.datasets:
            say(f"dataset {name}")
            columns[name] = measure_dataset(name, backbone, settings, reference)
            if encoder is not None:
                means, shares = measure_contexts(name, encoder, settings)
                columns[name] |= means
                if shares:
                    contexts[name] = shares
        tables.append(ReportTable("Datasets", columns))
        if contexts:
            tables.append(ReportTable("Contexts", contexts, is_plotted=False))
        if settings.write_bias_report:
            for name, figures in columns.items():
                add_bias_report(name, bias_text(figures, settings))
    write_report(tables, dataclasses.asdict(settings), settings.output_dir)
    return tables


def main(argv: Sequence[str] | None = None) -> int:
    """``ubgen evaluate``: the exit code, 2 for what the user can put right."""
    return run_command(_body, argv)


def _body(argv: Sequence[str]) -> None:
    settings = parse_settings(EvaluateSettings, argv, prog="ubgen evaluate", description=__doc__)
    evaluate(settings)
    print((Path(settings.output_dir) / "report.md").read_text(encoding="utf-8"))
