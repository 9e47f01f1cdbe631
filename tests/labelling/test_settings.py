"""Settings of ``ubgen annotate`` that contradict each other or name nothing."""

import pytest

from ubgen_pipeline.labelling.settings import AnnotateSettings


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model": None}, "model is missing"),
        ({"output_dir": None}, "output_dir is missing"),
        ({"threshold": 1.5}, "threshold is 1.5; choose from 0 to 1"),
        ({"min_area": 1.0}, "min_area is 1.0"),
        ({"objects": "parts"}, "objects is 'parts'; choose one of regions, classes, queries"),
        ({"review": True, "skip_damaged": True}, "a review keeps every row"),
        ({"samples_per_shard": 0}, "samples_per_shard is 0"),
    ],
)
def test_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        AnnotateSettings(**({"model": "m", "output_dir": "o"} | settings))
