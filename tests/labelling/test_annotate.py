"""``ubgen annotate``: masks of a segmenter trained here, and every kind of model that transformers has for labels."""

import itertools
import json
import shutil
import string

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Image, List, Value, load_dataset
from PIL import Image as PilImage
from transformers import (
    BertConfig,
    BertTokenizer,
    CLIPImageProcessor,
    CLIPTextConfig,
    GroundingDinoConfig,
    GroundingDinoForObjectDetection,
    GroundingDinoImageProcessor,
    GroundingDinoProcessor,
    SamConfig,
    SamImageProcessor,
    SamModel,
    SamProcessor,
    SegformerForSemanticSegmentation,
    SegformerImageProcessor,
    SwinConfig,
)

from support.image_folders import save_class_folders
from support.tiny_labellers import mask2former, owlv2, segformer, yolos
from ubgen_evaluation import mask_quality
from ubgen_pipeline.dataset.annotated_rows import AnnotatedRows
from ubgen_pipeline.export.export import main as export_main
from ubgen_pipeline.labelling.annotate import main
from ubgen_pipeline.labelling.build_annotator import build_annotator, class_table
from ubgen_pipeline.mask_regions import MaskObject, seen_parts
from ubgen_pipeline.mini.scenes import scenes
from ubgen_training.segmenter.command import train
from ubgen_training.segmenter.segmenter_config import SegmenterConfig

NAMES = ["circle", "star"]


def save_scenes(folder, number=12, names=NAMES):
    drawn = list(scenes(number, bias=0.0, seed=8, class_names=NAMES))
    columns = {
        "image": [PilImage.fromarray(scene.image) for scene in drawn],
        "label": [NAMES.index(scene.factors.class_name) for scene in drawn],
        "mask": [
            PilImage.fromarray(scene.mask.astype(np.uint8) * (1 + NAMES.index(scene.factors.class_name)))
            for scene in drawn
        ],
    }
    features = Features({"image": Image(), "label": ClassLabel(names=names), "mask": Image()})
    Dataset.from_dict(columns, features=features).save_to_disk(str(folder))
    return str(folder)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A small U-Net after a few seconds of training on two classes of rendered scenes."""
    folder = tmp_path_factory.mktemp("segmenter")
    source = save_scenes(folder / "train", 200)
    train(
        SegmenterConfig(
            output_dir=str(folder / "model"), dataset=source, model="mini", image_size=64, min_crop_scale=1.0,
            colour_change=0.0, max_steps=60, per_device_train_batch_size=20, learning_rate=5e-3, use_cpu=True,
            save_strategy="no", disable_tqdm=True,
        )
    )  # fmt: skip
    return str(folder / "model")


def test_a_segmenter_trained_here_labels_a_dataset(trained, tmp_path, capsys):
    source = save_scenes(tmp_path / "d")
    flags = ["--output-dir", str(tmp_path / "out"), "--own-class-only", "--samples-per-shard", "5"]
    assert main([source, "--model", trained, *flags]) == 0
    rows, truth = load_dataset(str(tmp_path / "out"), split="train"), Dataset.load_from_disk(source)
    header, figures = map(str.split, capsys.readouterr().out.splitlines())
    assert header == ["images", "objects", "shards", "MB"]
    assert figures[:3] == ["12", str(sum(len(row["objects"]["category"]) for row in rows)), "3"]
    found, expected = (np.stack([np.asarray(row["mask"]) for row in data]) for data in (rows, truth))
    assert rows["label"][:] == truth["label"][:] and set(rows["annotator"]) == {"model"}
    # an untrained one scores below 0.1; the rest of training is a matter of minutes, not of this test
    assert mask_quality(found, expected, 3).mean_foreground_iou > 0.35
    for row, mask in zip(rows, found):
        present = set(np.unique(mask)) - {0, 255}
        assert present <= {1 + row["label"]} and {1 + c for c in row["objects"]["category"]} <= present
        for (x, y, width, height), area in zip(row["objects"]["bbox"], row["objects"]["area"]):
            inside = mask[y : y + height, x : x + width] == 1 + row["label"]
            assert 0 < area <= inside.sum() and inside.any(axis=0).all() and inside.any(axis=1).all()


def grounding_dino(folder, names, max_text_len=64):
    torch.manual_seed(0)
    # ids 101, 102, 1012 and 1029 are part of the model: it parts phrases there
    pieces = [f"[unused{number}]" for number in range(1030)]
    pieces[0], pieces[100], pieces[101], pieces[102], pieces[1012], pieces[1029] = (
        "[PAD]", "[UNK]", "[CLS]", "[SEP]", ".", "?"
    )  # fmt: skip
    for number, word in enumerate(["circle", "star", "red", "blue", "fire", "engine", *string.ascii_lowercase], 200):
        pieces[number], pieces[number + 100] = word, f"##{word}"
    tokenizer = BertTokenizer(vocab={piece: number for number, piece in enumerate(pieces)})
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    backbone = SwinConfig(
        image_size=64, patch_size=4, embed_dim=8, depths=[1] * 4, num_heads=[1] * 4, window_size=4,
        out_indices=[2, 3, 4],
    )  # fmt: skip
    config = GroundingDinoConfig(
        backbone_config=backbone.to_dict(), text_config=BertConfig(vocab_size=len(pieces), **sizes).to_dict(),
        d_model=32, encoder_layers=1, decoder_layers=2, encoder_ffn_dim=16, decoder_ffn_dim=16,
        encoder_attention_heads=2, decoder_attention_heads=2, num_queries=6, max_text_len=max_text_len,
        disable_custom_kernels=True,
    )  # fmt: skip
    GroundingDinoForObjectDetection(config).save_pretrained(folder)
    images = GroundingDinoImageProcessor(size={"shortest_edge": 128, "longest_edge": 128})
    GroundingDinoProcessor(images, tokenizer).save_pretrained(folder)


def sam(folder):
    torch.manual_seed(0)
    config = SamConfig(
        vision_config={"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "image_size": 64,
                       "patch_size": 16, "output_channels": 8, "mlp_dim": 8, "num_pos_feats": 4, "window_size": 2,
                       "global_attn_indexes": [0]},
        prompt_encoder_config={"hidden_size": 8, "image_size": 64, "patch_size": 16, "mask_input_channels": 4},
        mask_decoder_config={"hidden_size": 8, "mlp_dim": 8, "num_hidden_layers": 1, "num_attention_heads": 1,
                             "iou_head_hidden_dim": 8},
    )  # fmt: skip
    SamModel(config).save_pretrained(folder)
    processor = SamImageProcessor(
        size={"longest_edge": 64}, pad_size={"height": 64, "width": 64}, mask_size={"longest_edge": 16},
        mask_pad_size={"height": 16, "width": 16},
    )  # fmt: skip
    SamProcessor(processor).save_pretrained(folder)


@pytest.mark.parametrize(
    "build", [segformer, mask2former, yolos, owlv2, grounding_dino], ids=lambda build: build.__name__
)
def test_every_kind_of_model(tmp_path, build):
    model, source = str(tmp_path / "m"), save_scenes(tmp_path / "d", 3)
    build(model, ["sky", "disc", "star"])
    flags = [source, "--model", model, "--output-dir", str(tmp_path / "out"), "--threshold", "0.0"]
    assert main([*flags, "--class-map", "disc=circle"]) == 0
    rows = load_dataset(str(tmp_path / "out"), split="train")
    assert rows.features["objects"]["category"].feature.names == NAMES
    assert ("mask" in rows.column_names) == (build in (segformer, mask2former))
    if "mask" in rows.column_names:
        assert set(np.unique([np.asarray(row["mask"]) for row in rows])) <= {0, 1, 2}
    else:
        assert sum(len(row["objects"]["bbox"]) for row in rows)
        assert all(
            w > 0 and h > 0 and x + w <= 64 and y + h <= 64 for r in rows for x, y, w, h in r["objects"]["bbox"]
        )


@pytest.mark.parametrize("build", [segformer, yolos], ids=lambda build: build.__name__)
def test_objects_that_a_model_does_not_tell_apart_are_refused(tmp_path, build, capsys):
    build(tmp_path / "m", ["circle", "star"])
    flags = [save_scenes(tmp_path / "d", 1), "--model", str(tmp_path / "m"), "--output-dir", str(tmp_path / "o")]
    assert main([*flags, "--objects", "queries"]) == 2
    assert "objects is 'queries', which model" in capsys.readouterr().err
    assert main([*flags, "--objects", "instances"]) == 2
    assert "choose one of regions, classes, queries" in capsys.readouterr().err
    assert main([*flags, "--objects", "classes"]) == (0 if build is segformer else 2)
    assert not (tmp_path / "o").exists() or build is segformer


def test_a_universal_segmenters_queries_are_objects(tmp_path):
    mask2former(tmp_path / "m", ["circle", "star"])
    flags = [save_scenes(tmp_path / "d", 2), "--model", str(tmp_path / "m"), "--threshold", "0", "--min-area", "0"]
    assert main([*flags, "--objects", "queries", "--output-dir", str(tmp_path / "o")]) == 0
    for row in load_dataset(str(tmp_path / "o"), split="train"):
        mask, instances = np.asarray(row["mask"]), np.asarray(row["instances"])
        # five queries for each of two classes; every pixel of a class belongs to one
        assert np.array_equal(instances > 0, mask > 0) and 0 < instances.max() <= 10
        for number, (label, area) in enumerate(zip(row["objects"]["category"], row["objects"]["area"]), 1):
            assert (instances == number).sum() == area and set(mask[instances == number]) == {1 + label}


def test_masks_in_a_detectors_boxes(tmp_path):
    yolos(tmp_path / "m", ["circle", "star"])
    sam(tmp_path / "s")
    source = save_scenes(tmp_path / "d", 2)
    flags = [source, "--model", str(tmp_path / "m"), "--mask-model", str(tmp_path / "s"), "--threshold", "0"]
    assert main([*flags, "--output-dir", str(tmp_path / "out")]) == 0
    rows = load_dataset(str(tmp_path / "out"), split="train")
    for row in rows:
        mask = np.asarray(row["mask"])
        assert mask.shape == (64, 64) and set(np.unique(mask)) - {0} <= {1 + c for c in row["objects"]["category"]}


def test_grounding_dino_is_asked_in_its_own_form_and_read_by_token(tmp_path):
    grounding_dino(tmp_path / "m", [])
    names = ["Fire Engine", "St. Star", "circle"]
    image = PilImage.fromarray(next(scenes(1, bias=0.0, seed=1)).image)
    annotator = build_annotator(str(tmp_path / "m"), names, {"blue circle": "circle"}, threshold=0.0, min_area=0.0)
    found = {item.box: (item.value, item.score) for item in annotator(image).objects}
    network = GroundingDinoForObjectDetection.from_pretrained(tmp_path / "m").eval()
    processor = GroundingDinoProcessor.from_pretrained(tmp_path / "m")
    inputs = processor(images=image, text="fire engine. st star. blue circle.", return_tensors="pt")
    tokens = processor.tokenizer.convert_ids_to_tokens(inputs["input_ids"][0])
    assert tokens[1:4] == ["fire", "engine", "."] and tokens[-4:] == ["blue", "circle", ".", "[SEP]"]
    with torch.no_grad():
        output = network(**inputs)
    probabilities = output.logits[0].sigmoid()
    # the words between the full stops
    stops = [0, *(place for place, token in enumerate(tokens) if token == ".")]
    expected = torch.stack(
        [probabilities[:, left + 1 : right].mean(dim=1) for left, right in itertools.pairwise(stops)], dim=1
    )
    own = processor.post_process_grounded_object_detection(output, threshold=-1, target_sizes=[(64, 64)])[0]["boxes"]
    assert len(found) == len(own) == 6
    for box, scores in zip(own, expected):
        x0, y0, x1, y1 = box.clamp(0, 64).tolist()
        value, score = found[int(x0), int(y0), int(np.ceil(x1)), int(np.ceil(y1))]
        assert value == 1 + int(scores.argmax()) and score == pytest.approx(float(scores.max()), abs=1e-6)


def test_grounding_dino_reads_more_classes_than_one_text_holds(tmp_path):
    grounding_dino(tmp_path / "m", [], max_text_len=8)
    names = ["circle", "star", "fire engine", "red circle"]
    image = PilImage.fromarray(next(scenes(1, bias=0.0, seed=1)).image)
    annotator = build_annotator(str(tmp_path / "m"), names, threshold=0.0, min_area=0.0)
    # 6 queries for "circle. star." and 6 for the others, which alone take 8 tokens
    values = [item.value for item in annotator(image).objects]
    assert len(values) == 12 and set(values[:6]) <= {1, 2} and set(values[6:]) <= {3, 4}
    with pytest.raises(ValueError, match=r"'engine engine engine engine engine engine' takes .* shorter word"):
        build_annotator(str(tmp_path / "m"), ["star", " ".join(["engine"] * 6)])
    build_annotator(str(tmp_path / "m"), ["star", " ".join(["engine"] * 6)], {"engine": " ".join(["engine"] * 6)})


def test_scores_of_a_segmenter_equal_transformers_own(tmp_path):
    segformer(tmp_path / "m", ["sky", "circle", "star"])
    image = next(scenes(1, bias=0.0, seed=1)).image
    labelling = build_annotator(str(tmp_path / "m"), NAMES, threshold=0.0)(PilImage.fromarray(image))
    network = SegformerForSemanticSegmentation.from_pretrained(tmp_path / "m").eval()
    processor = SegformerImageProcessor.from_pretrained(tmp_path / "m")
    with torch.no_grad():
        output = network(**processor(images=image, return_tensors="pt"))
    expected = processor.post_process_semantic_segmentation(output, target_sizes=[(64, 64)])[0]
    assert np.array_equal(labelling.mask, expected.numpy())


def test_classes_that_stand_for_one_add_up():
    table = class_table(["a", "b", "c"], ["x", "c"], {"a": "x", "b": "x"}, "m")
    assert table.tolist() == [1, 1, 2]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--class-map", "disc=moon"], "leads to 'moon'"),
        (["--class-map", "moon=star"], "names 'moon', which model"),
        (["--class-map", "disc"], "write NAME=CLASS"),
        ([], "none of the classes of model"),
        (["--model", "/nonexistent/m"], "could not be loaded"),
        (["--threshold", "2"], "threshold is 2"),
    ],
)
def test_bad_input(tmp_path, capsys, more, message):
    segformer(tmp_path / "m", ["sky", "disc"])
    source = save_scenes(tmp_path / "d", 2)
    assert main([source, "--model", str(tmp_path / "m"), "--output-dir", str(tmp_path / "o"), *more]) == 2
    assert message in capsys.readouterr().err and not (tmp_path / "o").exists()


def test_a_model_that_does_not_label(tmp_path, capsys):
    CLIPTextConfig(hidden_size=8).save_pretrained(tmp_path / "m")
    CLIPImageProcessor().save_pretrained(tmp_path / "m")
    source = save_scenes(tmp_path / "d", 2)
    assert main([source, "--model", str(tmp_path / "m"), "--output-dir", str(tmp_path / "o")]) == 2
    assert "neither segments nor detects" in capsys.readouterr().err


def test_a_model_is_known_by_what_it_holds(tmp_path, capsys):
    """Under another name it goes on, and others in its place do not."""
    model, scenes_folder = tmp_path / "model", save_scenes(tmp_path / "scenes", 4)
    segformer(model, NAMES)
    shutil.copytree(model, tmp_path / "moved")
    more = ["--output-dir", str(tmp_path / "out"), "--threshold", "0", "--model"]
    assert main([scenes_folder, *more, str(model)]) == 0
    (tmp_path / "out" / ".ubgen" / "shard-00000.json").unlink()
    assert main([scenes_folder, *more, str(tmp_path / "moved")]) == 0, capsys.readouterr().err
    file = model / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-4] + b"abcd")
    assert main([scenes_folder, *more, str(model)]) == 2
    assert "model was" in capsys.readouterr().err


def test_labelled_class_folders_travel_without_the_photographs(tmp_path):
    """Rows of image folders name their files; a dataset that leaves with such names cannot be opened elsewhere."""
    save_class_folders(tmp_path / "photos", NAMES, 2)
    expected = [np.asarray(PilImage.open(file)) for file in sorted((tmp_path / "photos").rglob("*.*"))]
    segformer(str(tmp_path / "m"), ["sky", *NAMES])
    out = tmp_path / "out"
    command = [str(tmp_path / "photos"), "--model", str(tmp_path / "m"), "--threshold", "0", "--output-dir", str(out)]
    assert main(command) == 0
    (tmp_path / "photos").rename(tmp_path / "elsewhere")
    rows = load_dataset(str(out), split="train")
    assert all(np.array_equal(np.asarray(row["image"]), image) for row, image in zip(rows, expected, strict=True))
    (file,) = out.glob("data/*.parquet")
    assert b"photos" not in file.read_bytes()
    assert export_main([str(out), "--format", "coco", "--output-dir", str(tmp_path / "coco")]) == 0


def test_no_annotation_of_before_is_left_and_exports_are_of_the_objects_that_were_found(tmp_path):
    """Old instances beside new objects made exports of pixels that are none of the object's."""
    old = np.zeros((64, 64), np.uint8)
    old[:4, :4] = 1
    drawn = list(scenes(3, bias=0.0, seed=8, class_names=NAMES))
    columns = {"image": [PilImage.fromarray(scene.image) for scene in drawn], "label": [0, 1, 0]}
    columns |= {name: [PilImage.fromarray(old)] * 3 for name in ("mask", "instances", "confidence")}
    columns |= {"heatmaps": [[PilImage.fromarray(old)]] * 3, "note": ["a", "b", "c"]}
    features = Features(
        {"image": Image(), "label": ClassLabel(names=NAMES)}
        | {name: Image() for name in ("mask", "instances", "confidence")}
        | {"heatmaps": List(Image()), "note": Value("string")}
    )
    Dataset.from_dict(columns, features=features).save_to_disk(str(tmp_path / "d"))
    segformer(str(tmp_path / "m"), ["sky", *NAMES])
    common = [str(tmp_path / "d"), "--threshold", "0", "--min-area", "0"]
    assert main([*common, "--model", str(tmp_path / "m"), "--output-dir", str(tmp_path / "out")]) == 0
    rows = load_dataset(str(tmp_path / "out"), split="train")
    assert set(rows.column_names) == {"image", "label", "note", "mask", "instances", "objects", "annotator"}
    for row, read in zip(rows, AnnotatedRows(tmp_path / "out"), strict=True):
        mask, instances = np.asarray(row["mask"]), np.asarray(row["instances"])
        assert np.array_equal(instances > 0, (mask > 0) & (mask < 255)) and instances.any()
        for number, item in enumerate(read.objects, 1):
            assert np.array_equal(item.region, instances == number) and item.area == item.region.sum() > 0
            assert set(mask[item.region]) == {1 + item.label}
    # a detector gives boxes alone
    yolos(str(tmp_path / "b"), ["sky", *NAMES])
    assert main([*common, "--model", str(tmp_path / "b"), "--output-dir", str(tmp_path / "boxes")]) == 0
    columns = load_dataset(str(tmp_path / "boxes"), split="train").column_names
    assert set(columns) == {"image", "label", "note", "objects", "annotator"}


def test_what_lies_under_another_object_is_not_its_own():
    whole, small, hidden = (np.zeros((8, 8), bool) for _ in range(3))
    whole[:6], small[2:4, 2:4], hidden[2:4, 2:4] = True, True, True
    objects = [
        MaskObject(1, (0, 0, 8, 6), 48, 0.9, whole),
        MaskObject(2, (2, 2, 4, 4), 4, 0.8, small),
        MaskObject(1, (2, 2, 4, 4), 4, 0.7, hidden),
    ]
    first, second = seen_parts(objects)
    assert (first.area, second.area, second.value) == (44, 4, 2) and not (first.region & second.region).any()
    assert first.box == (0, 0, 8, 6) and seen_parts([]) == []


def test_classes_in_which_nothing_is_found_are_named(tmp_path, capsys):
    """A model that finds stars only, at no size that counts."""
    yolos(str(tmp_path / "m"), ["sky", "star"])
    source = save_scenes(tmp_path / "d", 6)
    flags = [source, "--model", str(tmp_path / "m"), "--output-dir", str(tmp_path / "o"), "--threshold", "0"]
    assert main(flags) == 0
    told = capsys.readouterr().err
    report = json.loads((tmp_path / "o" / "annotate_report.json").read_text())["classes"]
    labels = Dataset.load_from_disk(source)["label"][:]
    assert [item["num_images"] for item in report] == [labels.count(0), labels.count(1)]
    assert report[0]["num_found"] == 0 and "nothing was found of" in told and "circle" in told
    assert "| circle |" in (tmp_path / "o" / "README.md").read_text()


@pytest.mark.parametrize("without", [None, -1])
@pytest.mark.parametrize("more", [[], ["--own-class-only"]])
def test_rows_without_a_label_are_looked_through_for_all_classes_and_count_for_none(tmp_path, capsys, without, more):
    """datasets writes -1 for a label that is not known."""
    segformer(str(tmp_path / "m"), NAMES)
    source = Dataset.load_from_disk(save_scenes(tmp_path / "all", 6))
    known = source["label"][:]
    labels = [known[0], without, known[2], without, without, known[5]]
    rows = source.remove_columns("label").add_column("label", labels).cast(source.features)  # type: ignore
    rows.save_to_disk(str(tmp_path / "d"))
    out = tmp_path / "o"
    flags = ["--model", str(tmp_path / "m"), "--output-dir", str(out), "--threshold", "0", *more]
    assert main([str(tmp_path / "d"), *flags]) == 0
    assert "3 rows have no label: they were looked through for all classes, and count for none" in (
        capsys.readouterr().err
    )
    report = json.loads((out / "annotate_report.json").read_text())
    assert report["num_rows_without_label"] == 3
    kept = [known[0], known[2], known[5]]
    assert [item["num_images"] for item in report["classes"]] == [kept.count(label) for label in sorted(set(kept))]
    found = load_dataset(str(out), split="train")
    assert found["label"][:] == labels
    # the same labels as where each row's class is known, since no class is ruled out
    alike = tmp_path / "alike"
    assert main([str(tmp_path / "all"), *flags[:3], str(alike), *flags[4:6]]) == 0
    expected = load_dataset(str(alike), split="train")
    for row, label in enumerate(labels):
        if not more or label in (None, -1):
            assert np.array_equal(np.asarray(found[row]["mask"]), np.asarray(expected[row]["mask"])), row
