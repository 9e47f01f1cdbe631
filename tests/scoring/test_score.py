"""Scores while generating and afterwards: equal columns, duplicates over the whole dataset, black images marked."""

import contextlib
import io
import json
import re

import numpy as np
import pytest
from datasets import ClassLabel, Features, Value, load_dataset
from datasets import Image as ImageFeature
from huggingface_hub import DatasetCard
from PIL import Image

from support.parts_dataset import write_rows
from support.scene_dataset import png, write_scene_dataset
from support.tiny_safety_checker import build_safety_checker, save_safety_checker
from ubgen_pipeline import UbGenPipeline
from ubgen_pipeline.dataset.reader import StoredRows
from ubgen_pipeline.dataset.shards import DatasetShards
from ubgen_pipeline.export.export import ExportSettings, export_dataset
from ubgen_pipeline.generation.generate import main as generate
from ubgen_pipeline.generation.regenerate import main as regenerate
from ubgen_pipeline.initial_latents import draw_latents
from ubgen_pipeline.sample_seeds import sample_seed
from ubgen_pipeline.scoring.image_scorer import ImageScorer
from ubgen_pipeline.scoring.score import ScoreCommandSettings, main, score_dataset

NAMES = ["circle", "star"]
CLIP = ("clip_score", "zero_shot_label", "zero_shot_probability")


@pytest.fixture(scope="module")
def checked_model(mini_model, tmp_path_factory):
    """The mini model with a safety checker that flags some of the images that `generated` draws, and not all."""
    pipeline = UbGenPipeline.from_pretrained(mini_model)
    pipeline.set_progress_bar_config(disable=True)
    seeds = [sample_seed(0, name, number) for number in range(4) for name in NAMES]
    drawn = pipeline(NAMES * 4, seeds=seeds, latents=draw_latents(seeds, (4, 16, 16)), num_inference_steps=2)
    checker, processor = build_safety_checker(drawn.images)
    folder = tmp_path_factory.mktemp("model") / "checked"
    pipeline.register_modules(safety_checker=checker, feature_extractor=processor)
    pipeline.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def generated(checked_model, tmp_path_factory):
    """Eight images of two classes with all scores, and what the command said."""
    folder = tmp_path_factory.mktemp("generated") / "d"
    flags = ["--samples-per-class", "4", "--num-inference-steps", "2", "--samples-per-shard", "3", "--threads", "1"]
    scores = ["--scores", "clip", "duplicates", "safety", "--clip-model", "mini"]
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        place = ["--class-names", *NAMES, "--output-dir", str(folder)]
        assert generate(["--model", checked_model, *place, *flags, *scores]) == 0
    return folder, said.getvalue()


def rows_of(folder):
    return list(load_dataset(str(folder), split="train"))


def columns(folder, names):
    return [{name: row[name] for name in names} for row in rows_of(folder)]


def files(folder):
    return {file.name: file.read_bytes() for file in (folder / "data").iterdir()}


def test_black_images_are_marked_and_counted_and_have_no_scores(generated):
    folder, said = generated
    rows = rows_of(folder)
    flagged = [row for row in rows if row["nsfw_content_detected"]]
    assert 0 < len(flagged) < len(rows) == 8
    for row in rows:
        is_black = not np.asarray(row["image"]).any()
        assert is_black == row["nsfw_content_detected"]
        assert all((row[name] is None) == is_black for name in (*CLIP, "perceptual_hash"))
    assert f"{len(flagged)} images of the dataset were flagged by the safety checker" in said
    card = (folder / "README.md").read_text()
    assert f"{len(flagged)} of 8 images are marked" in card and "“a photo of a &#123;name&#125;”" in card
    assert str(folder.parent) not in (folder / ".ubgen" / "manifest.json").read_text()


def test_scores_made_afterwards_are_those_made_while_generating(generated, tmp_path):
    folder, _ = generated
    scored = score_dataset(
        folder, ScoreCommandSettings(["clip", "duplicates"], "mini", output_dir=str(tmp_path / "s"))
    )
    before, after = rows_of(folder), rows_of(tmp_path / "s")
    for old, new in zip(before, after, strict=True):
        assert new.pop("duplicate_group") == new["index"]
        assert new.pop("image").tobytes() == old.pop("image").tobytes()
        floats = [(old.pop(name), new.pop(name)) for name in ("clip_score", "zero_shot_probability")]
        assert new == old and all(a == b or abs(a - b) < 1e-5 for a, b in floats)
    assert scored.rows_per_file == 3 and len(scored) == 8


def test_a_scored_dataset_is_regenerated_and_exported(generated, checked_model, tmp_path, capsys):
    folder, _ = generated
    assert main([str(folder), "--scores", "duplicates", "--output-dir", str(tmp_path / "s")]) == 0
    assert "groups of near-duplicates" in capsys.readouterr().out
    kept = [row["index"] for row in rows_of(tmp_path / "s") if not row["nsfw_content_detected"]]
    flags = ["--model", checked_model, "--output", str(tmp_path / "row.png")]
    assert regenerate([str(tmp_path / "s"), "--index", str(kept[0]), *flags]) == 0, capsys.readouterr().err
    assert export_dataset(
        tmp_path / "s", ExportSettings("imagefolder", str(tmp_path / "e"), empty_classes="drop")
    ) == len(kept)


def scenes_with_duplicates(folder, order=slice(None), samples_per_shard=4):
    """Eleven scenes, the first one twice more, once as a JPEG; their indices stay with them whatever the order."""
    plain = folder.with_name(folder.name + "_plain")
    write_scene_dataset(plain, with_annotations=False)
    source = StoredRows(plain)
    rows = list(source.rows(range(len(source))))
    stream = io.BytesIO()
    Image.open(io.BytesIO(rows[0]["image"]["bytes"])).save(stream, "JPEG", quality=80)
    rows += [{**rows[0], "index": 20}, {**rows[0], "index": 21, "image": {"bytes": stream.getvalue(), "path": None}}]
    rows.append({**rows[1], "index": 22, "image": png(np.zeros((64, 128, 3), np.uint8))})
    rows = rows[order]
    shards = DatasetShards(folder, {"made": "for a test"}, len(rows), samples_per_shard)
    shards.open()
    for shard in shards.shards:
        shards.write(shard, rows[shard.start : shard.stop], Features(source.features))
    shards.finish("# Scenes\n")
    return folder


@pytest.fixture(scope="module")
def scored_scenes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scenes")
    source = scenes_with_duplicates(folder / "d")
    before = files(source)
    checker = save_safety_checker(folder / "checker", [row["image"] for row in rows_of(source)][:11])
    flags = ["--scores", "safety", "clip", "duplicates", "--clip-model", "mini", "--safety-checker", checker]
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        assert main([str(source), *flags, "--output-dir", str(folder / "s")]) == 0
    assert files(source) == before
    return folder, printed.getvalue()


def test_near_duplicates_are_grouped_over_the_whole_dataset(scored_scenes):
    folder, printed = scored_scenes
    rows = {row["index"]: row for row in rows_of(folder / "s")}
    assert {index for index, row in rows.items() if row["duplicate_group"] == 0} == {0, 20, 21}
    assert all(row["duplicate_group"] == index for index, row in rows.items() if index not in (0, 20, 21))
    assert rows[22]["perceptual_hash"] is None and rows[22]["clip_score"] is None
    flags = [row["nsfw_content_detected"] for row in rows.values()]
    counts = dict(line.rsplit(maxsplit=1) for line in printed.splitlines()[1:])
    scores = [row["clip_score"] for row in rows.values() if row["clip_score"] is not None]
    right = [row["zero_shot_label"] == row["label"] for row in rows.values()]
    assert {name.strip(): value for name, value in counts.items()} == {
        "CLIP score, mean": f"{np.mean(scores):.3f}",
        "zero-shot right": str(sum(right)),
        "black all over or damaged, without scores": "1",
        "groups of near-duplicates": "1",
        "rows in these groups": "3",
        "flagged by a safety checker, kept": str(sum(flags)),
    }
    # flagged afterwards, so not black
    assert any(np.asarray(row["image"]).any() for row in rows.values() if row["nsfw_content_detected"])
    card = DatasetCard.load(folder / "s" / "README.md")
    assert "at most 4 of 64 bits" in card.text and "safety checker of `checker`" in card.text


def test_scores_depend_neither_on_order_nor_on_files(scored_scenes, tmp_path):
    folder, _ = scored_scenes
    backward = scenes_with_duplicates(tmp_path / "d", slice(None, None, -1), samples_per_shard=5)
    settings = ScoreCommandSettings(
        ["clip", "duplicates", "safety"], "mini", safety_checker=str(folder / "checker"),
        output_dir=str(tmp_path / "s"),
    )  # fmt: skip
    score_dataset(backward, settings)
    names = (*CLIP, "perceptual_hash", "nsfw_content_detected", "index")
    forward, backward = (
        [{name: row[name] for name in names} for row in rows_of(at / "s")] for at in (folder, tmp_path)
    )
    assert forward == sorted(backward, key=lambda row: row["index"])


def test_an_interrupted_run_is_resumed_to_the_same_bytes(scored_scenes, tmp_path, monkeypatch):
    folder, _ = scored_scenes
    settings = ScoreCommandSettings(["clip", "duplicates"], "mini", output_dir=str(tmp_path / "whole"))
    score_dataset(folder / "d", settings)
    interrupted = ScoreCommandSettings(["clip", "duplicates"], "mini", output_dir=str(tmp_path / "cut"))
    scored, calls = ImageScorer.__call__, []

    def stop_at_the_sixth(*arguments):
        calls.append(1)
        if len(calls) == 6:
            raise KeyboardInterrupt
        return scored(*arguments)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(ImageScorer, "__call__", stop_at_the_sixth)
        score_dataset(folder / "d", interrupted)
    assert len(files(tmp_path / "cut")) == 1
    with pytest.raises(ValueError, match="is unfinished"):
        StoredRows(tmp_path / "cut")
    score_dataset(folder / "d", interrupted)
    assert files(tmp_path / "cut") == files(tmp_path / "whole")
    manifests = [json.loads((tmp_path / name / ".ubgen" / "manifest.json").read_text()) for name in ("cut", "whole")]
    assert manifests[0] == manifests[1]
    # another threshold would be another dataset
    with pytest.raises(ValueError, match=r"scores\['duplicates'\] was"):
        score_dataset(folder / "d", ScoreCommandSettings(["clip"], "mini", output_dir=str(tmp_path / "cut")))


def test_scores_are_added_to_those_that_are_there(scored_scenes, tmp_path):
    folder, _ = scored_scenes
    source = scenes_with_duplicates(tmp_path / "d")
    score_dataset(source, ScoreCommandSettings(["duplicates"], output_dir=str(tmp_path / "one")))
    score_dataset(tmp_path / "one", ScoreCommandSettings(["clip"], "mini", output_dir=str(tmp_path / "two")))
    names = (*CLIP, "perceptual_hash", "duplicate_group")
    both, expected = (
        [{name: row[name] for name in names} for row in rows_of(at)] for at in (tmp_path / "two", folder / "s")
    )
    assert both == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--scores", "clip"], "output_dir is missing"),
        (["--output-dir", "{out}"], "scores is missing"),
        (["--scores", "clip", "--clip-model", "/nowhere", "--output-dir", "{out}"], "clip_model '/nowhere' cannot be"),
        (["--scores", "safety", "--output-dir", "{out}"], "no safety checker of its own"),
        (["--scores", "duplicates", "--max-hash-distance", "20", "--output-dir", "{out}"], "max_hash_distance is 20"),
        (["--scores", "duplicates", "--output-dir", "{source}"], "the dataset itself"),
        (["--scores", "duplicates", "--output-dir", "{source}/x"], "the dataset itself"),
    ],
)
def test_bad_input(scored_scenes, tmp_path, capsys, arguments, message):
    source = str(scored_scenes[0] / "d")
    arguments = [item.format(out=tmp_path / "out", source=source) for item in arguments]
    assert main([source, *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_dataset_that_is_not_ubgens(tmp_path, capsys, mini_model):
    assert main([str(tmp_path), "--scores", "duplicates", "--output-dir", str(tmp_path / "o")]) == 2
    assert "holds no data/train" in capsys.readouterr().err
    assert main(["--scores", "duplicates"]) == 2 and "the dataset is missing" in capsys.readouterr().err
    flags = ["--class-names", "a", "--model", mini_model, "--output-dir", str(tmp_path / "x")]
    assert generate([*flags, "--scores", "safety"]) == 2
    assert "no safety checker of its own" in capsys.readouterr().err and not (tmp_path / "x").exists()
    assert generate([*flags, "--scores", "beauty"]) == 2 and "scores holds 'beauty'" in capsys.readouterr().err


def test_rows_without_a_label_have_no_clip_scores_and_are_counted_as_such(tmp_path, capsys):
    """-1 is how datasets writes a label that is not known; it is not the last class."""
    features = Features({"image": ImageFeature(), "label": ClassLabel(names=NAMES), "index": Value("int64")})
    grey = [np.full((16, 16, 3), 9 * value, np.uint8) for value in range(5)]
    labels = (0, None, -1, 1, 1)
    rows = [{"image": png(grey[i]), "label": label, "index": i} for i, label in enumerate(labels)]
    write_rows(tmp_path / "d", rows, features)
    flags = ["--scores", "clip", "--clip-model", "mini", "--device", "cpu", "--output-dir", str(tmp_path / "s")]
    assert main([str(tmp_path / "d"), *flags]) == 0
    scored = rows_of(tmp_path / "s")
    # the first image is black
    assert [row["clip_score"] is None for row in scored] == [True, True, True, False, False]
    assert [row["zero_shot_label"] is None for row in scored] == [True, True, True, False, False]
    assert [row["label"] for row in scored] == list(labels)
    printed = capsys.readouterr().out
    assert re.search(r"black all over or damaged, without scores +1\n", printed)
    assert re.search(r"without a label, and so without CLIP scores +2\n", printed)
