"""What the loopback Hub answers at each address; :mod:`hub_server` serves it.

Quirks of the Hub that clients rely on are kept: revisions come quoted inside the path, so the raw path is matched; a
private repository does not exist for whoever may not read it; a large file is a redirect to another host, which takes
no token; an upload goes to an address that takes no token either.
"""

import base64
import hashlib
import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, unquote

import yaml
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, RedirectResponse, Response

from support.hub_repositories import (
    LFS_SUFFIXES,
    LFS_THRESHOLD,
    REPO_TYPES,
    File,
    RefusedError,
    Repositories,
    file_entry,
    file_information,
    tree_entries,
)
from support.hub_rights import Account, Rights
from support.hub_xet import TOKEN, HttpStore, LocalStore

_NAME = re.compile(r"(?!.*(--|\.\.))[A-Za-z0-9_][\w.-]{0,94}[A-Za-z0-9_]|[A-Za-z0-9_]")
_REPO = r"/((?P<kind>dataset|space)s/)?(?P<repo>[^/]+/[^/]+)"
_API = r"/api/(?P<kind>model|dataset|space)s/(?P<repo>[^/]+/[^/]+)"


class Endpoints:
    """The answers; ``answer`` picks the one for a request.

    Args:
        folder: where contents are kept.
        endpoint, storage: addresses of the Hub and of its large files.
        accounts: by token.
        xet: Xet's content store; None serves no Xet.
        page_size: entries on a page of a listing.
    """

    def __init__(
        self,
        folder: Path,
        endpoint: str,
        storage: str,
        accounts: dict[str, Account],
        xet: LocalStore | HttpStore | None,
        page_size: int,
    ):
        self.repositories = Repositories(folder)
        self.rights = Rights(self.repositories, accounts)
        self.endpoint, self.storage = endpoint, storage
        self.xet, self.page_size = xet, page_size
        routes: tuple[tuple[str, str, Callable[..., Response]], ...] = (
            ("GET", "/api/whoami-v2", self._whoami),
            ("POST", "/api/repos/create", self._create),
            ("DELETE", "/api/repos/delete", self._delete),
            ("POST", "/api/validate-yaml", self._validate_yaml),
            ("PUT", rf"{_API}/settings", self._settings),
            ("GET|POST|DELETE", rf"{_API}/variables", self._variables),
            ("POST", rf"{_API}/preupload/(?P<rev>[^/]+)", self._preupload),
            ("POST", rf"{_API}/commit/(?P<rev>[^/]+)", self._commit),
            ("POST", rf"{_API}/paths-info/(?P<rev>[^/]+)", self._paths_info),
            ("GET", rf"{_API}/tree/(?P<rev>[^/]+)(/(?P<path>.+))?", self._tree),
            ("GET", rf"{_API}/commits/(?P<rev>[^/]+)", self._commits),
            ("GET", rf"{_API}/refs", self._refs),
            ("POST", rf"{_API}/branch/(?P<rev>[^/]+)", self._create_branch),
            ("DELETE", rf"{_API}/branch/(?P<rev>[^/]+)", self._delete_branch),
            ("POST", rf"{_API}/tag/(?P<rev>[^/]+)", self._create_tag),
            ("GET", rf"{_API}/xet-(?P<right>read|write)-token/(?P<rev>[^/]+)", self._xet_token),
            ("GET", rf"{_API}(/revision/(?P<rev>[^/]+))?", self._information),
            ("POST", rf"{_REPO}\.git/info/lfs/objects/batch", self._batch),
            ("POST", r"/objects/verify", self._verify),
            ("PUT", r"/objects/(?P<oid>[0-9a-f]{64})", self._upload),
            ("HEAD|GET", r"/objects/(?P<oid>[0-9a-f]{64})", self._object),
            ("HEAD|GET", rf"{_REPO}/resolve/(?P<rev>[^/]+)/(?P<path>.+)", self._resolve),
        )
        self._routes = [(method, re.compile(pattern), handler) for method, pattern, handler in routes]

    def answer(self, request: Request, path: str, body: bytes) -> Response:
        """The response to a request at the raw ``path``; a refusal is one, too."""
        try:
            return self._answer(request, path, body)
        except RefusedError as refused:
            headers = {"X-Error-Message": refused.message}
            if refused.code:
                headers["X-Error-Code"] = refused.code
            return JSONResponse({"error": refused.message, **refused.body}, refused.status, headers)

    def _answer(self, request: Request, path: str, body: bytes) -> Response:
        if isinstance(self.xet, HttpStore) and path.startswith(f"{HttpStore.PREFIX}/"):
            return self.xet.answer(request, path, body)
        for method, pattern, handler in self._routes:
            if re.fullmatch(method, request.method) and (match := pattern.fullmatch(path)):
                groups = {name: value and unquote(value) for name, value in match.groupdict().items()}
                if "kind" in groups:
                    groups["kind"] = groups["kind"] or "model"
                return handler(request, body, **groups)
        raise RefusedError(404, f"no such endpoint: {request.method} {path}")

    def _whoami(self, request: Request, body: bytes) -> Response:
        account = self.rights.account(request)
        if account is None:
            raise RefusedError(401, "Invalid credentials in Authorization header")
        organizations = [{"name": name} for name in account.namespaces if name != account.name]
        access = {"accessToken": {"displayName": "loopback", "role": account.role}}
        return JSONResponse({"type": "user", "name": account.name, "orgs": organizations, "auth": access})

    def _create(self, request: Request, body: bytes) -> Response:
        payload = json.loads(body)
        kind, name = payload.get("type") or "model", payload["name"]
        account = self.rights.account(request)
        if account is None:
            raise RefusedError(401, "Invalid username or password.")
        repo = f"{payload.get('organization') or account.name}/{name}"
        self.rights.writer(request, repo)
        if not _NAME.fullmatch(name) or name.endswith((".git", ".ipynb")) or kind not in REPO_TYPES:
            raise RefusedError(400, f"Invalid repo name: {repo}")
        if kind == "space" and payload.get("sdk") not in ("gradio", "docker", "static"):
            raise RefusedError(400, "Invalid sdk")
        try:
            self.repositories.create(kind, repo, private=payload.get("visibility") == "private", author=account.name)
        except RefusedError as refused:
            raise RefusedError(409, refused.message, url=self.endpoint + self.repositories.url(kind, repo)) from None
        return JSONResponse({"url": self.endpoint + self.repositories.url(kind, repo), "name": repo, "id": repo})

    def _delete(self, request: Request, body: bytes) -> Response:
        payload = json.loads(body)
        account = self.rights.account(request)
        repo = f"{payload.get('organization') or (account.name if account else '')}/{payload['name']}"
        self.rights.writer(request, repo)
        kind = payload.get("type") or "model"
        self.repositories[kind, repo]
        del self.repositories.repositories[kind, repo]
        return JSONResponse({})

    def _settings(self, request: Request, body: bytes, kind: str, repo: str) -> Response:
        self.rights.writer(request, repo)
        repository, payload = self.repositories[kind, repo], json.loads(body)
        if "visibility" in payload or "private" in payload:
            repository.private = payload.get("private", payload.get("visibility") == "private")
        if "gated" in payload:
            repository.gated = bool(payload["gated"])
        return JSONResponse({})

    def _variables(self, request: Request, body: bytes, kind: str, repo: str) -> Response:
        self.rights.writer(request, repo)
        variables = self.repositories.change_variables(kind, repo, request.method, json.loads(body or b"{}"))
        return JSONResponse({name: {"value": value} for name, value in variables.items()})

    def _validate_yaml(self, request: Request, body: bytes) -> Response:
        match = re.match(r"^---\n(.*?)\n---(\n|$)", json.loads(body)["content"], re.DOTALL)
        try:
            metadata = yaml.safe_load(match[1]) if match else {}
        except yaml.YAMLError as error:
            return JSONResponse({"errors": [{"message": str(error)}], "warnings": []}, 400)
        errors = [] if isinstance(metadata, dict) else [{"message": "the metadata must be a mapping"}]
        warnings = [] if match else [{"message": "empty or missing yaml metadata in repo card"}]
        return JSONResponse({"errors": errors, "warnings": warnings}, 400 if errors else 200)

    def _preupload(self, request: Request, body: bytes, kind: str, repo: str, rev: str) -> Response:
        self.rights.writer(request, repo)
        commit = self.rights.readable(request, kind, repo).commit(rev)
        files = []
        for item in json.loads(body)["files"]:
            is_lfs = item["path"].endswith(LFS_SUFFIXES) or item["size"] > LFS_THRESHOLD
            known = commit.files.get(item["path"])
            mode = "lfs" if is_lfs else "regular"
            oid = known and (known.sha256 if known.is_lfs else known.oid)
            files.append({"path": item["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        return JSONResponse({"files": files})

    def _batch(self, request: Request, body: bytes, kind: str, repo: str) -> Response:
        self.rights.writer(request, repo)
        self.rights.readable(request, kind, repo)
        objects = []
        for item in json.loads(body)["objects"]:
            answer = {"oid": item["oid"], "size": item["size"]}
            if not self.repositories.object(item["oid"]).is_file():
                upload = {"href": f"{self.storage}/objects/{item['oid']}", "header": {}}
                verify = {"href": f"{self.storage}/objects/verify", "header": {}}
                answer["actions"] = {"upload": upload, "verify": verify}
            objects.append(answer)
        return JSONResponse({"transfer": "basic", "objects": objects})

    def _upload(self, request: Request, body: bytes, oid: str) -> Response:
        if request.headers.get("authorization"):
            raise RefusedError(400, "a signed address takes no token")
        if hashlib.sha256(body).hexdigest() != oid:
            raise RefusedError(400, "the content does not match its SHA-256")
        self.repositories.object(oid).write_bytes(body)
        return Response()

    def _verify(self, request: Request, body: bytes) -> Response:
        payload = json.loads(body)
        file = self.repositories.object(payload["oid"])
        if not file.is_file() or file.stat().st_size != payload["size"]:
            raise RefusedError(404, "the object was not uploaded")
        return JSONResponse({})

    def _commit(self, request: Request, body: bytes, kind: str, repo: str, rev: str) -> Response:
        account = self.rights.writer(request, repo)
        repository = self.rights.readable(request, kind, repo)
        header: dict[str, Any] = {}
        added: dict[str, File] = {}
        deleted = []
        for line in body.splitlines():
            item = json.loads(line)
            key, value = item["key"], item["value"]
            if key == "header":
                header = value
            elif key == "file":
                added[value["path"]] = self.repositories.store(base64.b64decode(value["content"]))
            elif key == "lfsFile":
                added[value["path"]] = self._large_file(value["oid"], value.get("size"))
            else:
                deleted.append(value["path"])
        commit = self.repositories.add_commit(
            repository,
            rev,
            added=added,
            deleted=deleted,
            title=header["summary"],
            message=header.get("description", ""),
            parent=header.get("parentCommit"),
            author=account.name,
        )
        url = f"{self.endpoint}{self.repositories.url(kind, repo)}/commit/{commit.oid}"
        return JSONResponse({"success": True, "commitOid": commit.oid, "commitUrl": url, "hookOutput": ""})

    def _large_file(self, sha256: str, size: int | None) -> File:
        file = self.repositories.object(sha256)
        if not file.is_file():
            if self.xet is None or sha256 not in self.xet.hashes():
                raise RefusedError(400, f"the large file {sha256} was not uploaded")
            assert size is not None
        else:
            size = file.stat().st_size
        return file_entry(b"", sha256, size, True)

    def _information(self, request: Request, body: bytes, kind: str, repo: str, rev: str | None) -> Response:
        repository = self.rights.readable(request, kind, repo)
        commit = repository.commit(rev or "main")
        card: dict[str, Any] = {}
        if "README.md" in commit.files:
            text = self.repositories.object(commit.files["README.md"].sha256).read_text("utf-8")
            if match := re.match(r"^---\n(.*?)\n---(\n|$)", text, re.DOTALL):
                card = yaml.safe_load(match[1]) or {}
        answer = {
            "_id": repo,
            "id": repo,
            "modelId": repo,
            "author": repo.partition("/")[0],
            "sha": commit.oid,
            "private": repository.private,
            "gated": "manual" if repository.gated else False,
            "createdAt": _time(repository.created),
            "lastModified": _time(commit.date),
            "tags": card.get("tags", []),
            "downloads": 0,
            "likes": 0,
            "cardData": card,
            "siblings": [{"rfilename": path} for path in commit.files],
        }
        return JSONResponse(answer)

    def _tree(self, request: Request, body: bytes, kind: str, repo: str, rev: str, path: str | None) -> Response:
        commit = self.rights.readable(request, kind, repo).commit(rev)
        recursive = request.query_params.get("recursive", "").lower() in ("1", "true")
        entries = tree_entries(commit, path or "", recursive=recursive)
        if self.xet is not None:
            hashes = self.xet.hashes()
            for entry in entries:
                if "lfs" in entry and entry["lfs"]["oid"] in hashes:
                    entry["xetHash"] = hashes[entry["lfs"]["oid"]]
        return self._page(request, entries)

    def _page(self, request: Request, entries: list[Any]) -> Response:
        size = min(self.page_size, int(request.query_params.get("limit", self.page_size)))
        start = int(request.query_params.get("cursor", 0))
        response = JSONResponse(entries[start : start + size])
        if start + size < len(entries):
            url = request.url.include_query_params(cursor=start + size)
            path = request.scope["raw_path"].decode()
            response.headers["Link"] = f'<{self.endpoint}{path}?{url.query}>; rel="next"'
        return response

    def _paths_info(self, request: Request, body: bytes, kind: str, repo: str, rev: str) -> Response:
        commit = self.rights.readable(request, kind, repo).commit(rev)
        if request.headers.get("content-type", "").startswith("application/json"):
            paths = json.loads(body)["paths"]
        else:
            paths = parse_qs(body.decode()).get("paths", [])
        entries = []
        for path in paths:
            if path in commit.files:
                entries.append(file_information(path, commit.files[path]))
            elif any(name.startswith(f"{path}/") for name in commit.files):
                entries.append({"type": "directory", "oid": hashlib.sha1(path.encode()).hexdigest(), "path": path})
        return JSONResponse(entries)

    def _commits(self, request: Request, body: bytes, kind: str, repo: str, rev: str) -> Response:
        repository = self.rights.readable(request, kind, repo)
        history = [
            {
                "id": commit.oid,
                "title": commit.title,
                "message": commit.message,
                "authors": [{"user": commit.author}],
                "date": _time(commit.date),
            }
            for commit in repository.history(rev)
        ]
        return self._page(request, history)

    def _refs(self, request: Request, body: bytes, kind: str, repo: str) -> Response:
        repository = self.rights.readable(request, kind, repo)
        branches = [
            {"name": name, "ref": f"refs/heads/{name}", "targetCommit": oid}
            for name, oid in repository.branches.items()
        ]
        tags = [
            {"name": name, "ref": f"refs/tags/{name}", "targetCommit": oid} for name, oid in repository.tags.items()
        ]
        return JSONResponse({"branches": branches, "tags": tags, "converts": [], "pullRequests": []})

    def _create_branch(self, request: Request, body: bytes, kind: str, repo: str, rev: str) -> Response:
        self.rights.writer(request, repo)
        repository = self.rights.readable(request, kind, repo)
        if rev in repository.branches:
            raise RefusedError(409, f"Reference already exists: refs/heads/{rev}")
        start = json.loads(body or b"{}").get("startingPoint") or "main"
        repository.branches[rev] = repository.commit(start).oid
        return JSONResponse({})

    def _delete_branch(self, request: Request, body: bytes, kind: str, repo: str, rev: str) -> Response:
        self.rights.writer(request, repo)
        repository = self.rights.readable(request, kind, repo)
        if rev not in repository.branches or rev == "main":
            raise RefusedError(404 if rev != "main" else 403, f"no such branch, or a protected one: {rev}")
        del repository.branches[rev]
        return JSONResponse({})

    def _create_tag(self, request: Request, body: bytes, kind: str, repo: str, rev: str) -> Response:
        self.rights.writer(request, repo)
        repository, tag = self.rights.readable(request, kind, repo), json.loads(body)["tag"]
        if tag in repository.tags:
            raise RefusedError(409, f"Tag reference exists already: {tag}")
        repository.tags[tag] = repository.commit(rev).oid
        return JSONResponse({})

    def _resolve(self, request: Request, body: bytes, kind: str, repo: str, rev: str, path: str) -> Response:
        commit = self.rights.readable(request, kind, repo, content=True).commit(rev)
        if path not in commit.files:
            raise _missing_entry(path, commit.oid)
        file = commit.files[path]
        headers = {"X-Repo-Commit": commit.oid, "Accept-Ranges": "bytes"}
        if not file.is_lfs:
            return FileResponse(self.repositories.object(file.sha256), headers=headers | {"ETag": f'"{file.oid}"'})
        headers |= {"X-Linked-Etag": f'"{file.sha256}"', "X-Linked-Size": str(file.size)}
        if self.xet is not None and (xet_hash := self.xet.hashes().get(file.sha256)):
            if not (content := self.repositories.object(file.sha256)).is_file():
                self.xet.restore(xet_hash, file.size, content)
            token = f"{self.endpoint}/api/{kind}s/{repo}/xet-read-token/{quote(rev, safe='')}"
            headers |= {"X-Xet-Hash": xet_hash, "Link": f'<{token}>; rel="xet-auth"'}
        return RedirectResponse(f"{self.storage}/objects/{file.sha256}", 302, headers)

    def _object(self, request: Request, body: bytes, oid: str) -> Response:
        return FileResponse(self.repositories.object(oid), headers={"ETag": f'"{oid}"'})

    def _xet_token(self, request: Request, body: bytes, kind: str, repo: str, rev: str, right: str) -> Response:
        if self.xet is None:
            raise RefusedError(404, "this Hub serves no Xet")
        if right == "write":
            self.rights.writer(request, repo)
        self.rights.readable(request, kind, repo, content=True)
        url, expires = self.xet.url, str(int(time.time()) + 3600)
        names = ("X-Xet-Cas-Url", "X-Xet-Access-Token", "X-Xet-Token-Expiration")
        headers = dict(zip(names, (url, TOKEN, expires)))
        return JSONResponse({"casUrl": url, "accessToken": TOKEN, "exp": int(expires)}, headers=headers)


def _missing_entry(path: str, oid: str) -> RefusedError:
    return RefusedError(404, f"Entry not found: {path}", "EntryNotFound", commit=oid)


def _time(moment: Any) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"
