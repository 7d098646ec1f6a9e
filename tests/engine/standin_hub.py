"""A hub of one's own: the few endpoints that huggingface_hub asks for, from a folder, in a thread of the test."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

LARGE = (".safetensors", ".bin")  # kept by SHA-256, as a hub keeps large files; the others by git's SHA-1


@dataclass
class StandIn:
    """`repos[name][commit]` is a folder; `branches[name]["main"]` a commit. `asked` logs every request as it came."""

    repos: dict[str, dict[str, Path]] = field(default_factory=dict)
    branches: dict[str, dict[str, str]] = field(default_factory=dict)
    refused: dict[str, tuple[int, str]] = field(default_factory=dict)  # repository -> status and X-Error-Code
    cut_once: dict[str, int] = field(default_factory=dict)  # file -> bytes after which the line drops, once
    garbled: set[str] = field(default_factory=set)  # files whose first byte arrives changed
    asked: list[tuple[str, str, str]] = field(default_factory=list)  # method, path, Range
    url: str = ""

    def add(self, repo: str, folder: Path, *, commit: str, branch: str = "main") -> None:
        self.repos.setdefault(repo, {})[commit] = folder
        self.branches.setdefault(repo, {})[branch] = commit

    def got(self) -> set[str]:
        """Names of the files that were asked for."""
        return {path.rsplit("/", 1)[-1] for _, path, _ in self.asked if "/resolve/" in path}


@contextmanager
def serving() -> Iterator[StandIn]:
    stand_in = StandIn()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(stand_in))
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    stand_in.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield stand_in
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _handler(hub: StandIn) -> type[BaseHTTPRequestHandler]:
    class Handler(_Handler):
        stand_in = hub

    return Handler


class _Handler(BaseHTTPRequestHandler):
    stand_in: StandIn
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.stand_in.asked.append((self.command, path, self.headers.get("Range", "")))
        parts = path.strip("/").split("/")
        api = parts[:2] == ["api", "models"]
        repo = "/".join(parts[2:4] if api else parts[:2])
        verb, revision, *rest = (parts[4:] if api else parts[2:]) or ["revision", "main"]
        if repo in self.stand_in.refused:
            return self._error(*self.stand_in.refused[repo])
        if repo not in self.stand_in.repos:
            return self._error(401, "RepoNotFound")  # as hubs do, so that nobody learns which private names exist
        commit = self.stand_in.branches[repo].get(revision, revision)
        if commit not in self.stand_in.repos[repo]:
            return self._error(404, "RevisionNotFound")
        folder = self.stand_in.repos[repo][commit]
        if api:
            return self._json({"id": repo, "sha": commit, "siblings": []} if verb == "revision" else _tree(folder))
        return self._file(folder / "/".join(rest), commit)

    def _error(self, status: int, code: str) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _json(self, value: object) -> None:
        body = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _file(self, path: Path, commit: str) -> None:
        if not path.is_file():
            return self._error(404, "EntryNotFound")
        content = path.read_bytes()
        start = int(self.headers.get("Range", "bytes=0-")[6:].split("-")[0])
        self.send_response(206 if start else 200)
        self.send_header("X-Repo-Commit", commit)
        self.send_header("ETag", f'"{_object_name(path)}"')
        self.send_header("Content-Length", str(len(content) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        if self.command == "HEAD":
            return None
        if path.name in self.stand_in.garbled:
            content = bytes([content[0] ^ 1]) + content[1:]
        cut = self.stand_in.cut_once.pop(path.name, len(content))
        self.wfile.write(content[start:cut])
        if cut < len(content):
            self.wfile.flush()
            self.close_connection = True
        return None


def _object_name(path: Path) -> str:
    content = path.read_bytes()
    if path.suffix in LARGE:
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def _tree(folder: Path) -> list[dict[str, object]]:
    found: list[dict[str, object]] = []
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            size = path.stat().st_size
            entry: dict[str, object] = {"type": "file", "path": path.relative_to(folder).as_posix(), "size": size}
            entry["oid"] = _object_name(path)[:40]
            if path.suffix in LARGE:
                entry["lfs"] = {"oid": _object_name(path), "size": size, "pointerSize": 134}
            found.append(entry)
    return found
