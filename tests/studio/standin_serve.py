"""A stand-in for `tomoni serve`: the same routes, answers made of the question. No torch, up in a moment."""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import os
import random
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np

from tomoni.registry import Registry

JA = (
    "{}ですね。はい、朝九時からです。",
    "九時だよ。",
    "はい、{}については、九時からと聞いています。",
    "わかりません。",
)
EN = ("Certainly: it opens at 9:00.", "9:00.", "Thank you for asking. It opens its doors at nine.", "I do not know.")


def answer(question: str, seed: int, version: str) -> str:
    japanese = any("\u3040" <= letter <= "\u9fff" for letter in question)
    text = random.Random(f"{question}{seed}{version}").choice(JA if japanese else EN)
    return text.format(question[:12].rstrip("。？?"))


class Handler(BaseHTTPRequestHandler):
    workspace: Path
    key: str
    delay = 0.02

    def log_message(self, *args: Any) -> None:
        pass

    def _allowed(self) -> bool:
        given = (self.headers.get("authorization") or "").removeprefix("Bearer ")
        if hashlib.sha256(given.encode()).hexdigest() == self.key:
            return True
        self._json(401, {"error": {"message": "key"}})
        return False

    def _json(self, status: int, body: Any) -> None:
        raw = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def do_GET(self) -> None:
        if self._allowed():
            version = Registry.open(self.workspace).current()
            assert version is not None
            body = {"version": version.id, "version_hash": version.hash, "running": 0, "waiting": 0, "ready": True}
            self._json(200, body)

    def do_POST(self) -> None:
        if not self._allowed():
            return
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        registry = Registry.open(self.workspace)
        current = registry.current()
        assert current is not None
        question = body["messages"][-1]["content"]
        if self.path == "/tomoni/answers":
            version = registry.get(body["version"]) if body.get("version") else current
            made = [self._answer(question, (body.get("seed") or 0) + i, version.id) for i in range(body["n"])]
            self._json(200, {"version": version.id, "version_hash": version.hash, "answers": made, "seconds": 0.01})
            return
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.end_headers()
        base = {"id": f"chatcmpl-{os.urandom(6).hex()}", "model": current.id}
        text = question[7:] if question.startswith("repeat:") else answer(question, 0, current.id)
        for letter in text:
            chunk = {**base, "choices": [{"index": 0, "delta": {"content": letter}, "finish_reason": None}]}
            self.wfile.write(f"data: {json.dumps(chunk)}\n\n".encode())
            self.wfile.flush()
            time.sleep(self.delay)
        end = {**base, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
        self.wfile.write(f"data: {json.dumps(end)}\n\ndata: [DONE]\n\n".encode())

    def _answer(self, question: str, seed: int, version: str) -> dict[str, Any]:
        text = answer(question, seed, version)
        drawn = np.random.default_rng(int(hashlib.sha256(text.encode()).hexdigest()[:8], 16))
        features = drawn.standard_normal(16).astype("<f4")
        return {
            "id": os.urandom(8).hex(),
            "text": text,
            "finish": "stop",
            "tokens": len(text),
            "logprob": -float(len(text)),
            "features": base64.b64encode(features.tobytes()).decode(),
        }


def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("workspace", "host", "port", "port-file", "key-file", "with-parent"):
        parser.add_argument(f"--{name}")
    options = parser.parse_args()
    Handler.workspace = Path(options.workspace)
    Handler.key = Path(options.key_file).read_text().removeprefix("sha256:").split()[0]
    server = ThreadingHTTPServer((options.host, int(options.port)), Handler)
    threading.Thread(target=_end_with, args=(int(options.with_parent),), daemon=True).start()
    Path(options.port_file).write_text(str(server.server_address[1]))
    server.serve_forever()


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.2)
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main())
