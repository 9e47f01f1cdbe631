"""Settings of masks: ranges, the recorded steps, and one definition of the value that a mask ignores."""

import re

import pytest

from support import ROOT
from ubgen_pipeline.mask_settings import IGNORE_LABEL, MaskSettings


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"cross_levels": ()}, "cross_levels"),
        ({"self_level": -1}, "self_level -1"),
        ({"self_power": 0.5}, "self_power is 0.5"),
        ({"threshold": 0}, "threshold is 0"),
        ({"ignore_threshold": 0.9}, "ignore_threshold is 0.9"),
        ({"first_step": 0.5, "last_step": 0.5}, "first_step is 0.5 and last_step 0.5"),
        ({"min_area": 1}, "min_area is 1"),
        ({"source": "words"}, "source is 'words'; choose attention or concepts"),
        ({"background": ()}, r"background is \(\); give a list of at least one word"),
        ({"background": "sea"}, "background is 'sea'"),
        ({"background": (" ",)}, "background is"),
    ],
)
def test_a_setting_out_of_its_range_is_named(settings, message):
    with pytest.raises(ValueError, match=message):
        MaskSettings(**settings)


def test_a_manifest_holds_what_counts_so_that_earlier_datasets_resume():
    assert not MaskSettings().facts().keys() & {"source", "background"}
    facts = MaskSettings(source="concepts", background=["sea"]).facts()
    assert (facts["source"], facts["background"]) == ("concepts", ("sea",))


def test_recorded_steps_are_a_share_of_the_denoising_and_never_none():
    assert list(MaskSettings(first_step=0.5).recorded_steps(8)) == [4, 5, 6, 7]
    assert list(MaskSettings(last_step=0.25).recorded_steps(8)) == [0, 1]
    assert list(MaskSettings(first_step=0.99).recorded_steps(1)) == [0]


def test_the_ignored_value_is_defined_once():
    code = [file for room in ("ubgen_pipeline", "training", "evaluation", "space", "benchmarks")
            for file in (ROOT / room).rglob("*.py")]  # fmt: skip
    defining = re.compile(rf"^\w*IGNORE\w* *(:.*)?= *{IGNORE_LABEL}\b|[=!]= {IGNORE_LABEL}\b", re.MULTILINE)
    found = [str(file.relative_to(ROOT)) for file in code if defining.search(file.read_text(encoding="utf-8"))]
    assert found == ["ubgen_pipeline/mask_settings.py"]
