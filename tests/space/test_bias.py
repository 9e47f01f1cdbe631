"""Bias as it is measured on the mini world, and as a report has it."""

import json
import math

import pytest
from bias import bias_html, measure_bias, read_report, report_html
from sampler import Cancellation, Sampler
from space_settings import SpaceSettings

from ubgen_pipeline.mini.scenes import CLASS_NAMES


@pytest.fixture(scope="module")
def sampler():
    return Sampler(SpaceSettings())


def test_bias_is_measured_class_by_class_and_can_be_cancelled(sampler):
    drawn = []

    def draw(request, cancellation):
        for sample in sampler.draw(request, cancellation):
            drawn.append(sample)
            yield sample

    options = {"variants": ("base", "tuned"), "samples_per_class": 1, "seed": 0, "guidance_scale": 2.0}
    steps = list(measure_bias(draw, Cancellation(), num_inference_steps=1, **options))
    assert [step.done for step in steps] == [2 * (i + 1) for i in range(10)] and steps[-1].total == 20
    assert [item.request.class_name for item in drawn[::2]] == list(CLASS_NAMES)
    assert "&lt;b&gt;" in bias_html(steps[-1], {"base": "Base", "tuned": "<b>"}) and set(steps[-1].shares) == {
        "base",
        "tuned",
    }
    cancellation = Cancellation()
    for step in measure_bias(draw, cancellation, num_inference_steps=1, **options):
        cancellation.is_asked = step.done == 4
    assert step.done == 4


def test_figures_that_could_not_be_computed_are_left_open(tmp_path):
    file = tmp_path / "report.json"
    nothing = {"value": math.nan, "low": math.nan, "high": math.inf}
    columns = {
        "/home/a/base": {"accuracy": nothing, "own background": {"value": 0.5, "low": math.nan, "high": 1}},
        "/home/b/base": {"accuracy": {"value": 10**400}, "own background": {"value": 0.25}},
    }
    file.write_text(json.dumps({"tables": {"Bias": columns}}))
    page = report_html(read_report(file))
    assert page.count("<td>-</td>") == 2 and "<td>0.500</td>" in page and "nan" not in page.lower()
    # two columns whose folders have one name are two columns
    assert page.count(">base<") == page.count(">base_<") > 0


def test_a_report_is_shown_escaped_and_without_paths(tmp_path):
    interval = {"value": 0.25, "low": 0.2, "high": 0.3}
    tables = {"Data<b>sets": {"/home/me/base": {"own background": interval}, "<i>tuned": {"images": {"value": 200.0}}}}
    file = tmp_path / "report.json"
    file.write_text(json.dumps({"settings": {}, "tables": tables}))
    page = report_html(read_report(file))
    assert "0.250 [0.200, 0.300]" in page and "<b>" not in page and "<i>" not in page and "/home" not in page
    deep = '{"tables": ' + "[" * 100_000 + "]" * 100_000 + "}"
    for wrong in ("[]", "{", '{"tables": {"a": {"b": {"c": 3}}}}', '{"tables": 3}', deep):
        file.write_text(wrong)
        with pytest.raises(ValueError, match=r"UBGEN_REPORT is .*report\.json', which is no report"):
            read_report(file)
