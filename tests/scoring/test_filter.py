"""Views of a scored dataset: which rows stay, why each of the others does not, and that nothing else changes."""

import contextlib
import io
import json

import numpy as np
import pytest
from datasets import Features, load_dataset
from huggingface_hub import DatasetCard

from support.scored_rows import FEATURES, NAMES, made_up, write
from ubgen_pipeline.dataset.reader import StoredRows
from ubgen_pipeline.dataset.shards import DatasetShards
from ubgen_pipeline.export.export import ExportSettings, export_dataset
from ubgen_pipeline.generation.generate import main as generate
from ubgen_pipeline.generation.regenerate import main as regenerate
from ubgen_pipeline.hub.publish_dataset import main as publish
from ubgen_pipeline.scoring.filter import FilterSettings, filter_dataset, main
from ubgen_pipeline.scoring.score import ScoreCommandSettings, score_dataset


def files(folder):
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return write(tmp_path_factory.mktemp("source") / "d", made_up())


def test_the_command_writes_a_view_and_leaves_the_source_as_it_is(source, tmp_path, capsys):
    before = files(source)
    flags = ["--min-clip-score", "0.1", "--zero-shot-correct", "--safe-only", "--max-per-duplicate-group", "3"]
    assert main([str(source), *flags, "--output-dir", str(tmp_path / "view")]) == 0
    assert files(source) == before
    report = json.loads((tmp_path / "view" / "filter_report.json").read_text())
    view = load_dataset(str(tmp_path / "view"), split="train")
    assert len(view) == report["num_kept"] and view.features == Features(FEATURES)
    rows = {row["index"]: row for row in made_up()}
    for row in view:
        original = rows[row["index"]]
        assert row["seed"] == original["seed"] and np.asarray(row["image"])[0, 0, 0] == row["index"]
        assert row["clip_score"] >= 0.1 and not row["nsfw_content_detected"] and row["zero_shot_label"] == row["label"]
    printed = capsys.readouterr()
    assert f"{len(view)} of 60 rows are kept" in printed.err
    left_out = [(item["name"], str(item["num_left_out"])) for item in report["rules"]]
    assert [tuple(line.split()) for line in printed.out.splitlines()[1:]] == left_out
    assert export_dataset(tmp_path / "view", ExportSettings("imagefolder", str(tmp_path / "e"))) == len(view)


def test_an_interrupted_view_is_resumed_to_the_same_bytes(source, tmp_path, monkeypatch):
    whole = filter_dataset(source, FilterSettings(str(tmp_path / "whole"), min_clip_score=0.0))
    settings, written, shards = FilterSettings(str(tmp_path / "cut"), min_clip_score=0.0), DatasetShards.write, []

    def stop_at_the_third(self, shard, rows, features):
        shards.append(shard)
        if len(shards) == 3:
            next(rows)
            raise KeyboardInterrupt
        written(self, shard, rows, features)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(DatasetShards, "write", stop_at_the_third)
        filter_dataset(source, settings)
    assert len(list((tmp_path / "cut" / "data").iterdir())) == 2
    assert filter_dataset(source, settings).report == whole.report
    assert files(tmp_path / "cut") == files(tmp_path / "whole")
    stamps = {file: file.stat().st_mtime_ns for file in (tmp_path / "cut").rglob("*")}
    filter_dataset(source, settings)
    assert stamps == {file: file.stat().st_mtime_ns for file in (tmp_path / "cut").rglob("*")}
    with pytest.raises(ValueError, match="filters was"):
        filter_dataset(source, FilterSettings(str(tmp_path / "cut"), min_clip_score=0.1))
    # another source under the same name
    other = write(tmp_path / "other", made_up(seed=1))
    with pytest.raises(ValueError, match="other settings"):
        filter_dataset(other, settings)


def test_classes_without_rows_are_named(tmp_path, capsys):
    rows = [{**row, "clip_score": 0.1 if row["label"] == 1 else 0.5} for row in made_up()]
    folder = write(tmp_path / "d", rows)
    assert main([str(folder), "--min-clip-score", "0.4", "--output-dir", str(tmp_path / "v")]) == 0
    assert "warning: no row is left of 1 classes: star\n" in capsys.readouterr().err
    assert main([str(folder), "--min-clip-score", "0.9", "--output-dir", str(tmp_path / "w")]) == 2
    assert "no row of" in capsys.readouterr().err and not (tmp_path / "w").exists()


@pytest.fixture(scope="module")
def generated(mini_model, tmp_path_factory):
    """Nine drawn images, three of a batch, with scores."""
    folder = tmp_path_factory.mktemp("generated")
    flags = ["--samples-per-class", "3", "--num-inference-steps", "2", "--samples-per-shard", "6", "--batch-size", "3"]
    place = ["--class-names", *NAMES, "--output-dir", str(folder / "d"), "--model", "mini", "--threads", "1"]
    with contextlib.redirect_stderr(io.StringIO()):
        assert generate([*place, *flags, "--scores", "duplicates"]) == 0
    score_dataset(folder / "d", ScoreCommandSettings(["clip"], output_dir=str(folder / "s")))
    return folder / "s"


def test_a_view_of_drawn_images_keeps_its_card_its_rows_and_goes_to_the_hub(generated, hub, tmp_path, capsys):
    scores = StoredRows(generated).numbers("clip_score")
    limit = float(np.sort(scores)[2])
    flags = ["--min-clip-score", str(limit), "--max-per-duplicate-group", "1", "--max-hash-distance", "0"]
    assert main([str(generated), *flags, "--output-dir", str(tmp_path / "v")]) == 0, capsys.readouterr().err
    view = load_dataset(str(tmp_path / "v"), split="train")
    assert 0 < len(view) < 9
    card = DatasetCard.load(tmp_path / "v" / "README.md")
    assert f"{len(view)} of the 9 rows that were there before are here" in card.text
    assert "a &#124; &#60;b&#62;b&#60;&#47;b&#62; |" in card.text and "<b>b" not in card.text
    assert "Not finished" not in card.text and "so that any prefix" not in card.text
    # 6 to 8 are one batch: whole or not, the row is found by the index that it had
    for index in view["index"]:
        code = regenerate([str(tmp_path / "v"), "--index", str(index), "--output", str(tmp_path / "r.png")])
        said = capsys.readouterr().err
        assert code == 0 or "its batch is not in the dataset any more" in said
    assert publish([str(tmp_path / "v"), "org/view"]) == 0, capsys.readouterr().err
    pushed = load_dataset("org/view", split="train")
    assert pushed["index"][:] == view["index"][:]
    assert f"{len(view)} of the 9 rows" in DatasetCard.load("org/view", repo_type="dataset").text


OUT = ["--output-dir", "{out}"]


@pytest.mark.parametrize(
    ("arguments", "left_out", "message"),
    [
        (["--safe-only"], [], "output_dir is missing"),
        (OUT, [], "no rule is given"),
        (["--min-clip-score", "1.5", *OUT], [], "min_clip_score is 1.5; give a cosine from -1 to 1"),
        (["--min-clip-score", "nan", *OUT], [], "min_clip_score is nan"),
        (
            ["--min-zero-shot-probability", "90", *OUT],
            [],
            "min_zero_shot_probability is 90.0; give a share",
        ),
        (["--max-per-duplicate-group", "0", *OUT], [], "max_per_duplicate_group is 0"),
        (["--max-per-class", "0", *OUT], [], "max_per_class is 0; give an integer of at least 1"),
        (["--safe-only", "--max-hash-distance", "3", *OUT], [], "max_hash_distance is given without"),
        (["--safe-only", "--output-dir", "{source}/x"], [], "the dataset itself"),
        (["--safe-only", *OUT], ["nsfw_content_detected"], "--scores safety --safety-checker MODEL"),
        (["--min-clip-score", "0", *OUT], ["clip_score"], "--scores clip --output-dir OUT"),
        (["--zero-shot-correct", *OUT], ["zero_shot_label"], "--scores clip --output-dir OUT"),
        (
            ["--max-per-duplicate-group", "1", *OUT],
            ["perceptual_hash", "duplicate_group"],
            "--scores duplicates --output-dir OUT",
        ),
    ],
)
def test_bad_input(tmp_path, capsys, arguments, left_out, message):
    source = write(tmp_path / "d", made_up(8), left_out)
    assert main([str(source), *(item.format(out=tmp_path / "out", source=source) for item in arguments)]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
