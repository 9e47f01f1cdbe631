"""A bias report for a finished dataset here: a text beside its shards, and a section of its card."""

import os
from pathlib import Path

from ..hub.publish_dataset import open_dataset
from .card import BIAS_REPORT


def add_bias_report(folder: str | Path, text: str) -> None:
    """Write ``bias_report.txt`` and put the text into the card, in place of an earlier one; all else in it stays.

    Raises:
        ValueError: the folder holds no finished dataset of ubgen's.
    """
    from ubgen_hub_cards.dataset_card import with_bias_report

    place = open_dataset(folder).folder
    card = (place / "README.md").read_text(encoding="utf-8")
    _replace(place / BIAS_REPORT, text)
    _replace(place / "README.md", with_bias_report(card, text))


def _replace(file: Path, text: str) -> None:
    temporary = file.with_name(f".{file.name}.tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, file)
