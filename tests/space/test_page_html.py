"""HTML of the Space's page: hostile texts stay texts, and bars stay inside."""

from html.parser import HTMLParser

import pytest
from page_html import Bar, bar_chart, fact_list, shown_text, status_line, table

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
