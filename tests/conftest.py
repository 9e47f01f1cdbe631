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

from pathlib import Path

import pytest


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


def _random_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    from mini_layout import build_random_mini_pipeline

    return build_random_mini_pipeline(tmp_path_factory.mktemp("random_mini"))
