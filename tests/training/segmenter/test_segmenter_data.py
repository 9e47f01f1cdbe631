"""Masks and their classes, and random views of image and mask together."""

import numpy as np
import pytest
import torch

from ubgen_training.segmenter.segmenter_data import (
    MaskedImages,
    RandomViews,
    check_masks,
    collate,
    load_masked_images,
    map_classes,
    with_masks,
)


def test_views_move_image_and_mask_together():
    mask = torch.zeros(64, 64, dtype=torch.int64)
    mask[5:20, 30:60] = 7
    image = (mask * 30).to(torch.uint8).expand(3, -1, -1)
    views = RandomViews(32, min_scale=0.5, colour=0.0)
    images, masks = views([image] * 4, [mask] * 4, seed=1)
    agree = ((images[:, 0] > 0.4) == (masks == 7)).float().mean()
    assert agree > 0.97 and set(masks.unique().tolist()) <= {0, 7}
    again = views([image] * 4, [mask] * 4, seed=1)
    assert torch.equal(images, again[0]) and not torch.equal(images, views([image] * 4, [mask] * 4, seed=2)[0])


def test_classes_in_another_order_are_mapped():
    data = load_masked_images("mini:4:1")
    names = list(reversed(data.class_names))
    mapped = map_classes(data, names, "test_dataset")
    for old, new in zip(data.rows, mapped.rows):
        old_mask, new_mask = np.asarray(old["mask"]), np.asarray(new["mask"])
        assert ((old_mask > 0) == (new_mask > 0)).all() and new_mask.max() == len(names) + 1 - old_mask.max()


def test_masks_are_replaced_in_place_of_others():
    data = load_masked_images("mini:3:1")
    rows = with_masks(data.rows, [np.full((64, 64), n, np.uint8) for n in range(3)])
    assert isinstance(MaskedImages(rows, data.class_names), MaskedImages)
    assert [int(np.asarray(row["mask"]).max()) for row in rows] == [0, 1, 2]
    assert rows.column_names == ["image", "label", "mask"]


def test_rows_become_tensors_of_their_own_sizes():
    batch = collate([load_masked_images("mini:2:1").rows[index] for index in range(2)])
    assert [image.shape for image in batch["images"]] == [(3, 64, 64)] * 2
    assert [labels.dtype for labels in batch["labels"]] == [torch.int64] * 2 and batch["images"][
        0
    ].dtype == torch.uint8


def test_rendered_scenes_are_named_by_number_seed_and_bias():
    one, other = (load_masked_images(source).rows for source in ("mini:3", "mini:3:0:0"))
    assert [np.asarray(row["image"]).tolist() for row in one] == [np.asarray(row["image"]).tolist() for row in other]
    for row in one:
        assert set(np.unique(np.asarray(row["mask"]))) <= {0, 1 + row["label"]}
    for wrong in ("mini:0", "mini:x", "mini:1:2:y"):
        with pytest.raises(ValueError, match=r"write mini:NUMBER|at least one scene"):
            load_masked_images(wrong)


def test_a_class_that_the_model_lacks_is_found():
    data = load_masked_images("mini:2:1")
    check_masks(data, 1 + len(data.class_names), "dataset")
    with pytest.raises(ValueError, match=r"dataset: row \d has class \d+ in its mask; 0 classes"):
        check_masks(data, 1, "dataset")
