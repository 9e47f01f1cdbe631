"""What a source row is drawn again as: other conditions, and other objects."""

from ubgen_pipeline.prompts.class_prompts import ClassName
from ubgen_pipeline.prompts.diffugen_variations import OtherConditions, OtherObjects

ROW = {
    "template": "{view_point} of a {object_name}++ by {time_of_day}",
    "view_point": "top view",
    "time_of_day": "early day",
    "sky_condition": "clear",
    "weather_condition": "sun",
}
STAR = ClassName("star", "x7")


def test_other_conditions_leave_out_what_the_row_has():
    values = {"time_of_day": ("day", "night"), "sky_condition": ("grey",), "weather_condition": ("rain", "fog")}
    prompts = OtherConditions(values).prompts(STAR, 3, ROW)
    # "day" is part of "early day"
    assert [item.prompt for item in prompts] == ["top view of a star++ by night"] * 2
    assert [dict(item.attributes)["weather_condition"] for item in prompts] == ["rain", "fog"]
    assert {(item.label, item.key) for item in prompts} == {(3, "x7")}
    assert OtherConditions(values).facts()["time_of_day"] == ["day", "night"]


def test_a_row_with_all_conditions_is_not_drawn():
    values = {"time_of_day": ("day",), "sky_condition": ("grey",), "weather_condition": ("rain",)}
    assert OtherConditions(values).prompts(STAR, 0, ROW) == []


def test_other_objects_are_seen_from_the_rows_view_point():
    variations = OtherObjects({"star": ("golden star", "red star")})
    first, second = variations.prompts(STAR, 1, ROW)
    assert first.prompt == "a top view view of golden star" and second.word == "red star"
    assert (
        dict(first.attributes)["description"] == "golden star" and dict(first.attributes)["time_of_day"] == "early day"
    )
    assert variations.prompts(ClassName("ring"), 0, ROW) == []
    assert variations.facts() == {"star": ["golden star", "red star"]}
