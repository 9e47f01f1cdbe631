"""Addresses of stores, given to every command: they work, or are refused before anything is read or written."""

import pytest

from support.scene_dataset import write_scene_dataset
from support.tiny_labellers import yolos
from ubgen_pipeline.commands.main import main
from ubgen_pipeline.dataset.reader import StoredRows
from ubgen_pipeline.mini.scenes import CLASS_NAMES
from ubgen_training.command import check_writable, run_training
from ubgen_training.denoising.denoiser_config import DenoiserConfig

# a command line, and the setting whose address it refuses
REFUSED = {
    "generate --class-names a --profile": "profile",
    "generate --class-names a --output-dir out --prompt-features": "prompt_features",
    "export DIR --format imagefolder --output-dir": "output_dir",
    "show DIR --output-dir": "output_dir",
    "regenerate DIR --index 0 --output": "output",
    "write-prompts --language-model m --class-names a --output": "output",
    "check-names DIR --output": "output",
    "evaluate --datasets DIR --output-dir": "output_dir",
    "evaluate --datasets DIR --cache-dir": "cache_dir",
    "publish --repo-id owner/name --folder": "folder",
}


@pytest.mark.parametrize("command", REFUSED)
@pytest.mark.parametrize(
    ("address", "shown"),
    [("s3://bucket/place", "'s3://bucket/place'"), ("s3://me:secret@host/place", "'s3://…'")],
    ids=["plain", "with a password"],
)
def test_an_address_is_refused_where_a_file_is_written(command, address, shown, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main([*command.split(), address]) == 2
    error = capsys.readouterr().err
    assert f"{REFUSED[command]} is {shown}, an address, and must be on this machine; give a local path" in error
    assert "secret" not in error and list(tmp_path.iterdir()) == []


def test_trainings_write_here(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    flags = ["--dataset", "no", "--use_cpu", "--output_dir", "s3://bucket/lora"]
    assert run_training(_unexpected, DenoiserConfig, flags, prog="train", description="") == 2
    assert "output_dir is 's3://bucket/lora', an address" in capsys.readouterr().err
    # trainers that are called from Python
    with pytest.raises(ValueError, match="output_dir is 's3://bucket/lora', an address"):
        check_writable("s3://bucket/lora")
    assert list(tmp_path.iterdir()) == []


def _unexpected(config):
    raise AssertionError("training began")


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """The same dataset in a folder and in memory, and a folder for what is made of each."""
    parent = tmp_path_factory.mktemp("places")
    for place in (parent, "memory://addresses"):
        write_scene_dataset(f"{place}/d")
    yolos(parent / "yolos", list(CLASS_NAMES))
    return parent, "memory://addresses"


def _both(places, *command):
    """Run a command in either place, for which {} stands, and compare what it wrote, or printed."""
    for place in places:
        assert main([word.format(place) for word in command]) == 0


def _rows(places, name):
    return tuple(list(StoredRows(f"{place}/{name}")) for place in places)


def test_commands_that_write_datasets_write_them_at_addresses(places):
    _both(places, "score", "{}/d", "--scores", "duplicates", "--output-dir", "{}/scored")
    _both(places, "filter", "{}/scored", "--max-per-duplicate-group", "1", "--output-dir", "{}/view")
    flags = ["--model", str(places[0] / "yolos"), "--threshold", "0", "--device", "cpu"]
    _both(places, "annotate", "{}/d", *flags, "--output-dir", "{}/boxes")
    for name in ("scored", "view", "boxes"):
        local, stored = _rows(places, name)
        assert local == stored and len(local) > 0


def test_a_store_that_refuses_is_found_before_a_model_is_loaded(places, monkeypatch, capsys):
    def refuse(*_):
        raise PermissionError("no right to write")

    monkeypatch.setattr("fsspec.implementations.memory.MemoryFileSystem.pipe_file", refuse)
    monkeypatch.setattr("ubgen_pipeline.scoring.image_scorer.ImageScorer.__init__", _unexpected)
    monkeypatch.setattr("ubgen_pipeline.labelling.build_annotator.annotator_of", _unexpected)
    source = f"{places[1]}/d"
    for command in (
        ["score", source, "--scores", "clip"],
        ["annotate", source, "--model", str(places[0] / "yolos")],
        ["annotate", source, "--model", str(places[0] / "yolos"), "--review"],
    ):
        assert main([*command, "--output-dir", "memory://refused/d"]) == 2
        assert "output_dir is 'memory://refused/d', where writing is not allowed" in capsys.readouterr().err


def test_commands_that_read_datasets_read_them_at_addresses(places, tmp_path, capsys):
    for kind, place in zip(("local", "stored"), places):
        out = tmp_path / kind
        assert main(["export", f"{place}/d", "--format", "coco", "--output-dir", f"{out}/coco"]) == 0
        assert main(["show", f"{place}/d", "--num-per-class", "1", "--output-dir", f"{out}/sheets"]) == 0
    written = {
        kind: {
            str(file.relative_to(tmp_path / kind)): file.read_bytes()
            for file in (tmp_path / kind).rglob("*")
            if file.is_file()
        }
        for kind in ("local", "stored")
    }
    assert written["local"] == written["stored"] and "sheets/sheet-000.png" in written["local"]
    capsys.readouterr()
    assert main(["show", f"{places[1]}/d"]) == 2
    assert "output_dir is missing, and the dataset is at 'memory://addresses/d'" in capsys.readouterr().err
