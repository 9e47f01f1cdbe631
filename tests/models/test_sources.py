"""Where a model comes from: public names, commits on the Hub, licences, and rows that name them."""

import shutil
from pathlib import Path

import pytest
from huggingface_hub import HfApi

from ubgen_pipeline.generation.generate import generate_dataset
from ubgen_pipeline.generation.regenerate import largest_difference, regenerate
from ubgen_pipeline.generation.row_lookup import find_row, stored_image
from ubgen_pipeline.mini import EMBEDDED_MODELS
from ubgen_pipeline.models.sources import hub_commit, model_source, public_name


def test_local_models(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    assert public_name(str(folder)) == "model" and public_name("org/name") == "org/name" and public_name(None) is None
    assert hub_commit(str(folder)) is None and hub_commit("mini-flow") is None and hub_commit(None) is None
    assert model_source(str(folder), None).licence == {}
    for text, licence in [
        ("---\nlicense: openrail++\nlanguage: en\n---\n", {"license": "openrail++"}),
        ("no metadata", {}),
        ("---\n- a list\n---\n", {}),
        ("---\na: [\n---\n", {}),
        ("---\nlicense: [mit, apache]\n---\n", {}),
    ]:
        (folder / "README.md").write_text(text)
        assert model_source(str(folder), None).licence == licence
    for name in EMBEDDED_MODELS:
        source = model_source(name, None)
        # the flow model is of a family whose popular checkpoints have another licence
        assert source.name == name and source.licence == {"license": "apache-2.0"} and source.licence_note is None


def test_unreachable_or_unknown_models(hub):
    assert hub_commit("org/none") is None
    hub.faults.add("api/models", status=500, count=100)
    assert model_source("org/name", "a" * 40).licence == {}


def test_rows_name_the_commit_that_drew_them(hub, random_mini_model, tmp_path):
    api = HfApi()
    api.create_repo("org/model")
    api.upload_folder(repo_id="org/model", folder_path=random_mini_model)
    card = b"---\nlicense: creativeml-openrail-m\n---\n"
    api.upload_file(path_or_fileobj=card, path_in_repo="README.md", repo_id="org/model")
    commit = api.model_info("org/model").sha
    source = model_source("org/model", hub_commit("org/model"))
    assert (source.name, source.revision, source.licence) == (
        "org/model", commit, {"license": "creativeml-openrail-m"}
    )  # fmt: skip
    settings = {"samples_per_class": 1, "num_inference_steps": 1, "threads": 1}
    folder = tmp_path / "d"
    dataset = generate_dataset(["circle", "star"], folder, model="org/model", **settings)
    assert dataset["model"][:] == ["org/model"] * 2 and dataset["model_revision"][:] == [commit] * 2
    text = (folder / "README.md").read_text()
    assert "license: creativeml-openrail-m" in text and commit in text
    # the model moves on; the row still names, and is drawn by, what it was
    api.upload_file(path_or_fileobj=b"{}", path_in_repo="unet/config.json", repo_id="org/model")
    assert hub_commit("org/model") != commit and hub_commit("org/model", commit) == commit
    row = find_row(str(folder), 1)
    assert largest_difference(regenerate(row), stored_image(row)) == 0
    # and an unfinished dataset is not gone on with by another commit
    shutil.rmtree(folder / "data")
    with pytest.raises(ValueError, match="model_revision was"):
        generate_dataset(["circle", "star"], folder, model="org/model", **settings)
    assert not list(Path(folder).glob("data/*"))
