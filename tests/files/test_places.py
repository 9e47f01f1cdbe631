"""Local folders and addresses of stores told apart, and addresses that cannot be used."""

from pathlib import Path

import pytest

from ubgen_pipeline.files.places import as_place, is_address, opened


def test_what_is_an_address():
    assert is_address("s3://bucket/d") and is_address("file:///d") and not is_address("/d") and not is_address("s3/d")
    assert as_place("~/d") == Path.home() / "d" and str(as_place("memory://a/d/")) == "memory://a/d"


def test_pyarrow_is_given_a_path_or_a_stream(tmp_path):
    (tmp_path / "a").write_bytes(b"text")
    assert opened(tmp_path / "a") == tmp_path / "a"
    with opened(as_place(f"file://{tmp_path}/a")) as stream:
        assert stream.read() == b"text"


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("nothing://bucket/d", "output_dir is 'nothing://bucket/d', whose protocol cannot be used"),
        ("s3://", "names no folder"),
        ("simplecache::s3://bucket/d", "a chain of protocols"),
        ("sftp://me:secret@host/d", "a user's name or password in it"),
    ],
)
def test_addresses_that_cannot_be_used(address, message):
    with pytest.raises(ValueError, match=message) as error:
        as_place(address, "output_dir")
    assert "secret" not in str(error.value)
