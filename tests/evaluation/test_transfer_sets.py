"""The eight transfer sets from folders of the layouts they are published in, and from class folders."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import torchvision
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image
from PIL import Image as Pillow

from support.image_folders import save_class_folders, save_image
from ubgen_evaluation.feature_extraction import open_image
from ubgen_evaluation.transfer_sets import PUBLISHED, load_transfer_set

NAMES = ("apple", "pear", "plum")


def write_lines(file: Path, lines) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(f"{line}\n" for line in lines))


def make_aircraft(folder):
    data = folder / "fgvc-aircraft-2013b" / "data"
    write_lines(data / "variants.txt", NAMES)
    for split in ("train", "val", "test"):
        write_lines(data / f"images_variant_{split}.txt", [f"{split}{i} {n}" for i, n in enumerate(NAMES)])
        for label in range(3):
            save_image(data / "images" / f"{split}{label}.jpg", label)


def make_cars(folder):
    base = folder / "stanford_cars"
    devkit = base / "devkit"
    devkit.mkdir(parents=True)
    scipy.io.savemat(devkit / "cars_meta.mat", {"class_names": np.array(NAMES, dtype=object)})
    kind = [("fname", object), ("class", "u1")]
    for split, file in (("train", devkit / "cars_train_annos.mat"), ("test", base / "cars_test_annos_withlabels.mat")):
        rows = np.array([(f"{i}.jpg", i + 1) for i in range(3)], dtype=kind)
        scipy.io.savemat(file, {"annotations": rows})
        for label in range(3):
            save_image(base / f"cars_{split}" / f"{label}.jpg", label)


def make_dtd(folder):
    base = folder / "dtd" / "dtd"
    for split in ("train", "val", "test"):
        write_lines(base / "labels" / f"{split}1.txt", [f"{name}/{name}_{split}.jpg" for name in NAMES])
        for label, name in enumerate(NAMES):
            save_image(base / "images" / name / f"{name}_{split}.jpg", label)


def make_eurosat(folder):
    save_class_folders(folder / "eurosat" / "2750", NAMES, 5)


def make_flowers(folder):
    base = folder / "flowers-102"
    base.mkdir(parents=True)
    scipy.io.savemat(base / "imagelabels.mat", {"labels": np.array([1, 2, 3] * 3)})
    ids = {"trnid": [1, 2, 3], "valid": [4, 5, 6], "tstid": [7, 8, 9]}
    scipy.io.savemat(base / "setid.mat", {name: np.array(values) for name, values in ids.items()})
    for number in range(1, 10):
        save_image(base / "jpg" / f"image_{number:05d}.jpg", (number - 1) % 3)


def make_pets(folder):
    base = folder / "oxford-iiit-pet"
    for split in ("trainval", "test"):
        lines = [f"{name}_{split} {label + 1} 1 1" for label, name in enumerate(NAMES)]
        write_lines(base / "annotations" / f"{split}.txt", lines)
        for label, name in enumerate(NAMES):
            save_image(base / "images" / f"{name}_{split}.jpg", label)


def make_food(folder):
    import json

    base = folder / "food-101"
    write_lines(base / "meta" / "classes.txt", NAMES)
    for split in ("train", "test"):
        (base / "meta" / f"{split}.json").write_text(json.dumps({name: [f"{name}/{split}"] for name in NAMES}))
        for label, name in enumerate(NAMES):
            save_image(base / "images" / name / f"{split}.jpg", label)


def make_sun(folder):
    base = folder / "SUN397"
    write_lines(base / "ClassName.txt", [f"/{name[0]}/{name}" for name in NAMES])
    for label, name in enumerate(NAMES):
        for index in range(5):
            save_image(base / name[0] / name / f"sun_{index}.jpg", label, index)


MAKERS = {
    "aircraft": make_aircraft,
    "cars": make_cars,
    "dtd": make_dtd,
    "eurosat": make_eurosat,
    "flowers": make_flowers,
    "pets": make_pets,
    "food101": make_food,
    "sun397": make_sun,
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_layouts(name, tmp_path, monkeypatch):
    # torchvision also compares checksums of this one's label files
    monkeypatch.setattr(torchvision.datasets.Flowers102, "_check_integrity", lambda self: True)
    # and knows all 102 names
    monkeypatch.setattr(torchvision.datasets.Flowers102, "classes", list(NAMES))
    MAKERS[name](tmp_path)
    found = load_transfer_set(name, tmp_path)
    assert len(found.class_names) >= 3 and found.is_own_split == (name in ("eurosat", "sun397"))
    assert (found.val is None) == (name not in ("aircraft", "dtd", "flowers"))
    for split in (found.train, found.val, found.test):
        if split is None:
            continue
        assert len(split.images) == len(split.labels) and set(split.labels.tolist()) == {0, 1, 2}
        # the classes differ in colour, so the labels must go with the images
        means = np.stack([np.asarray(open_image(split.images[i])).mean(axis=(0, 1)) for i in range(len(split.labels))])
        colours = np.stack([np.random.default_rng(1000 + label).integers(0, 256, 3) for label in split.labels])
        assert np.abs(means - colours).max() < 20


def test_an_own_split_keeps_train_and_test_apart_and_follows_the_seed(tmp_path):
    make_eurosat(tmp_path)
    found = load_transfer_set("eurosat", tmp_path)
    assert (len(found.train.labels), len(found.test.labels)) == (12, 3)
    assert not set(found.train.images.indices.tolist()) & set(found.test.images.indices.tolist())
    again = load_transfer_set("eurosat", tmp_path, seed=0)
    assert again.test.images.indices.tolist() == found.test.images.indices.tolist()
    others = [load_transfer_set("eurosat", tmp_path, seed=seed).test.images.indices.tolist() for seed in (1, 2, 3)]
    assert any(other != found.test.images.indices.tolist() for other in others)


def test_class_folders(tmp_path):
    for part, number in (("train", 3), ("val", 1), ("test", 2)):
        save_class_folders(tmp_path / part, NAMES, number)
    found = load_transfer_set("anything", tmp_path)
    assert found.class_names == NAMES and found.val is not None
    assert [len(split.labels) for split in (found.train, found.val, found.test)] == [9, 3, 6]
    assert all(file.parent.name == NAMES[label] for file, label in zip(found.train.images, found.train.labels))
    shutil.rmtree(tmp_path / "test" / "pear")
    with pytest.raises(ValueError, match=r"test lacks the class 'pear'"):
        load_transfer_set("anything", tmp_path)
    save_class_folders(tmp_path / "test", ("pear", "quince"), 1)
    with pytest.raises(ValueError, match="holds 'quince', which is none of the 3 classes"):
        load_transfer_set("anything", tmp_path)


def test_splits_of_datasets():
    def rows(labels, names=NAMES):
        images = [Pillow.new("RGB", (4, 4), (40 * label, 0, 0)) for label in labels]
        features = Features({"image": Image(), "label": ClassLabel(names=list(names))})
        return Dataset.from_dict({"image": images, "label": labels}, features=features)

    splits = DatasetDict(train=rows([0, 1, 2]), validation=rows([2, 1, 0]), test=rows([1, 1, 0, 2]))
    found = load_transfer_set("mine", splits)
    assert found.val is not None and found.class_names == NAMES
    assert found.val.labels.tolist() == [2, 1, 0] and found.test.labels.tolist() == [1, 1, 0, 2]
    assert open_image(found.test.images[3]).getpixel((0, 0)) == (80, 0, 0)
    del splits["test"]
    found = load_transfer_set("mine", splits)
    assert found.val is None and found.test.labels.tolist() == [2, 1, 0]
    splits["test"] = rows([0], ("pear", "apple", "plum"))
    with pytest.raises(ValueError, match="split test of DatasetDict has other classes"):
        load_transfer_set("mine", splits)
    with pytest.raises(ValueError, match="neither a test nor a validation split"):
        load_transfer_set("mine", DatasetDict(train=rows([0, 1, 2])))


def test_bad_sources(tmp_path):
    with pytest.raises(ValueError, match="has no source"):
        load_transfer_set("dtd")
    with pytest.raises(ValueError, match="is not laid out as dtd"):
        load_transfer_set("dtd", tmp_path)
    with pytest.raises(ValueError, match="holds no train and test"):
        load_transfer_set("mine", tmp_path)
    make_pets(tmp_path)
    file = tmp_path / "oxford-iiit-pet" / "annotations" / "test.txt"
    file.write_text(file.read_text().splitlines()[0] + "\n")
    with pytest.raises(ValueError, match="the test images of pets lack the class"):
        load_transfer_set("pets", tmp_path)
