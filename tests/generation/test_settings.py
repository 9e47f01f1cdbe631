"""The settings of ``ubgen generate``: which values no dataset can have, and where the dataset lies."""

from pathlib import Path

import pytest

from ubgen_pipeline.generation.settings import HUB_SETTINGS, RUN_SETTINGS, GenerateSettings

NAMES = {"class_names": ["star"]}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_inference_steps": 0}, "num_inference_steps is 0"),
        ({"samples_per_shard": True}, "samples_per_shard is True"),
        ({"samples_per_class": 1.5}, "samples_per_class is 1.5"),
        ({"max_prompts": 0}, "max_prompts is 0"),
        ({"height": -8}, "height is -8"),
        ({"guidance_scale": -1.0}, "guidance_scale is -1"),
        ({"seed": -1}, "seed is -1"),
        ({"engine": "spark"}, "engine is 'spark'"),
        ({"num_workers": 2}, "num_workers is given without engine ray"),
        ({"worker_gpus": 0.5}, "worker_gpus is given without engine ray"),
        ({"worker_cpus": 2}, "worker_cpus is given without engine ray"),
        ({"engine": "ray", "worker_cpus": 0}, "worker_cpus is 0"),
        ({"engine": "ray", "worker_gpus": 0.0}, "worker_gpus is 0.0; give a number above 0 up to 1"),
        ({"engine": "ray", "worker_gpus": 2.0}, "worker_gpus is 2.0"),
        ({"engine": "ray", "worker_gpus": 0.5, "device": "cpu"}, "worker_gpus is given and device is .cpu."),
        ({"engine": "ray", "device": "cuda:1"}, "device is .cuda:1. with engine ray"),
        ({"engine": "ray", "hub_dataset_id": "org/d", "keep_local": True}, "keep_local is set, but shards that go"),
        ({"task": "inpaint"}, "need a source dataset"),
        ({"source": "s"}, "text-to-image takes none"),
        ({"source": "s", "task": "inpaint", "strength": 1.5}, "strength is 1.5"),
        ({"source": "s", "task": "inpaint", "region": "sky"}, "region is 'sky'"),
        ({"source": "s", "task": "inpaint", "region_margin": -1}, "region_margin is -1"),
        ({"source": "s", "task": "inpaint", "samples_per_class": 3}, "give samples_per_source"),
        ({"source": "s", "task": "inpaint", "annotations": ["mask"]}, "annotations is given with a source"),
        ({"annotations": ["mask"], "compile": "on"}, "compile is on, which annotations"),
        ({"class_names": None}, "give the classes either by class_names or by classes"),
        ({"private": True}, "private is set without hub_dataset_id"),
        ({"hub_dataset_id": "d"}, "give the owner too"),
    ],
)
def test_values_that_no_dataset_can_have(settings, message):
    with pytest.raises(ValueError, match=message):
        GenerateSettings(**{**NAMES, **settings})


def test_a_class_file_may_name_the_source_so_that_the_task_is_checked_later():
    settings = GenerateSettings(classes="config.json", task="inpaint")
    with pytest.raises(ValueError, match="need a source dataset"):
        settings.samples()


def test_where_the_dataset_lies(monkeypatch):
    assert GenerateSettings(**NAMES, output_dir="~/d").folder() == Path("~/d").expanduser()
    monkeypatch.setattr("huggingface_hub.constants.HF_HOME", "/cache")
    assert GenerateSettings(**NAMES, hub_dataset_id="org/d").folder() == Path("/cache/ubgen/org--d")
    for settings in ({}, {"hub_dataset_id": "org/d", "keep_local": True}):
        with pytest.raises(ValueError, match="output_dir is missing"):
            GenerateSettings(**NAMES, **settings).folder()


def test_the_groups_name_settings_that_there_are():
    names = set(GenerateSettings(**NAMES).__dataclass_fields__)
    assert {*RUN_SETTINGS, *HUB_SETTINGS} <= names
