"""Segmenters: the losses leave ignored pixels alone, training resumes exactly, self-training, and what is refused."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Image
from PIL import Image as PilImage
from torch.nn import functional

from support import ROOT
from support.tiny_labellers import mask2former, segformer
from ubgen_pipeline.models.segmenter import build_segmenter, load_segmenter
from ubgen_training.segmenter.command import main, train
from ubgen_training.segmenter.segmenter_config import SegmenterConfig
from ubgen_training.segmenter.segmenter_data import (
    MaskedImages,
    RandomViews,
    load_masked_images,
    map_classes,
    with_masks,
)
from ubgen_training.segmenter.segmenter_loss import segmentation_loss

NAMES = ["sky", "circle", "star"]
QUICK = ["--model", "mini", "--image_size", "32", "--per_device_train_batch_size", "4", "--use_cpu", "--seed", "3"]


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


@pytest.mark.parametrize("kind", ["mini", "deeplabv3_mobilenet_v3_large", "segformer"])
def test_saved_and_loaded(tmp_path, kind):
    segmenter = build(kind, tmp_path).eval()
    segmenter.save(tmp_path / "saved")
    loaded, images = load_segmenter(tmp_path / "saved"), torch.rand(1, 3, 64, 64)
    assert loaded.class_names == ["a", "b"] and not list((tmp_path / "saved").glob("*.bin"))
    assert torch.equal(loaded.predict(images).masks, segmenter.predict(images).masks)
    assert torch.allclose(loaded.predict(images).confidence, segmenter.predict(images).confidence, atol=1e-6)


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


def test_command_results_and_exact_resume(tmp_path):
    common = [
        "--dataset",
        "mini:12:1",
        "--test_dataset",
        "mini:4:2",
        *QUICK,
        "--save_steps",
        "2",
        "--logging_steps",
        "1",
    ]
    command = [sys.executable, str(ROOT / "training/train_segmenter.py"), *common, "--max_steps", "4"]
    done = subprocess.run([*command, "--output_dir", str(tmp_path / "a")], capture_output=True, text=True, check=True)
    assert "round 0: mIoU" in done.stdout
    (figures,) = json.loads((tmp_path / "a" / "results.json").read_text())
    assert set(figures["iou"]) >= {"background", "circle"} and 0 <= figures["mean_iou"] <= 1
    assert not [file for file in (tmp_path / "a").rglob("*") if file.suffix in (".bin", ".pt", ".pth", ".pkl")]
    resume = ["--resume_from_checkpoint", str(tmp_path / "a" / "checkpoint-2"), "--output_dir", str(tmp_path / "b")]
    assert main([*common, "--max_steps", "4", *resume]) == 0
    one, two = (load_segmenter(tmp_path / name).state_dict() for name in ("a", "b"))
    assert all(torch.equal(one[name], two[name]) for name in one)
    # a trained one can be gone on with, with the same classes
    assert build_segmenter(str(tmp_path / "a"), load_segmenter(tmp_path / "a").class_names).training
    with pytest.raises(ValueError, match="same classes"):
        build_segmenter(str(tmp_path / "a"), ["other"])


def test_self_training_learns_from_its_own_masks(tmp_path, monkeypatch):
    import ubgen_training.segmenter.command as module

    seen = []
    plain = module.SegmenterTrainer

    def watch(model, args, data):
        seen.append(np.stack([np.asarray(row["mask"]) for row in data.rows]))
        return plain(model, args, data)

    monkeypatch.setattr(module, "SegmenterTrainer", watch)
    config = SegmenterConfig(
        output_dir=str(tmp_path / "o"), dataset="mini:8:1", test_dataset="mini:4:2", model="mini", image_size=64,
        max_steps=1, per_device_train_batch_size=4, self_training_rounds=1, self_training_threshold=0.2, use_cpu=True,
        save_strategy="no",
    )  # fmt: skip
    assert len(train(config)) == 2 and (tmp_path / "o" / "round-0" / "model.safetensors").is_file()
    first = load_segmenter(tmp_path / "o" / "round-0")
    rows = load_masked_images("mini:8:1").rows
    pixels = torch.stack([torch.from_numpy(np.array(row["image"])).permute(2, 0, 1) / 255 for row in rows])
    found = first.predict(pixels)
    expected = torch.where(found.confidence < 0.2, 255, found.masks)
    assert (torch.from_numpy(seen[1]) == expected).float().mean() > 0.999
    assert not np.array_equal(seen[0], seen[1])


def test_classes_in_another_order_are_mapped():
    data = load_masked_images("mini:4:1")
    names = list(reversed(data.class_names))
    mapped = map_classes(data, names, "test_dataset")
    for old, new in zip(data.rows, mapped.rows):
        old_mask, new_mask = np.asarray(old["mask"]), np.asarray(new["mask"])
        assert ((old_mask > 0) == (new_mask > 0)).all() and new_mask.max() == len(names) + 1 - old_mask.max()


def save(folder, change, names=("circle", "star")):
    rows = load_masked_images("mini:4:1").rows
    masks = [change(np.minimum(np.asarray(row["mask"]), 1)) for row in rows]
    columns = {"image": rows["image"][:], "mask": [PilImage.fromarray(mask) for mask in masks], "label": [0] * 4}
    features = Features({"image": Image(), "mask": Image(), "label": ClassLabel(names=list(names))})
    Dataset.from_dict(columns, features=features).save_to_disk(str(folder))
    return str(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda mask: mask[:32], "row 0 has a mask of (32, 64)"),
        (lambda mask: mask * 9, "row 0 has class 9 in its mask"),
        (lambda mask: np.stack([mask] * 3, -1), "one channel"),
    ],
)
def test_bad_masks(tmp_path, capsys, change, message):
    source = save(tmp_path / "d", change)
    assert main(["--dataset", source, *QUICK, "--output_dir", str(tmp_path / "o")]) == 2
    assert message in capsys.readouterr().err and not list((tmp_path / "o").glob("*"))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--dataset", "/nonexistent"], "could not be read"),
        (["--dataset", "mini:x"], "write mini:NUMBER"),
        (["--dataset", "mini:2"], "lower that"),
        (["--model", "/nonexistent/m"], "could not be loaded"),
        (["--min_crop_scale", "0"], "min_crop_scale is 0.0"),
        (["--self_training_rounds", "-1"], "self_training_rounds is -1"),
        (["--resume_from_checkpoint", "last"], "no complete checkpoint"),
    ],
)
def test_bad_settings(tmp_path, capsys, more, message):
    given = ["--dataset", "mini:8:1", *QUICK, "--max_steps", "1", "--output_dir", str(tmp_path / "o"), *more]
    assert main(given) == 2
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error


def test_a_test_set_of_other_classes(tmp_path, capsys):
    source = save(tmp_path / "d", lambda mask: mask, names=("moon",))
    more = ["--test_dataset", source, "--output_dir", str(tmp_path / "o")]
    assert main(["--dataset", "mini:8:1", *QUICK, *more]) == 2
    assert "has the class 'moon', which the training set lacks" in capsys.readouterr().err


def test_masks_are_replaced_in_place_of_others():
    data = load_masked_images("mini:3:1")
    rows = with_masks(data.rows, [np.full((64, 64), n, np.uint8) for n in range(3)])
    assert isinstance(MaskedImages(rows, data.class_names), MaskedImages)
    assert [int(np.asarray(row["mask"]).max()) for row in rows] == [0, 1, 2]
    assert rows.column_names == ["image", "label", "mask"]
