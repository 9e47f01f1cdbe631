"""The line for the model: places, who is turned away, and whose turn it is."""

import asyncio

import pytest
from model_queue import FULL, ONE_EACH, ModelQueue, waiting_text


def test_a_visitor_has_one_place_and_a_full_line_turns_others_away():
    queue = ModelQueue(max_waiting=2)
    places = [queue.join(visitor) for visitor in "abc"]
    assert [place.ahead for place in places] == [0, 1, 2]
    with pytest.raises(ValueError, match=ONE_EACH):
        queue.join("b")
    with pytest.raises(ValueError, match=FULL):
        queue.join("d")
    places[1].leave()
    places[1].leave()
    assert [place.ahead for place in places] == [0, None, 1]
    assert queue.join("b").ahead == 2


def test_one_address_does_not_fill_the_line():
    queue = ModelQueue(max_waiting=8)
    for number in range(4):
        queue.join(f"page {number}", "1.2.3.4")
    with pytest.raises(ValueError, match=FULL):
        queue.join("page 4", "1.2.3.4")
    assert queue.join("other", "5.6.7.8").ahead == 4


def test_a_turn_comes_when_the_others_are_over_and_never_where_the_place_was_left(monkeypatch):
    monkeypatch.setattr("model_queue.LOOK_EVERY", 0.001)
    monkeypatch.setattr("model_queue.TELL_EVERY", 0.005)
    queue = ModelQueue(max_waiting=4)
    first, second, third = (queue.join(visitor) for visitor in "abc")

    async def wait() -> tuple[list[int], list[int]]:
        told, left = [], []
        async for ahead in queue.turn(third):
            told.append(ahead)
            # the same number is told again, which is how a visitor who is gone is noticed
            if told == [2, 2]:
                first.leave()
            if told[-1] == 1:
                second.leave()
        other = queue.join("d")
        async for ahead in queue.turn(other):
            left.append(ahead)
            other.leave()
        return told, left

    assert asyncio.run(wait()) == ([2, 2, 1], [1]) and third.ahead == 0


def test_how_many_are_ahead_is_said():
    assert waiting_text(1) == "Waiting for the model: 1 request is ahead of yours."
    assert "3 requests are ahead" in waiting_text(3)
