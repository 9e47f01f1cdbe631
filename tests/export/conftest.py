"""A dataset of rendered scenes and its exports."""

import pytest

from support.scene_dataset import NUM_ROWS, write_scene_dataset
from ubgen_pipeline.export.export import FORMATS, ExportSettings, export_dataset


@pytest.fixture(scope="session")
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scenes") / "dataset"
    return folder, write_scene_dataset(folder)


@pytest.fixture(scope="session")
def exports(dataset, tmp_path_factory):
    """Folder of each format's export."""
    root = tmp_path_factory.mktemp("exports")
    for name in FORMATS:
        # some classes have no image
        more = {"imagefolder": {"empty_classes": "drop"}, "yolo": {"accept_loss": True}}.get(name, {})
        assert export_dataset(dataset[0], ExportSettings(name, str(root / name), **more)) == NUM_ROWS
    return root
