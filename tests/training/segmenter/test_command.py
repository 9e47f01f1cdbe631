"""Training of segmenters by the command: exact resume, self-training, and what is refused."""

import json

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Image
from PIL import Image as PilImage

from ubgen_pipeline.models.segmenter import build_segmenter, load_segmenter
from ubgen_training.segmenter.command import main, train
from ubgen_training.segmenter.segmenter_config import SegmenterConfig
from ubgen_training.segmenter.segmenter_data import (
    load_masked_images,
)

NAMES = ["sky", "circle", "star"]
QUICK = ["--model", "mini", "--image_size", "32", "--per_device_train_batch_size", "4", "--use_cpu", "--seed", "3"]


def test_command_results_and_exact_resume(tmp_path, capsys):
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
    assert main([*common, "--max_steps", "4", "--output_dir", str(tmp_path / "a")]) == 0
    assert "round 0: mIoU" in capsys.readouterr().out
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
