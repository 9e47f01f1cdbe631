"""``ubgen regenerate``: the same image from a row's own provenance, here, on the Hub, and alone."""

import dataclasses
import json
import shutil

import numpy as np
import pyarrow.parquet
import pytest
from datasets import load_dataset
from PIL import Image

from support.random_loras import save_random_lora
from ubgen_pipeline.commands.main import main as command
from ubgen_pipeline.generation.generate import generate_dataset
from ubgen_pipeline.generation.generate import main as generate_main
from ubgen_pipeline.generation.regenerate import largest_difference, main, regenerate
from ubgen_pipeline.generation.row_lookup import find_row, stored_image

SETTINGS = {
    "samples_per_class": 5,
    "num_inference_steps": 2,
    "samples_per_shard": 6,
    "batch_size": 4,
    "seed": 5,
    "guidance_scale": 3.0,
    "negative_prompt": "blurry",
    "template": "a {name}",
    "scheduler": "ddim",
    "threads": 1,
    "height": 48,
}


@pytest.fixture(scope="module")
def dataset(mini_model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("regenerate") / "d"
    generate_dataset(["circle", "star"], folder, model="mini", **SETTINGS)
    return folder


def test_every_place_in_a_batch(dataset, tmp_path, capsys):
    # first shard: batches 0-3 and 4-5; second: 6-9
    for index in (2, 5, 9):
        output = tmp_path / f"{index}.png"
        assert main([str(dataset), "--index", str(index), "--output", str(output)]) == 0, capsys.readouterr().err
        row = find_row(str(dataset), index)
        assert Image.open(output).size == (64, 48) and row.columns["index"] == index
        assert np.array_equal(np.asarray(Image.open(output)), np.asarray(stored_image(row)))
    assert "bit for bit" in capsys.readouterr().err


def test_without_manifest_and_batch(dataset, tmp_path):
    """Rows alone are enough, to rounding; and another row is another image."""
    shutil.copytree(dataset / "data", tmp_path / "data")
    row = find_row(str(tmp_path), 7)
    assert len(row.batch) == 1 and not row.batch_is_whole
    drawn = regenerate(row)
    assert largest_difference(drawn, stored_image(row)) <= 2
    assert largest_difference(drawn, stored_image(find_row(str(tmp_path), 5))) > 20


def test_the_manifest_of_a_command_that_draws_nothing_is_passed_over(dataset, tmp_path):
    shutil.copytree(dataset, tmp_path / "d")
    manifest = tmp_path / "d" / ".ubgen" / "manifest.json"
    manifest.write_text(json.dumps({"settings": {"samples_per_shard": 256, "source": "x"}}))
    row = find_row(str(tmp_path / "d"), 7)
    assert row.columns["index"] == 7 and row.manifest == {} and not row.batch_is_whole


def test_an_image_that_was_changed_is_told(dataset, tmp_path, capsys):
    folder = tmp_path / "d"
    shutil.copytree(dataset, folder)
    file = sorted((folder / "data").iterdir())[0]
    table = pyarrow.parquet.read_table(file)
    images = table["image"].to_pylist()
    images[1] = images[0]
    changed = table.set_column(
        table.column_names.index("image"), table.schema.field("image"), pyarrow.array(images, table["image"].type)
    )
    pyarrow.parquet.write_table(changed, file)
    assert main([str(folder), "--index", "1", "--output", str(tmp_path / "1.png")]) == 1
    assert "differs by up to" in capsys.readouterr().err


def test_the_loss_of_a_codec_is_no_difference(tiny_model, tmp_path, capsys):
    settings = {"samples_per_class": 1, "num_inference_steps": 1, "threads": 1, "codec": "jpeg"}
    generate_dataset(["circle", "star"], tmp_path / "d", model=tiny_model, **settings)
    arguments = [str(tmp_path / "d"), "--index", "1", "--model", tiny_model]
    assert main([*arguments, "--output", str(tmp_path / "1.png")]) == 0, capsys.readouterr().err
    # what is written is the image itself, before that loss
    row = find_row(str(tmp_path / "d"), 1)
    assert largest_difference(Image.open(tmp_path / "1.png"), stored_image(row)) > 0


def test_several_loras_with_strengths(tiny_model, tmp_path, capsys):
    a, b = (str(save_random_lora(tiny_model, tmp_path / name, seed=seed)) for seed, name in enumerate("ab"))
    common = ["--model", tiny_model, "--class-names", "circle", "star", "--samples-per-class", "1"]
    common += ["--num-inference-steps", "2", "--threads", "1"]

    def generate(name, *loras):
        more = ["--lora", *loras] if loras else []
        return generate_main([*common, *more, "--output-dir", str(tmp_path / name)])

    def images(name):
        return [np.asarray(image) for image in load_dataset(str(tmp_path / name), split="train")["image"]]

    assert generate("both", f"{a}:0.5", f"{b}:-1") == generate("zero", f"{a}:0", f"{b}:0") == generate("base") == 0
    rows = load_dataset(str(tmp_path / "both"), split="train")
    assert rows[0]["lora"] == ["a", "b"] and rows[0]["lora_strength"] == [0.5, -1.0]
    assert np.array_equal(images("zero"), images("base")) and not np.array_equal(images("both"), images("base"))
    card = (tmp_path / "both" / "README.md").read_text()
    assert "| LoRA of strength 0.5 | a |" in card and "| LoRA of strength -1.0 | b |" in card
    # each strength and each place among them is part of what the dataset is
    for loras, named in [
        ((f"{a}:0.5", b), "lora_strength was [0.5, -1.0] there and is [0.5, 1.0] now"),
        ((f"{b}:-1", f"{a}:0.5"), "lora was ["),
        ((f"{a}:0.5",), "lora was ["),
        ((), "lora was ["),
    ]:
        (tmp_path / "both" / ".ubgen" / "shard-00000.json").unlink(missing_ok=True)
        capsys.readouterr()
        assert generate("both", *loras) == 2
        assert named in capsys.readouterr().err
    assert generate("both", f"{a}:0.5", f"{b}:-1") == 0
    again = [str(tmp_path / "both"), "--index", "1", "--model", tiny_model, "--output", str(tmp_path / "1.png")]
    assert main([*again, "--lora", a, f"{b}:-1"]) == 0, capsys.readouterr().err
    for loras, named in [
        ((a,), "the row was drawn with 2; give each, in that order"),
        ((b, a), "not the one that drew the row"),
        ((f"{a}:0.75", b), "the row was drawn with strength 0.5"),
        ((), "came from a local folder called 'a'"),
    ]:
        assert main([*again, *(["--lora", *loras] if loras else [])]) == 2
        assert named in capsys.readouterr().err
    for name in ("imagefolder", "webdataset"):
        export = ["export", str(tmp_path / "both"), "--format", name, "--output-dir", str(tmp_path / name)]
        assert command(export) == 0, capsys.readouterr().err


def test_names_and_stray_files_do_not_stop_a_resume_or_a_row(tiny_model, tmp_path, capsys):
    model = shutil.copytree(tiny_model, tmp_path / "model")
    lora = save_random_lora(tiny_model, tmp_path / "lora") / "pytorch_lora_weights.safetensors"
    common = ["--class-names", "circle", "star", "--samples-per-class", "1", "--num-inference-steps", "2"]
    common += ["--threads", "1", "--model", str(model), "--output-dir", str(tmp_path / "d"), "--lora"]
    assert generate_main([*common, str(lora)]) == 0
    (model / "notes.json").write_text("{}")
    renamed = str(lora.rename(tmp_path / "style.safetensors"))
    (tmp_path / "d" / ".ubgen" / "shard-00000.json").unlink()
    assert generate_main([*common, renamed]) == 0, capsys.readouterr().err
    again = [str(tmp_path / "d"), "--index", "1", "--output", str(tmp_path / "1.png"), "--model", str(model)]
    assert main([*again, "--lora", renamed]) == 0, capsys.readouterr().err


def test_a_row_without_a_manifest_says_its_loras(tiny_model, tmp_path):
    a, b = (str(save_random_lora(tiny_model, tmp_path / name, seed=seed)) for seed, name in enumerate("ab"))
    settings = {"samples_per_class": 1, "num_inference_steps": 2, "threads": 1, "batch_size": 1}
    generate_dataset(["star"], tmp_path / "d", model=tiny_model, lora=[f"{a}:0.5", f"{b}:2"], **settings)
    shutil.copytree(tmp_path / "d" / "data", tmp_path / "rows" / "data")
    row = find_row(str(tmp_path / "rows"), 0)
    image = regenerate(row, model=tiny_model, lora=[a, b])
    assert not row.manifest and largest_difference(image, stored_image(row)) <= 2


def test_a_local_model_is_asked_for_by_name(tiny_model, tmp_path, capsys):
    shutil.copytree(tiny_model, tmp_path / "tiny")
    settings = {"model": str(tmp_path / "tiny"), "num_inference_steps": 1}
    generate_dataset(["star"], tmp_path / "d", samples_per_class=1, **settings)
    assert main([str(tmp_path / "d"), "--index", "0", "--output", str(tmp_path / "0.png")]) == 2
    assert "came from a local folder or file called 'tiny'; say with model where" in capsys.readouterr().err


def test_bad_input(dataset, tmp_path, capsys, tiny_model):
    for arguments, message in [
        ([str(dataset), "--index", "10"], "index is 10"),
        ([str(dataset), "--index", "-1"], "index is -1"),
        ([str(tmp_path), "--index", "1"], "holds no data/train"),
        (["nowhere", "--index", "1"], "neither a folder nor an id"),
        ([str(dataset)], "index"),
        ([str(dataset), "more", "--index", "1"], "unknown argument 'more'"),
        ([str(dataset), "--index", "1", "--model", tiny_model], "not the one that drew"),
        ([str(dataset), "--index", "1", "--lora", "x"], "without one"),
    ]:
        assert main(arguments) == 2
        error = capsys.readouterr().err
        assert message in error and "Traceback" not in error, error
    assert json.loads((dataset / ".ubgen" / "manifest.json").read_text())["settings"]["template"] == "a {name}"


def test_rows_that_were_drawn_more_diversely(dataset, mini_model, tmp_path):
    folder, settings = tmp_path / "d", {**SETTINGS, "diversity": "cads", "cads_scale": 1.0}
    more = {"guidance_interval": [0.1, 0.5], "num_inference_steps": 6, "samples_per_class": 2}
    generate_dataset(["circle", "star"], folder, model="mini", **{**settings, **more})
    row = find_row(str(folder), 3)
    numbers = {"method": "cads", "tau1": 0.6, "tau2": 0.9, "scale": 1.0, "psi": 1.0}
    assert row.columns["diversity"] == numbers and row.columns["guidance_interval"] == [0.1, 0.5]
    assert np.array_equal(np.asarray(regenerate(row)), np.asarray(stored_image(row)))
    # the rows alone are enough, and what they say counts
    shutil.copytree(folder / "data", tmp_path / "data")
    alone = find_row(str(tmp_path), 3)
    assert largest_difference(regenerate(alone), stored_image(row)) <= 2
    for name in ("diversity", "guidance_interval"):
        other = dataclasses.replace(alone, columns={**alone.columns, name: None})
        assert largest_difference(regenerate(other), stored_image(row)) > 2
    # a lost shard is drawn again to the same bytes, and other numbers are refused
    before = {file.name: file.read_bytes() for file in (folder / "data").iterdir()}
    next((folder / "data").iterdir()).unlink()
    generate_dataset(["circle", "star"], folder, model="mini", **{**settings, **more})
    assert {file.name: file.read_bytes() for file in (folder / "data").iterdir()} == before
    with pytest.raises(ValueError, match="diversity"):
        generate_dataset(["circle", "star"], folder, model="mini", **{**settings, **more, "cads_scale": 0.5})
    assert "noise in the conditioning" in (folder / "README.md").read_text()
