"""An image of NaNs is drawn again in float32, or stays black; its row is marked and counted, and no other changes."""

import json

import numpy as np
import pyarrow.parquet as parquet
import pytest
import torch
from datasets import load_dataset

from ubgen_pipeline import UbGenPipeline, generate_dataset
from ubgen_pipeline.dataset.shards import settings_hash
from ubgen_pipeline.export.export import ExportSettings, export_dataset
from ubgen_pipeline.generation.regenerate import main as regenerate
from ubgen_pipeline.inference.image_drawer import ImageDrawer

NAMES = ["circle", "star"]
SETTINGS = {"samples_per_class": 2, "num_inference_steps": 2, "batch_size": 2, "samples_per_shard": 2, "threads": 1}


def spoil(monkeypatch, is_spoiled):
    """One latent of the denoiser's output is NaN in the second sample, where ``is_spoiled(latents, calls before)``."""
    predict, calls = UbGenPipeline.predict, []

    def spoiled(self, latents, *args, **kwargs):
        prediction = predict(self, latents, *args, **kwargs)
        if is_spoiled(latents, len(calls)):
            prediction = prediction.clone()
            prediction[-1, 0, 3, 3] = torch.nan
        calls.append(len(latents))
        return prediction

    monkeypatch.setattr(UbGenPipeline, "predict", spoiled)


def images_of(folder):
    return [np.asarray(row["image"]) for row in load_dataset(str(folder), split="train")]


@pytest.fixture(scope="module")
def plain(tiny_model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("plain") / "d"
    generate_dataset(NAMES, folder, model=tiny_model, **SETTINGS)
    assert set(load_dataset(str(folder), split="train")["not_finite"]) == {None}
    return folder


def test_it_is_drawn_again_and_marked(plain, tiny_model, tmp_path, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        spoil(patch, lambda latents, calls: calls == 0)
        generate_dataset(NAMES, tmp_path / "d", model=tiny_model, annotations=["mask", "box"], **SETTINGS)
    said = capsys.readouterr().err
    assert "the image of index 1 is not finite: drawn again in float32" in said
    assert "1 images of the dataset were not finite; they are drawn again in float32, and marked in not_finite" in said
    dataset = load_dataset(str(tmp_path / "d"), split="train")
    assert dataset["not_finite"][:] == [None, "redrawn", None, None]
    for number, (found, expected) in enumerate(zip(images_of(tmp_path / "d"), images_of(plain), strict=True)):
        difference = int(abs(found.astype(int) - expected).max())
        assert difference <= (1 if number == 1 else 0)
    # the annotations are those of the image that is there
    assert set(np.unique(np.asarray(dataset[1]["mask"]))) - {0, 255} <= {2}
    # drawn again it is the same, bit for bit
    monkeypatch.chdir(tmp_path)
    assert regenerate([str(tmp_path / "d"), "--index", "1", "--model", tiny_model]) == 0
    assert "bit for bit" in capsys.readouterr().err


def test_what_stays_broken_is_black_marked_and_counted(plain, tiny_model, tmp_path, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        # the first batch, and each sample that is drawn by itself
        spoil(patch, lambda latents, calls: calls < 2 or len(latents) == 2)
        generate_dataset(
            NAMES, tmp_path / "d", model=tiny_model, annotations=["mask", "box", "confidence"],
            scores=["clip"], clip_model="mini", **SETTINGS,
        )  # fmt: skip
    assert "1 images of the dataset were not finite; they are black" in capsys.readouterr().err
    dataset = load_dataset(str(tmp_path / "d"), split="train")
    assert dataset["not_finite"][:] == [None, "black", None, None]
    row = dataset[1]
    assert not np.asarray(row["image"]).any() and (np.asarray(row["mask"]) == 255).all()
    assert row["objects"]["bbox"] == [] and not np.asarray(row["confidence"]).any() and row["clip_score"] is None
    for number in (0, 2, 3):
        assert np.array_equal(np.asarray(dataset[number]["image"]), images_of(plain)[number])
    assert regenerate([str(tmp_path / "d"), "--index", "1", "--model", tiny_model]) == 2
    assert "is stored black" in capsys.readouterr().err
    assert export_dataset(tmp_path / "d", ExportSettings("imagefolder", str(tmp_path / "o"))) == 3
    assert "1 that are marked as black left out" in capsys.readouterr().err


def test_weights_of_16_bits_are_loaded_again_in_32(tiny_model, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        spoil(patch, lambda latents, calls: latents.dtype == torch.bfloat16)
        generate_dataset(NAMES, tmp_path / "d", model=tiny_model, dtype="bfloat16", **SETTINGS)
    generate_dataset(NAMES, tmp_path / "wide", model=tiny_model, **{**SETTINGS, "batch_size": 1})
    dataset = load_dataset(str(tmp_path / "d"), split="train")
    assert dataset["not_finite"][:] == [None, "redrawn", None, "redrawn"]
    found, wide = images_of(tmp_path / "d"), images_of(tmp_path / "wide")
    assert all(np.array_equal(found[number], wide[number]) for number in (1, 3))


def test_a_dataset_of_an_earlier_version_keeps_its_columns(plain, tiny_model, tmp_path, monkeypatch, capsys):
    folder = tmp_path / "d"
    generate_dataset(NAMES, folder, model=tiny_model, **SETTINGS)
    # as an earlier version wrote them
    for file in (folder / "data").glob("*.parquet"):
        parquet.write_table(parquet.read_table(file).drop_columns(["not_finite"]), file)
        mark = folder / ".ubgen" / f"shard-{file.name[6:11]}.json"
        mark.write_text(json.dumps({**json.loads(mark.read_text()), "num_bytes": file.stat().st_size}))
    manifest = json.loads((folder / ".ubgen" / "manifest.json").read_text())
    del manifest["settings"]["not_finite"]
    manifest["hash"] = settings_hash(manifest["settings"])
    (folder / ".ubgen" / "manifest.json").write_text(json.dumps(manifest))
    (folder / "README.md").unlink()
    (folder / "data" / "train-00001-of-00002.parquet").unlink()
    with monkeypatch.context() as patch:
        spoil(patch, lambda latents, calls: calls == 0)
        generate_dataset(NAMES, folder, model=tiny_model, **SETTINGS)
    assert "the image of index 3 is not finite: drawn again in float32" in capsys.readouterr().err
    dataset = load_dataset(str(folder), split="train")
    assert "not_finite" not in dataset.column_names and len(dataset) == 4
    assert int(abs(np.asarray(dataset[3]["image"]).astype(int) - images_of(plain)[3]).max()) <= 1


def test_images_are_black_where_they_are_not_finite(tiny_model):
    pipeline = UbGenPipeline.from_pretrained(tiny_model)
    pipeline.set_progress_bar_config(disable=True)

    def drawn():
        return ImageDrawer(pipeline)(NAMES, NAMES, seeds=[1, 2], num_inference_steps=1)

    assert drawn().finite().tolist() == [True, True]
    with pytest.MonkeyPatch.context() as patch:
        decode = pipeline.decode
        patch.setattr(
            pipeline, "decode", lambda latents: decode(latents) * torch.tensor([1, torch.inf])[:, None, None, None]
        )
        found = drawn()
    assert found.finite().tolist() in ([True, True], [True, False])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "decode", lambda latents: decode(latents).index_fill(0, torch.tensor([1]), torch.nan))
        found = drawn()
    assert found.finite().tolist() == [True, False] and found.images()[0].any() and not found.images()[1].any()
