"""The rows of a generated dataset: annotations, captions, scores and where each row comes from."""

import json

import numpy as np
import pytest
from datasets import load_dataset

from ubgen_pipeline.generation.dataset_rows import dataset_features
from ubgen_pipeline.generation.generate import generate_dataset, main
from ubgen_pipeline.generation.settings import GenerateSettings
from ubgen_pipeline.mask_settings import ANNOTATIONS, SMALL

SHORT = ["--num-inference-steps", "2", "--samples-per-class", "2", "--samples-per-shard", "2", "--batch-size", "2"]


@pytest.fixture(scope="module")
def annotated(mini_model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("annotated") / "d"
    arguments = ["--model", mini_model, "--class-names", "circle", "star", "--output-dir", str(folder), *SHORT]
    assert main([*arguments, "--annotations", *ANNOTATIONS]) == 0
    return folder


def files(folder):
    return {file.name: file.read_bytes() for file in (folder / "data").iterdir()}


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


def test_columns_are_those_of_the_kind_of_samples(tmp_path):
    def names(**settings):
        asked = GenerateSettings(**settings)
        samples = asked.samples()
        return list(dataset_features(asked, samples, ["star"], has_safety_checker=False))

    plain = names(class_names=["star"])
    # the mark of images that were not finite comes after what says how they were drawn
    assert plain.pop() == "not_finite"
    assert plain[:6] == ["image", "label", "class_name", "prompt", "seed", "index"] and "filename" not in plain
    (tmp_path / "captions.json").write_text(json.dumps([{"caption": "a star", "class_prompt": "star"}]))
    captions = names(classes=str(tmp_path / "captions.json"), annotations=["mask"])
    assert (
        captions[: len(plain)] == plain
        and captions[len(plain)] == "not_finite"
        and captions[-1] == "filename"
        and "mask" in captions
    )
    (tmp_path / "t.yaml").write_text("{classes: [star], templates: ['a {view} {name}'], attributes: {view: [front]}}")
    assert names(classes=str(tmp_path / "t.yaml"))[len(plain) :] == [
        "num_prompt_chunks", "attributes", "not_finite"
    ]  # fmt: skip
    assert names(class_names=["star"], preset="dpm-20")[len(plain) :] == [
        "preset", "few_step_lora", "not_finite"
    ]  # fmt: skip
    diverse = names(class_names=["star"], diversity="cads", guidance_interval=[0.1, 0.9])
    assert diverse[len(plain) :] == ["diversity", "guidance_interval", "not_finite"]
    asked = GenerateSettings(class_names=["star"], scores=["duplicates"])
    checked = list(dataset_features(asked, asked.samples(), ["star"], has_safety_checker=True))
    assert checked[len(plain) :] == ["not_finite", "nsfw_content_detected", "perceptual_hash"]


def test_word_weights_and_class_prompts_are_not_mixed(mini_model, tmp_path, capsys):
    (tmp_path / "t.yaml").write_text("{classes: [star], templates: ['a {name}++ on sand']}")
    arguments = ["--model", mini_model, "--classes", str(tmp_path / "t.yaml"), "--output-dir", str(tmp_path / "d")]
    assert main([*arguments, *SHORT, "--annotations", "mask", "--mask-class-prompt", "False"]) == 2
    assert "mask_class_prompt is false, which word weights do not work with" in capsys.readouterr().err
    assert not (tmp_path / "d").exists()
