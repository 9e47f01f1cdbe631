"""Contact sheets of an annotated dataset: what they show, and what they refuse."""

import numpy as np
import pytest
from datasets import ClassLabel, Features, List, load_dataset
from datasets import Image as HFImage
from PIL import Image

from support.parts_dataset import write_rows
from support.scene_dataset import png
from ubgen_pipeline.dataset.columns import objects_feature
from ubgen_pipeline.dataset.contact_sheets import ShowSettings, contact_sheet, main, show_dataset
from ubgen_pipeline.generation.generate import main as generate
from ubgen_pipeline.mask_settings import ANNOTATIONS

SHORT = ["--num-inference-steps", "2", "--samples-per-class", "2", "--samples-per-shard", "2", "--batch-size", "2"]


@pytest.fixture(scope="module")
def annotated(mini_model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("annotated") / "d"
    arguments = ["--model", mini_model, "--class-names", "circle", "star", "--output-dir", str(folder), *SHORT]
    assert generate([*arguments, "--annotations", *ANNOTATIONS]) == 0
    return folder


def test_sheets_show_what_is_annotated(annotated, tmp_path, capsys):
    assert main([str(annotated), "--output-dir", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["class", "images", "shown", "in", "objects"]
    assert lines[1].split()[:3] == ["circle", "2", "2"] and lines[2].split()[:3] == ["star", "2", "2"]
    assert lines[3] == str(tmp_path / "sheet-000.png")
    sheet = np.asarray(Image.open(lines[3]).convert("RGB")).astype(int)
    # six tiles wide and four high, each 192 pixels and a frame of 4
    assert sheet.shape == (4 * 196 + 4, 6 * 196 + 4, 3)
    tiles = [sheet[4:196, 4 + 196 * column : 196 + 196 * column] for column in range(6)]
    assert all(np.abs(tile - tiles[0]).max() > 50 for tile in tiles[1:])
    # the mask tile differs from the image where the mask is, and only there
    mask = np.asarray(load_dataset(str(annotated), split="train")[0]["mask"].resize((192, 192), 0)) > 0
    changed = np.abs(tiles[1] - tiles[0]).max(axis=-1) > 0
    assert not changed[~mask].any() and changed[mask].mean() > 0.9


def test_bad_sheets(annotated, tmp_path, capsys):
    with pytest.raises(ValueError, match="holds no data/train"):
        show_dataset(tmp_path)
    with pytest.raises(ValueError, match="layers holds 'boxes'"):
        ShowSettings(layers=["boxes"])
    assert main([]) == 2
    assert "ubgen show DIR" in (error := capsys.readouterr().err) and "Traceback" not in error


def test_images_of_unequal_proportions_stand_in_one_grid():
    red, blue = (Image.new("RGB", size, colour) for size, colour in (((32, 64), "red"), ((90, 30), "blue")))
    sheet = np.asarray(contact_sheet([{"image": red}, {"image": blue}], ["image"], ["a"]))
    upper, lower = sheet[: len(sheet) // 2], sheet[len(sheet) // 2 :]
    # three times as wide as high, six times as wide as the other, and white beside that
    coloured = ((upper, (255, 0, 0)), (lower, (0, 0, 255)))
    widths = [int((part == colour).all(axis=2).any(axis=0).sum()) for part, colour in coloured]
    assert widths[1] == 6 * widths[0] and (upper[len(upper) // 2, -20:] == 255).all()


def test_rows_may_lack_annotations_and_a_class(tmp_path, capsys):
    picture = np.full((24, 32, 3), 90, np.uint8)
    told = {"bbox": [[4, 3, 5, 4]], "category": [0], "area": [20], "score": [None]}
    region = np.zeros((24, 32), np.uint8)
    region[3:7, 4:9] = 1
    whole = {"image": png(picture), "label": 0, "classes": [0], "mask": png(region), "objects": told}
    whole |= {"heatmaps": [png(region * 255)]}
    empty = {**dict.fromkeys(whole), "image": png(picture)}
    features = {
        "image": HFImage(),
        "label": ClassLabel(names=["a", "b"]),
        "classes": List(ClassLabel(names=["a", "b"])),
    }
    features |= {"mask": HFImage(), "objects": objects_feature(["a", "b"]), "heatmaps": List(HFImage())}
    write_rows(tmp_path / "d", [empty, whole], Features(features))
    assert main([str(tmp_path / "d"), "--output-dir", str(tmp_path / "o")]) == 0
    assert capsys.readouterr().out.splitlines()[1].split() == ["a", "1", "1", "1"]
    sheet = np.asarray(Image.open(tmp_path / "o" / "sheet-000.png"))
    # the row without a class comes last, and its tiles are its image
    upper, lower = sheet[: len(sheet) // 2], sheet[len(sheet) // 2 :]
    assert len(np.unique(upper)) > 5 and set(np.unique(lower)) <= {90, 255}
