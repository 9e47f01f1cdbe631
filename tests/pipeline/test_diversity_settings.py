"""The schedule of annealed conditioning, and what is refused of the numbers."""

import numpy as np
import pytest

from ubgen_pipeline.diversity_settings import Cads, as_cads, check_interval


def test_gamma_falls_from_one_to_nothing_between_its_two_times():
    times = np.linspace(0, 1, 101)
    expected = np.interp(times, [0.6, 0.9], [1.0, 0.0])
    np.testing.assert_allclose([Cads().gamma(time) for time in times], expected, atol=1e-12)
    # one time for both is a step
    assert [Cads(0.5, 0.5).gamma(time) for time in (0.4, 0.5, 0.6)] == [1.0, 1.0, 0.0]


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ({"tau1": 0.9, "tau2": 0.6}, "cads_tau1 is 0.9 and cads_tau2 0.6"),
        ({"tau2": 1.1}, "cads_tau2 1.1"),
        ({"scale": -1}, "cads_scale is -1"),
        ({"scale": float("nan")}, "cads_scale is nan"),
        ({"psi": 2}, "cads_psi is 2"),
    ],
)
def test_numbers_out_of_range_are_refused(numbers, message):
    with pytest.raises(ValueError, match=message):
        Cads(**numbers)


def test_what_the_arguments_of_a_call_stand_for():
    assert as_cads(None) is None and as_cads("cads") == Cads() and as_cads(Cads(scale=1.0)).scale == 1
    with pytest.raises(ValueError, match="diversity is 'dads'; choose one of cads"):
        as_cads("dads")
    assert check_interval(None) is None and check_interval([0, 1]) == (0.0, 1.0)
    for interval in ([0.5], [0.5, 0.2], [-0.1, 0.2], [0.3, 1.2], [0.1, 0.2, 0.3]):
        with pytest.raises(ValueError, match=r"guidance_interval is \["):
            check_interval(interval)
