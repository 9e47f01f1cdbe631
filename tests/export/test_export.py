"""What every export shares: outlines as stored, refusals, flagged images, a full disk."""

import re
import resource
import subprocess

import numpy as np
import pyarrow
import pytest

from support.exported import files_of, replaced, rewrite
from support.scene_dataset import NUM_ROWS, png, write_scene_dataset
from support.warm_python import warm_programs
from ubgen_pipeline.dataset import annotated_rows
from ubgen_pipeline.export.export import ExportSettings, export_dataset, main


@pytest.mark.parametrize("name", ["coco", "yolo"])
def test_outlines_are_exported_as_they_are_stored_and_not_traced_again(tmp_path, name, monkeypatch):
    write_scene_dataset(tmp_path / "without")
    write_scene_dataset(tmp_path / "with", polygons=True)
    export_dataset(tmp_path / "without", ExportSettings(name, str(tmp_path / "a"), polygons=True, accept_loss=True))

    def traced(region):
        raise AssertionError("a region was traced")

    monkeypatch.setattr(annotated_rows, "region_outlines", traced)
    export_dataset(tmp_path / "with", ExportSettings(name, str(tmp_path / "b"), polygons=True, accept_loss=True))
    assert files_of(tmp_path / "a") == files_of(tmp_path / "b")
    with pytest.raises(AssertionError, match="was traced"):
        export_dataset(
            tmp_path / "without", ExportSettings(name, str(tmp_path / "c"), polygons=True, accept_loss=True)
        )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda t: replaced(t, "mask", 1, png(np.zeros((64, 64), np.uint8))),
            r"mask of row \d is 64 x 64",
        ),
        (lambda t: replaced(t, "mask", 1, png(np.full((64, 128), 11, np.uint8))), "holds 11, which is label 10 of 10"),
        (lambda t: replaced(t, "image", 1, None), "has no image"),
        (lambda t: replaced(t, "index", 1, t["index"][0].as_py()), "occurs twice"),
        (lambda t: t.drop_columns(["mask", "objects"]), "neither masks nor objects"),
        (lambda t: t.drop_columns(["label"]), "no column 'label'"),
    ],
)
def test_a_dataset_that_does_not_fit_leaves_nothing_behind(tmp_path, change, message, capsys):
    write_scene_dataset(tmp_path / "d")
    rewrite(tmp_path / "d", change)
    assert main([str(tmp_path / "d"), "--format", "voc", "--output-dir", str(tmp_path / "out")]) == 2
    assert re.search(message, capsys.readouterr().err)
    assert [item.name for item in tmp_path.iterdir()] == ["d"]


def test_bad_arguments(dataset, tmp_path, capsys):
    folder = dataset[0]

    def error(*arguments):
        assert main([str(argument) for argument in arguments]) == 2
        return capsys.readouterr().err

    assert "holds no data" in error(tmp_path, "--format", "coco", "--output-dir", tmp_path / "o")
    assert "choose one of imagefolder" in error(folder, "--format", "csv", "--output-dir", tmp_path / "o")
    assert "has no polygons" in error(folder, "--format", "voc", "--output-dir", tmp_path / "o", "--polygons")
    assert "dataset is missing" in error("--format", "coco", "--output-dir", tmp_path / "o")
    assert "inside the dataset" in error(folder, "--format", "coco", "--output-dir", folder / "o")
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "file").write_text("mine")
    assert "holds something" in error(folder, "--format", "coco", "--output-dir", tmp_path / "kept")
    assert (tmp_path / "kept" / "file").read_text() == "mine"
    (tmp_path / "d").mkdir()
    write_scene_dataset(tmp_path / "d")
    (tmp_path / "d" / "data" / "train-00001-of-00003.parquet").unlink()
    assert "unfinished: 2 of 00003" in error(tmp_path / "d", "--format", "coco", "--output-dir", tmp_path / "o")
    assert not (tmp_path / "o").exists()


def test_flagged_images_are_left_out_and_counted(dataset, tmp_path, capsys):
    write_scene_dataset(tmp_path / "d")
    rewrite(
        tmp_path / "d",
        lambda t: t.append_column("nsfw_content_detected", pyarrow.array([i == 1 for i in range(len(t))])),
    )
    assert (
        export_dataset(tmp_path / "d", ExportSettings("yolo", str(tmp_path / "o"), accept_loss=True)) == NUM_ROWS - 3
    )
    assert "3 that are marked as black" in capsys.readouterr().err
    assert (
        export_dataset(
            tmp_path / "d", ExportSettings("yolo", str(tmp_path / "p"), keep_flagged=True, accept_loss=True)
        )
        == NUM_ROWS
    )


def test_command_on_a_full_disk_leaves_nothing(dataset, tmp_path):
    command = [str(warm_programs() / "ubgen"), "export", str(dataset[0]), "--format", "webdataset"]
    command += ["--output-dir", str(tmp_path / "o")]

    def limit_file_size():
        resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))

    done = subprocess.run(command, capture_output=True, text=True, preexec_fn=limit_file_size)
    assert done.returncode == 2 and "no space left" in done.stderr and not list(tmp_path.iterdir())
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f"{NUM_ROWS} images of 10 classes" in done.stderr and list((tmp_path / "o").glob("*.tar"))
    written = [file for file in (tmp_path / "o").rglob("*") if file.is_file()]
    header, figures = map(str.split, done.stdout.splitlines())
    assert header == ["images", "files", "MB"] and figures[:2] == [str(NUM_ROWS), str(len(written))]
