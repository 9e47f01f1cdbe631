"""What runs on a Ray cluster, called as Ray would: shards on the Hub without a common folder, and what is refused."""

import dataclasses
import hashlib
from pathlib import Path

import pytest

from ubgen_pipeline.generation import ray_engine
from ubgen_pipeline.generation.dataset_run import DatasetRun
from ubgen_pipeline.generation.generate import generate_dataset
from ubgen_pipeline.generation.ray_engine import ShardWorker, library_versions
from ubgen_pipeline.generation.settings import GenerateSettings

SETTINGS = {
    "class_names": ["circle", "star"], "samples_per_class": 3, "samples_per_shard": 2, "num_inference_steps": 1,
    "batch_size": 2, "threads": 1, "device": "cpu", "shards_per_commit": 8,
}  # fmt: skip


class _Cluster:
    def __init__(self, **resources):
        self.resources = resources

    def cluster_resources(self):
        return self.resources


def _fields(model, **more):
    settings = GenerateSettings(**{**SETTINGS, "model": model, **more})
    return dataclasses.asdict(settings) | {"output_dir": None}


def test_workers_push_what_they_drew_and_what_one_lost_is_missing(hub, random_mini_model, tmp_path):
    generate_dataset(output_dir=tmp_path / "one", model=random_mini_model, **SETTINGS)
    fields = _fields(random_mini_model, hub_dataset_id="org/d")
    driver = DatasetRun(
        GenerateSettings(**{**fields, "engine": "ray", "num_workers": 2}), GenerateSettings(**fields).samples()
    )
    assert driver.folder_to_share is None and driver.missing() == [0, 1, 2]
    first = ShardWorker(fields, library_versions(), 2)
    begun = first.prepare()
    assert first.write(0) == 0
    lost = ShardWorker(fields, library_versions(), 2, begun)
    lost.write(1)
    folder = Path(first._own_folder)
    first.flush()
    assert not folder.exists() and driver.still_missing() == [1, 2]
    second = ShardWorker(fields, library_versions(), 2, begun)
    for number in driver.still_missing():
        second.write(number)
    second.flush()
    assert driver.still_missing() == []
    there = {path: sha for path, sha in hub.repositories.tree("dataset", "org/d").items() if path.startswith("data/")}
    files = sorted((tmp_path / "one" / "data").iterdir())
    assert there == {f"data/{file.name}": hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def test_a_worker_with_other_versions_is_refused_before_a_model_is_loaded(random_mini_model):
    worker = ShardWorker(_fields("nowhere/to-be-found"), {**library_versions(), "torch": "0.1", "peft": None})
    with pytest.raises(ValueError, match=r"has torch \S+ and the driver 0\.1, so its images may differ"):
        worker.prepare()


def test_a_resume_names_the_library_that_differs(random_mini_model, tmp_path, monkeypatch):
    settings = {"model": random_mini_model, "output_dir": tmp_path / "d", **SETTINGS}
    generate_dataset(**settings)
    version = ray_engine.version
    monkeypatch.setattr(
        "ubgen_pipeline.generation.manifest.version", lambda name: "9" if name == "pillow" else version(name)
    )
    with pytest.raises(ValueError, match=r"versions\['pillow'\] was '[\d.]+' there and is '9' now"):
        generate_dataset(**settings)


@pytest.mark.parametrize(("asked", "there", "num"), [(None, 4, 4), (2, 4, 2), (4, 4, 4)])
def test_workers_that_the_cluster_has_gpus_for(asked, there, num):
    assert ray_engine._affordable_workers(_Cluster(GPU=float(there)), asked, "GPU") == num


@pytest.mark.parametrize(("asked", "resources"), [(3, {"GPU": 2.0}), (None, {}), (1, {"CPU": 8.0})])
def test_fewer_gpus_than_asked_for(asked, resources):
    with pytest.raises(ValueError, match=r"num_workers is .*, and the Ray cluster has \d GPUs"):
        ray_engine._affordable_workers(_Cluster(**resources), asked, "GPU")


def test_more_processes_than_gpus(monkeypatch, tmp_path):
    monkeypatch.setenv("LOCAL_RANK", "2")
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    settings = GenerateSettings(class_names=["star"], output_dir=str(tmp_path / "d"))
    with pytest.raises(ValueError, match="LOCAL_RANK is 2, and this machine has 2 GPUs"):
        DatasetRun(settings, settings.samples(), 2, 4)
