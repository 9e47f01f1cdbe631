"""What runs on a Ray cluster, called as Ray would: shards on the Hub without a common folder, and what is refused."""

import dataclasses
import hashlib
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from ubgen_pipeline.generation import ray_engine
from ubgen_pipeline.generation.dataset_run import DatasetRun
from ubgen_pipeline.generation.generate import generate_dataset, main
from ubgen_pipeline.generation.ray_engine import ShardWorker, library_versions
from ubgen_pipeline.generation.settings import GenerateSettings

SETTINGS = {
    "class_names": ["circle", "star"], "samples_per_class": 3, "samples_per_shard": 2, "num_inference_steps": 1,
    "batch_size": 2, "threads": 1, "device": "cpu", "shards_per_commit": 8,
}  # fmt: skip


class _ActorError(Exception):
    """What Ray raises where a worker is lost."""


class _Ray(ModuleType):
    """Ray's calls on a cluster of this process: a call is done at once, and the worker of a shard may be lost.

    Args:
        lost: numbers of shards whose worker is lost before it has drawn them, once each.
    """

    def __init__(self, lost=()):
        super().__init__("ray")
        self.lost, self.num_started = list(lost), 0
        self.exceptions = ModuleType("ray.exceptions")
        for name in ("RayError", "RayTaskError"):
            setattr(self.exceptions, name, type(name, (Exception,), {}))
        self.exceptions.RayActorError = _ActorError

    def init(self, **settings):
        self.num_cpus = settings.get("num_cpus", 2)

    def shutdown(self):
        self.is_shut_down = True

    def cluster_resources(self):
        return {"CPU": float(self.num_cpus)}

    def remote(self, **resources):
        return lambda kind: SimpleNamespace(remote=lambda *arguments: self._start(kind(*arguments)))

    def _start(self, worker):
        self.num_started += 1
        names = ("prepare", "write", "flush")
        return SimpleNamespace(**{name: SimpleNamespace(remote=self._method(worker, name)) for name in names})

    def _method(self, worker, name):
        def call(*arguments):
            if name == "write" and arguments[0] in self.lost:
                self.lost.remove(arguments[0])
                return _Answer(error=_ActorError("lost"))
            return _Answer(getattr(worker, name)(*arguments))

        return call

    def wait(self, answers, num_returns):
        return answers[:num_returns], answers[num_returns:]

    def get(self, answer):
        if answer.error is not None:
            raise answer.error
        return answer.value


class _Answer:
    def __init__(self, value=None, error=None):
        self.value, self.error = value, error


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


def test_a_worker_is_lost_with_a_shard_that_is_not_on_the_hub_yet(
    hub, random_mini_model, tmp_path, monkeypatch, capsys
):
    """Its first shard waits for more to make a commit when its second one kills it: both are drawn again."""
    ray = _Ray(lost=[2])
    monkeypatch.setitem(sys.modules, "ray", ray)
    monkeypatch.setitem(sys.modules, "ray.exceptions", ray.exceptions)
    flags = ["--class-names", "circle", "star", "--model", random_mini_model, "--hub-dataset-id", "org/d"]
    for name in ("samples_per_class", "samples_per_shard", "num_inference_steps", "batch_size", "threads", "device"):
        flags += [f"--{name.replace('_', '-')}", str(SETTINGS[name])]
    assert main([*flags, "--engine", "ray", "--num-workers", "2"]) == 0
    said = capsys.readouterr().err
    assert "the worker of shard 2 was lost; another takes over" in said
    assert "images/s in the loop" in said and "org/d: 3 shards made here" in said
    generate_dataset(output_dir=tmp_path / "one", model=random_mini_model, **SETTINGS)
    there = {path: sha for path, sha in hub.repositories.tree("dataset", "org/d").items() if path.startswith("data/")}
    files = sorted((tmp_path / "one" / "data").iterdir())
    assert there == {f"data/{file.name}": hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
    # two, one for the lost one, and for what was lost with it a worker more
    assert ray.num_started == 4 and ray.is_shut_down


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
