"""``ubgen publish``, which gives what streaming gives, and ``ubgen generate`` with a dataset on the Hub."""

import os
import re
import subprocess

import pytest
from datasets import load_dataset
from huggingface_hub import DatasetCard, HfApi

from support.hub_server import WRITE_TOKEN
from support.parts_dataset import write_labelled
from support.tiny_labellers import segformer
from support.warm_python import warm_programs
from ubgen_pipeline import generate_dataset
from ubgen_pipeline.generation.generate import main as generate
from ubgen_pipeline.generation.regenerate import main as regenerate
from ubgen_pipeline.hub import publish_dataset
from ubgen_pipeline.labelling.annotate import main as annotate
from ubgen_pipeline.scoring.filter import main as filter_rows
from ubgen_pipeline.scoring.score import main as score

SHORT = {"samples_per_class": 3, "num_inference_steps": 1, "samples_per_shard": 2, "batch_size": 2, "threads": 1}


def flags(settings):
    return [part for name, value in settings.items() for part in (f"--{name}", str(value))]


def test_published_equals_streamed(hub, mini_model, tmp_path, capsys):
    names = ["circle", "a: <b>|x", "no"]
    streamed = generate_dataset(names, model="mini", hub_dataset_id="org/streamed", shards_per_commit=2, **SHORT)
    assert [row["index"] for row in streamed] == list(range(9))
    folder = tmp_path / "local"
    generate_dataset(names, folder, model="mini", **SHORT)
    assert publish_dataset.main([str(folder), "org/published", "--private"]) == 0
    trees = [hub.repositories.tree("dataset", name) for name in ("org/streamed", "org/published")]
    cards = [
        hub.repositories.read("dataset", name, "README.md").decode().replace(name, "NAME")
        for name in ("org/streamed", "org/published")
    ]
    # what takes reading the rows is said where they are at hand
    statistics = re.compile(r"## Statistics\n.*?(?=## Classes)", re.S)
    assert "images of a class" in cards[1] and cards[0] == statistics.sub("", cards[1])
    assert all(tree.pop("README.md") for tree in trees) and trees[0] == trees[1]
    loaded = load_dataset("org/published", split="train")
    assert loaded.features["label"].names == names and loaded.num_rows == 9
    # again: nothing to do; and a row of it is drawn again from the Hub
    commits = len(hub.repositories["dataset", "org/published"].commits)
    assert publish_dataset.main([str(folder), "org/published", "--private"]) == 0
    assert len(hub.repositories["dataset", "org/published"].commits) == commits
    assert regenerate(["org/published", "--index", "4", "--output", str(tmp_path / "4.png")]) == 0
    assert "bit for bit" in capsys.readouterr().err
    # a report that was put beside the shards is taken into the card
    (folder / "bias_report.txt").write_text("own background  0.9 <b>\n")
    assert publish_dataset.main([str(folder), "org/reported"]) == 0
    reported = hub.repositories.read("dataset", "org/reported", "README.md").decode()
    assert "## Bias report\n\n    own background  0.9 <b>\n\n## Classes" in reported
    assert (
        reported.replace("org/reported", "NAME").replace("## Bias report\n\n    own background  0.9 <b>\n\n", "")
        == (cards[1])
    )
    (folder / "bias_report.txt").unlink()
    # a card edited by hand goes up as it is
    (folder / "README.md").write_text("---\nlicense: mit\n---\nmine\n")
    assert publish_dataset.main([str(folder), "org/edited"]) == 0
    assert hub.repositories.read("dataset", "org/edited", "README.md") == b"---\nlicense: mit\n---\nmine\n"


def test_generate_streams_as_a_command_and_resumes(hub, mini_model, tmp_path, capsys):
    """Killed with the first commit made, then run again in another folder."""
    arguments = ["--class-names", "circle", "star", *flags(SHORT), "--hub-dataset-id", "org/d"]
    arguments += ["--shards-per-commit", "1", "--output-dir"]
    command = [str(warm_programs() / "ubgen"), "generate", *arguments]
    process = None
    hub.faults.add("/commit/main$", cut="after", call=lambda path: process.kill())
    process = subprocess.Popen([*command, str(tmp_path / "a")], env=os.environ, stderr=subprocess.PIPE, text=True)
    assert process.wait() == -9, process.stderr.read()
    assert WRITE_TOKEN not in process.stderr.read()
    assert generate([*arguments, str(tmp_path / "b")]) == 0
    shown = capsys.readouterr()
    assert "2 shards made here" in shown.err and WRITE_TOKEN not in shown.out + shown.err
    local = tmp_path / "local"
    generate_dataset(["circle", "star"], local, model="mini", **SHORT)
    published = hub.repositories.tree("dataset", "org/d")
    for file in (local / "data").iterdir():
        assert hub.repositories.object(published[f"data/{file.name}"]).read_bytes() == file.read_bytes()
    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert files and not [file for file in files if WRITE_TOKEN.encode() in file.read_bytes()]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--hub-dataset-id", "d"], "give the owner too"),
        (["--hub-dataset-id", "org/a b"], "hub_dataset_id is"),
        (["--private"], "private is set without hub_dataset_id"),
        (["--keep-local"], "keep_local is set without"),
        (["--hub-dataset-id", "org/d", "--keep-local"], "output_dir is missing"),
        (["--hub-dataset-id", "org/d", "--shards-per-commit", "0"], "shards_per_commit is 0"),
        (["--hub-dataset-id", "stranger/d"], "may not write"),
    ],
)
def test_generate_refuses(hub, mini_model, capsys, more, message):
    assert generate(["--class-names", "star", *more]) == 2
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error and WRITE_TOKEN not in error


def test_a_scored_dataset_takes_the_place_of_the_one_before(hub, mini_model, tmp_path, capsys):
    plain, scored, target = tmp_path / "plain", tmp_path / "scored", "org/again"
    generate_dataset(["circle", "star"], plain, model="mini", **SHORT)
    assert publish_dataset.main([str(plain), target]) == 0
    assert score([str(plain), "--scores", "duplicates", "--output-dir", str(scored)]) == 0
    capsys.readouterr()
    assert publish_dataset.main([str(scored), target]) == 2
    assert f"ubgen publish FOLDER {target} --replace" in capsys.readouterr().err
    assert publish_dataset.main([str(scored), target, "--replace"]) == 0
    assert {"perceptual_hash", "duplicate_group"} <= set(load_dataset(target, split="train").features)
    # and back: no column of the scored one is left, neither in the files nor in the card
    assert publish_dataset.main([str(plain), target, "--replace"]) == 0
    again = load_dataset(target, split="train", download_mode="force_redownload")
    assert again.num_rows == 6 and not {"perceptual_hash", "duplicate_group"} & set(again.features)
    assert b"perceptual_hash" not in hub.repositories.read("dataset", target, "README.md")
    # another number of shards leaves none of the old ones
    longer = tmp_path / "longer"
    generate_dataset(["circle", "star"], longer, model="mini", **SHORT | {"samples_per_shard": 6})
    assert publish_dataset.main([str(longer), target, "--replace"]) == 0
    assert [name for name in hub.repositories.tree("dataset", target) if name.startswith("data/")] == [
        "data/train-00000-of-00001.parquet"
    ]


def test_labelled_images_of_others_are_published_whatever_is_made_of_them(hub, tmp_path, capsys):
    """Photos of which some have no label, annotated, scored and filtered: each step takes the place of the last."""
    labels, names = [0, None, 2, 0, -1, 2], ["circle", "a: <b>|x", "star"]
    write_labelled(tmp_path / "photos", labels, names)
    (tmp_path / "photos/README.md").write_text("---\nlicense: cc-by-4.0\n---\nmine\n")
    segformer(str(tmp_path / "m"), ["circle", "star"])
    flags = ["--model", str(tmp_path / "m"), "--threshold", "0", "--samples-per-shard", "2"]
    steps = [
        ("annotated", annotate, ["photos", *flags]),
        ("scored", score, ["annotated", "--scores", "duplicates"]),
        ("kept", filter_rows, ["scored", "--max-per-duplicate-group", "1"]),
    ]
    for name, command, (source, *more) in steps:
        assert command([str(tmp_path / source), *more, "--output-dir", str(tmp_path / name)]) == 0
        # the first goes up shard by shard
        replace = [] if name == "annotated" else ["--replace"]
        assert publish_dataset.main([str(tmp_path / name), "org/p", "--shards-per-commit", "1", *replace]) == 0
        local, there = (
            load_dataset(place, split="train", download_mode="force_redownload")
            for place in (str(tmp_path / name), "org/p")
        )
        assert there.features == local.features and there.features["label"].names == names
        assert there[:] == local[:] and there["label"][:] == labels
        # columns and licence stand in the card, too, and photos are not called synthetic
        card = DatasetCard(hub.repositories.read("dataset", "org/p", "README.md").decode())
        assert card.data.license == "cc-by-4.0" and card.data.tags == ["ubgen"]
        assert [item["name"] for item in card.data.dataset_info["features"]] == list(local.features)
        assert card.data.column_values["mask"] == {"background": 0, "first_label": 1, "ignore": 255}
    assert "2 of the rows have no label" in (tmp_path / "annotated/README.md").read_text()
    # again, and one that is not finished
    commits = len(hub.repositories["dataset", "org/p"].commits)
    assert publish_dataset.main([str(tmp_path / "kept"), "org/p"]) == 0
    assert len(hub.repositories["dataset", "org/p"].commits) == commits
    for number in (0, 2):
        (tmp_path / f"annotated/.ubgen/shard-{number:05d}.json").unlink()
    assert publish_dataset.main([str(tmp_path / "annotated"), "org/p", "--replace"]) == 2
    assert "of whose 3 shards 2 are missing" in capsys.readouterr().err


def test_only_a_dataset_of_ubgen_is_replaced(hub, mini_model, tmp_path, capsys):
    api = HfApi()
    api.create_repo("org/other", repo_type="dataset")
    api.upload_file(path_or_fileobj=b"1", path_in_repo="mine.csv", repo_id="org/other", repo_type="dataset")
    generate_dataset(["circle", "star"], tmp_path / "d", model="mini", **SHORT)
    assert publish_dataset.main([str(tmp_path / "d"), "org/other", "--replace"]) == 2
    assert "holds no dataset of ubgen's ('mine.csv')" in capsys.readouterr().err
    assert hub.repositories.read("dataset", "org/other", "mine.csv") == b"1"


def test_publish_refuses(hub, tmp_path, capsys):
    (tmp_path / "d").mkdir()
    for arguments, message in [
        ([str(tmp_path / "d"), "org/d"], "no dataset that ubgen has made"),
        ([str(tmp_path / "d"), "d"], "give the owner too"),
        ([str(tmp_path / "d")], "repo_id"),
    ]:
        assert publish_dataset.main(arguments) == 2
        assert message in capsys.readouterr().err
