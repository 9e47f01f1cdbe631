"""The bias report that lies in a dataset's folder and stands in its card: plain text, one figure a line."""

from importlib.metadata import version

from ubgen_pipeline.models.sources import public_name

from .evaluate_settings import EvaluateSettings
from .evaluation_report import cell, labelled
from .intervals import Interval


def bias_text(figures: dict[str, Interval], settings: EvaluateSettings) -> str:
    """How the dataset was measured, and its figures by name; no path of this machine.

    Args:
        figures: of one dataset, see :func:`.dataset_measures.measure_dataset`.
        settings: of the run that measured them.
    """
    lines = [
        f"Measured by ubgen evaluate {version('ubgen')} on split {settings.split}, in the features of the backbone"
        f" {public_name(settings.feature_backbone)}.",
        "Arrow up: more is better; down: less is. In brackets: 95% intervals over resampled images.",
    ]
    if settings.mini_world:
        lines.append("Classes, backgrounds and textures are those that the mini world's own classifier reads.")
    if settings.clip_model is not None:
        asked = public_name(settings.clip_model) or settings.clip_model
        lines.append(f"Whether contexts are shown that prompts name is what the CLIP {asked} says.")
    if settings.reference is not None:
        reference = f"{public_name(settings.reference)}, split {settings.reference_split}"
        lines.append(f"FID, KID, precision, recall and classification accuracy score: against {reference}.")
    width = max(len(labelled(name)) for name in figures)
    return "\n".join([*lines, "", *(f"{labelled(name):<{width}}  {cell(figures[name])}" for name in figures), ""])
