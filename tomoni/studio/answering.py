"""The model that answers: `tomoni serve` as a child process, started, watched, started again, and asked. No torch.

The child serves the registry's current version and follows it. It ends with the studio, which it watches; its key is
random, and the file that the child is given holds its hash only.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os
import secrets
import shutil
import subprocess
import tempfile
import threading
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from tomoni.studio.faults import Fault

if TYPE_CHECKING:
    from numpy.typing import NDArray

State = Literal["off", "loading", "ready", "again", "failed"]
PATIENCE = 180.0  # seconds that an answer may take
TRIES = 5  # starts in a row that come to nothing, after which it waits to be asked
LOG = "serve.log"
LOG_KEPT = 1 << 20


@dataclass(frozen=True, slots=True)
class Status:
    """`said`: the last lines of a child that would not start, which tell why."""

    state: State
    version: str | None = None
    version_hash: str | None = None
    said: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Sampled:
    """One answer of the model; features float32[D]."""

    id: str
    text: str
    finish: str
    tokens: int
    logprob: float | None
    features: NDArray[np.float32] | None
    version: str
    version_hash: str


class Answering:
    """`start` it once; `close` ends the child. Any thread may ask."""

    def __init__(self, workspace: Path, *, command: Sequence[str]) -> None:
        self.workspace = workspace
        self._command = list(command)
        self._status = Status("off")
        self._wanted = threading.Event()
        self._ended = threading.Event()
        self._changed = threading.Condition()
        self._process: subprocess.Popen[bytes] | None = None
        self._thread: threading.Thread | None = None
        self._address = ""
        self._key = ""
        self._folder: Path | None = None

    # -- life ----------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        if not self._command:
            return
        self._wanted.set()
        if self._thread is None:
            self._thread = threading.Thread(target=self._watch, name="tomoni-answering", daemon=True)
            self._thread.start()

    def close(self) -> None:
        self._ended.set()
        self._wanted.set()
        self._stop()
        if self._thread is not None:
            self._thread.join(timeout=10)
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    @property
    def status(self) -> Status:
        return self._status

    def wait(self, seconds: float) -> Status:
        """Until it is ready, or has failed, or the time is over."""
        with self._changed:
            self._changed.wait_for(lambda: self._status.state in ("ready", "failed"), seconds)
        return self._status

    def _set(self, status: Status) -> None:
        if status != self._status:
            with self._changed:
                self._status = status
                self._changed.notify_all()

    def _watch(self) -> None:
        failures = 0
        while not self._ended.is_set():
            self._wanted.wait()
            if self._ended.is_set():
                return
            self._set(Status("loading" if failures == 0 else "again", said=self._status.said))
            came_up = self._run_once()
            if self._ended.is_set():
                return
            failures = 0 if came_up else failures + 1
            said = self._last_words()
            if failures >= TRIES:
                self._wanted.clear()
                failures = 0
                self._set(Status("failed", said=said))
                continue
            self._set(Status("again", said=said))
            self._ended.wait(min(0.5 * 2**failures, 20))

    def _run_once(self) -> bool:
        """One life of the child; whether it ever answered."""
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="tomoni-studio-"))  # for this user only
        port_file, key_file = self._folder / "port", self._folder / "key"
        port_file.unlink(missing_ok=True)
        self._key = secrets.token_urlsafe(32)
        with contextlib.suppress(FileNotFoundError):
            key_file.unlink()
        handle = os.open(key_file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "w") as file:
            file.write(f"sha256:{hashlib.sha256(self._key.encode()).hexdigest()} studio\n")
        words = ["--workspace", str(self.workspace), "--host", "127.0.0.1", "--port", "0"]
        words += ["--port-file", str(port_file), "--key-file", str(key_file), "--with-parent", str(os.getpid())]
        with self._log() as log:
            self._process = subprocess.Popen(  # noqa: S603
                [*self._command, *words], stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        came_up = False
        while self._process.poll() is None and not self._ended.is_set():
            if port_file.exists() and (port := port_file.read_text(encoding="utf-8").strip()):
                self._address = f"http://127.0.0.1:{port}"
                came_up = self._look() or came_up
            self._ended.wait(2.0 if came_up and self._status.state == "ready" else 0.1)
        self._address = ""
        self._stop()
        return came_up

    def _look(self) -> bool:
        try:
            body = self._get("/tomoni/state", timeout=5.0)
        except Fault:
            return False
        state: State = "ready" if body.get("ready") else "loading"
        self._set(Status(state, body.get("version"), body.get("version_hash")))
        return state == "ready"

    def look(self) -> Status:
        """Ask at once, as after a promotion."""
        if self._address:
            self._look()
        return self._status

    def _stop(self) -> None:
        process = self._process
        if process is None or process.poll() is not None:
            return
        process.terminate()
        try:
            process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _log(self) -> Any:
        path = self.workspace / LOG
        with contextlib.suppress(FileNotFoundError):
            if path.stat().st_size > LOG_KEPT:
                path.replace(path.with_suffix(".old.log"))
        return path.open("ab")

    def _last_words(self, lines: int = 6) -> str:
        try:
            with (self.workspace / LOG).open("rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - 4000))
                said = file.read().decode("utf-8", "replace").splitlines()
        except FileNotFoundError:
            return ""
        return "\n".join(line[:300] for line in said[-lines:])

    # -- asking --------------------------------------------------------------------------------------------------------

    def sample(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        n: int = 1,
        temperature: float = 1.0,
        top_p: float = 1.0,
        max_tokens: int = 200,
        seed: int | None = None,
        version: str | None = None,
        features: bool = True,
    ) -> list[Sampled]:
        """`n` answers to one prompt. Fault 503 while the model is not there."""
        body = self._post(
            "/tomoni/answers",
            {
                "messages": list(messages), "n": n, "temperature": temperature, "top_p": top_p,
                "max_tokens": max_tokens, "seed": seed, "version": version, "features": features, "record": False,
            },
        )  # fmt: skip
        return [
            Sampled(
                id=answer["id"],
                text=answer["text"],
                finish=answer["finish"],
                tokens=int(answer["tokens"]),
                logprob=answer.get("logprob"),
                features=_floats(answer.get("features")),
                version=body["version"],
                version_hash=body["version_hash"],
            )
            for answer in body["answers"]
        ]

    async def stream(self, body: Mapping[str, Any]) -> AsyncIterator[str]:
        """Lines of /v1/chat/completions as they come; leaving the iterator cancels the answer."""
        import httpx

        self.require()
        timeout = httpx.Timeout(PATIENCE, connect=5)
        try:
            async with (
                httpx.AsyncClient(timeout=timeout, trust_env=False) as client,
                client.stream(
                    "POST", self._address + "/v1/chat/completions", json=dict(body), headers=self._headers()
                ) as response,
            ):
                if response.status_code != 200:
                    raise _answered(response.status_code)
                async for line in response.aiter_lines():
                    yield line
        except httpx.HTTPError as error:
            raise Fault("model_away", 503) from error

    def require(self) -> None:
        """Fault 503 that says why nothing can be asked now."""
        status = self._status
        if status.state == "off":
            raise Fault("no_model", 503)
        if status.state == "failed":
            raise Fault("model_failed", 503)
        if status.state != "ready" or not self._address:
            raise Fault("model_loading", 503)

    def _headers(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self._key}"}

    def _get(self, path: str, *, timeout: float) -> dict[str, Any]:
        return self._send("GET", path, None, timeout)

    def _post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        self.require()
        return self._send("POST", path, body, PATIENCE)

    def _send(self, method: str, path: str, body: Mapping[str, Any] | None, timeout: float) -> dict[str, Any]:
        import httpx

        try:
            with httpx.Client(timeout=httpx.Timeout(timeout, connect=5), trust_env=False) as client:
                response = client.request(method, self._address + path, json=body, headers=self._headers())
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise Fault("model_away", 503) from error
        if response.status_code != 200:
            raise _answered(response.status_code)
        found: dict[str, Any] = response.json()
        return found


def _answered(status: int) -> Fault:
    return Fault("model_busy", 503) if status in (429, 503) else Fault("model_refused", 502)


def _floats(coded: str | None) -> NDArray[np.float32] | None:
    return None if coded is None else np.frombuffer(base64.b64decode(coded), dtype="<f4").astype(np.float32)
