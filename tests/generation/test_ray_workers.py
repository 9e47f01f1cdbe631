"""What runs on a Ray cluster, called as Ray would: shards on the Hub without a common folder, and what is refused."""

import dataclasses
import hashlib
import json
import platform
import re
import sys
from importlib.metadata import version
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from ubgen_pipeline.generation import ray_engine
from ubgen_pipeline.generation.dataset_run import DatasetRun
from ubgen_pipeline.generation.generate import generate_dataset, main
from ubgen_pipeline.generation.ray_workers import ShardWorker, WorkerShare, affordable_workers, library_versions
from ubgen_pipeline.generation.settings import GenerateSettings

SETTINGS = {
    "class_names": ["circle", "star"], "samples_per_class": 3, "samples_per_shard": 2, "num_inference_steps": 1,
    "batch_size": 2, "threads": 1, "device": "cpu", "shards_per_commit": 8,
}  # fmt: skip


class _ActorError(Exception):
    """What Ray raises where a worker is lost."""


class _Ray(ModuleType):
    """Ray's calls on a cluster of this process: a call is done at once, and a worker may be lost in one.

    Args:
        lost: calls in which the worker is lost before it has done anything, once each: names, with the number of the
            shard after the one that writes it, such as ``write 2``.
        nodes: resources of each node; of one that is started here with as many CPUs as it is told if not given.
    """

    def __init__(self, lost=(), nodes=None):
        super().__init__("ray")
        self.lost, self.resources, self.calls, self.actors = list(lost), nodes, [], []
        self.exceptions = ModuleType("ray.exceptions")
        for name in ("RayError", "RayTaskError", "OutOfMemoryError", "NodeDiedError"):
            setattr(self.exceptions, name, type(name, (Exception,), {}))
        self.exceptions.RayActorError = _ActorError

    def is_initialized(self):
        return False

    def init(self, **settings):
        if "num_cpus" in settings and self.resources is not None:
            raise ValueError("When connecting to an existing cluster, num_cpus must not be provided.")
        self.resources = self.resources or [{"CPU": float(settings["num_cpus"])}]

    def shutdown(self):
        self.is_shut_down = True

    def nodes(self):
        return [{"Alive": True, "Resources": node} for node in self.resources] + [
            {"Alive": False, "Resources": {"CPU": 64.0, "GPU": 8.0}}
        ]

    def remote(self, **resources):
        self.asked = resources
        return lambda kind: SimpleNamespace(remote=lambda *arguments: self._start(kind(*arguments)))

    def _start(self, worker):
        names = ("check", "prepare", "write", "news", "flush", "close")
        actor = SimpleNamespace(
            is_killed=False,
            **{name: SimpleNamespace(remote=self._method(worker, name)) for name in names},
        )
        self.actors.append(actor)
        return actor

    def _method(self, worker, name):
        def call(*arguments):
            called = f"write {arguments[0]}" if name == "write" else name
            self.calls.append(called)
            if called in self.lost:
                self.lost.remove(called)
                return _Answer(error=_ActorError("lost"))
            try:
                return _Answer(getattr(worker, name)(*arguments))
            except ValueError as error:
                failed = self.exceptions.RayTaskError(f"in a worker: {error}")
                failed.cause = error
                return _Answer(error=failed)

        return call

    def kill(self, actor):
        actor.is_killed = True

    def wait(self, answers, num_returns, timeout):
        return answers[:num_returns], answers[num_returns:]

    def get(self, answer):
        if answer.error is not None:
            raise answer.error
        return answer.value


class _Answer:
    def __init__(self, value=None, error=None):
        self.value, self.error = value, error


@pytest.fixture
def start_ray(monkeypatch):
    """Puts a cluster of this process in Ray's place; takes the arguments of ``_Ray``."""

    def start(*arguments, **options):
        ray = _Ray(*arguments, **options)
        monkeypatch.setitem(sys.modules, "ray", ray)
        monkeypatch.setitem(sys.modules, "ray.exceptions", ray.exceptions)
        monkeypatch.delenv("RAY_ADDRESS", raising=False)
        # ask for news at every turn
        monkeypatch.setattr(ray_engine, "_ASK_EVERY", 0.0)
        # seconds in each new cache, and not what is tested here
        monkeypatch.setattr("ubgen_pipeline.inference.machine_limit.machine_limit", lambda *arguments: 1e12)
        return ray

    return start


def _flags(model, *more):
    flags = ["--class-names", "circle", "star", "--model", model]
    for name in ("samples_per_class", "samples_per_shard", "num_inference_steps", "batch_size", "threads"):
        flags += [f"--{name.replace('_', '-')}", str(SETTINGS[name])]
    return [*flags, "--engine", "ray", *more]


def _hashes(folder):
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in Path(folder, "data").iterdir()}


def _on_the_hub(hub):
    tree = hub.repositories.tree("dataset", "org/d")
    return {path.removeprefix("data/"): sha for path, sha in tree.items() if path.startswith("data/")}


def _fields(model, **more):
    settings = GenerateSettings(**{**SETTINGS, "model": model, **more})
    return dataclasses.asdict(settings) | {"output_dir": None}


@pytest.fixture(scope="module")
def one_process(random_mini_model, tmp_path_factory):
    """Hashes of the files of the dataset that one process draws."""
    folder = tmp_path_factory.mktemp("one")
    generate_dataset(output_dir=folder, model=random_mini_model, **SETTINGS)
    return _hashes(folder)


def test_workers_push_what_they_drew_and_what_one_lost_is_missing(hub, random_mini_model, one_process):
    fields = _fields(random_mini_model, hub_dataset_id="org/d")
    driver = DatasetRun(
        GenerateSettings(**{**fields, "engine": "ray", "num_workers": 2}), GenerateSettings(**fields).samples()
    )
    assert driver.folder_to_share is None and driver.missing() == [0, 1, 2]
    first = ShardWorker(fields, library_versions(), 2)
    begun = first.prepare()
    drawn = first.write(0)
    assert drawn.num_images == 2 and drawn.stages["drawing"] > 0 and first.news().num_drawn == 2
    lost = ShardWorker(fields, library_versions(), 2)
    lost.prepare(begun)
    lost.write(1)
    first.flush()
    folder = Path(first._run.shards.folder)
    assert driver.still_missing() == [1, 2] and folder.exists()
    # it goes on after it has pushed
    first.write(1)
    first.flush()
    figures, marks = first.close()
    assert not folder.exists() and figures.num_images == 4 and not marks
    second = ShardWorker(fields, library_versions(), 2)
    second.prepare(begun)
    for number in driver.still_missing():
        second.write(number)
    second.flush()
    second.close()
    lost.close()
    assert driver.still_missing() == []
    assert _on_the_hub(hub) == one_process


def test_a_worker_is_lost_with_a_shard_that_is_not_on_the_hub_yet(
    hub, random_mini_model, one_process, start_ray, capsys
):
    """Its first shard waits for more to make a commit when its second one kills it: both are drawn again."""
    ray = start_ray(lost=["write 1"])
    flags = _flags(random_mini_model, "--hub-dataset-id", "org/d", "--num-workers", "2", "--device", "cpu")
    assert main(flags) == 0
    said = capsys.readouterr().err
    assert "the worker of shard 1 was lost; another takes over" in said
    assert "1 shards were lost with their worker before they were pushed; they are drawn again" in said
    assert "images/s in the loop" in said and "org/d: 3 shards made here" in said
    # of the images that were drawn, two were lost
    assert "8 images in " in said
    assert _on_the_hub(hub) == one_process
    # two, and one for the lost one, whose models serve for what was lost with it, too
    assert len(ray.actors) == 3 and ray.is_shut_down


def test_workers_are_lost_at_the_end(hub, random_mini_model, one_process, start_ray, capsys):
    ray = start_ray(lost=["flush", "close"])
    flags = _flags(random_mini_model, "--hub-dataset-id", "org/d", "--num-workers", "2", "--device", "cpu")
    assert main(flags) == 0
    assert capsys.readouterr().err.count("were lost with their worker") == 1
    assert _on_the_hub(hub) == one_process and not ray.lost


def test_workers_that_are_lost_while_they_start(random_mini_model, one_process, tmp_path, start_ray, capsys):
    start_ray(lost=["check", "prepare", "check"])
    flags = _flags(random_mini_model, "--output-dir", str(tmp_path / "d"), "--num-workers", "2", "--device", "cpu")
    assert main(flags) == 0
    said = capsys.readouterr().err
    assert said.count("a worker was lost while it started (lost); another takes its place") == 3
    assert _hashes(tmp_path / "d") == one_process
    start_ray(lost=["prepare"] * 6)
    assert main([*flags, "--output-dir", str(tmp_path / "e")]) == 2
    assert "workers of the Ray cluster die again and again (lost); run again to resume" in capsys.readouterr().err


def test_a_shard_whose_workers_always_die_stops_the_run_which_resumes(
    random_mini_model, one_process, tmp_path, start_ray, capsys
):
    flags = _flags(random_mini_model, "--output-dir", str(tmp_path / "d"), "--num-workers", "1")
    start_ray(lost=["write 1"] * 3)
    assert main(flags) == 2
    assert "workers of the Ray cluster die again and again" in capsys.readouterr().err
    assert "train-00000-of-00003.parquet" in _hashes(tmp_path / "d")
    # the device is that of the manifest
    ray = start_ray(nodes=[{"CPU": 2.0, "GPU": 1.0}])
    assert main(flags) == 0
    assert _hashes(tmp_path / "d") == one_process and ray.asked["num_gpus"] == 0


def test_progress_of_all_workers_and_what_they_say(random_mini_model, tmp_path, start_ray, capsys, monkeypatch):
    monkeypatch.setenv("UBGEN_PROGRESS_SECONDS", "0")
    ray = start_ray(nodes=[{"CPU": 4.0}, {}])
    flags = _flags(random_mini_model, "--output-dir", str(tmp_path / "d"), "--worker-cpus", "2")
    assert main(flags) == 0
    said = capsys.readouterr().err
    assert "2 workers on the Ray cluster, each with 2 CPUs" in said
    assert re.search(r"ubgen: 2/6 images, \d of 2 workers, [\d.]+ images/s, 00:\d\d:\d\d left\n", said)
    assert re.search(r"ubgen: 6/6 images, 2 of 2 workers, [\d.]+ images/s, 00:00:00 left\n", said)
    assert said.count(f"ubgen: worker on {platform.node()}: the model is not compiled: it would not pay here\n") == 1
    assert ray.asked["num_cpus"] == 2
    card = (tmp_path / "d" / "README.md").read_text()
    assert "Of the run that finished the dataset, by its Ray workers:" in card
    # the time that a process takes to start is of loading, too
    loading = float(re.search(r"([\d.]+) loading", said)[1])
    assert 0 < loading < 60
    manifest = json.loads((tmp_path / "d" / ".ubgen" / "manifest.json").read_text())["settings"]
    assert not {"worker_cpus", "worker_gpus", "num_workers"} & set(manifest)


def test_a_driver_without_gpu_gives_workers_the_clusters_gpus(random_mini_model, tmp_path, start_ray, capsys):
    ray = start_ray(nodes=[{"CPU": 2.0}, {"CPU": 8.0, "GPU": 2.0}])
    flags = _flags(random_mini_model, "--output-dir", str(tmp_path / "d"), "--worker-gpus", "0.5")
    assert main(flags) == 2
    said = capsys.readouterr().err
    # three shards, and room for four workers
    assert "3 workers on the Ray cluster, each with 0.5 GPU and 1 CPU" in said and ray.asked["num_gpus"] == 0.5
    assert "has a GPU that PyTorch" in said and platform.node() in said
    assert main([*flags[:-2], "--device", "cuda", "--num-workers", "3"]) == 2
    assert "num_workers is 3, and the Ray cluster has 2 GPUs and 10 CPUs on 2 nodes" in capsys.readouterr().err
    start_ray(nodes=[{"CPU": 2.0}])
    assert main(flags) == 2
    assert "worker_gpus is 0.5, and the Ray cluster has no GPUs" in capsys.readouterr().err
    assert not (tmp_path / "d").exists()


def test_workers_that_share_a_gpu_share_its_memory(random_mini_model, monkeypatch):
    shares = []
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.set_per_process_memory_fraction", shares.append)
    fields = _fields(random_mini_model, device="cuda")
    ShardWorker(fields, library_versions(), gpu_share=0.5).check()
    ShardWorker(fields, library_versions()).check()
    assert shares == [pytest.approx(0.475)]


def test_a_worker_works_in_the_drivers_folder(random_mini_model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ShardWorker(_fields(random_mini_model), library_versions(), folder=str(tmp_path / "none")).check()
    assert Path.cwd() == tmp_path
    (tmp_path / "there").mkdir()
    ShardWorker(_fields(random_mini_model), library_versions(), folder=str(tmp_path / "there")).check()
    assert Path.cwd() == tmp_path / "there"


def test_a_worker_with_other_versions_is_refused_before_a_model_is_loaded(random_mini_model):
    worker = ShardWorker(_fields("nowhere/to-be-found"), {**library_versions(), "torch": "0.1", "peft": None})
    with pytest.raises(ValueError, match=r"on \S+, has torch \S+ and the driver 0\.1, so its images may differ"):
        worker.check()


def test_a_resume_names_the_library_that_differs(random_mini_model, tmp_path, monkeypatch):
    settings = {"model": random_mini_model, "output_dir": tmp_path / "d", **SETTINGS}
    generate_dataset(**settings)
    monkeypatch.setattr(
        "ubgen_pipeline.generation.manifest.version", lambda name: "9" if name == "pillow" else version(name)
    )
    with pytest.raises(ValueError, match=r"versions\['pillow'\] was '[\d.]+' there and is '9' now"):
        generate_dataset(**settings)


GPU_NODE = {"CPU": 8.0, "GPU": 4.0}


@pytest.mark.parametrize(
    ("nodes", "asked", "share", "num"),
    [
        ([GPU_NODE], None, WorkerShare(1, 1), 4),
        ([GPU_NODE, GPU_NODE], 2, WorkerShare(1, 1), 2),
        # a head without GPU
        ([{"CPU": 64.0}, GPU_NODE], None, WorkerShare(0.5, 1), 8),
        # two thirds of a GPU leave no room for another
        ([GPU_NODE], None, WorkerShare(0.67, 1), 4),
        ([GPU_NODE], None, WorkerShare(0.1, 1), 8),
        ([GPU_NODE], None, WorkerShare(1, 4), 2),
        ([{"CPU": 3.0}, {"CPU": 5.0}, {}], 3, WorkerShare(0, 2), 3),
    ],
)
def test_workers_that_the_cluster_has_room_for(nodes, asked, share, num):
    assert affordable_workers(nodes, asked, share) == num


@pytest.mark.parametrize(
    ("nodes", "asked", "share", "message"),
    [
        (
            [{"GPU": 2.0, "CPU": 8.0}],
            3,
            WorkerShare(1, 1),
            "num_workers is 3, .* has 2 GPUs and 8 CPUs",
        ),
        ([{}], None, WorkerShare(1, 1), "num_workers is not given, .* 0 GPUs and 0 CPUs on 1 nodes, where no workers"),
        ([{"CPU": 8.0}], 1, WorkerShare(1, 1), "no workers fit that take 1 GPU and 1 CPU each"),
        # eight of them, but four on each
        ([{"CPU": 4.0}] * 2, 1, WorkerShare(0, 5), "8 CPUs on 2 nodes, where no workers fit that take 5 CPUs each"),
    ],
)
def test_fewer_gpus_or_cpus_than_asked_for(nodes, asked, share, message):
    with pytest.raises(ValueError, match=message):
        affordable_workers(nodes, asked, share)


def test_one_driver_hands_the_shards_out(random_mini_model, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(_flags(random_mini_model, "--output-dir", str(tmp_path / "d"))) == 2
    assert "WORLD_SIZE is 2 with engine ray" in capsys.readouterr().err


def test_more_processes_than_gpus(monkeypatch, tmp_path):
    monkeypatch.setenv("LOCAL_RANK", "2")
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    settings = GenerateSettings(class_names=["star"], output_dir=str(tmp_path / "d"))
    with pytest.raises(ValueError, match="LOCAL_RANK is 2, and this machine has 2 GPUs"):
        DatasetRun(settings, settings.samples(), 2, 4)
