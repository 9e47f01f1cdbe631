"""Images that are kept by their request, and those that the page opens with."""

from dataclasses import replace

import pytest
from drawn_views import DrawnViews
from PIL import Image
from request_limits import DrawRequest
from sampler import DrawnSample

OPENING = DrawRequest("star", ("base", "tuned"), 1, 0, 20, 2.0)


def draw(request, cancellation=None):
    for variant in request.variants:
        yield DrawnSample(request, variant, 0, "star", 1, Image.new("RGB", (10, 10)))


def test_whole_requests_are_kept_until_others_need_the_room(monkeypatch):
    monkeypatch.setattr("drawn_views.MAX_PIXELS", 600)
    views, others = DrawnViews(OPENING), [replace(OPENING, seed=seed) for seed in (1, 2, 3)]
    views.keep(OPENING, list(draw(OPENING))[:1])
    assert not views.get(OPENING), "a request that was stopped is not kept"
    for request in (OPENING, *others[:2]):
        views.keep(request, list(draw(request)))
    assert [sample.variant for sample in views.get(others[0])] == ["base", "tuned"]
    views.keep(others[2], list(draw(others[2])))
    # what was asked for last and what the page opens with stay
    assert views.get(OPENING) and views.get(others[0]) and views.get(others[2]) and not views.get(others[1])


@pytest.mark.parametrize("fails", [False, True])
def test_the_page_opens_with_what_a_thread_has_drawn(fails, capsys):
    def broken(request, cancellation):
        raise ValueError("no such model")
        yield

    views = DrawnViews(OPENING)
    views.draw_opening(broken if fails else draw).join(10)
    assert not views.is_drawing and len(views.get(OPENING)) == (0 if fails else 2)
    assert ("no such model" in capsys.readouterr().out) == fails
