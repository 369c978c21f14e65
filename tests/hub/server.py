"""A hub on loopback that speaks the endpoints the huggingface_hub client uses.

Read: model info, tree, resolve (HEAD and GET, redirecting large files to a content store with ranges).
Write: create repository and branch, validate card, preupload, LFS batch and upload, commit.
"""

import base64
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from re import Match, compile
from threading import Thread
from urllib.parse import unquote, urlsplit

from tests.hub.repositories import Files, Hub, Repository, digest

LARGE = ".safetensors"


class Refused(Exception):
    """An HTTP error with the hub's error code."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message
        self.body = {"error": message}


@contextmanager
def serve(hub: Hub) -> Iterator[str]:
    """Serve `hub` while inside, and yield the address."""
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer()

    do_HEAD = do_POST = do_PUT = do_GET

    def log_message(self, format: str, *args: object) -> None:
        """Keep stderr quiet."""

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        span = self.headers.get("Range")
        self.hub.requests.append(f"{self.command} {path}" + (f" {span}" if span else ""))
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        try:
            if self.hub.faults.down:
                raise Refused(503, "", "the hub is down")
            for methods, pattern, route in _ROUTES:
                if self.command in methods and (found := pattern.fullmatch(path)):
                    route(self, found)
                    return
            raise Refused(404, "", f"no route for {self.command} {path}")
        except Refused as error:
            headers = {"X-Error-Code": error.code, "X-Error-Message": error.message}
            self._json(error.body, status=error.status, headers=headers)

    # Reading

    def _info(self, found: Match[str]) -> None:
        repo_id, files, sha = self._tree_at(found, found["rev"] or "main")
        siblings = [{"rfilename": name} for name in files]
        self._json({"id": repo_id, "modelId": repo_id, "sha": sha, "siblings": siblings})

    def _tree(self, found: Match[str]) -> None:
        _, files, _ = self._tree_at(found, found["rev"])
        self._json([_tree_entry(name, data) for name, data in files.items()])

    def _resolve(self, found: Match[str]) -> None:
        _, files, sha = self._tree_at(found, found["rev"])
        name = found["file"]
        if name not in files:
            raise Refused(404, "EntryNotFound", f"no {name}")
        data, headers = files[name], {"X-Repo-Commit": sha, "ETag": f'"{digest(files[name])}"'}
        if name.endswith(LARGE):
            headers |= {"X-Linked-Etag": f'"{digest(data)}"', "X-Linked-Size": str(len(data))}
            location = f"{self._other_host()}/store/{digest(data)}/{name}"
            self._send(302, b"", {**headers, "Location": location})
        else:
            self._send(200, data, headers)

    def _store(self, found: Match[str]) -> None:
        data, name = self.hub.blobs[found["oid"]], found["file"]
        if name in self.hub.faults.short:
            data = data[: len(data) // 2]
        span = self.headers.get("Range")
        if span is None:
            self._send(200, data, {}, cut=self.hub.faults.cut.pop(name, None))
            return
        start = int(span.removeprefix("bytes=").split("-")[0])
        content_range = f"bytes {start}-{len(data) - 1}/{len(data)}"
        self._send(206, data[start:], {"Content-Range": content_range})

    # Writing

    def _create_repo(self, found: Match[str]) -> None:
        asked = json.loads(self.body)
        repo_id = f"{asked['organization']}/{asked['name']}"
        self._authorise(self.hub.repositories.get(repo_id, Repository(token="secret")))
        url = f"http://{self.headers['Host']}/{repo_id}"
        if repo_id in self.hub.repositories:
            conflict = Refused(409, "", "You already created this model repo")
            conflict.body["url"] = url
            raise conflict
        repository = Repository(token="secret", private=asked.get("visibility") == "private")
        self.hub.repositories[repo_id] = repository
        repository.commit({".gitattributes": b"*.safetensors filter=lfs\n"})
        self._json({"url": url})

    def _create_branch(self, found: Match[str]) -> None:
        repository = self._repository(found)
        if found["rev"] in repository.branches:
            raise Refused(409, "", "the branch exists")
        repository.branches[found["rev"]] = repository.branches["main"]
        self._json({})

    def _validate_card(self, found: Match[str]) -> None:
        warnings = (
            [] if json.loads(self.body)["content"].startswith("---\n") else ["empty metadata"]
        )
        self._json({"errors": [], "warnings": [{"message": text} for text in warnings]})

    def _preupload(self, found: Match[str]) -> None:
        self._repository(found)
        names = [file["path"] for file in json.loads(self.body)["files"]]
        modes = {name: "lfs" if name.endswith(LARGE) else "regular" for name in names}
        files = [{"path": n, "uploadMode": m, "shouldIgnore": False} for n, m in modes.items()]
        self._json({"files": files})

    def _lfs_batch(self, found: Match[str]) -> None:
        self._repository(found)
        host = self.headers["Host"]
        objects = json.loads(self.body)["objects"]
        for entry in objects:
            if entry["oid"] not in self.hub.blobs:
                entry["actions"] = {"upload": {"href": f"http://{host}/upload/{entry['oid']}"}}
        self._json({"transfer": "basic", "objects": objects})

    def _upload(self, found: Match[str]) -> None:
        if digest(self.body) != found["oid"]:
            raise Refused(400, "", "the content is not what was announced")
        self.hub.blobs[found["oid"]] = self.body
        self._send(200, b"", {})

    def _commit(self, found: Match[str]) -> None:
        repository = self._repository(found)
        files = dict(repository.commits[repository.branches[found["rev"]]])
        for line in self.body.splitlines():
            _apply(json.loads(line), files, self.hub.blobs)
        sha = repository.commit(files, branch=found["rev"])
        url = f"http://{self.headers['Host']}/{found['repo']}/commit/{sha}"
        self._json({"commitUrl": url, "commitOid": sha})

    # Shared

    def _repository(self, found: Match[str]) -> Repository:
        repository = self.hub.repositories.get(found["repo"])
        if repository is None:
            raise Refused(404, "RepoNotFound", "Repository not found")
        self._authorise(repository)
        return repository

    def _authorise(self, repository: Repository) -> None:
        given = self.headers.get("Authorization")
        if repository.gated:
            raise Refused(403, "GatedRepo", "Access to this repository is restricted")
        if repository.token is None or given == f"Bearer {repository.token}":
            return
        if given is None:
            raise Refused(401, "RepoNotFound", "Repository not found")
        raise Refused(401, "", "Invalid credentials in Authorization header")

    def _other_host(self) -> str:
        """This server by another name, as the client follows no redirect to a foreign host by itself."""
        return f"http://localhost:{self.headers['Host'].rpartition(':')[2]}"

    def _tree_at(self, found: Match[str], revision: str) -> tuple[str, Files, str]:
        repository = self._repository(found)
        sha = repository.resolve(revision)
        if sha is None:
            raise Refused(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return found["repo"], repository.commits[sha], sha

    def _json(
        self, data: object, *, status: int = 200, headers: dict[str, str] | None = None
    ) -> None:
        kind = {"Content-Type": "application/json"}
        self._send(status, json.dumps(data).encode(), {**kind, **(headers or {})})

    def _send(
        self, status: int, data: bytes, headers: dict[str, str], *, cut: int | None = None
    ) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data[:cut])
        if cut is not None:
            self.close_connection = True


_REPO = r"(?P<repo>[^/]+/[^/]+)"
_MODEL = rf"/api/models/{_REPO}"
_ROUTES: list[tuple[tuple[str, ...], object, Callable[[_Handler, Match[str]], None]]] = [
    (("GET",), compile(rf"{_MODEL}(/revision/(?P<rev>.+))?"), _Handler._info),
    (("GET",), compile(rf"{_MODEL}/tree/(?P<rev>[^/]+)"), _Handler._tree),
    (("GET", "HEAD"), compile(rf"/{_REPO}/resolve/(?P<rev>[^/]+)/(?P<file>.+)"), _Handler._resolve),
    (("GET", "HEAD"), compile(r"/store/(?P<oid>\w+)/(?P<file>.+)"), _Handler._store),
    (("POST",), compile(r"/api/repos/create"), _Handler._create_repo),
    (("POST",), compile(rf"{_MODEL}/branch/(?P<rev>.+)"), _Handler._create_branch),
    (("POST",), compile(r"/api/validate-yaml"), _Handler._validate_card),
    (("POST",), compile(rf"{_MODEL}/preupload/(?P<rev>.+)"), _Handler._preupload),
    (("POST",), compile(rf"/{_REPO}\.git/info/lfs/objects/batch"), _Handler._lfs_batch),
    (("PUT",), compile(r"/upload/(?P<oid>\w+)"), _Handler._upload),
    (("POST",), compile(rf"{_MODEL}/commit/(?P<rev>.+)"), _Handler._commit),
]


def _tree_entry(name: str, data: bytes) -> dict[str, object]:
    entry = {"type": "file", "path": name, "size": len(data), "oid": digest(data)[:40]}
    if not name.endswith(LARGE):
        return entry
    return {**entry, "lfs": {"oid": digest(data), "size": len(data), "pointerSize": 134}}


def _apply(operation: dict, files: Files, blobs: Files) -> None:
    value = operation["value"]
    match operation["key"]:
        case "file":
            files[value["path"]] = base64.b64decode(value["content"])
        case "lfsFile":
            files[value["path"]] = blobs[value["oid"]]
        case "deletedFile":
            files.pop(value["path"], None)
        case "header":
            pass
        case other:
            raise Refused(400, "", f"unknown operation {other}")
