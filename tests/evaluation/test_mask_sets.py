"""COCO and ADE20K from small folders of their layout."""

import json

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as run_lengths

from support.image_folders import save_image
from ubgen_evaluation.mask_sets import Ade20kMasks, CocoMasks


def save_coco(folder, annotations, categories=({"id": 7, "name": "dog"}, {"id": 3, "name": "cat"})):
    save_image(folder / "val2017" / "1.jpg", size=(20, 16))
    record = {
        "images": [{"id": 1, "file_name": "1.jpg", "height": 16, "width": 20}],
        "categories": list(categories),
        "annotations": [{"image_id": 1, "id": i, **one} for i, one in enumerate(annotations)],
    }
    (folder / "annotations").mkdir(exist_ok=True)
    (folder / "annotations" / "instances_val2017.json").write_text(json.dumps(record))


def box(left, top, right, bottom):
    return [[left, top, right, top, right, bottom, left, bottom]]


def test_coco(tmp_path):
    crowd = np.zeros((16, 20), np.uint8, order="F")
    crowd[12:, :4] = 1
    counts = run_lengths.encode(crowd)
    uncompressed = {"size": [16, 20], "counts": [12, 4] * 4 + [16 * 20 - 64]}
    assert (run_lengths.decode(run_lengths.frPyObjects(uncompressed, 16, 20)) == run_lengths.decode(counts)).all()
    save_coco(
        tmp_path,
        [
            {"category_id": 3, "area": 4, "segmentation": box(6, 6, 8, 8)},
            {"category_id": 7, "area": 64, "segmentation": box(4, 4, 12, 12)},
            {"category_id": 7, "area": 16, "iscrowd": 1, "segmentation": uncompressed},
        ],
    )
    found = CocoMasks(tmp_path)
    assert found.class_names == ("background", "cat", "dog") and len(found) == 1
    (one,) = found
    assert one.file.name == "1.jpg" and one.mask.shape == (16, 20)
    assert np.bincount(one.mask.ravel(), minlength=256)[[0, 1, 2, 255]].tolist() == [320 - 64 - 16, 4, 60, 16]
    assert one.mask[7, 7] == 1 and one.mask[5, 5] == 2 and one.mask[15, 0] == 255


def test_bad_coco(tmp_path):
    with pytest.raises(ValueError, match=r"instances_val2017\.json could not be read"):
        CocoMasks(tmp_path)
    save_coco(tmp_path, [{"category_id": 7, "area": 4, "segmentation": box(6, 6, 8, 8)}])
    with pytest.raises(ValueError, match="the class 'cat' has no object"):
        CocoMasks(tmp_path)
    (tmp_path / "val2017" / "1.jpg").unlink()
    with pytest.raises(ValueError, match=r"names 1\.jpg, which is not in"):
        CocoMasks(tmp_path)


def test_ade20k(tmp_path):
    save_image(tmp_path / "images" / "validation" / "a.jpg")
    labels = np.arange(16 * 20, dtype=np.uint8).reshape(16, 20) % 151
    file = tmp_path / "annotations" / "validation" / "a.png"
    file.parent.mkdir(parents=True)
    Image.fromarray(labels).save(file)
    (one,) = Ade20kMasks(tmp_path)
    assert (one.mask == np.where(labels == 0, 255, labels.astype(int) - 1)).all()
    Image.fromarray(np.full((16, 20), 151, np.uint8)).save(file)
    with pytest.raises(ValueError, match=r"a\.png holds 151"):
        list(Ade20kMasks(tmp_path))
    file.unlink()
    with pytest.raises(ValueError, match=r"a\.jpg has no mask"):
        Ade20kMasks(tmp_path)
    with pytest.raises(ValueError, match="holds no images"):
        Ade20kMasks(tmp_path, "training")
