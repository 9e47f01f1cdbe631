"""Browsing a dataset on the Hub with the real client: parts of files only, the operator's token for what he offers."""

import pytest


@pytest.fixture()
def published(hub, tmp_path, mini_model):
    """Makes a dataset of six rows under a name on the Hub, public or private."""
    from huggingface_hub import HfApi

    from ubgen_pipeline import generate_dataset

    generate_dataset(["star", "ring"], tmp_path / "d", samples_per_class=3, num_inference_steps=1, samples_per_shard=2)

    def publish(name: str, private: bool) -> str:
        api = HfApi(endpoint=hub.endpoint)
        api.create_repo(name, repo_type="dataset", private=private)
        api.upload_folder(repo_id=name, repo_type="dataset", folder_path=tmp_path / "d", ignore_patterns=[".ubgen/*"])
        return name

    return publish


def test_a_public_dataset_is_counted_and_shown(published):
    from dataset_rows import read_rows
    from dataset_view import read_view
    from parquet_files import find_parquet_files

    view = read_view(find_parquet_files(published("tester/shapes", private=False)))
    assert view.num_files == 3 and view.counts.tolist() == [3, 3] and view.class_names == ("star", "ring")
    assert [row.fields["index"] for row in read_rows(view, 1, 1, 2)] == ["3", "5"]


def test_a_private_dataset_is_shown_only_where_the_operator_offers_it(published):
    from parquet_files import find_parquet_files

    name = published("tester/secret", private=True)
    with pytest.raises(ValueError, match="Dataset: the Hub"):
        find_parquet_files(name)
    assert len(find_parquet_files(name, (name,)).files) == 3


def test_a_dataset_that_is_not_there(hub):
    from parquet_files import find_parquet_files

    with pytest.raises(ValueError, match="Dataset: the Hub"):
        find_parquet_files("tester/nothing")
