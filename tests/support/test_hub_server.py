"""The loopback Hub answers the installed clients as the Hub does: rights, branches, pages, large files, faults."""

import os
from pathlib import Path

import pytest
from huggingface_hub import (
    CommitOperationAdd,
    CommitOperationDelete,
    HfApi,
    HfFileSystem,
    hf_hub_download,
    snapshot_download,
)
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from support.hub_faults import AFTER, BEFORE
from support.hub_server import READ_TOKEN, WRITE_TOKEN


def add(api, repo_id, files, **settings):
    operations = [CommitOperationAdd(name, content) for name, content in files.items()]
    return api.create_commit(repo_id, operations, commit_message="m", **settings)


def status(error):
    return error.value.response.status_code


@pytest.mark.parametrize("kind", ["model", "dataset", "space"])
def test_files_of_every_kind_of_repository(hub, kind):
    api = HfApi()
    url = api.create_repo("org/r", repo_type=kind, space_sdk="gradio" if kind == "space" else None)
    assert url.repo_id == "org/r" and url.repo_type == kind
    with pytest.raises(HfHubHTTPError) as raised:
        api.create_repo("org/r", repo_type=kind, space_sdk="gradio" if kind == "space" else None)
    assert status(raised) == 409
    files = {f"folder/{i}.txt": str(i).encode() for i in range(7)} | {"big file.bin": os.urandom(10_000), "é.txt": b""}
    add(api, "org/r", files, repo_type=kind)
    # three a page
    # a new Space has a card, which says what to run
    own = {".gitattributes", "README.md"} if kind == "space" else {".gitattributes"}
    assert set(api.list_repo_files("org/r", repo_type=kind)) == {*files, *own}
    assert [entry.path for entry in api.list_repo_tree("org/r", "folder", repo_type=kind)][:2] == [
        "folder/0.txt",
        "folder/1.txt",
    ]
    for name, content in files.items():
        assert Path(hf_hub_download("org/r", name, repo_type=kind)).read_bytes() == content
    assert [path for method, path in hub.faults.requests if method == "PUT"], "the large file went by LFS"
    information = api.get_paths_info("org/r", ["big file.bin", "folder", "none"], repo_type=kind)
    assert [entry.path for entry in information] == ["big file.bin", "folder"] and information[0].lfs.size == 10_000
    folder = Path(snapshot_download("org/r", repo_type=kind))
    assert (folder / "folder" / "3.txt").read_bytes() == b"3"
    prefix = "" if kind == "model" else f"{kind}s/"
    with HfFileSystem().open(f"{prefix}org/r/big file.bin") as stream:
        stream.seek(5_000)
        assert stream.read(10) == files["big file.bin"][5_000:5_010]
    with pytest.raises(EntryNotFoundError):
        hf_hub_download("org/r", "none.txt", repo_type=kind)
    api.delete_repo("org/r", repo_type=kind)
    with pytest.raises(RepositoryNotFoundError):
        api.repo_info("org/r", repo_type=kind)


def test_commits_have_parents(hub):
    api = HfApi()
    api.create_repo("org/r")
    first = add(api, "org/r", {"a": b"1", "d/b": b"2"})
    second = add(api, "org/r", {"a": b"3"}, parent_commit=first.oid)
    with pytest.raises(HfHubHTTPError) as raised:
        add(api, "org/r", {"a": b"4"}, parent_commit=first.oid)
    assert status(raised) == 412
    assert [commit.commit_id for commit in api.list_repo_commits("org/r")][:2] == [second.oid, first.oid]
    assert len(api.list_repo_commits("org/r")) == 3
    api.create_commit("org/r", [CommitOperationDelete("d/")], commit_message="m")
    assert set(api.list_repo_files("org/r")) == {"a", ".gitattributes"}
    assert Path(hf_hub_download("org/r", "a", revision=first.oid)).read_bytes() == b"1"
    with pytest.raises(ValueError, match="Invalid metadata"):
        add(api, "org/r", {"README.md": b"---\na: [\n---\n"})


def test_branches_and_tags_with_slashes(hub):
    api = HfApi()
    api.create_repo("org/r")
    add(api, "org/r", {"a": b"1"})
    api.create_branch("org/r", branch="feature/x")
    api.create_tag("org/r", tag="v1.0")
    add(api, "org/r", {"a": b"2"}, revision="feature/x")
    read = {
        revision: Path(hf_hub_download("org/r", "a", revision=revision)).read_bytes()
        for revision in ("main", "feature/x", "v1.0", "refs/heads/feature/x")
    }
    assert read == {"main": b"1", "feature/x": b"2", "v1.0": b"1", "refs/heads/feature/x": b"2"}
    refs = api.list_repo_refs("org/r")
    assert {branch.name for branch in refs.branches} == {"main", "feature/x"} and refs.tags[0].name == "v1.0"
    api.delete_branch("org/r", branch="feature/x")
    with pytest.raises(RevisionNotFoundError):
        api.model_info("org/r", revision="feature/x")


def test_private_and_gated(hub):
    writer, reader, nobody = HfApi(token=WRITE_TOKEN), HfApi(token=READ_TOKEN), HfApi(token=False)
    writer.create_repo("tester/secret", private=True)
    add(writer, "tester/secret", {"a": b"1"})
    for other in (reader, nobody):
        with pytest.raises(RepositoryNotFoundError):
            other.model_info("tester/secret")
    assert writer.model_info("tester/secret").private
    writer.create_repo("tester/gated")
    add(writer, "tester/gated", {"a": b"1"})
    writer.update_repo_settings("tester/gated", gated="manual")
    assert nobody.model_info("tester/gated").gated == "manual"
    for token in (READ_TOKEN, False):
        with pytest.raises(GatedRepoError):
            hf_hub_download("tester/gated", "a", token=token)
    hub.granted.add(("reader", "tester/gated"))
    assert Path(hf_hub_download("tester/gated", "a", token=READ_TOKEN)).read_bytes() == b"1"


def test_rights_of_tokens(hub):
    writer, reader = HfApi(token=WRITE_TOKEN), HfApi(token=READ_TOKEN)
    assert writer.whoami()["auth"]["accessToken"]["role"] == "write" and reader.whoami()["name"] == "reader"
    writer.create_repo("org/r")
    for action in (
        lambda: reader.create_repo("org/other"),
        lambda: add(reader, "org/r", {"a": b"1"}),
        lambda: writer.create_repo("stranger/r"),
        lambda: reader.delete_repo("org/r"),
    ):
        with pytest.raises(HfHubHTTPError) as raised:
            action()
        assert status(raised) == 403
    with pytest.raises(HfHubHTTPError) as raised:
        HfApi(token="hf_wrongwrongwrongwrong").whoami()
    assert status(raised) == 401


@pytest.mark.parametrize("fault", [401, 403, 404, 409, 412, 429, 500, 503])
def test_error_codes(hub, monkeypatch, fault):
    waits = []
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", waits.append)
    api = HfApi()
    api.create_repo("org/r")
    hub.faults.add("/commit/main", status=fault, retry_after=3)
    with pytest.raises(HfHubHTTPError) as raised:
        add(api, "org/r", {"a": b"1"})
    assert status(raised) == fault and raised.value.response.headers["Retry-After"] == "3"
    add(api, "org/r", {"a": b"1"})
    assert len(api.list_repo_commits("org/r")) == 2


@pytest.mark.parametrize(("cut", "arrived"), [(BEFORE, False), (AFTER, True)])
def test_broken_connections(hub, monkeypatch, cut, arrived):
    api = HfApi()
    api.create_repo("org/r")
    hub.faults.add("/commit/main", cut=cut)
    with pytest.raises(Exception, match=r"(?i)disconnected|reset|read"):
        add(api, "org/r", {"a": b"1"})
    assert ("a" in api.list_repo_files("org/r")) == arrived
    # within the body of a file: the client sends it again from its beginning
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda wait: None)
    content = os.urandom(3_000_000)
    hub.faults.add("^/objects/", method="PUT", cut=BEFORE)
    add(api, "org/r", {"b.bin": content})
    assert hub.repositories.read("model", "org/r", "b.bin") == content
