"""The picture of datasets side by side: where each image lies in it, and what is refused."""

import numpy as np
import pytest
from PIL import Image

from benchmarks import contact_sheet


def test_the_contact_sheet_has_a_row_for_each_class(tmp_path):
    def flat(colour):
        return np.full((64, 64, 3), colour, np.uint8)

    base = {"circle": [flat((255, 0, 0))] * 3, "star": [flat((0, 255, 0))] * 3}
    tuned = {"circle": [flat((0, 0, 255))] * 3, "star": [flat((255, 255, 0))]}
    contact_sheet.draw_contact_sheet({"base": base, "tuned": tuned}, tmp_path / "sheet.png", num_per_class=2)
    sheet = np.asarray(Image.open(tmp_path / "sheet.png"))
    counts = {
        colour: int((sheet == colour).all(axis=2).sum())
        for colour in ((255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0))
    }
    assert counts == {(255, 0, 0): 8192, (0, 255, 0): 8192, (0, 0, 255): 8192, (255, 255, 0): 4096}
    where = {colour: np.argwhere((sheet == colour).all(axis=2)).mean(axis=0) for colour in counts}
    assert where[255, 0, 0][0] == where[0, 0, 255][0] < where[0, 255, 0][0]
    assert where[255, 0, 0][1] < where[0, 0, 255][1]
    # the names are drawn left of the images
    assert (sheet[:, : int(where[255, 0, 0][1]) - 70] < 100).any()


def test_datasets_of_a_contact_sheet_go_on_below(tmp_path):
    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255)]
    datasets = {f"dataset {n}": {"circle": [np.full((64, 64, 3), c, np.uint8)]} for n, c in enumerate(colours)}
    contact_sheet.draw_contact_sheet(datasets, tmp_path / "sheet.png", datasets_per_row=2)
    sheet = np.asarray(Image.open(tmp_path / "sheet.png"))
    red, green, blue = (np.argwhere((sheet == colour).all(axis=2)) for colour in colours)
    assert len(red) == len(green) == len(blue) == 64 * 64
    assert (red[:, 0] == green[:, 0]).all() and (red[:, 1] == blue[:, 1]).all()
    assert blue[:, 0].min() > red[:, 0].max() and green[:, 1].min() > red[:, 1].max()
    # the classes are named beside both rows
    for images in (red, blue):
        assert (sheet[images[:, 0].min() : images[:, 0].max(), : red[:, 1].min()] < 100).any()


def test_contact_sheets_of_nothing_or_of_other_classes_are_refused(tmp_path):
    image = np.zeros((4, 4, 3), np.uint8)
    for datasets in ({}, {"a": {"x": []}}, {"a": {"x": [image]}, "b": {"y": [image]}}):
        with pytest.raises(ValueError, match="dataset"):
            contact_sheet.draw_contact_sheet(datasets, tmp_path / "sheet.png")
