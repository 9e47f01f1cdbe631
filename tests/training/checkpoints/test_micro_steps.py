"""The number of a micro-batch within its update: it begins anew with every update, and where a resumed run begins."""

import pytest

from ubgen_training.checkpoints.micro_steps import MicroSteps


@pytest.mark.parametrize("first", [0, 1])
def test_numbers_begin_with_0_in_every_update_but_the_very_first(first):
    micro_steps = MicroSteps(first)
    assert [micro_steps.next(step) for step in (0, 0, 0, 1, 1, 2)] == [first, first + 1, first + 2, 0, 1, 0]


@pytest.mark.parametrize("first", [0, 1])
def test_a_run_that_goes_on_at_a_later_update_begins_it_with_0(first):
    micro_steps = MicroSteps(first)
    assert [micro_steps.next(7), micro_steps.next(7), micro_steps.next(8)] == [0, 1, 0]


def test_an_update_that_is_done_over_begins_with_0():
    micro_steps = MicroSteps()
    assert [micro_steps.next(3), micro_steps.next(3)] == [0, 1]
    micro_steps.restart()
    assert [micro_steps.next(3), micro_steps.next(3)] == [0, 1]
