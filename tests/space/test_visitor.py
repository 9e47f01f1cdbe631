"""What one visitor has before him: requests of his own, and clicks that come from the browser."""

import pytest
from visitor import Visitor, item_at


def test_a_new_request_cancels_the_one_before_and_drops_its_results():
    visitor = Visitor()
    first = visitor.start_drawing()
    visitor.samples["base"], visitor.chosen = ["image"], "image"
    second = visitor.start_drawing()
    assert first.is_asked and not second.is_asked and visitor.drawing is second
    assert visitor.samples == {} and visitor.chosen is None


def test_measuring_and_drawing_do_not_stop_each_other():
    visitor = Visitor()
    drawing, measuring = visitor.start_drawing(), visitor.start_measuring()
    assert not drawing.is_asked and visitor.start_measuring() is visitor.measuring
    assert measuring.is_asked and not drawing.is_asked


def test_visitors_share_nothing():
    one, other = Visitor(), Visitor()
    one.rows.append("row")
    one.layers.clear()
    assert not other.rows and other.layers == {"Mask", "Boxes"} and one.drawing is not other.drawing


@pytest.mark.parametrize("index", [-1, 3, None, "1", 1.0, [1, 2]])
def test_a_click_on_nothing(index):
    assert item_at(["a", "b", "c"], index) is None
    assert item_at(["a", "b", "c"], 1) == "b"
