"""A local server that speaks the protocol of huggingface_hub's client, stores uploads, and fails on demand."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import yaml

TOKEN = "hf_" + "w" * 34
READ_ONLY_TOKEN = "hf_" + "r" * 34
OTHER_TOKEN = "hf_" + "s" * 34
USERS = {TOKEN: ("someone", "write"), READ_ONLY_TOKEN: ("someone", "read"), OTHER_TOKEN: ("stranger", "write")}
LFS_SUFFIXES = (".safetensors", ".png", ".parquet", ".whl")
MULTIPART_BYTES = 1_000_000  # size from which a file is uploaded in parts
PART_BYTES = 400_000


@dataclass
class Blob:
    content: bytes
    lfs: bool

    @property
    def oid(self) -> str:
        """The object's name in git; of a file in LFS, that of its pointer."""
        content = self.content
        if self.lfs:
            version = "version https://git-lfs.github.com/spec/v1"
            content = f"{version}\noid sha256:{self.sha256}\nsize {len(content)}\n".encode()
        return hashlib.sha1(b"blob %d\0%b" % (len(content), content)).hexdigest()

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()


@dataclass
class Repository:
    private: bool
    sdk: str | None = None
    commits: list[tuple[str, str, dict[str, Blob]]] = field(default_factory=list)

    def commit(self, summary: str, files: dict[str, Blob]) -> str:
        oid = hashlib.sha1(f"{len(self.commits)} {summary} {sorted(files)}".encode()).hexdigest()
        self.commits.append((oid, summary, files))
        return oid

    @property
    def head(self) -> str:
        return self.commits[-1][0]

    @property
    def blobs(self) -> dict[str, Blob]:
        return self.commits[-1][2]

    @property
    def files(self) -> dict[str, bytes]:
        """The files of the last commit without those that the Hub adds itself."""
        return {path: blob.content for path, blob in self.blobs.items() if path != ".gitattributes"}


@dataclass
class Fault:
    """What happens to matching requests: a response with a status, a connection closed after some bytes, a delay."""

    pattern: str
    times: int = 1000
    status: int | None = None
    message: str = ""
    after_bytes: int | None = None
    seconds: float = 0.0


class Hub:
    """The state of the server."""

    def __init__(self) -> None:
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.objects: dict[str, bytes] = {}
        self.parts: dict[str, dict[int, bytes]] = {}
        self.requests: list[str] = []
        self.faults: list[Fault] = []
        self.lock = threading.Lock()
        self.url = ""

    def model(self, name: str) -> Repository:
        return self.repositories["model", name]

    def create(self, kind: str, name: str, private: bool = False, sdk: str | None = None) -> Repository:
        files = {".gitattributes": Blob(b"*.safetensors filter=lfs\n", False)}
        if kind == "space":
            files["README.md"] = Blob(f"---\ntitle: {name}\nsdk: {sdk}\n---\n".encode(), False)
        repository = self.repositories[kind, name] = Repository(private, sdk)
        repository.commit("initial commit", files)
        return repository

    def fail(self, pattern: str, **options: Any) -> None:
        """Make requests fail whose "METHOD PATH" contains a pattern; options as in `Fault`."""
        self.faults.append(Fault(pattern, **options))

    def count(self, pattern: str) -> int:
        return sum(bool(re.search(pattern, request)) for request in self.requests)

    def next_fault(self, request: str) -> Fault:
        with self.lock:
            self.requests.append(request)
            for fault in self.faults:
                if fault.times > 0 and re.search(fault.pattern, request):
                    fault.times -= 1
                    return fault
        return Fault("")

    @contextmanager
    def serving(self) -> Iterator[Hub]:
        class Handler(_Handler):
            hub = self

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=lambda: server.serve_forever(poll_interval=0.05), daemon=True)
        thread.start()
        try:
            yield self
        finally:
            server.shutdown()
            server.server_close()


def metadata_errors(card: str) -> list[str]:
    """Return what the Hub would reject in a card's metadata."""
    match = re.match(r"---\n(.*?)\n---\n", card, re.DOTALL)
    if match is None:
        return ["no metadata"]
    try:
        metadata = yaml.safe_load(match[1])
    except yaml.YAMLError as error:
        return [str(error)]
    errors = []
    license = metadata.get("license")
    if license == "other" and not re.fullmatch(r"[a-z0-9.-]+", str(metadata.get("license_name"))):
        errors.append('"license_name" must be given, in lower case, with "license: other"')
    if license not in (None, "other", "apache-2.0", "cc-by-nc-sa-4.0", "odbl"):
        errors.append('"license" is unknown')
    for model in metadata.get("model-index") or []:
        for result in model["results"]:
            if not {"type"} <= result["task"].keys() or not {"type", "name"} <= result["dataset"].keys():
                errors.append('"model-index" lacks a task or a dataset')
            errors += ['"model-index" has a metric without value' for m in result["metrics"] if m.get("value") is None]
    return errors


class _Disconnect(Exception):
    """Closes the connection without a response."""


class _ErrorResponse(Exception):
    def __init__(self, status: int, message: str, code: str | None = None) -> None:
        headers = {"X-Error-Message": message} | ({"X-Error-Code": code} if code else {})
        super().__init__(status, {"error": message}, headers)


_ID = r"(?P<id>[\w.-]+/[\w.-]+)"
_API = rf"/api/(?P<kind>model|dataset|space)s/{_ID}"
_HOME = rf"/(?:(?P<kind>dataset|space)s/)?{_ID}"
_REVISION = r"(?P<revision>[^/]+)"
_OID = r"/store/(?P<oid>[0-9a-f]{64})"
_ROUTES = {
    "GET /api/whoami-v2": "_whoami",
    "POST /api/repos/create": "_create",
    "POST /api/validate-yaml": "_validate",
    f"GET {_API}(?:/revision/{_REVISION})?": "_info",
    f"GET {_API}/tree/{_REVISION}(?:/(?P<below>.+))?": "_tree",
    f"GET {_API}/commits/{_REVISION}": "_commits",
    f"POST {_API}/preupload/{_REVISION}": "_preupload",
    f"POST {_API}/commit/{_REVISION}": "_commit",
    rf"POST {_HOME}\.git/info/lfs/objects/batch": "_batch",
    f"PUT {_OID}": "_store",
    rf"PUT {_OID}/(?P<part>\d+)": "_store_part",
    f"POST {_OID}/complete": "_complete",
    "POST /store/verify": "_verify",
    f"(?:HEAD|GET) {_HOME}/resolve/{_REVISION}/(?P<file>.+)": "_resolve",
}


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except (_Disconnect, ConnectionError):
            self.close_connection = True

    def do_GET(self) -> None:
        request = f"{self.command} {urllib.parse.unquote(urllib.parse.urlsplit(self.path).path)}"
        fault = self.hub.next_fault(request)
        threading.Event().wait(fault.seconds)
        body = self._read_body(fault.after_bytes)
        try:
            if fault.status is not None:
                raise _ErrorResponse(fault.status, fault.message)
            for route, name in _ROUTES.items():
                if match := re.fullmatch(route, request):
                    answer = getattr(self, name)(body, **match.groupdict())
                    self._respond(*(answer if isinstance(answer, tuple) else (200, answer)))
                    return
            raise _ErrorResponse(404, "Not found")
        except _ErrorResponse as error:
            self._respond(*error.args)

    do_HEAD = do_POST = do_PUT = do_GET

    def _read_body(self, limit: int | None) -> bytes:
        """Read the body of the request; close the connection after `limit` bytes of it."""
        body = b""
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            while size := int(self.rfile.readline().split(b";")[0], 16):
                body += self.rfile.read(size)
                self.rfile.readline()
                if limit is not None and len(body) >= limit:
                    raise _Disconnect
            self.rfile.readline()
        else:
            size = int(self.headers.get("Content-Length") or 0)
            body = self.rfile.read(size if limit is None else min(size, limit))
        if limit is not None:
            raise _Disconnect
        return body

    def _respond(self, status: int, content: Any = None, headers: dict[str, str] | None = None) -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        defaults = {"Content-Type": "application/json", "Content-Length": str(len(data))}
        for name, value in (defaults | (headers or {})).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _user(self) -> tuple[str, str] | None:
        return USERS.get(self.headers.get("Authorization", "").removeprefix("Bearer "))

    def _check_write_access(self, owner: str) -> None:
        if self._user() is None:
            raise _ErrorResponse(401, "Invalid credentials in Authorization header")
        if self._user() != (owner, "write"):
            raise _ErrorResponse(403, f"Forbidden: you cannot write to {owner}")

    def _repository(self, kind: str | None, id: str) -> Repository:
        """Return a repository that the user may see."""
        repository = self.hub.repositories.get((kind or "model", id))
        if repository is None or (repository.private and (self._user() or ("",))[0] != id.split("/")[0]):
            raise _ErrorResponse(404 if self._user() else 401, "Repository not found", "RepoNotFound")
        return repository

    def _whoami(self, _: bytes) -> Any:
        user = self._user()
        if user is None:
            raise _ErrorResponse(401, "Invalid credentials in Authorization header")
        token = {"accessToken": {"displayName": "test", "role": user[1]}, "type": "access_token"}
        return {"type": "user", "name": user[0], "auth": token, "orgs": []}

    def _create(self, body: bytes) -> Any:
        request = json.loads(body)
        owner = request["organization"] or (self._user() or ("nobody",))[0]
        kind, name = request.get("type") or "model", f"{owner}/{request['name']}"
        self._check_write_access(owner)
        url = f"{self.hub.url}/{'' if kind == 'model' else kind + 's/'}{name}"
        if (kind, name) in self.hub.repositories:
            return 409, {"error": "You already created this repo", "url": url}
        self.hub.create(kind, name, request.get("visibility") == "private", request.get("sdk"))
        return {"url": url, "name": name}

    def _validate(self, body: bytes) -> Any:
        errors = [{"message": error} for error in metadata_errors(json.loads(body)["content"])]
        return 400 if errors else 200, {"errors": errors, "warnings": []}

    def _info(self, _: bytes, kind: str, id: str, revision: str | None) -> Any:
        repository = self._repository(kind, id)
        info = {"id": id, "sha": repository.head, "private": repository.private, "tags": [], "downloads": 0, "likes": 0}
        return info | {"siblings": [{"rfilename": path} for path in repository.blobs], "cardData": {}}

    def _commits(self, _: bytes, kind: str, id: str, revision: str) -> Any:
        common = {"authors": [], "date": "2026-01-01T00:00:00.000Z", "message": ""}
        commits = reversed(self._repository(kind, id).commits)
        return [common | {"id": oid, "title": title} for oid, title, _ in commits]

    def _tree(self, _: bytes, kind: str, id: str, revision: str, below: str | None) -> Any:
        entries: list[dict[str, Any]] = []
        folders: set[str] = set()
        for path, blob in self._repository(kind, id).blobs.items():
            if below and not path.startswith(f"{below}/"):
                continue
            folders |= {path.rpartition("/")[0]} if "/" in path else set()
            entry: dict[str, Any] = {"type": "file", "path": path, "size": len(blob.content), "oid": blob.oid}
            if blob.lfs:
                entry["lfs"] = {"oid": blob.sha256, "size": len(blob.content), "pointerSize": 130}
            entries.append(entry)
        if below and not entries:
            raise _ErrorResponse(404, "Entry not found", "EntryNotFound")
        return [{"type": "directory", "path": path, "oid": "0" * 40} for path in sorted(folders)] + entries

    def _preupload(self, body: bytes, kind: str, id: str, revision: str) -> Any:
        blobs = self._repository(kind, id).blobs
        self._check_write_access(id.split("/")[0])
        answers = []
        for file in json.loads(body)["files"]:
            mode = "lfs" if file["path"].endswith(LFS_SUFFIXES) or file["size"] > 10_000_000 else "regular"
            base64.b64decode(file["sample"])
            answer = {"path": file["path"], "uploadMode": mode, "shouldIgnore": False}
            if blob := blobs.get(file["path"]):
                answer["oid"] = blob.sha256 if blob.lfs else blob.oid
            answers.append(answer)
        return {"files": answers}

    def _batch(self, body: bytes, id: str, kind: str | None) -> Any:
        self._repository(kind, id)
        self._check_write_access(id.split("/")[0])
        answers = []
        for file in json.loads(body)["objects"]:
            oid, size = file["oid"], file["size"]
            answer: dict[str, Any] = {"oid": oid, "size": size}
            if oid not in self.hub.objects:
                url = f"{self.hub.url}/store/{oid}"
                upload: dict[str, Any] = {"href": url}
                if size > MULTIPART_BYTES:
                    parts = {str(n + 1): f"{url}/{n + 1}" for n in range(-(-size // PART_BYTES))}
                    upload = {"href": f"{url}/complete", "header": {"chunk_size": str(PART_BYTES), **parts}}
                answer["actions"] = {"upload": upload, "verify": {"href": f"{self.hub.url}/store/verify"}}
            answers.append(answer)
        return {"transfer": "basic", "objects": answers}

    def _store(self, body: bytes, oid: str) -> Any:
        # A store with signed addresses must not receive the token.
        if "Authorization" in self.headers or hashlib.sha256(body).hexdigest() != oid:
            raise _ErrorResponse(400, "wrong content, or an unexpected token")
        self.hub.objects[oid] = body
        return {}

    def _store_part(self, body: bytes, oid: str, part: str) -> Any:
        self.hub.parts.setdefault(oid, {})[int(part)] = body
        return 200, {}, {"ETag": f'"{hashlib.md5(body).hexdigest()}"'}

    def _complete(self, body: bytes, oid: str) -> Any:
        parts = self.hub.parts.pop(oid, {})
        content = b"".join(parts[part["partNumber"]] for part in json.loads(body)["parts"])
        if hashlib.sha256(content).hexdigest() != oid:
            raise _ErrorResponse(400, "the parts do not make the object")
        self.hub.objects[oid] = content
        return {}

    def _verify(self, body: bytes) -> Any:
        file = json.loads(body)
        return 200 if len(self.hub.objects.get(file["oid"], b"")) == file["size"] else 404, {}

    def _commit(self, body: bytes, kind: str, id: str, revision: str) -> Any:
        repository = self._repository(kind, id)
        self._check_write_access(id.split("/")[0])
        header, *lines = [json.loads(line) for line in body.splitlines()]
        if header["value"].get("parentCommit") not in (None, repository.head):
            raise _ErrorResponse(412, "A commit has happened since. Please refresh and try again.")
        blobs = dict(repository.blobs)
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                blobs[value["path"]] = Blob(base64.b64decode(value["content"]), False)
            elif line["key"] == "lfsFile":
                if value["oid"] not in self.hub.objects:
                    raise _ErrorResponse(400, f"{value['path']}: its object was never uploaded")
                blobs[value["path"]] = Blob(self.hub.objects[value["oid"]], True)
            elif line["key"] == "deletedFile":
                del blobs[value["path"]]
        oid = repository.commit(header["value"]["summary"], blobs)
        return {"success": True, "commitOid": oid, "commitUrl": f"{self.hub.url}/{id}/commit/{oid}"}

    def _resolve(self, _: bytes, id: str, revision: str, file: str, kind: str | None) -> Any:
        repository = self._repository(kind, id)
        commits = {oid: blobs for oid, _, blobs in repository.commits} | {"main": repository.blobs}
        if revision not in commits:
            raise _ErrorResponse(404, "Revision not found", "RevisionNotFound")
        headers = {"X-Repo-Commit": repository.head if revision == "main" else revision}
        blob = commits[revision].get(file)
        if blob is None:
            return 404, {"error": "Entry not found"}, headers | {"X-Error-Code": "EntryNotFound"}
        etag = blob.sha256 if blob.lfs else blob.oid
        headers |= {"ETag": f'"{etag}"', "Content-Type": "application/octet-stream", "Accept-Ranges": "bytes"}
        start = int(m[1]) if (m := re.match(r"bytes=(\d+)-", self.headers.get("Range", ""))) else 0
        return 206 if start else 200, blob.content[start:], headers
