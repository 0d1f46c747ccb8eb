"""A local server that speaks the part of the Hub's protocol by which huggingface_hub uploads and reads a dataset.

Large files go the way of Git LFS: preupload, batch, PUT, commit. The Xet protocol is not spoken; its users set
``HF_HUB_DISABLE_XET``.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

LARGE = (".parquet", ".tar", ".png")
Fault = Callable[[str, str], int | None]  # (method, path) → the status to answer with, 0 to hang up


def git_hash(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@dataclass
class Repository:
    private: bool = False
    files: dict[str, bytes] = field(default_factory=dict)
    commits: list[list[str]] = field(default_factory=list)  # the paths of each

    @property
    def sha(self) -> str:
        return hashlib.sha1(str(len(self.commits)).encode()).hexdigest()


class Hub:
    """The server. ``fault`` is asked before each request; ``requests`` has what was asked for."""

    def __init__(self) -> None:
        self.tokens = {"hf_write": "write", "hf_read": "read"}
        self.repositories: dict[str, Repository] = {}
        self.objects: dict[str, bytes] = {}
        self.fault: Fault | None = None
        self.requests: list[str] = []
        self._lock = threading.Lock()
        hub = self

        class Handler(_Handler):
            state = hub

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def create(self, asked: dict[str, Any]) -> tuple[int, Any]:
        name = f"{asked['organization']}/{asked['name']}"
        answer = {"url": f"{self.url}/datasets/{name}"}
        if name in self.repositories:
            return 409, answer | {"error": "You already created this dataset repo"}
        self.repositories[name] = Repository(asked.get("visibility") == "private" or bool(asked.get("private")))
        return 200, answer

    def preupload(self, repository: Repository, asked: dict[str, Any]) -> tuple[int, Any]:
        files = []
        ignored = repository.files.get(".gitignore", b"").decode().split()
        for file in asked["files"]:
            held = repository.files.get(file["path"])
            mode = "lfs" if file["path"].endswith(LARGE) else "regular"
            oid = None if held is None else self.entry(file["path"], held)["oid"]
            if held is not None and mode == "lfs":
                oid = hashlib.sha256(held).hexdigest()
            should_ignore = any(file["path"].startswith(name) for name in ignored)
            files.append({"path": file["path"], "uploadMode": mode, "shouldIgnore": should_ignore, "oid": oid})
        return 200, {"files": files}

    def batch(self, asked: dict[str, Any]) -> tuple[int, Any]:
        objects = []
        for item in asked["objects"]:
            answer = {"oid": item["oid"], "size": item["size"]}
            if item["oid"] not in self.objects:
                answer["actions"] = {"upload": {"href": f"{self.url}/objects/{item['oid']}"}}
            objects.append(answer)
        return 200, {"transfer": "basic", "objects": objects}

    def commit(self, repository: Repository, name: str, body: bytes) -> tuple[int, Any]:
        changed: dict[str, bytes] = {}
        for line in body.decode().splitlines():
            item = json.loads(line)
            value = item["value"]
            if item["key"] == "file":
                changed[value["path"]] = base64.b64decode(value["content"])
            elif item["key"] == "lfsFile":
                if value["oid"] not in self.objects:
                    return 400, {"error": f"no object {value['oid']}"}
                changed[value["path"]] = self.objects[value["oid"]]
        with self._lock:
            repository.files |= changed
            repository.commits.append(sorted(changed))
        return 200, {"commitUrl": f"{self.url}/datasets/{name}/commit/{repository.sha}", "commitOid": repository.sha}

    def entry(self, path: str, content: bytes) -> dict[str, Any]:
        """What the Hub's listings say of a file."""
        entry: dict[str, Any] = {"type": "file", "path": path, "size": len(content), "oid": git_hash(content)}
        if path.endswith(LARGE):
            sha256 = hashlib.sha256(content).hexdigest()
            entry["lfs"] = {"oid": sha256, "size": len(content), "pointerSize": 134}
            entry["oid"] = git_hash(sha256.encode())
        return entry

    def tree(self, repository: Repository, folder: str, recursive: bool) -> list[dict[str, Any]]:
        prefix = f"{folder}/" if folder else ""
        entries: dict[str, dict[str, Any]] = {}
        for path, content in repository.files.items():
            if not path.startswith(prefix):
                continue
            parts = path.removeprefix(prefix).split("/")
            for depth in range(1, len(parts) if recursive else min(len(parts), 2)):
                name = prefix + "/".join(parts[:depth])
                entries[name] = {"type": "directory", "path": name, "oid": git_hash(name.encode()), "size": 0}
            if recursive or len(parts) == 1:
                entries[path] = self.entry(path, content)
        return list(entries.values())


class _Handler(BaseHTTPRequestHandler):
    state: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def _serve(self) -> None:
        url = urlsplit(self.path)
        path = unquote(url.path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.state.requests.append(f"{self.command} {path}")
        status = self.state.fault(self.command, path) if self.state.fault else None
        if status == 0:
            self.close_connection = True
            self.connection.close()
            return
        if status is not None:
            self._answer(status, {"error": "a fault of the test"})
            return
        self._route(path, parse_qs(url.query), body)

    do_GET = do_HEAD = do_POST = do_PUT = _serve  # noqa: N815 (the names that the base class calls)

    def _route(self, path: str, query: dict[str, list[str]], body: bytes) -> None:
        hub = self.state
        if path.startswith("/objects/"):
            oid = path.rsplit("/", 1)[1]
            if hashlib.sha256(body).hexdigest() == oid:
                hub.objects[oid] = body
                self._answer(200, {})
            else:
                self._answer(400, {"error": "another SHA-256"})
            return
        right = hub.tokens.get((self.headers.get("Authorization") or "").removeprefix("Bearer "))
        if right is None:
            self._answer(401, {"error": "Invalid credentials in Authorization header"})
            return
        is_write = re.search(r"/repos/create|/preupload/|/commit/|/objects/batch", path) is not None
        if is_write and right != "write":
            self._answer(403, {"error": "Forbidden: you don't have write access"})
        elif path == "/api/validate-yaml":
            self._answer(200, {"errors": [], "warnings": []})
        elif path == "/api/repos/create":
            self._answer(*hub.create(json.loads(body)))
        elif found := re.fullmatch(r"/(?:api/)?datasets/([\w.-]+/[\w.-]+?)(\.git/.*|/.*)?", path):
            repository = hub.repositories.get(found[1])
            if repository is None:
                self._answer(404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
            else:
                self._in_repository(repository, found[1], found[2] or "", query, body)
        else:
            self._answer(404, {"error": "not found"})

    def _in_repository(
        self, repository: Repository, name: str, rest: str, query: dict[str, list[str]], body: bytes
    ) -> None:
        hub = self.state
        kind, _, tail = rest.removeprefix("/").partition("/")
        _, _, path = tail.partition("/")  # after the revision
        if kind == ".git":
            self._answer(*hub.batch(json.loads(body)))
        elif kind == "preupload":
            self._answer(*hub.preupload(repository, json.loads(body)))
        elif kind == "commit":
            self._answer(*hub.commit(repository, name, body))
        elif kind == "tree":
            entries = hub.tree(repository, path, query.get("recursive", ["false"])[0].lower() == "true")
            self._answer(200, entries)
        elif kind == "paths-info":
            asked = json.loads(body)["paths"] if body[:1] == b"{" else parse_qs(body.decode())["paths"]
            self._answer(200, [hub.entry(path, repository.files[path]) for path in asked if path in repository.files])
        elif kind in ("", "revision"):
            siblings = [{"rfilename": path} for path in repository.files]
            info = {"id": name, "sha": repository.sha, "private": repository.private, "siblings": siblings}
            self._answer(200, info | {"tags": [], "downloads": 0, "likes": 0})
        elif kind == "resolve":
            self._file(repository, path)
        else:
            self._answer(404, {"error": "not found"})

    def _file(self, repository: Repository, path: str) -> None:
        content = repository.files.get(path)
        headers = {"X-Repo-Commit": repository.sha, "Accept-Ranges": "bytes"}
        if content is None:
            self._answer(404, {"error": "Entry not found"}, headers | {"X-Error-Code": "EntryNotFound"})
            return
        headers["ETag"] = f'"{hashlib.sha256(content).hexdigest()}"'
        status = 200
        if wanted := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or ""):
            first, last = int(wanted[1]), min(int(wanted[2] or len(content) - 1), len(content) - 1)
            headers["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
            content, status = content[first : last + 1], 206
        self._answer(status, content, headers)

    def _answer(self, status: int, content: Any, headers: dict[str, str] | None = None) -> None:
        encoded = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/octet-stream" if content is encoded else "application/json")
        self.send_header("Content-Length", str(len(encoded)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        if not isinstance(content, bytes) and isinstance(content, dict) and "error" in content:
            self.send_header("X-Error-Message", str(content["error"]))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(encoded)
