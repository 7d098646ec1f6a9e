"""The application: routes behind the guard, and what begins and ends with it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from fastapi import FastAPI
from fastapi.responses import JSONResponse
from starlette.types import ASGIApp

import tomoni
from tomoni.feedback.inbox import Inbox
from tomoni.serve import chat, more, refusals, text
from tomoni.serve.guard import Guard, Hosts
from tomoni.serve.ids import Ids
from tomoni.serve.keys import Keys
from tomoni.serve.recorder import Recorder
from tomoni.serve.service import Limits, Service
from tomoni.serve.versions import Versions
from tomoni.serve.worker import Worker

DESCRIPTION = "A model behind OpenAI's API. Its answers can be given feedback, and its version moves without a pause."


def build(
    versions: Versions,
    *,
    workspace: Path | None = None,
    keys: Keys | None = None,
    host: str = "127.0.0.1",
    more_hosts: Sequence[str] = (),
    limits: Limits | None = None,
    threads: int | None = None,
) -> ASGIApp:
    """The whole server as an ASGI application; its engine starts and ends with its lifespan."""
    limits = limits or Limits()
    logging.getLogger("uvicorn.access").disabled = True  # it would write queries, and paths as they were typed
    recorder = Recorder(None if workspace is None else Inbox(workspace))
    worker = Worker(threads=threads, kept=recorder.keep)
    service = Service(versions, worker, recorder, Ids.of(workspace), limits)

    @contextlib.asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        worker.start()
        following = asyncio.create_task(versions.follow()) if versions.registry else None
        try:
            yield
        finally:
            if following:
                following.cancel()
            await asyncio.to_thread(worker.stop)
            await asyncio.to_thread(recorder.close)

    app = FastAPI(
        title="tomoni",
        version=tomoni.__version__,
        description=DESCRIPTION,
        lifespan=life,
        docs_url=None,  # those pages load scripts of strangers
        redoc_url=None,
    )
    app.state.service = service
    refusals.install(app)
    app.include_router(chat.router)
    app.include_router(text.router)
    app.include_router(more.router)

    @app.get("/health", summary="Whether it answers", response_model=None)
    async def health() -> JSONResponse:
        alive = worker.alive
        return JSONResponse({"status": "ok" if alive else "the engine has stopped"}, 200 if alive else 503)

    return Guard(app, hosts=Hosts(host, more_hosts), keys=keys, most_bytes=limits.body_bytes)
