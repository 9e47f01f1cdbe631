"""HTML and pictures of the Space's page: hostile texts stay texts, and masks and boxes lie where they should."""

from html.parser import HTMLParser

import numpy as np
import pytest
from overlay import COLOURS, UNDECIDED, draw_overlay, mask_colours
from page_html import Bar, bar_chart, fact_list, shown_text, status_line, table
from PIL import Image

HOSTILE = "<img src=x onerror=alert(1)>\"'&amp;</td></table><script>alert(2)</script>\u202e\x00\nline"


class Tags(HTMLParser):
    """Tags and texts of a piece of HTML."""

    def __init__(self, text: str):
        super().__init__()
        self.tags, self.attributes, self.texts = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [name for name, _ in attrs]

    def handle_data(self, data):
        self.texts.append(data)


@pytest.mark.parametrize(
    "page",
    [
        status_line(HOSTILE, 1, 2, "busy"),
        fact_list({HOSTILE: HOSTILE}),
        bar_chart([Bar(HOSTILE, 0.5, HOSTILE)], HOSTILE, mark=0.1),
        table([HOSTILE, HOSTILE], [[HOSTILE, HOSTILE]], HOSTILE),
    ],
    ids=["status", "facts", "bars", "table"],
)
def test_hostile_texts_are_shown_and_are_nothing_else(page):
    found = Tags(page)
    assert not {"img", "script"} & set(found.tags) and "onerror" not in found.attributes
    assert any("onerror=alert(1)" in text for text in found.texts)
    assert "\u202e" not in page and "\x00" not in page


def test_texts_keep_their_letters_and_are_cut():
    assert shown_text("日本 é <b>") == "日本 é &lt;b&gt;"
    assert shown_text("x" * 1000) == "x" * 399 + "…"


def test_bars_stay_inside_their_track():
    assert [bar_chart([Bar("a", share, "")], "c").count(width) for share, width in [(7.0, "100.00%"), (-1.0, "0.00%")]]
    assert "width:25.00%" in bar_chart([Bar("a", 0.25, "")], "c")


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
