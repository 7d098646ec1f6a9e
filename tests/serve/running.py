"""A real server on 127.0.0.1 in a thread of the test's process, with tiny models from seeds."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import httpx
import openai
import uvicorn

from tests import tiny
from tomoni.connections import Connection
from tomoni.engine.models import quiet
from tomoni.evaluate.subject import Subject, open_subject
from tomoni.registry import Registry
from tomoni.serve import running, versions
from tomoni.serve.app import build
from tomoni.serve.service import Service
from tomoni.serve.versions import Loaded, Opener, Versions

CHAT: list[Any] = [{"role": "user", "content": "日本の首都は？"}]


class Running:
    def __init__(self, url: str, app: Any, loop: asyncio.AbstractEventLoop) -> None:
        self.url = url
        self.app = app
        self.loop = loop

    @property
    def service(self) -> Service:
        service: Service = self.app.app.state.service
        return service

    @property
    def loaded(self) -> Loaded:
        return self.service.versions.current

    @cached_property
    def subject(self) -> Subject:
        """The model that is served first, once more: the server's own is its thread's alone."""
        with quiet():
            return open_subject(self.loaded.subject.located.folder, device="cpu")

    def client(self, key: str = "unused", **options: Any) -> openai.OpenAI:
        http = httpx.Client(verify=False, timeout=60)  # noqa: S501  # no TLS here, and reading certificates takes long
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=key, http_client=http, **{"max_retries": 0, **options})

    def http(self, **options: Any) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=60, verify=False, **options)  # noqa: S501

    def on_loop(self, work: Any) -> Any:
        """Run a coroutine where the server runs."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(30)


def opener(**options: Any) -> Opener:
    return Opener(device="cpu", weights="float32", options={"max_batch": 64, **options})


@contextlib.contextmanager
def serving(
    model: Path | str | None = None,
    *,
    workspace: Path | None = None,
    keep: int = 1,
    max_batch: int = 64,
    **options: Any,
) -> Iterator[Running]:
    """`options` are `build`'s."""
    opening = opener(max_batch=max_batch)
    current, registry, name = versions.first(
        opening, model=None if model is None else str(model), workspace=workspace, name="tiny", note=lambda said: None
    )
    app = build(
        Versions(current, opening, registry=registry, name=name, keep=keep), workspace=workspace, threads=1, **options
    )
    made = running.listen("127.0.0.1", 0)
    config = uvicorn.Config(
        app, http=Connection, access_log=False, log_config=None, lifespan="on", timeout_graceful_shutdown=20
    )
    ready = threading.Event()
    server = running._Server(config, ready.set)
    loops: list[asyncio.AbstractEventLoop] = []

    def run() -> None:
        async def main() -> None:
            loops.append(asyncio.get_running_loop())
            await server.serve(sockets=[made])

        asyncio.run(main())

    thread = threading.Thread(target=run)
    thread.start()
    assert ready.wait(30)
    try:
        yield Running(f"http://127.0.0.1:{made.getsockname()[1]}", app, loops[0])
    finally:
        server.should_exit = True
        thread.join(30)
        assert not thread.is_alive()


def workspace(folder: Path, versions: int = 2) -> Registry:
    """A workspace whose versions are tiny models of other seeds; the first is served."""
    folder.mkdir(parents=True, exist_ok=True)
    registry = Registry.open(folder)
    for seed in range(versions):
        registry.register(tiny.folder(folder / "models" / str(seed), seed=seed), base=f"v{seed}" if seed else None)
    registry.promote("v1")
    return registry
