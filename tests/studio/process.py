"""The real command as a process of its own, on a port that stays the same when it is killed and started again."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from tests.studio.rooms import until
from tomoni.feedback.entries import Person
from tomoni.feedback.store import Store
from tomoni.studio.doors import SESSION, digest

# `tomoni studio` with another program, or none, in the place of the model's; each answer says how long it took inside
CODE = """
import sys
import time
from tomoni.studio import app, run
run.opened.__wrapped__.__kwdefaults__["serve"] = sys.argv[1].split() or None
guarded = app.guarded

def timed(*args, **named):
    inner = guarded(*args, **named)

    async def outer(scope, receive, send):
        begin = time.perf_counter()

        async def told(message):
            if message["type"] == "http.response.start":
                took = f"{time.perf_counter() - begin:.6f}".encode()
                message["headers"] = [*message["headers"], (b"x-took", took)]
            await send(message)

        await inner(scope, receive, told)

    return outer

app.guarded = timed
from tomoni.cli.app import main
sys.exit(main(sys.argv[2:]))
"""


class Studio:
    def __init__(self, workspace: Path, *words: str, serve: str = "", port: int | None = None) -> None:
        self.workspace = workspace
        self.port = port or free_port()
        self.log = workspace.parent / f"{workspace.name}.log"
        self.words = [sys.executable, "-c", CODE, serve, "studio", str(workspace), "--port", str(self.port)]
        self.words += ["--no-browser", *words]
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(self.words, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        return self.process

    def listens(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.log.read_text(encoding="utf-8")[-2000:]
        with socket.socket() as made:
            return made.connect_ex(("127.0.0.1", self.port)) == 0 and b"?token=" in self.log.read_bytes()

    def up(self) -> Studio:
        self.start()
        until(self.listens, 60)
        return self

    def cpu(self) -> float:
        """Seconds that it has computed so far."""
        assert self.process is not None
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def end(self, number: int = signal.SIGTERM) -> int:
        assert self.process is not None
        os.kill(self.process.pid, number)
        return self.process.wait(30)


def free_port() -> int:
    with socket.socket() as made:
        made.bind(("127.0.0.1", 0))
        return int(made.getsockname()[1])


def cookies(store: Store, people: Iterable[Person], port: int) -> list[str]:
    """A session for each, as signing in makes one."""
    made = []
    for person in people:
        token = f"session-of-{person.id}-{'x' * 20}"
        store.begin_session(person.id, digest(token), SESSION)
        made.append(f"tomoni-{port}={token}")
    return made
