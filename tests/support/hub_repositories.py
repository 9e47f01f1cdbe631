"""The state behind the loopback Hub: repositories, commits, branches and stored objects. No HTTP."""

import hashlib
import itertools
import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

REPO_TYPES = ("model", "dataset", "space")
# what the Hub's default .gitattributes sends to large file storage
LFS_SUFFIXES = (".parquet", ".safetensors", ".bin", ".png", ".jpg", ".zip", ".whl", ".arrow", ".tar", ".npz")
LFS_THRESHOLD = 10 * 2**20


class RefusedError(Exception):
    """A request that the Hub answers with an error: status, ``X-Error-Code`` and message."""

    def __init__(self, status: int, message: str, code: str | None = None, **body: Any):
        super().__init__(message)
        self.status, self.message, self.code, self.body = status, message, code, body


@dataclass(frozen=True)
class File:
    """A file of a commit: git blob id, size, SHA-256 of the content, and whether it is in large file storage."""

    oid: str
    size: int
    sha256: str
    is_lfs: bool


@dataclass(frozen=True)
class Commit:
    oid: str
    parent: str | None
    title: str
    message: str
    author: str
    date: datetime
    files: Mapping[str, File]


@dataclass
class Repository:
    """A repository; ``branches`` and ``tags`` map names to commit ids. A Space has ``variables`` besides."""

    repo_type: str
    repo_id: str
    private: bool = False
    gated: bool = False
    created: datetime = field(default_factory=lambda: datetime.now(UTC))
    commits: dict[str, Commit] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    variables: dict[str, str] = field(default_factory=dict)

    def commit(self, revision: str) -> Commit:
        """The commit of a branch, tag, ref or (shortened) commit id."""
        name = revision.removeprefix("refs/heads/")
        oid = self.branches.get(name) or self.tags.get(revision) or revision
        if oid in self.commits:
            return self.commits[oid]
        if len(oid) >= 7 and (found := [commit for commit in self.commits if commit.startswith(oid)]):
            return self.commits[found[0]]
        raise RefusedError(404, f"Invalid rev id: {revision}", "RevisionNotFound")

    def history(self, revision: str) -> Iterator[Commit]:
        commit: Commit | None = self.commit(revision)
        while commit is not None:
            yield commit
            commit = self.commits[commit.parent] if commit.parent else None


class Repositories:
    """All repositories of a Hub, and the objects of their files by SHA-256 in ``folder``."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.folder.mkdir(parents=True, exist_ok=True)
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.lock = threading.RLock()
        self._counter = itertools.count()

    def __getitem__(self, key: tuple[str, str]) -> Repository:
        repository = self.repositories.get(key)
        if repository is None:
            raise RefusedError(404, "Repository not found", "RepoNotFound")
        return repository

    def create(self, repo_type: str, repo_id: str, *, private: bool = False, author: str = "system") -> Repository:
        with self.lock:
            if (repo_type, repo_id) in self.repositories:
                raise RefusedError(409, "You already created this repo", url=self.url(repo_type, repo_id))
            repository = Repository(repo_type, repo_id, private)
            self.repositories[repo_type, repo_id] = repository
            attributes = "".join(f"*{suffix} filter=lfs diff=lfs merge=lfs -text\n" for suffix in LFS_SUFFIXES)
            files = {".gitattributes": self.store(attributes.encode())}
            if repo_type == "space":
                name = repo_id.partition("/")[2]
                files["README.md"] = self.store(f"---\ntitle: {name}\nsdk: gradio\n---\n".encode())
            self._append(repository, "main", files, "initial commit", author)
            return repository

    def change_variables(
        self, repo_type: str, repo_id: str, method: str, change: Mapping[str, str]
    ) -> Mapping[str, str]:
        """The variables of a Space after a POST (``key``, ``value``), a DELETE (``key``) or a GET."""
        if repo_type != "space":
            raise RefusedError(404, "only a Space has variables")
        variables = self[repo_type, repo_id].variables
        if method == "POST":
            variables[change["key"]] = change["value"]
        elif method == "DELETE" and variables.pop(change["key"], None) is None:
            raise RefusedError(404, "no such variable")
        return variables

    def url(self, repo_type: str, repo_id: str) -> str:
        prefix = "" if repo_type == "model" else f"{repo_type}s/"
        return f"/{prefix}{repo_id}"

    def store(self, content: bytes, *, is_lfs: bool = False) -> File:
        """Keep the content and return its file entry."""
        sha256 = hashlib.sha256(content).hexdigest()
        self.object(sha256).write_bytes(content)
        return file_entry(content, sha256, len(content), is_lfs)

    def object(self, sha256: str) -> Path:
        return self.folder / sha256

    def read(self, repo_type: str, repo_id: str, path: str, revision: str = "main") -> bytes:
        """Content of a file, for tests."""
        return self.object(self[repo_type, repo_id].commit(revision).files[path].sha256).read_bytes()

    def tree(self, repo_type: str, repo_id: str, revision: str = "main") -> dict[str, str]:
        """Path to SHA-256 of every file, for comparing two repositories in tests."""
        return {path: file.sha256 for path, file in self[repo_type, repo_id].commit(revision).files.items()}

    def add_commit(
        self,
        repository: Repository,
        branch: str,
        *,
        added: Mapping[str, File],
        deleted: Iterable[str] = (),
        title: str,
        message: str = "",
        parent: str | None = None,
        author: str = "system",
    ) -> Commit:
        """Append a commit at once or refuse it; ``parent`` must be the branch's head (or a prefix of its id)."""
        with self.lock:
            if branch not in repository.branches:
                raise RefusedError(404, f"Invalid rev id: {branch}", "RevisionNotFound")
            head = repository.branches[branch]
            if parent is not None and not head.startswith(parent):
                raise RefusedError(412, "A commit has happened since. Please refresh and try again.")
            files = dict(repository.commits[head].files)
            for path in deleted:
                gone = [name for name in files if name == path or name.startswith(path.rstrip("/") + "/")]
                if not gone:
                    raise RefusedError(404, f"A file with this name doesn't exist: {path}", "EntryNotFound")
                for name in gone:
                    del files[name]
            files.update(added)
            return self._append(repository, branch, files, title, author, message)

    def _append(
        self,
        repository: Repository,
        branch: str,
        files: Mapping[str, File],
        title: str,
        author: str,
        message: str = "",
    ) -> Commit:
        parent = repository.branches.get(branch)
        seed = f"{repository.repo_id}/{parent}/{title}/{next(self._counter)}"
        oid = hashlib.sha1(seed.encode()).hexdigest()
        date = datetime.now(UTC)
        commit = Commit(oid, parent, title, message, author, date, dict(sorted(files.items())))
        repository.commits[oid] = commit
        repository.branches[branch] = oid
        return commit


def file_entry(content: bytes, sha256: str, size: int, is_lfs: bool) -> File:
    """The entry of a file; git's blob id is that of the pointer for a file in large file storage."""
    if is_lfs:
        content = pointer(sha256, size)
    return File(hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest(), size, sha256, is_lfs)


def pointer(sha256: str, size: int) -> bytes:
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n".encode()


def tree_entries(commit: Commit, folder: str, *, recursive: bool) -> list[dict[str, Any]]:
    """Entries of a folder as the tree endpoint lists them: files and, before their content, folders."""
    prefix = f"{folder}/" if folder else ""
    entries: dict[str, dict[str, Any]] = {}
    for path, file in commit.files.items():
        if not path.startswith(prefix):
            continue
        parts = path[len(prefix) :].split("/")
        for depth in range(1, len(parts) if recursive else min(len(parts), 2)):
            name = prefix + "/".join(parts[:depth])
            oid = hashlib.sha1(name.encode()).hexdigest()
            entries.setdefault(name, {"type": "directory", "oid": oid, "size": 0, "path": name})
        if recursive or len(parts) == 1:
            entries[path] = file_information(path, file)
    if folder and not entries:
        raise RefusedError(404, f"{folder} does not exist on {commit.oid}", "EntryNotFound")
    return list(entries.values())


def file_information(path: str, file: File) -> dict[str, Any]:
    entry: dict[str, Any] = {"type": "file", "oid": file.oid, "size": file.size, "path": path}
    if file.is_lfs:
        entry["lfs"] = {"oid": file.sha256, "size": file.size, "pointerSize": len(pointer(file.sha256, file.size))}
    return entry
