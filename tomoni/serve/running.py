"""The process: a socket, uvicorn on it, signals that drain, a parent whose end is ours."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import uvicorn
from starlette.types import ASGIApp

from tomoni.connections import Connection
from tomoni.durable import atomic_write
from tomoni.errors import ConfigError

DRAIN = 30  # seconds for what runs, after SIGTERM
LOG_FORMAT = "%(asctime)s %(levelname)s %(message)s"


def listen(host: str, port: int) -> socket.socket:
    """Raises ConfigError where the address is not to be had."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        # with the protocol named, asyncio sends small pieces at once; else the first token waits 40 ms for an
        # acknowledgement (Nagle's algorithm meets a delayed one)
        made = socket.socket(found[0], found[1], socket.IPPROTO_TCP)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(found[4])
    except (OSError, OverflowError) as error:
        raise ConfigError(
            f"cannot listen on {host}:{port}: {getattr(error, 'strerror', None) or error}",
            next_step="choose another --port (0: any that is free)",
        ) from error
    return made


def address(host: str, port: int) -> str:
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class _Server(uvicorn.Server):
    """Tells when it listens; the first signal drains, the second ends at once; a signal is a normal end."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._ready()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.should_exit:
            self.force_exit = True
            _end_soon()
        self.should_exit = True


def _end_soon() -> None:
    """Whoever asks twice does not want to wait."""
    timer = threading.Timer(1.0, lambda: os._exit(1))
    timer.daemon = True
    timer.start()


def run(
    app: ASGIApp,
    made: socket.socket,
    *,
    port_file: Path | None,
    parent: int | None,
    ready: Callable[[], None],
) -> None:
    """Serve until a signal, or until `parent` ends. `port_file` gets the port once requests are taken."""
    logging.basicConfig(level=logging.WARNING, format=LOG_FORMAT, stream=sys.stderr)
    logging.getLogger("tomoni.serve").setLevel(logging.INFO)
    config = uvicorn.Config(
        app,
        http=Connection,
        access_log=False,  # ours has no query and no path that was typed
        log_config=None,
        server_header=False,
        timeout_graceful_shutdown=DRAIN,
        timeout_keep_alive=65,
        ws="none",
        lifespan="on",
    )

    def listening() -> None:
        ready()
        if port_file is not None:
            atomic_write(port_file, f"{made.getsockname()[1]}\n")

    server = _Server(config, listening)
    if parent is not None:
        _with(parent, server)
    server.run(sockets=[made])


def _with(parent: int, server: _Server) -> None:
    """Drain when the process `parent` has ended."""

    def wait() -> None:
        _wait_for_end(parent)
        server.should_exit = True

    threading.Thread(target=wait, name="parent", daemon=True).start()


def _wait_for_end(pid: int) -> None:
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    except (AttributeError, OSError):  # not Linux, or too old: look now and then
        with contextlib.suppress(ProcessLookupError):
            while True:
                os.kill(pid, 0)
                time.sleep(0.5)
        return
    import select

    try:
        select.select([handle], [], [])
    finally:
        os.close(handle)


def ignore_hangup() -> None:
    """A terminal that is closed is not a reason to end in the middle of an answer."""
    with contextlib.suppress(ValueError, AttributeError):
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
