"""Damaged images: named by row, column and file wherever they stop a run, and left out and counted where asked for."""

import io
import re
from functools import partial

import numpy as np
import pytest
from datasets import load_dataset
from PIL import Image

from support.image_folders import damage, save_class_folders
from support.parts_dataset import write_labelled
from support.tiny_labellers import segformer
from ubgen_evaluation.evaluate import main as evaluate
from ubgen_pipeline.dataset.annotated_rows import AnnotatedRows
from ubgen_pipeline.dataset.contact_sheets import main as show
from ubgen_pipeline.dataset.damaged_images import StreamedImages, read_row, read_rows, without_damaged
from ubgen_pipeline.dataset.labelled_images import load_labelled_images
from ubgen_pipeline.dataset.reader import open_rows
from ubgen_pipeline.files.image_codecs import DamagedImageError, read_rgb, rgb_image
from ubgen_pipeline.labelling.annotate import main as annotate
from ubgen_pipeline.scoring.score import main as score
from ubgen_training.images.epoch_rows import EpochRows, EpochStream
from ubgen_training.textual_inversion.example_images import read_images

NAMES = ["cat", "dog"]
# class by class: rows 0 to 3 are cats; the sixth is the second dog
ROW = 5


@pytest.fixture
def photos(tmp_path):
    save_class_folders(tmp_path / "photos", NAMES, 4)
    damage(tmp_path / "photos" / "dog" / "1.png")
    return tmp_path / "photos"


NAMED = rf"row {ROW} of .*photos.*, column 'image', file '.*dog/1\.png', holds a damaged image \(.*set skip_damaged"


def write_damaged(folder, codecs=("PNG",) * 8, damaged=(5,)):
    """Eight rows as a finished dataset of ubgen's, those ``damaged`` cut short."""
    write_labelled(folder, [0, 1] * 4, NAMES, codecs=codecs, damaged=damaged)


def test_a_row_is_named_and_others_are_read(photos):
    rows = open_rows(str(photos))
    assert read_row(rows, ROW - 1, "photos")["label"] == 1
    with pytest.raises(DamagedImageError, match=NAMED):
        read_row(rows, ROW, "photos")
    found = read_rows(rows, "photos")
    assert [next(found)["label"] for _ in range(ROW)] == [0, 0, 0, 0, 1]
    with pytest.raises(DamagedImageError, match=NAMED):
        next(found)
    assert list(read_rows([1, 2], "a list")) == [1, 2]


def test_damaged_rows_are_left_out_and_counted(photos, capsys):
    images = load_labelled_images(str(photos), skip_damaged=True)
    assert (
        images.rows["label"][:] == [0] * 4 + [1] * 3 and [row["image"].size for row in images.rows] == [(20, 16)] * 7
    )
    assert f"1 of 8 rows have damaged images and are left out: {ROW}" in capsys.readouterr().err
    assert len(load_labelled_images(str(photos)).rows) == 8
    for name in NAMES:
        for number in range(4):
            (photos / name / f"{number}.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match="has no image that can be read"):
        load_labelled_images(str(photos), skip_damaged=True)


def test_a_missing_file_and_an_image_without_a_scale_are_damaged_too(photos, capsys):
    rows = open_rows(str(photos))
    Image.fromarray(np.ones((4, 4), np.float32)).save(photos / "cat" / "0.png", format="TIFF")
    (photos / "cat" / "2.png").unlink()
    with pytest.raises(DamagedImageError, match=r"row 2 of photos.*cat/2\.png"):
        read_row(rows, 2, "photos")
    assert without_damaged(rows, "photos")["label"][:] == [0] * 2 + [1] * 3
    assert "left out: 0, 2, 5" in capsys.readouterr().err


def test_an_error_of_the_disk_stays_one(photos, monkeypatch):
    from datasets import Image as ImageFeature

    def broken(self, value, token_per_repo_id=None):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(ImageFeature, "decode_example", broken)
    for read in (partial(read_row, index=0), without_damaged):
        with pytest.raises(OSError, match="Input/output error"):
            read(open_rows(str(photos)), source="photos")


def keep_label(row, index, epoch):
    return {"label": row["label"], "size": row["image"].size}


def test_trainings_read_whole_and_streamed(photos, capsys):
    with pytest.raises(DamagedImageError, match=NAMED):
        EpochRows(load_labelled_images(str(photos)), keep_label)[ROW]
    assert len(EpochRows(load_labelled_images(str(photos), skip_damaged=True), keep_label)) == 7
    stream = EpochStream(load_labelled_images(str(photos), streaming=True), keep_label, seed=0, buffer_size=1)
    with pytest.raises(DamagedImageError, match=r"of the stream .*photos, column 'image', file '.*dog/1\.png'"):
        list(stream)
    images = load_labelled_images(str(photos), streaming=True, skip_damaged=True)
    stream = EpochStream(images, keep_label, seed=0, buffer_size=100)
    capsys.readouterr()
    for epoch in range(2):
        stream.set_epoch(epoch)
        assert sorted(row["label"] for row in stream) == [0] * 4 + [1] * 3
    assert len(re.findall("is damaged and left out", capsys.readouterr().err)) >= 1


def test_a_stream_gives_the_rows_that_datasets_decodes(photos):
    (photos / "dog" / "1.png").unlink()
    rows = load_labelled_images(str(photos), streaming=True).rows
    for ours, theirs in zip(StreamedImages(rows, "photos", skip_damaged=False), rows, strict=True):
        assert ours["label"] == theirs["label"] and np.array_equal(
            np.asarray(ours["image"]), np.asarray(theirs["image"])
        )


def test_annotate(photos, tmp_path, capsys):
    segformer(tmp_path / "m", NAMES)
    flags = [str(photos), "--model", str(tmp_path / "m"), "--threshold", "0", "--output-dir"]
    assert annotate([*flags, str(tmp_path / "a")]) == 2
    assert re.search(NAMED, capsys.readouterr().err)
    assert annotate([*flags, str(tmp_path / "b"), "--skip-damaged"]) == 0
    assert "1 of 8 rows have damaged images" in capsys.readouterr().err
    assert load_dataset(str(tmp_path / "b"), split="train")["label"][:] == [0] * 4 + [1] * 3


def test_score_and_show_and_export(tmp_path, capsys):
    write_damaged(tmp_path / "d")
    flags = [str(tmp_path / "d"), "--scores", "clip", "duplicates", "--clip-model", "mini", "--output-dir"]
    assert score([*flags, str(tmp_path / "a")]) == 2
    assert "row 5, column 'image', holds a damaged image" in capsys.readouterr().err
    assert score([*flags, str(tmp_path / "b"), "--skip-damaged"]) == 0
    captured = capsys.readouterr()
    assert "row 5, column 'image'," in captured.err and "It has no scores" in captured.err
    assert re.search(r"black all over or damaged, without scores +1", captured.out)
    rows = load_dataset(str(tmp_path / "b"), split="train").remove_columns("image")
    assert [row["clip_score"] is None for row in rows] == [row["perceptual_hash"] is None for row in rows]
    assert [row["index"] for row in rows if row["clip_score"] is None] == [5]
    assert show([str(tmp_path / "d")]) == 2
    assert "row 5 of" in capsys.readouterr().err
    with pytest.raises(DamagedImageError, match="row 5, column 'image', holds a damaged image"):
        [row.decoded() for row in AnnotatedRows(tmp_path / "d")]


def test_evaluate(photos, tmp_path, capsys):
    flags = ["--datasets", str(photos), "--num-resamples", "10", "--output-dir", str(tmp_path / "r")]
    assert evaluate(flags) == 2
    assert re.search(rf"row {ROW} of .*column 'image', file", capsys.readouterr().err)
    assert evaluate([*flags, "--skip-damaged"]) == 0
    assert "1 of 8 rows have damaged images" in capsys.readouterr().err


def test_textual_inversion(photos, capsys):
    with pytest.raises(DamagedImageError, match=r"file '.*dog/1\.png' of images holds a damaged image"):
        read_images(str(photos / "dog"), 16, 16)
    assert read_images(str(photos / "dog"), 16, 16, skip_damaged=True).shape == (3, 3, 16, 16)
    assert "It is left out" in capsys.readouterr().out
    damage(photos / "dog" / "0.png")
    (photos / "dog" / "2.png").unlink()
    (photos / "dog" / "3.png").unlink()
    with pytest.raises(ValueError, match="whose 2 images are all damaged"):
        read_images(str(photos / "dog"), 16, 16, skip_damaged=True)


def test_bytes_are_read_or_named():
    stream = io.BytesIO()
    Image.new("RGB", (64, 64), "red").save(stream, format="JPEG")
    assert read_rgb(stream.getvalue(), "row 1").getpixel((0, 0))[0] > 200
    for data in (stream.getvalue()[:300], b"", None, b"text"):
        with pytest.raises(DamagedImageError, match="row 1 holds a damaged image"):
            read_rgb(data, "row 1")
    with pytest.raises(ValueError, match="row 2 is no image, but NoneType"):
        rgb_image(None, "row 2")
