"""PASCAL VOC, read again by torchvision."""

import json
from pathlib import Path

import numpy as np
import torchvision

from support.exported import NAMES, pixels
from support.scene_dataset import NUM_ROWS


def test_voc_reads_back(dataset, exports):
    _, rows = dataset
    detection = torchvision.datasets.VOCDetection(exports / "voc", year="2012", image_set="train")
    segmentation = torchvision.datasets.VOCSegmentation(exports / "voc", year="2012", image_set="trainval")
    assert len(detection) == len(segmentation) == NUM_ROWS
    assert (exports / "voc" / "class_names.json").read_text() == json.dumps(NAMES, indent=2) + "\n"
    for (image, target), (_, mask), true in zip(detection, segmentation, rows):
        # JPEG is not exact
        assert image.size == (128, 64)
        assert np.abs(np.asarray(image, float) - true.image).mean() < 4
        assert np.array_equal(np.asarray(mask), true.mask)
        assert [mask.getpalette()[3 * i : 3 * i + 3] for i in (1, 2, 15, 255)] == [
            [128, 0, 0], [0, 128, 0], [192, 128, 128], [224, 224, 192]
        ]  # fmt: skip
        about = target["annotation"]
        assert about["size"] == {"width": "128", "height": "64", "depth": "3"}
        file = Path(about["filename"]).with_suffix(".png")
        objects = pixels(exports / "voc" / "VOCdevkit" / "VOC2012" / "SegmentationObject" / file)
        found = about.get("object", [])
        assert len(found) == len(true.objects)
        for number, (item, (label, (x0, y0, x1, y1), region)) in enumerate(zip(found, true.objects), 1):
            assert item["name"] == NAMES[label]
            box = [int(item["bndbox"][side]) for side in ("xmin", "ymin", "xmax", "ymax")]
            assert box == [x0 + 1, y0 + 1, x1, y1]
            assert np.array_equal(objects == number, region)
