"""A Hub on this machine: it speaks what huggingface_hub's client does, keeps what it is sent, fails as told."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
import urllib.parse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.helpers.hub_metadata import metadata_errors

TOKEN = "hf_" + "w" * 34
READER = "hf_" + "r" * 34
STRANGER = "hf_" + "s" * 34
USERS = {TOKEN: ("someone", "write"), READER: ("someone", "read"), STRANGER: ("stranger", "write")}
LFS = (".safetensors", ".png", ".parquet", ".whl")
LARGE = 1_000_000  # bytes from which a file is uploaded in parts
PART = 400_000


@dataclass
class Blob:
    content: bytes
    lfs: bool

    @property
    def oid(self) -> str:
        """The object's name in git: of a file in LFS that of its pointer."""
        found = self.content
        if self.lfs:
            head = "version https://git-lfs.github.com/spec/v1"
            found = f"{head}\noid sha256:{self.sha256}\nsize {len(found)}\n".encode()
        return hashlib.sha1(b"blob %d\0%b" % (len(found), found)).hexdigest()

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
    def files(self) -> dict[str, bytes]:
        """What the last commit holds, less what the Hub puts there itself."""
        return {path: blob.content for path, blob in self.commits[-1][2].items() if path != ".gitattributes"}


@dataclass
class Fault:
    """What goes wrong with requests whose method and path fit: an answer, a broken connection, a delay."""

    fits: re.Pattern[str]
    times: int
    status: int | None = None
    message: str = ""
    after_bytes: int | None = None
    seconds: float = 0.0


class Hub:
    """The server's state, and what the tests say to it."""

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

    def make(self, kind: str, name: str, private: bool = False, sdk: str | None = None) -> Repository:
        made = Repository(private, sdk)
        begun = {".gitattributes": Blob(b"*.safetensors filter=lfs\n", False)}
        if kind == "space":
            begun["README.md"] = Blob(f"---\ntitle: {name}\nsdk: {sdk}\n---\n".encode(), False)
        made.commit("initial commit", begun)
        self.repositories[kind, name] = made
        return made

    def fail(self, fits: str, times: int = 1000, **how: Any) -> None:
        """Let requests fail whose "METHOD PATH" a pattern is found in."""
        self.faults.append(Fault(re.compile(fits), times, **how))

    def count(self, fits: str) -> int:
        return sum(bool(re.search(fits, request)) for request in self.requests)

    def fault(self, request: str) -> Fault | None:
        with self.lock:
            self.requests.append(request)
            for found in self.faults:
                if found.times > 0 and found.fits.search(request):
                    found.times -= 1
                    return found
        return None

    @contextmanager
    def serving(self) -> Iterator[Hub]:
        class Handler(_Handler):
            hub = self

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        self.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=lambda: server.serve_forever(poll_interval=0.05), daemon=True)
        thread.start()
        try:
            yield self
        finally:
            server.shutdown()
            server.server_close()


class _Broken(Exception):
    """The connection is to be dropped."""


_ID = r"(?P<id>[\w.-]+/[\w.-]+)"
_KIND = r"(?P<kind>model|dataset|space)s"
_HOME = r"(?:(?P<kind>dataset|space)s/)?"


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except (_Broken, ConnectionError):
            self.close_connection = True

    def do_GET(self) -> None:
        self._serve()

    do_HEAD = do_POST = do_PUT = do_GET

    def _serve(self) -> None:
        where = urllib.parse.urlsplit(self.path)
        path = urllib.parse.unquote(where.path)
        fault = self.hub.fault(f"{self.command} {path}")
        if fault is not None and fault.seconds:
            threading.Event().wait(fault.seconds)
        body = self._body(fault.after_bytes if fault is not None else None)
        if fault is not None and fault.status is not None:
            self._say(fault.status, {"error": fault.message}, {"X-Error-Message": fault.message})
            return
        for pattern, answer in self._routes().items():
            method, _, place = pattern.partition(" ")
            match = re.fullmatch(place, path)
            if method == self.command and match is not None:
                answer(body, **match.groupdict())
                return
        self._say(404, {"error": "Not found"})

    def _routes(self) -> dict[str, Callable[..., None]]:
        return {
            "GET /api/whoami-v2": self._whoami,
            "POST /api/repos/create": self._create,
            "POST /api/validate-yaml": self._validate,
            f"GET /api/{_KIND}/{_ID}": self._info,
            f"GET /api/{_KIND}/{_ID}/revision/(?P<revision>[^/]+)": self._info,
            f"GET /api/{_KIND}/{_ID}/tree/(?P<revision>[^/]+)(?:/(?P<below>.+))?": self._tree,
            f"GET /api/{_KIND}/{_ID}/commits/(?P<revision>[^/]+)": self._commits,
            f"POST /api/{_KIND}/{_ID}/preupload/(?P<revision>[^/]+)": self._preupload,
            f"POST /api/{_KIND}/{_ID}/commit/(?P<revision>[^/]+)": self._commit,
            f"POST /{_HOME}{_ID}\\.git/info/lfs/objects/batch": self._batch,
            "PUT /store/(?P<oid>[0-9a-f]{64})": self._store,
            "PUT /store/(?P<oid>[0-9a-f]{64})/(?P<part>\\d+)": self._store_part,
            "POST /store/(?P<oid>[0-9a-f]{64})/complete": self._complete,
            "POST /store/verify": self._verify,
            f"HEAD /{_HOME}{_ID}/resolve/(?P<revision>[^/]+)/(?P<file>.+)": self._resolve,
            f"GET /{_HOME}{_ID}/resolve/(?P<revision>[^/]+)/(?P<file>.+)": self._resolve,
        }

    def _body(self, after: int | None) -> bytes:
        """Read what is sent; drop the connection after so many bytes of it."""
        found = b""
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            while size := int(self.rfile.readline().split(b";")[0], 16):
                found += self.rfile.read(size)
                self.rfile.readline()
                if after is not None and len(found) >= after:
                    raise _Broken
            self.rfile.readline()
        else:
            size = int(self.headers.get("Content-Length") or 0)
            found = self.rfile.read(size if after is None else min(size, after))
        if after is not None:
            raise _Broken
        return found

    def _say(self, status: int, content: Any = None, headers: dict[str, str] | None = None) -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        told = {"Content-Type": "application/json", "Content-Length": str(len(data))} | (headers or {})
        for name, value in told.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _user(self) -> tuple[str, str] | None:
        return USERS.get(self.headers.get("Authorization", "").removeprefix("Bearer "))

    def _may(self, owner: str) -> bool:
        """Say whether the user may write there; answer where not."""
        user = self._user()
        if user is None:
            self._say(401, {"error": "Invalid credentials in Authorization header"})
        elif user != (owner, "write"):
            self._say(403, {"error": f"Forbidden: you cannot write to {owner}"})
        return user == (owner, "write")

    def _found(self, kind: str | None, id: str) -> Repository | None:
        """Return a repository that the user may see; answer where there is none."""
        found = self.hub.repositories.get((kind or "model", id))
        if found is None or (found.private and (self._user() or ("",))[0] != id.split("/")[0]):
            self._say(404 if self._user() else 401, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
            return None
        return found

    def _whoami(self, _: bytes) -> None:
        user = self._user()
        if user is None:
            self._say(401, {"error": "Invalid credentials in Authorization header"})
            return
        token = {"accessToken": {"displayName": "test", "role": user[1]}, "type": "access_token"}
        self._say(200, {"type": "user", "name": user[0], "auth": token, "orgs": []})

    def _create(self, body: bytes) -> None:
        asked = json.loads(body)
        owner = asked["organization"] or (self._user() or ("nobody",))[0]
        kind, name = asked.get("type") or "model", f"{owner}/{asked['name']}"
        if not self._may(owner):
            return
        url = f"{self.hub.url}/{'' if kind == 'model' else kind + 's/'}{name}"
        if (kind, name) in self.hub.repositories:
            self._say(409, {"error": "You already created this repo", "url": url})
            return
        self.hub.make(kind, name, asked.get("visibility") == "private", asked.get("sdk"))
        self._say(200, {"url": url, "name": name})

    def _validate(self, body: bytes) -> None:
        asked = json.loads(body)
        errors = [{"message": error} for error in metadata_errors(asked["content"])]
        self._say(400 if errors else 200, {"errors": errors, "warnings": []})

    def _info(self, _: bytes, kind: str, id: str, revision: str = "main") -> None:
        found = self._found(kind, id)
        if found is None:
            return
        told = {"id": id, "sha": found.head, "private": found.private, "tags": [], "downloads": 0, "likes": 0}
        told |= {"siblings": [{"rfilename": path} for path in found.commits[-1][2]], "cardData": {}}
        self._say(200, told)

    def _commits(self, _: bytes, kind: str, id: str, revision: str) -> None:
        found = self._found(kind, id)
        if found is None:
            return
        told = {"authors": [], "date": "2026-01-01T00:00:00.000Z", "message": ""}
        self._say(200, [told | {"id": oid, "title": title} for oid, title, _ in reversed(found.commits)])

    def _tree(self, _: bytes, kind: str, id: str, revision: str, below: str | None = None) -> None:
        found = self._found(kind, id)
        if found is None:
            return
        entries: list[dict[str, Any]] = []
        folders: set[str] = set()
        for path, blob in found.commits[-1][2].items():
            if below and not path.startswith(f"{below}/"):
                continue
            folders |= {path.rpartition("/")[0]} if "/" in path else set()
            entry: dict[str, Any] = {"type": "file", "path": path, "size": len(blob.content), "oid": blob.oid}
            if blob.lfs:
                entry["lfs"] = {"oid": blob.sha256, "size": len(blob.content), "pointerSize": 130}
            entries.append(entry)
        if below and not entries:
            self._say(404, {"error": "Entry not found"}, {"X-Error-Code": "EntryNotFound"})
            return
        self._say(200, [{"type": "directory", "path": path, "oid": "0" * 40} for path in sorted(folders)] + entries)

    def _preupload(self, body: bytes, kind: str, id: str, revision: str) -> None:
        found = self._found(kind, id)
        if found is None or not self._may(id.split("/")[0]):
            return
        there = found.commits[-1][2]
        answers = []
        for file in json.loads(body)["files"]:
            mode = "lfs" if file["path"].endswith(LFS) or file["size"] > 10_000_000 else "regular"
            base64.b64decode(file["sample"])
            answer = {"path": file["path"], "uploadMode": mode, "shouldIgnore": False}
            if file["path"] in there:
                blob = there[file["path"]]
                answer["oid"] = blob.sha256 if blob.lfs else blob.oid
            answers.append(answer)
        self._say(200, {"files": answers})

    def _batch(self, body: bytes, id: str, kind: str | None = None) -> None:
        if self._found(kind, id) is None or not self._may(id.split("/")[0]):
            return
        answers = []
        for asked in json.loads(body)["objects"]:
            oid, size = asked["oid"], asked["size"]
            answer: dict[str, Any] = {"oid": oid, "size": size}
            if oid not in self.hub.objects:
                upload: dict[str, Any] = {"href": f"{self.hub.url}/store/{oid}"}
                if size > LARGE:
                    parts = {str(n + 1): f"{self.hub.url}/store/{oid}/{n + 1}" for n in range(-(-size // PART))}
                    upload = {
                        "href": f"{self.hub.url}/store/{oid}/complete",
                        "header": {"chunk_size": str(PART), **parts},
                    }
                verify = {"href": f"{self.hub.url}/store/verify"}
                answer["actions"] = {"upload": upload, "verify": verify}
            answers.append(answer)
        self._say(200, {"transfer": "basic", "objects": answers})

    def _store(self, body: bytes, oid: str) -> None:
        # As a store with signed addresses does, which never hears of the token.
        if "Authorization" in self.headers or hashlib.sha256(body).hexdigest() != oid:
            self._say(400, {"error": "wrong content, or a token where none belongs"})
            return
        self.hub.objects[oid] = body
        self._say(200, {})

    def _store_part(self, body: bytes, oid: str, part: str) -> None:
        self.hub.parts.setdefault(oid, {})[int(part)] = body
        self._say(200, {}, {"ETag": f'"{hashlib.md5(body).hexdigest()}"'})

    def _complete(self, body: bytes, oid: str) -> None:
        parts = self.hub.parts.pop(oid, {})
        named = [part["partNumber"] for part in json.loads(body)["parts"]]
        whole = b"".join(parts[number] for number in named)
        if hashlib.sha256(whole).hexdigest() != oid:
            self._say(400, {"error": "the parts do not make the object"})
            return
        self.hub.objects[oid] = whole
        self._say(200, {})

    def _verify(self, body: bytes) -> None:
        asked = json.loads(body)
        there = len(self.hub.objects.get(asked["oid"], b"")) == asked["size"]
        self._say(200 if there else 404, {})

    def _commit(self, body: bytes, kind: str, id: str, revision: str) -> None:
        found = self._found(kind, id)
        if found is None or not self._may(id.split("/")[0]):
            return
        lines = [json.loads(line) for line in body.splitlines()]
        head = lines[0]["value"]
        if head.get("parentCommit") not in (None, found.head):
            self._say(412, {"error": "A commit has happened since. Please refresh and try again."})
            return
        files = dict(found.commits[-1][2])
        for line in lines[1:]:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = Blob(base64.b64decode(value["content"]), False)
            elif line["key"] == "lfsFile":
                if value["oid"] not in self.hub.objects:
                    self._say(400, {"error": f"{value['path']}: its object was never uploaded"})
                    return
                files[value["path"]] = Blob(self.hub.objects[value["oid"]], True)
            elif line["key"] == "deletedFile":
                del files[value["path"]]
        oid = found.commit(head["summary"], files)
        self._say(200, {"success": True, "commitOid": oid, "commitUrl": f"{self.hub.url}/{id}/commit/{oid}"})

    def _resolve(self, _: bytes, id: str, revision: str, file: str, kind: str | None = None) -> None:
        found = self._found(kind, id)
        if found is None:
            return
        known = next((files for oid, _, files in reversed(found.commits) if revision in ("main", oid)), None)
        told = {"X-Repo-Commit": found.head if revision == "main" else revision}
        if known is None:
            self._say(404, {"error": "Revision not found"}, {"X-Error-Code": "RevisionNotFound"})
        elif file not in known:
            self._say(404, {"error": "Entry not found"}, told | {"X-Error-Code": "EntryNotFound"})
        else:
            blob = known[file]
            etag = blob.sha256 if blob.lfs else blob.oid
            told |= {"ETag": f'"{etag}"', "Content-Type": "application/octet-stream", "Accept-Ranges": "bytes"}
            begin = int(m[1]) if (m := re.match(r"bytes=(\d+)-", self.headers.get("Range", ""))) else 0
            self._say(206 if begin else 200, blob.content[begin:], told)
