"""The families' tiny models, one after another."""

import pytest

from support.family_models import CASES, FAMILY_NAMES


@pytest.fixture(scope="module", params=CASES)
def case(request):
    """Of every kind of model."""
    return CASES[request.param]


@pytest.fixture(scope="module", params=FAMILY_NAMES)
def family(request):
    """Of every family: those with distinct code; other kinds differ in numbers alone."""
    return CASES[request.param]
