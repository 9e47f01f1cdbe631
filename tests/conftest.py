"""Fixtures for every test: no network, no telemetry, and the mini model."""

import os

# before any Hugging Face library is imported: they read these once
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["DISABLE_TELEMETRY"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
if "PYTEST_XDIST_WORKER" in os.environ:
    # there is a worker for each core; also for the commands that tests start
    os.environ["OMP_NUM_THREADS"] = "1"

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from support.hub_server import LoopbackHub


def pytest_xdist_auto_num_workers() -> int:
    """One more than there are cores, since tests also wait: for disks, servers and the processes that they start."""
    return len(os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)) + 1


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with a slow test come first, then those with most tests: so the workers end at about the same time."""
    files = Counter(item.path for item in items)
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    # files stay whole, and their tests in their order
    items.sort(key=lambda item: (item.path not in slow, -files[item.path], item.path))


@pytest.fixture(scope="session")
def mini_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Folder of the shipped mini model, or of one with the same layout and random weights where none was built yet."""
    from ubgen_pipeline.mini import mini_model_path

    if (Path(mini_model_path()) / "model_index.json").is_file():
        return mini_model_path()
    return _random_model(tmp_path_factory)


@pytest.fixture(scope="session")
def random_mini_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Folder of a model of the mini layout with random float32 weights."""
    return _random_model(tmp_path_factory)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Folder of a far smaller Stable Diffusion, for trainings of which the images do not matter."""
    from support.tiny_models import sd

    folder = tmp_path_factory.mktemp("tiny_model")
    sd.build().save_pretrained(folder)
    return str(folder)


def _random_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    from support.mini_layout import build_random_mini_pipeline

    return build_random_mini_pipeline(tmp_path_factory.mktemp("random_mini"))


@pytest.fixture
def start_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> "Iterator[Callable[..., LoopbackHub]]":
    """Starts a loopback Hub and points the Hugging Face libraries of this process at it, with a token that may write.

    Keyword arguments are those of ``LoopbackHub``.
    """
    import datasets.config
    import huggingface_hub
    from huggingface_hub import HfFileSystem, close_session, constants

    from support.hub_server import WRITE_TOKEN, LoopbackHub

    running: list[LoopbackHub] = []

    def start(**settings: Any) -> LoopbackHub:
        hub = LoopbackHub(tmp_path / f"hub{len(running)}", **settings)
        running.append(hub.__enter__())
        home = tmp_path / "hf"
        for name, value in {
            "ENDPOINT": hub.endpoint,
            "HUGGINGFACE_CO_URL_TEMPLATE": hub.endpoint + "/{repo_id}/resolve/{revision}/{filename}",
            "HF_HUB_OFFLINE": False,
            "HF_HUB_DISABLE_XET": hub.cas is None,
            "HF_HOME": str(home),
            "HF_HUB_CACHE": str(home / "hub"),
            "HF_XET_CACHE": str(home / "xet"),
        }.items():
            monkeypatch.setattr(constants, name, value)
        for name, value in {
            "HF_ENDPOINT": hub.endpoint,
            "HUB_DATASETS_URL": hub.endpoint + "/datasets/{repo_id}/resolve/{revision}/{path}",
            "HF_HUB_OFFLINE": False,
            "HF_DATASETS_CACHE": home / "datasets",
        }.items():
            monkeypatch.setattr(datasets.config, name, value)
        # what was made, or copied, when the libraries were imported
        monkeypatch.setattr(huggingface_hub.hf_api.api, "endpoint", hub.endpoint)
        for module in list(sys.modules.values()):
            if "HF_HUB_OFFLINE" in vars(module) and module not in (constants, datasets.config):
                monkeypatch.setattr(module, "HF_HUB_OFFLINE", False)
        for name, value in hub.environment(home, WRITE_TOKEN).items():
            monkeypatch.setenv(name, value)
        HfFileSystem.clear_instance_cache()
        close_session()
        return hub

    yield start
    for hub in running:
        hub.__exit__()
    HfFileSystem.clear_instance_cache()
    close_session()


@pytest.fixture
def hub(start_hub: "Callable[..., LoopbackHub]") -> "LoopbackHub":
    """A running loopback Hub with small pages and without Xet; see ``start_hub``."""
    return start_hub(page_size=3)
