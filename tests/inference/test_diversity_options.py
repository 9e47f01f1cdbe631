"""The settings of diversity without training: what they stand for, in a call, in rows and back."""

import json

import pytest

from ubgen_pipeline.diversity_settings import Cads
from ubgen_pipeline.generation.settings import GenerateSettings
from ubgen_pipeline.inference.diversity_options import DiversitySettings, diversity_columns, stored_diversity


def test_what_is_given_goes_into_the_call_and_comes_back_from_a_row():
    settings = DiversitySettings(diversity="cads", cads_scale=0.1, cads_tau1=0.3, guidance_interval=[0.2, 0.8])
    arguments = settings.diversity_arguments()
    assert arguments == {"diversity": Cads(0.3, 0.9, 0.1, 1.0), "guidance_interval": (0.2, 0.8)}
    columns = json.loads(json.dumps(diversity_columns(arguments)))
    assert columns["diversity"] == {"method": "cads", "tau1": 0.3, "tau2": 0.9, "scale": 0.1, "psi": 1.0}
    assert stored_diversity(columns) == arguments
    # rows made before, and datasets in which other rows have it
    assert stored_diversity({}) == stored_diversity({"diversity": None, "guidance_interval": None}) == {}
    assert DiversitySettings().diversity_arguments() == {} == diversity_columns({})
    with pytest.raises(ValueError, match="diversity 'later', which this version does not know"):
        stored_diversity({"diversity": {"method": "later"}})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"diversity": "much"}, "diversity is 'much'; choose one of cads"),
        ({"cads_scale": 0.5}, "cads_scale is 0.5 without diversity; add --diversity cads"),
        ({"diversity": "cads", "cads_tau1": 0.95}, "cads_tau1 is 0.95 and cads_tau2 0.9"),
        ({"guidance_interval": [0.8, 0.2]}, r"guidance_interval is \[0.8, 0.2\]; give two shares"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        GenerateSettings(class_names=["star"], **settings)
