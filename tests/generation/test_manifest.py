"""The manifest: whatever changes an image's bytes changes it, and nothing else does."""

import json

import pytest

from support.random_loras import save_random_lora
from ubgen_pipeline.generation.manifest import manifest
from ubgen_pipeline.generation.settings import GenerateSettings
from ubgen_pipeline.inference.settings import Inference
from ubgen_pipeline.models.loras import as_loras
from ubgen_pipeline.models.sources import GeneratorSource

INFERENCE = Inference(4, 1, "float32", "off", "none")
ALL = {"class_names": ["star", "ring"], "output_dir": "d"}


def manifest_of(inference=INFERENCE, device="cpu", revision=None, **settings):
    asked = GenerateSettings(**{**ALL, **settings})
    few_step = as_loras(asked.few_step_lora)
    source = GeneratorSource(asked.model, revision, as_loras(asked.lora), few_step[0] if few_step else None)
    return manifest(asked, asked.samples(), source, inference, device)


@pytest.mark.parametrize(
    "settings",
    [
        {"class_names": ["star", "heart"]},
        {"samples_per_class": 11},
        {"samples_per_shard": 3},
        {"template": "a {name}"},
        {"negative_prompt": "blurry"},
        {"num_inference_steps": 49},
        {"guidance_scale": 2.5},
        {"scheduler": "ddim"},
        {"height": 32},
        {"seed": 1},
        {"codec": "jpeg"},
        {"annotations": ["mask"]},
        {"scores": ["duplicates"]},
        {"preset": "dpm-20"},
        {"revision": "abc"},
        {"variant": "fp16"},
    ],
)
def test_what_changes_bytes_changes_it(settings):
    assert manifest_of(**settings) != manifest_of()


def test_how_it_is_drawn_on_the_machine_counts():
    assert manifest_of(device="cuda") != manifest_of()
    others = [Inference(5, 1, "float32", "off", "none"), Inference(4, 1, "float32", "off", "none", "flash")]
    for other in (*others, Inference(4, 1, "float32", "off", "none", offload="text")):
        assert manifest_of(inference=other) != manifest_of()
    assert manifest_of(revision="abc")["model_revision"] == "abc"


@pytest.mark.parametrize(
    "settings",
    [
        {"output_dir": "elsewhere"},
        {"hub_dataset_id": "org/d", "private": True, "keep_local": True, "shards_per_commit": 3},
        {"engine": "ray", "num_workers": 3, "worker_gpus": 0.5, "worker_cpus": 4},
        {"dry_run": True},
        {"prompt_features": "kept"},
    ],
)
def test_where_it_goes_and_who_draws_do_not_count(settings):
    assert manifest_of(**settings) == manifest_of()


def test_models_count_by_what_they_hold_wherever_they_lie(tiny_model, tmp_path):
    first = save_random_lora(tiny_model, tmp_path / "a")
    copy = tmp_path / "elsewhere" / "b"
    copy.mkdir(parents=True)
    for file in first.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    one, two = (manifest_of(lora=str(folder)) for folder in (first, copy))
    assert one == two != manifest_of() and str(tmp_path) not in json.dumps(one)
    other = save_random_lora(tiny_model, tmp_path / "c", seed=1)
    assert manifest_of(lora=str(other)) != one


def test_several_loras_stand_with_their_strengths_and_in_their_order(tiny_model, tmp_path):
    a, b = (str(save_random_lora(tiny_model, tmp_path / name, seed=seed)) for seed, name in enumerate("ab"))
    plain = manifest_of(lora=a)
    assert manifest_of(lora=[a]) == manifest_of(lora=[f"{a}:1.0"]) == plain
    # as datasets with one LoRA were always written
    assert isinstance(plain["lora"], str) and "lora_strength" not in plain
    both = manifest_of(lora=[f"{a}:0.5", b])
    assert len(both["lora"]) == 2 and both["lora_strength"] == [0.5, 1.0] and both["lora_revision"] == [None, None]
    others = ([a, b], [b, f"{a}:0.5"], [f"{a}:0.5"], [f"{a}:0"], [a, f"{b}:0.5"])
    assert all(manifest_of(lora=list(other)) != both for other in others) and str(tmp_path) not in json.dumps(both)


def test_given_mask_settings_stand_as_those_that_masks_are_made_with(mini_model):
    given = manifest_of(model=mini_model, annotations=["mask"], mask_threshold=0.9)
    assert given["mask_settings"]["threshold"] == 0.9 and not [name for name in given if name.startswith("mask_t")]
    assert {"scipy", "contourpy"} <= set(given["versions"]) and "scipy" not in manifest_of()["versions"]
    # the default, given, is the same
    default = manifest_of(model=mini_model, annotations=["mask"])
    threshold = default["mask_settings"]["threshold"]
    assert manifest_of(model=mini_model, annotations=["mask"], mask_threshold=threshold) == default


def test_a_preset_stands_with_what_it_adds_to_the_call():
    assert "preset" not in manifest_of() and "few_step_lora" not in manifest_of()
    added = manifest_of(preset="deep-cache")
    assert (added["preset"], added["deep_features_every"], added["few_step_lora"]) == ("deep-cache", 3, None)


def test_diversity_stands_with_its_numbers_and_only_where_it_is_asked_for():
    plain = manifest_of()
    assert not [name for name in plain if "cads" in name or name in ("diversity", "guidance_interval")]
    added = manifest_of(diversity="cads", cads_scale=0.5, guidance_interval=[0.2, 0.8])
    assert added.pop("diversity") == {"method": "cads", "tau1": 0.6, "tau2": 0.9, "scale": 0.5, "psi": 1.0}
    assert added.pop("guidance_interval") == [0.2, 0.8] and added == plain
    # the default, given, is the same
    assert manifest_of(diversity="cads", cads_psi=1.0) == manifest_of(diversity="cads")
