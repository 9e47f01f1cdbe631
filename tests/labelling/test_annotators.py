"""Annotators with toy networks whose answers are known."""

from types import SimpleNamespace

import numpy as np
import torch
from PIL import Image

from ubgen_pipeline.labelling.annotators import BoxAnnotator, PixelAnnotator, transformers_scores

IMAGE = Image.new("RGB", (8, 6))


def logits(*probabilities):
    """``(1, M, 6, 8)`` logits of a segmenter that gives all pixels these probabilities, but for a corner's."""
    scores = torch.tensor(probabilities).log()[None, :, None, None].repeat(1, 1, 6, 8)
    scores[..., :2, :3] = torch.tensor([0.98, 0.01, 0.005, 0.005]).log()[None, :, None, None]
    return scores


def pixel_annotator(scores, table, threshold=0.5):
    return PixelAnnotator(
        lambda pixels: scores, lambda output, size: output, None, np.array(table), threshold, 0.0, "cpu"
    )


def test_probabilities_of_classes_that_stand_for_one_add_up():
    # sky; two kinds of dog; cat
    found = pixel_annotator(logits(0.4, 0.3, 0.25, 0.05), [0, 1, 1, 2])(IMAGE)
    assert (found.mask[:2, :3] == 0).all() and (found.mask[2:] == 1).all() and (found.mask[:, 3:] == 1).all()
    (item,) = found.objects
    assert (item.value, item.box, item.area) == (1, (0, 0, 8, 6), 42) and abs(item.score - 0.55) < 1e-5


def test_unsure_pixels_are_ignored_and_other_classes_ruled_out():
    scores = logits(0.1, 0.3, 0.2, 0.4)
    unsure = pixel_annotator(scores, [0, 1, 1, 2], threshold=0.6)(IMAGE)
    assert (unsure.mask[2:] == 255).all() and not unsure.objects
    # without the cat: 0.5 of 0.6
    own = pixel_annotator(scores, [0, 1, 1, 2], threshold=0.6)(IMAGE, own_label=0)
    assert (own.mask[2:] == 1).all()
    nothing = pixel_annotator(scores, [3, 3, 3, 3])(IMAGE, own_label=0)
    assert (nothing.mask == 255).all() and not nothing.objects


class Processor:
    """Says what a detector found, in the words of transformers' own processors."""

    def __init__(self, *found):
        self.found = found

    def __call__(self, images, return_tensors):
        return SimpleNamespace(to=lambda device: {})

    def post_process_object_detection(self, output, threshold, target_sizes):
        kept = [item for item in self.found if item[1] >= threshold]
        labels, scores, boxes = zip(*kept)
        return [{"labels": torch.tensor(labels), "scores": torch.tensor(scores), "boxes": torch.tensor(boxes)}]


def test_boxes_are_cut_to_the_image_and_the_smaller_mask_lies_on_top():
    processor = Processor(
        (0, 0.9, [-1.5, 0.2, 6.5, 4.0]), (1, 0.8, [2.0, 1.0, 4.0, 3.0]), (2, 0.99, [0.0, 0.0, 8.0, 6.0]),
        (1, 0.2, [0.0, 0.0, 1.0, 1.0]),
    )  # fmt: skip
    table = np.array([1, 2, 0])

    def masks(image, boxes):
        regions = [np.zeros((6, 8), bool) for _ in boxes]
        for region, (x0, y0, x1, y1) in zip(regions, boxes):
            region[y0 : y1 - 1, x0:x1] = True
        return regions

    arguments = (lambda: None, processor, None, table)
    plain = BoxAnnotator(*arguments, None, 0.5, 0.0, "cpu")(IMAGE)
    assert plain.mask is None
    assert [(item.value, item.box, item.area) for item in plain.objects] == [
        (1, (0, 0, 7, 4), 28),
        (2, (2, 1, 4, 3), 4),
    ]
    assert [item.value for item in BoxAnnotator(*arguments, None, 0.5, 0.0, "cpu")(IMAGE, own_label=1).objects] == [2]
    masked = BoxAnnotator(*arguments, masks, 0.5, 0.0, "cpu")(IMAGE)
    assert masked.mask[1, 2:4].tolist() == [2, 2] and masked.mask[2, 2] == 1 and masked.mask[5, 7] == 0
    assert [(item.box, item.area) for item in masked.objects] == [((0, 0, 7, 3), 21), ((2, 1, 4, 2), 2)]


def test_scores_of_a_universal_segmenter_weigh_masks_by_classes():
    classes = torch.tensor([[[5.0, -5.0, -5.0], [-5.0, 5.0, -5.0]]])
    masks = torch.full((1, 2, 2, 2), -9.0)
    masks[0, 0, :, 0] = masks[0, 1, :, 1] = 9.0
    output = SimpleNamespace(masks_queries_logits=masks, class_queries_logits=classes)
    scores = transformers_scores(output, (2, 2))
    assert scores.shape == (1, 2, 2, 2) and scores.argmax(dim=1)[0].tolist() == [[0, 1], [0, 1]]


def queries_output():
    """Five queries over 6 x 8 pixels: a disc's two parts, another disc, a ring, sky, and one that found nothing."""
    classes = torch.full((1, 5, 4), -6.0)
    for query, place in enumerate((0, 0, 1, 2, 3)):
        classes[0, query, place] = 6.0
    masks = torch.full((1, 5, 6, 8), -9.0)
    masks[0, 0, :, :2] = masks[0, 0, :, 4:6] = 9.0
    masks[0, 1, :3, 6:] = 9.0
    masks[0, 2, 3:, 6:] = 9.0
    masks[0, 3, :, 2:4] = masks[0, 4] = 9.0
    return SimpleNamespace(masks_queries_logits=masks, class_queries_logits=classes)


def test_parts_of_one_object_stay_together_where_they_are_told_apart():
    def labelled(objects):
        # disc and ring are the dataset's, sky is not
        annotator = PixelAnnotator(
            lambda pixels: queries_output(), transformers_scores, None, np.array([1, 2, 0]), 0.5, 0.0, "cpu", objects
        )
        annotator._processor = lambda images, return_tensors: {"pixel_values": torch.zeros(1, 3, 6, 8)}
        found = annotator(IMAGE)
        return [(item.value, item.box, item.area, int(item.region.sum())) for item in found.objects]

    assert labelled("queries") == [
        (1, (0, 0, 6, 6), 24, 24), (1, (6, 0, 8, 3), 6, 6), (2, (6, 3, 8, 6), 6, 6),
    ]  # fmt: skip
    assert labelled("classes") == [(1, (0, 0, 8, 6), 30, 30), (2, (6, 3, 8, 6), 6, 6)]
    assert [area for _, _, area, _ in labelled("regions")] == [18, 12, 6]
