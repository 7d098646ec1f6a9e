"""`tomoni serve` as a process: how it begins, how it ends, and what a kill in the middle leaves."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests import tiny
from tests.serve.running import CHAT, workspace
from tests.serve.test_versions import until
from tomoni.feedback.inbox import AnswerEvent, event_of
from tomoni.registry import Registry
from tomoni.serve import running


class Process:
    def __init__(self, folder: Path, *words: str, **options: Any) -> None:
        self.port_file = folder / "port"
        self.log = folder / "log"
        command = [sys.executable, "-m", "tomoni", "serve", "--port", "0", "--port-file", str(self.port_file), *words]
        with self.log.open("wb") as log:
            self.child = subprocess.Popen([*command, "--threads", "1"], stdout=log, stderr=log, **options)

    @property
    def url(self) -> str:
        until(lambda: self.port_file.exists() or self.child.poll() is not None, 60)
        assert self.child.poll() is None, self.log.read_text(encoding="utf-8")
        return f"http://127.0.0.1:{int(self.port_file.read_text())}"


@pytest.fixture
def processes() -> Iterator[list[Process]]:
    made: list[Process] = []
    yield made
    for process in made:
        if process.child.poll() is None:
            process.child.kill()
            process.child.wait()


def test_it_tells_its_address_and_examples_that_work_and_a_signal_ends_it_after_what_runs(
    tmp_path: Path, processes: list[Process]
) -> None:
    workspace(tmp_path / "w")
    processes.append(process := Process(tmp_path, "--workspace", str(tmp_path / "w")))
    url = process.url
    greeting = process.log.read_text(encoding="utf-8")
    assert url in greeting and "v1" not in url and '"model": "tomoni"' in greeting
    code = greeting[greeting.index("  from openai") :].replace("\n  ", "\n").strip().split("\n\n")[0]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr

    body = {"model": "tomoni", "messages": CHAT, "max_tokens": 480, "temperature": 1, "seed": 1}
    whole = httpx.post(f"{url}/v1/chat/completions", json=body, timeout=60).json()
    with httpx.stream("POST", f"{url}/v1/chat/completions", json={**body, "stream": True}, timeout=60) as reply:
        lines = reply.iter_lines()
        told = [next(lines)]
        process.child.send_signal(signal.SIGTERM)
        told += [line for line in lines if line]
    assert told.pop() == "data: [DONE]" and len(told) > 2
    deltas = [json.loads(line[6:])["choices"][0]["delta"] for line in told]
    assert "".join(delta.get("content", "") for delta in deltas) == whole["choices"][0]["message"]["content"]
    assert process.child.wait(30) == 0
    events = [
        event_of(line) for path in (tmp_path / "w" / "inbox").glob("*.jsonl") for line in path.read_bytes().splitlines()
    ]
    tokens = [event.tokens for event in events if isinstance(event, AnswerEvent)]
    assert tokens[-2:] == [whole["usage"]["completion_tokens"]] * 2
    log = process.log.read_text(encoding="utf-8")
    assert CHAT[0]["content"] not in log and "Traceback" not in log


def test_it_ends_with_its_parent(tmp_path: Path, processes: list[Process]) -> None:
    parent = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    processes.append(process := Process(tmp_path, str(tiny.folder(tmp_path / "m")), "--with-parent", str(parent.pid)))
    assert httpx.get(f"{process.url}/health").json() == {"status": "ok"}
    parent.kill()
    parent.wait()
    assert process.child.wait(20) == 0


@pytest.mark.slow
def test_a_second_signal_does_not_wait(tmp_path: Path, processes: list[Process]) -> None:
    processes.append(process := Process(tmp_path, str(tiny.folder(tmp_path / "m", max_position_embeddings=200_000))))
    body = {"model": "m", "messages": CHAT, "stream": True, "temperature": 1}
    with httpx.stream("POST", f"{process.url}/v1/chat/completions", json=body, timeout=60) as reply:
        next(reply.iter_lines())
        process.child.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        assert process.child.poll() is None
        process.child.send_signal(signal.SIGTERM)
        process.child.wait(10)


def test_a_port_that_is_taken_is_said(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        words = ["serve", "bundled:small", "--port", str(taken.getsockname()[1])]
        done = subprocess.run([sys.executable, "-m", "tomoni", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "cannot listen" in done.stderr and "--port" in done.stderr


MOVE = """
import os, signal, sys
from tests.engine.faults import FaultyOs
from tomoni import durable, registry
workspace, verb, at = sys.argv[1], sys.argv[2], int(sys.argv[3])
faulty = FaultyOs(at, lambda operation: os.kill(os.getpid(), signal.SIGKILL))
durable.os = registry.os = faulty
opened = registry.Registry.open(workspace)
opened.promote("v2") if verb == "promote" else opened.rollback()
"""


@pytest.mark.slow
def test_killed_at_each_step_of_a_move_while_clients_chat_every_answer_is_one_versions(
    tmp_path: Path, processes: list[Process]
) -> None:
    """kill -9 before each operation on the disk, of real promotions and rollbacks, with a server that follows."""
    registry = workspace(tmp_path / "w")
    processes.append(process := Process(tmp_path, "--workspace", str(tmp_path / "w")))
    url = process.url
    body = {"model": "tomoni", "messages": CHAT, "max_tokens": 12, "temperature": 0}
    expected: dict[str, str] = {}

    def ask() -> str:
        reply = httpx.post(f"{url}/v1/chat/completions", json=body, timeout=60)
        assert reply.status_code == 200
        answer = reply.json()
        text = expected.setdefault(answer["model"], answer["choices"][0]["message"]["content"])
        assert answer["choices"][0]["message"]["content"] == text
        return str(answer["model"])

    killed = 0
    for verb, before, after in (("promote", "v1", "v2"), ("rollback", "v2", "v1")):
        for at in range(40):
            if registry.history()[-1].version != before:
                registry.promote(before) if before == "v2" else registry.rollback()
            until(lambda version=before: ask() == version)  # type: ignore[misc]
            begun = time.monotonic()
            done = subprocess.run([sys.executable, "-c", MOVE, str(tmp_path / "w"), verb, str(at)], check=False)
            current = Registry.open(tmp_path / "w").current()
            assert current is not None and current.id in (before, after)
            until(lambda version=current.id: ask() == version)  # type: ignore[misc]
            if done.returncode == 0:
                assert current.id == after and time.monotonic() - begun < 5
                break
            assert done.returncode == -signal.SIGKILL
            killed += 1
        else:
            pytest.fail("it never came to its end")
    assert killed >= 10 and set(expected) == {"v1", "v2"} and expected["v1"] != expected["v2"]


def test_small_pieces_are_sent_at_once() -> None:
    """asyncio switches Nagle's algorithm off only where a socket names its protocol; with it the first token is 40 ms late."""
    with running.listen("127.0.0.1", 0) as made:
        assert made.proto == socket.IPPROTO_TCP


def test_help_is_quick_and_loads_no_torch() -> None:
    code = "import sys; from tomoni.cli.app import main; main(['serve', '--help']); sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False, env=dict(os.environ))
    assert done.returncode == 0 and b"--with-parent" in done.stdout
