"""The losses of segmenters leave ignored pixels alone, and are else those that they are named after."""

import pytest
import torch
from torch.nn import functional

from support.tiny_labellers import mask2former, segformer
from ubgen_pipeline.models.segmenter import build_segmenter
from ubgen_training.segmenter.segmenter_loss import segmentation_loss


def build(kind, tmp_path):
    if kind in ("segformer", "mask2former"):
        {"segformer": segformer, "mask2former": mask2former}[kind](tmp_path / "m", ["background", "a", "b"])
        return build_segmenter(str(tmp_path / "m"), ["a", "b"], seed=1)
    return build_segmenter(kind, ["a", "b"], seed=1)


@pytest.mark.parametrize("kind", ["mini", "deeplabv3_mobilenet_v3_large", "segformer", "mask2former"])
def test_ignored_pixels_teach_nothing(tmp_path, kind):
    """What the mask says there, or what the image's neighbours say, makes no difference to the gradient."""
    segmenter = build(kind, tmp_path).train()
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    masks = torch.zeros(2, 64, 64, dtype=torch.int64)
    masks[:, 8:40, 8:40] = 1
    masks[1, 30:60, 30:60] = 2
    ignored = masks.clone()
    ignored[:, 16:24] = 255

    def gradients(target):
        torch.manual_seed(0)
        segmenter.zero_grad()
        loss = segmentation_loss(segmenter, images, target)
        loss.backward()
        return loss.item(), torch.cat([p.grad.flatten() for p in segmenter.parameters() if p.grad is not None])

    _, whole = gradients(masks)
    _, partial = gradients(ignored)
    assert torch.isfinite(whole).all() and torch.isfinite(partial).all() and not torch.allclose(whole, partial)
    everything = torch.full_like(masks, 255)
    if kind == "mask2former":
        # the points of both mask terms that fall on ignored pixels count for nothing
        segmenter.network.criterion.ignored = torch.ones(2, 1, 64, 64)
        logits = torch.randn(2, 5, 16, 16, requires_grad=True)
        indices = [(torch.tensor([0]), torch.tensor([0]))] * 2
        terms = segmenter.network.criterion.loss_masks(
            logits, [(masks[i, None] == 1).float() for i in (0, 1)], indices, 2
        )
        sum(terms.values()).backward()
        assert logits.grad.abs().max() == 0
        return
    nothing, none = gradients(everything)
    assert nothing == 0 and none.abs().max() == 0
    # and for the pixels that count, it is the plain cross-entropy over them alone
    segmenter.eval()
    with torch.no_grad():
        scores = segmenter.class_scores(segmenter(images), (64, 64))
        expected = functional.cross_entropy(scores, ignored, ignore_index=255)
        found = segmentation_loss(segmenter, images, ignored)
    if kind != "deeplabv3_mobilenet_v3_large":
        assert found == pytest.approx(expected.item(), rel=1e-5)


def test_mask2former_without_ignored_pixels_equals_transformers_own(tmp_path):
    segmenter = build("mask2former", tmp_path).train()
    images = torch.rand(2, 3, 64, 64)
    masks = torch.randint(0, 3, (2, 4, 4)).repeat_interleave(16, 1).repeat_interleave(16, 2)
    classes = [mask.unique() for mask in masks]
    regions = [(mask[None] == c[:, None, None]).float() for mask, c in zip(masks, classes)]
    torch.manual_seed(0)
    theirs = segmenter.network(
        (images - segmenter.mean) / segmenter.std, mask_labels=regions, class_labels=classes
    ).loss
    torch.manual_seed(0)
    assert segmentation_loss(segmenter, images, masks).item() == pytest.approx(theirs.item(), rel=1e-5)


def test_an_image_that_is_ignored_as_a_whole(tmp_path):
    segmenter = build("mask2former", tmp_path).train()
    masks = torch.full((2, 64, 64), 255)
    masks[0, :32] = 1
    assert torch.isfinite(segmentation_loss(segmenter, torch.rand(2, 3, 64, 64), masks))


def test_masks_of_another_size_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"masks has shape \(2, 32, 32\) beside images of \(2, 3, 64, 64\)"):
        segmentation_loss(build("mini", tmp_path), torch.rand(2, 3, 64, 64), torch.zeros(2, 32, 32, dtype=torch.long))
