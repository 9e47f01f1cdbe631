"""Masks and boxes lie where they should."""

import numpy as np
import pytest
from overlay import COLOURS, UNDECIDED, draw_overlay, mask_colours
from PIL import Image


def test_mask_and_boxes_are_drawn_in_the_enlarged_image():
    image = Image.new("RGB", (64, 64), (10, 20, 30))
    mask = np.zeros((64, 64), dtype=np.uint8)
    mask[:8, :8], mask[-8:, -8:] = 1, 255
    shown = np.asarray(draw_overlay(image, mask, None, strength=1.0))
    assert shown.shape == (384, 384, 3)
    assert tuple(shown[0, 0]) == COLOURS[0] and tuple(shown[-1, -1]) == UNDECIDED
    assert tuple(shown[200, 200]) == (10, 20, 30)
    boxed = np.asarray(draw_overlay(image, None, [(16, 16, 32, 48)]))
    changed = (boxed != (10, 20, 30)).any(axis=2)
    rows, columns = np.flatnonzero(changed.any(axis=1)), np.flatnonzero(changed.any(axis=0))
    assert (columns[0], columns[-1], rows[0], rows[-1]) == (96, 191, 96, 287)
    assert not changed[120:260, 110:180].any()


def test_colours_tell_neighbouring_labels_apart():
    palette = mask_colours(np.arange(256, dtype=np.uint8)[None])[0].tolist()
    assert palette[0] == [0, 0, 0] and all(palette[i] != palette[i + 1] for i in range(254))


def test_a_mask_of_another_size_is_refused():
    with pytest.raises(ValueError, match="mask is"):
        draw_overlay(Image.new("RGB", (64, 64)), np.zeros((32, 32), dtype=np.uint8))


def test_degenerate_boxes_draw_nothing():
    image = Image.new("RGB", (8, 8))
    assert np.asarray(draw_overlay(image, None, [(5, 5, 5, 9), (6, 6, 2, 2)])).max() == 0
