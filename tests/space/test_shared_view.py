"""The address of a view: read back into values, and written by the page."""

from urllib.parse import parse_qsl

from request_limits import CONTROLS, ModelDefaults, check_request
from shared_view import NAMES, WRITE_ADDRESS, values_of_query
from space_settings import SpaceSettings

BEGIN = ["circle", ["base", "tuned"], 4, 0, 20, 2.0, True]


def values(address: str) -> list | None:
    return values_of_query(dict(parse_qsl(address, keep_blank_values=True)), BEGIN)


def test_an_address_gives_a_view_and_what_it_leaves_out_stays():
    address = "class=a+%26+b&model=base%2Csecond&samples=3&seed=9007199254740991&steps=12&guidance=2.5&masks=0"
    assert values(address) == ["a & b", ["base", "second"], 3, 2**53 - 1, 12, 2.5, False]
    assert values("seed=7&__theme=dark") == ["circle", ["base", "tuned"], 4, 7, 20, 2.0, True]
    assert values("__theme=dark") is None and values("") is None
    # the page writes the same names
    assert str(list(NAMES)) in WRITE_ADDRESS


def test_anything_else_is_refused_by_the_limits_and_never_repeated():
    settings = SpaceSettings()
    for text in ("<script>", "nan", "1e999", "-1", "²", "9" * 400, "", "x" * 1000):
        for name in NAMES[1:6]:
            given = values_of_query({name: text}, BEGIN)
            try:
                check_request(
                    settings, settings.class_choices(), ModelDefaults(20, 2.0, True), **dict(zip(CONTROLS, given))
                )
            except ValueError as error:
                assert "script" not in str(error) and "999" not in str(error)
            else:
                # too long to be a value: as the page begins
                assert given == BEGIN and len(text) > 500, (name, text)
