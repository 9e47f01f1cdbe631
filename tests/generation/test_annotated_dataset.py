"""Annotations end to end on the mini model: the pipeline's output, the dataset's columns, resume, and the sheets."""

import dataclasses
import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from datasets import load_dataset
from PIL import Image

from ubgen_pipeline import UbGenPipeline
from ubgen_pipeline.annotations import annotate
from ubgen_pipeline.attention_maps import AttentionRecorder, joined_texts
from ubgen_pipeline.class_tokens import class_texts
from ubgen_pipeline.dataset.contact_sheets import ShowSettings, show_dataset
from ubgen_pipeline.generation.annotation_settings import AnnotationSettings
from ubgen_pipeline.generation.generate import generate_dataset, main
from ubgen_pipeline.initial_latents import draw_latents
from ubgen_pipeline.latent_denoising import denoising_steps
from ubgen_pipeline.mask_settings import ANNOTATIONS, PAPER, SMALL
from ubgen_pipeline.mini.scenes import scenes

SHORT = ["--num-inference-steps", "2", "--samples-per-class", "2", "--samples-per-shard", "2", "--batch-size", "2"]


@pytest.fixture(scope="module")
def pipeline(mini_model):
    pipeline = UbGenPipeline.from_pretrained(mini_model)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="module")
def annotated(mini_model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("annotated") / "d"
    arguments = ["--model", mini_model, "--class-names", "circle", "star", "--output-dir", str(folder), *SHORT]
    assert main([*arguments, "--annotations", *ANNOTATIONS]) == 0
    return folder


def files(folder):
    return {file.name: file.read_bytes() for file in (folder / "data").iterdir()}


def test_images_do_not_change_and_masks_do_not_depend_on_the_batch(pipeline):
    names, settings = ["circle", "star", "ring"], {"seed": 5, "num_inference_steps": 4, "output_type": "np"}
    plain = pipeline(names, **settings)
    together = pipeline(names, annotations=["mask", "box"], **settings)
    alone = pipeline(names, annotations=["mask"], batch_size=1, **settings)
    np.testing.assert_array_equal(plain.images, together.images)
    assert plain.masks is None and plain.boxes is None and plain.annotations is None and alone.boxes is None
    for label, (mask, boxes, other) in enumerate(zip(together.masks, together.boxes, alone.masks)):
        assert mask.shape == (64, 64) and set(np.unique(mask)) <= {0, label + 1, 255} and (mask == label + 1).any()
        assert boxes.shape[1] == 4 and len(boxes)
        assert (mask != other).mean() < 0.01
        x0, y0, x1, y1 = boxes[0]
        assert (mask[y0:y1, x0:x1] == label + 1).any()


@torch.no_grad()
def test_masks_lie_on_the_objects_of_rendered_scenes(pipeline):
    """Scenes are noised half-way and drawn again; the objects keep their places, which the scenes know."""
    rendered = list(scenes(8, bias=0.95, seed=4))
    names = [scene.factors.class_name for scene in rendered]
    images = torch.stack([torch.from_numpy(scene.image).permute(2, 0, 1) for scene in rendered]) / 127.5 - 1
    clean = pipeline.vae.encode(images).latent_dist.mean * pipeline.vae.config.scaling_factor
    pipeline.scheduler.set_timesteps(12)
    timesteps = pipeline.scheduler.timesteps[6:]
    embeds = pipeline.encode_prompts(names)
    texts = joined_texts([class_texts(pipeline, name, [name], True) for name in names])
    recorder = AttentionRecorder(
        pipeline.unet, texts, (16, 16), cross_levels=SMALL.cross_levels, self_level=0, steps=SMALL.recorded_steps(6)
    )
    latents = pipeline.scheduler.add_noise(clean, draw_latents(range(8), (4, 16, 16)), timesteps[:1])
    with recorder:
        list(denoising_steps(pipeline.denoiser, pipeline.scheduler, latents, embeds, timesteps=timesteps))

    def mean_iou(settings):
        found = annotate(recorder.result(), settings, (64, 64), [[0]] * 8)
        inside, truth = np.stack([item.mask == 1 for item in found]), np.stack([scene.mask for scene in rendered])
        return ((inside & truth).sum(axis=(1, 2)) / (inside | truth).sum(axis=(1, 2))).mean()

    assert mean_iou(SMALL) > 0.65
    assert mean_iou(dataclasses.replace(SMALL, invert=False)) < 0.1


def test_class_prompts_append_and_several_classes(pipeline):
    output = pipeline(
        ["a scene"],
        prompts=["a photo"],
        shown_classes=[["star", "dining table"]],
        shown_labels=[[6, 2]],
        annotations=["heatmap"],
        num_inference_steps=2,
    )
    (found,) = output.annotations
    assert output.prompts == ["a photo; star dining table"]
    assert found.labels == [6, 2] and found.heat_maps.shape == (2, 64, 64)
    assert found.heat_maps.min() >= 0 and found.heat_maps.max() <= 1
    settings = dataclasses.replace(SMALL, class_prompt=False, append_class_names=False)
    with pytest.raises(ValueError, match="class word 'star' does not stand in the prompt 'a photo'"):
        pipeline(["star"], prompts=["a photo"], annotations=["mask"], mask_settings=settings)
    with pytest.raises(ValueError, match="cross_level is 2"):
        pipeline(["star"], annotations=["mask"], mask_settings=PAPER, num_inference_steps=1)
    with pytest.raises(ValueError, match="annotations holds 'maks'"):
        pipeline(["star"], annotations=["maks"])


def test_columns(annotated):
    dataset = load_dataset(str(annotated), split="train")
    for row in dataset:
        mask, confidence = np.asarray(row["mask"]), np.asarray(row["confidence"])
        assert row["mask"].mode == "L" and mask.shape == (64, 64) == confidence.shape
        assert row["classes"] == [row["label"]] and len(row["heatmaps"]) == 1
        instances, objects = np.asarray(row["instances"]), row["objects"]
        assert len(objects["area"]) == instances.max()
        for number, (x, y, width, height) in enumerate(objects["bbox"]):
            region = instances == number + 1
            rows, columns = np.nonzero(region)
            assert [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1] == [x, y, x + width, y + height]
            assert region.sum() == objects["area"][number] and (mask[region] == row["label"] + 1).all()
            assert objects["category"][number] == row["label"] and objects["polygons"][number]
            assert objects["score"][number] == pytest.approx(confidence[region].mean() / 255, abs=0.01)
        heat = np.asarray(row["heatmaps"][0]) / 255
        assert (heat[mask == row["label"] + 1] > SMALL.threshold - 0.01).all()
    assert [feature for feature in ("objects", "mask") if feature in dataset.features] == ["objects", "mask"]
    assert dataset.features["objects"]["category"].feature.names == ["circle", "star"]
    manifest = json.loads((annotated / ".ubgen" / "manifest.json").read_text())["settings"]
    assert manifest["mask_settings"]["threshold"] == SMALL.threshold and "scipy" in manifest["versions"]


def test_a_lost_shard_is_made_again_to_the_byte(annotated, mini_model, capsys):
    before = files(annotated)
    arguments = ["--model", mini_model, "--class-names", "circle", "star", "--output-dir", str(annotated), *SHORT]
    (annotated / ".ubgen" / "shard-00001.json").unlink()
    (annotated / "data" / "train-00001-of-00002.parquet").unlink()
    assert main([*arguments, "--annotations", *ANNOTATIONS]) == 0
    assert files(annotated) == before
    assert main([*arguments, "--annotations", *ANNOTATIONS, "--mask-threshold", "0.8"]) == 2
    assert "made with other settings: mask_settings" in capsys.readouterr().err
    assert main([*arguments, "--annotations", "mask"]) == 2
    assert "made with other settings: annotations" in capsys.readouterr().err


def test_a_file_of_captions(mini_model, tmp_path, capsys):
    rows = [
        {"filename": "7.jpg", "caption": "a star beside a circle on sand; star circle", "class_prompt": "star circle"},
        {"filename": "8.jpg", "caption": "a " + "very " * 30 + "big ring; ring", "class_prompt": "ring"},
    ]
    (tmp_path / "captions.json").write_text(json.dumps(rows))
    settings = {"model": mini_model, "num_inference_steps": 1, "annotations": ["mask", "box"]}
    dataset = generate_dataset(tmp_path / "captions.json", tmp_path / "d", **settings)
    assert dataset["filename"][:] == ["7.jpg", "8.jpg"] and dataset["classes"][:] == [[0, 1], [2]]
    assert dataset["label"][:] == [0, 2] and dataset.features["label"].names == ["star", "circle", "ring"]
    assert dataset[0]["prompt"] == rows[0]["caption"] and dataset[1]["prompt"].endswith("very; ring")
    assert "1 of 2 captions are longer than the model reads" in capsys.readouterr().err
    assert main(["--classes", str(tmp_path / "captions.json"), "--samples-per-class", "2", "--dry-run"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["filename"] for line in lines] == ["7.jpg", "8.jpg"] * 2 and len({x["seed"] for x in lines}) == 4
    assert lines[0]["classes"] == ["star", "circle"]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--annotations", "maks"], "annotations holds 'maks'"),
        (["--mask-threshold", "0.5"], "mask_threshold is given without annotations"),
        (["--annotations", "mask", "--mask-threshold", "2"], "threshold is 2"),
        (["--annotations", "mask", "--mask-self-level", "5"], "self_level is 5"),
    ],
)
def test_bad_input(mini_model, tmp_path, capsys, more, message):
    folder = tmp_path / "d"
    assert main(["--model", mini_model, "--class-names", "star", "--output-dir", str(folder), *SHORT, *more]) == 2
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error
    assert not folder.exists()


def test_flags_cover_every_mask_setting(mini_model, tmp_path):
    names = {field.name for field in dataclasses.fields(AnnotationSettings)} - {"annotations"}
    assert names == {f"mask_{field.name}" for field in dataclasses.fields(PAPER)}
    flags = AnnotationSettings(["mask"], mask_threshold=0.9, mask_class_prompt=False, mask_cross_levels=[0, 1])
    assert flags.mask_settings("owner/a-hub-model") == dataclasses.replace(
        PAPER, threshold=0.9, class_prompt=False, cross_levels=(0, 1)
    )
    assert AnnotationSettings(["mask"]).mask_settings(mini_model) == SMALL


def test_sheets_show_what_is_annotated(annotated, tmp_path):
    command = [
        sys.executable,
        "-m",
        "ubgen_pipeline",
        "show",
        str(annotated),
        "--output-dir",
        str(tmp_path),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["class", "images", "shown", "in", "objects"]
    assert lines[1].split()[:3] == ["circle", "2", "2"] and lines[2].split()[:3] == ["star", "2", "2"]
    assert lines[3] == str(tmp_path / "sheet-000.png")
    sheet = np.asarray(Image.open(lines[3]).convert("RGB")).astype(int)
    # six tiles wide and four high, each 192 pixels and a frame of 4
    assert sheet.shape == (4 * 196 + 4, 6 * 196 + 4, 3)
    tiles = [sheet[4:196, 4 + 196 * column : 196 + 196 * column] for column in range(6)]
    assert all(np.abs(tile - tiles[0]).max() > 50 for tile in tiles[1:])
    # the mask tile differs from the image where the mask is, and only there
    mask = np.asarray(load_dataset(str(annotated), split="train")[0]["mask"].resize((192, 192), 0)) > 0
    changed = np.abs(tiles[1] - tiles[0]).max(axis=-1) > 0
    assert not changed[~mask].any() and changed[mask].mean() > 0.9


def test_bad_sheets(annotated, tmp_path):
    with pytest.raises(ValueError, match="holds no data/train"):
        show_dataset(tmp_path)
    with pytest.raises(ValueError, match="layers holds 'boxes'"):
        ShowSettings(layers=["boxes"])
    done = subprocess.run(
        [sys.executable, "-m", "ubgen_pipeline", "show"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2 and "ubgen show DIR" in done.stderr and "Traceback" not in done.stderr
