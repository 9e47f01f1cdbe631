"""Where the files of a dataset lie, and what visitors may not open."""

import pytest
from parquet_files import find_parquet_files

from support.space_datasets import open_folder, write


def test_unreadable_files_are_errors_without_paths(tmp_path):
    (tmp_path / "a.parquet").write_bytes(b"PAR1 but not really")
    with pytest.raises(ValueError, match="could not be read") as caught:
        open_folder(tmp_path)
    assert str(tmp_path) not in str(caught.value)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no parquet file"):
        open_folder(tmp_path / "empty")


@pytest.mark.parametrize(
    "source",
    ["/etc", "../x", "a/../b", "~", "", "name", "a/b/c", "a//b", "https://x/y", "a/b@c", "a/b\n", "x" * 99 + "/y"],
)
def test_visitors_open_nothing_but_hub_ids_and_what_is_offered(source, ours):
    with pytest.raises(ValueError, match="choose one from the list"):
        find_parquet_files(source, (str(ours),))
    with pytest.raises(ValueError, match="choose one from the list"):
        find_parquet_files(str(ours), ())


def test_links_out_of_the_folder_are_not_followed(ours, tmp_path):
    write(tmp_path / "private.parquet", {"label": [0]})
    (ours / "data" / "link.parquet").symlink_to(tmp_path / "private.parquet")
    assert len(find_parquet_files(str(ours), (str(ours),)).files) == 2
