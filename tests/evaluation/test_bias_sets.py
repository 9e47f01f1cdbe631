"""Loaders of the published bias sets, on small folders of the same layout."""

import shutil
import sqlite3

import numpy as np
import pytest

from support.image_folders import save_image
from ubgen_evaluation.bias_sets import (
    FOCUS_CATEGORIES,
    category_correct,
    count_uncommon,
    load_cue_conflict,
    load_focus,
    load_imagenet9,
)
from ubgen_evaluation.texture_inclination import CUE_CONFLICT_CATEGORIES

NINE = ["dog", "bird", "wheeled vehicle", "reptile", "carnivore", "insect", "musical instrument", "primate", "fish"]


@pytest.fixture
def cue_conflict(tmp_path):
    for shape in CUE_CONFLICT_CATEGORIES:
        for number, texture in enumerate(("bear", "truck"), 1):
            save_image(tmp_path / shape / f"{shape}{number}-{texture}{number + 1}.png")
    return tmp_path


def test_cue_conflict(cue_conflict):
    stimuli = load_cue_conflict(cue_conflict)
    assert len(stimuli.files) == 32
    position = [file.name for file in stimuli.files].index("cat2-truck3.png")
    assert (stimuli.shapes[position], stimuli.textures[position]) == ("cat", "truck")
    assert list(stimuli.shapes) == sorted(stimuli.shapes)


def test_bad_cue_conflict_folders(cue_conflict):
    save_image(cue_conflict / "cat" / "cat7.png")
    with pytest.raises(ValueError, match=r"cat7\.png does not say its texture"):
        load_cue_conflict(cue_conflict)
    (cue_conflict / "cat" / "cat7.png").rename(cue_conflict / "cat" / "dog7-bear1.png")
    with pytest.raises(ValueError, match=r"dog7-bear1\.png has the shape 'dog' in its name, but lies in 'cat'"):
        load_cue_conflict(cue_conflict)
    shutil.rmtree(cue_conflict / "cat")
    with pytest.raises(ValueError, match="lacks the class 'cat'"):
        load_cue_conflict(cue_conflict)
    (cue_conflict / "cat").mkdir()
    with pytest.raises(ValueError, match="class 'cat' has no images"):
        load_cue_conflict(cue_conflict)
    with pytest.raises(ValueError, match="does not exist"):
        load_cue_conflict(cue_conflict / "nowhere")


def test_imagenet9(tmp_path):
    for variant in ("mixed_same", "mixed_rand"):
        for label, name in enumerate(NINE):
            for index in range(2):
                save_image(tmp_path / variant / "val" / f"{label:02d}_{name}" / f"{index}.JPEG", label, index)
    found = load_imagenet9(tmp_path, "mixed_rand")
    assert found.labels.tolist() == np.repeat(range(9), 2).tolist()
    assert all(f"{label:02d}_" in file.parent.name for file, label in zip(found.files, found.labels))
    (tmp_path / "mixed_same" / "val" / "04_carnivore").rename(tmp_path / "mixed_same" / "val" / "cats")
    with pytest.raises(ValueError, match="'cats' is no new class"):
        load_imagenet9(tmp_path, "mixed_same")
    shutil.rmtree(tmp_path / "mixed_rand" / "val" / "04_carnivore")
    with pytest.raises(ValueError, match="lacks class 04"):
        load_imagenet9(tmp_path, "mixed_rand")
    with pytest.raises(ValueError, match=r"mixed_next does not exist"):
        load_imagenet9(tmp_path, "mixed_next")


def save_focus(folder, rows):
    with sqlite3.connect(folder / "annotations.db") as connection:
        connection.execute(
            "CREATE TABLE annotations (file_name TEXT PRIMARY KEY, category TEXT, time TEXT, weather TEXT, "
            "locations TEXT, humans TEXT)"
        )
        connection.executemany("INSERT INTO annotations VALUES (?, ?, ?, ?, ?, 'no')", rows)
    connection.close()


def test_focus(tmp_path):
    rows = [(f"./{name}/1.jpg", name, "day", "sunny", "none") for name in FOCUS_CATEGORIES]
    rows += [
        ("./cat/2.jpg", "cat", "night", "snowing", "sand, snow"),
        ("./car/2.jpg", "car", "night", "none", "street"),
    ]
    for name, *_ in rows:
        save_image(tmp_path / name)
    save_focus(tmp_path, rows)
    found = load_focus(tmp_path)
    counts = {f"{file.parent.name}/{file.stem}": count for file, count in zip(found.files, found.num_uncommon)}
    assert counts["cat/2"] == 3 and counts["car/2"] == 1 and counts["car/1"] == 0 and len(counts) == 12
    (tmp_path / "cat" / "2.jpg").unlink()
    with pytest.raises(ValueError, match=r"names \./cat/2\.jpg \(category 'cat'\), which is not in"):
        load_focus(tmp_path)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([("./a.jpg", "cat", "day", "sunny", "none")], "no image of category 'bird'"),
        ([("./a.jpg", "yak", "day", "sunny", "none")], "the category 'yak'"),
    ],
)
def test_bad_focus(tmp_path, rows, message):
    save_image(tmp_path / "a.jpg")
    save_focus(tmp_path, rows)
    with pytest.raises(ValueError, match=message):
        load_focus(tmp_path)


def test_focus_without_annotations(tmp_path):
    with pytest.raises(ValueError, match=r"no annotations\.db"):
        load_focus(tmp_path)
    (tmp_path / "annotations.db").write_text("no database at all, but long enough to be read as one" * 20)
    with pytest.raises(ValueError, match="could not be read"):
        load_focus(tmp_path)


def test_uncommon_attributes():
    assert count_uncommon("frog", "night", "sunny", ["water"]) == 0
    assert count_uncommon("plane", "night", "foggy", ["street", "water"]) == 3
    assert count_uncommon("plane", "day", "cloudy", ["street"]) == 0


def test_category_correct():
    categories = {"cat": [281, 282], "dog": [151]}
    assert category_correct(np.array([281, 151, 282]), ["cat", "cat", "dog"], categories).tolist() == [1, 0, 0]
    with pytest.raises(ValueError, match="lacks 'frog'"):
        category_correct(np.array([30]), ["frog"], categories)
    with pytest.raises(ValueError, match="2 classes for 1 labels"):
        category_correct(np.array([30, 31]), ["cat"], categories)
