"""What stands before every route: who may ask (key, Host, Origin), how much, and that nothing private is logged.

A web page that somebody opens must not reach a server on their own machine: not by a form or a fetch (Origin,
Sec-Fetch-Site), and not by a name that was re-bound to 127.0.0.1 (Host). Nothing here reads a URL that was put
together from headers.
"""

from __future__ import annotations

import asyncio
import ipaddress
import itertools
import logging
import secrets
import time
from collections.abc import Sequence
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tomoni.serve.keys import Keys
from tomoni.serve.refusals import Refusal, refusal_of

# asking the system for random bytes at each request would wait for the engine's thread each time
_PROCESS, _COUNT = secrets.token_hex(8), itertools.count()
BODY_SECONDS = 60.0  # between two parts of a body
OPEN = ("/health",)  # asked without a key
log = logging.getLogger("tomoni.serve")


class Hosts:
    """Which Host headers are ours. On loopback: loopback's names and addresses. On another address: any address (a
    name is what re-binding needs), and the names given."""

    def __init__(self, bound: str, more: Sequence[str] = ()) -> None:
        self._loopback = is_loopback(bound)
        self._names = {"localhost", bound.lower(), *(name.lower() for name in more)}

    def __contains__(self, host: str) -> bool:
        name = _name_of(host)
        if name is None:
            return False
        if name in self._names:
            return True
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return False
        return address.is_loopback or not self._loopback


def is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _name_of(host: str) -> str | None:
    """The name in a Host header without its port; None where it is none."""
    host = host.lower()
    if host.startswith("["):
        name, closed, port = host[1:].partition("]")
        port = port.removeprefix(":") if port.startswith(":") else "" if not port else "x"
        return name if closed and (not port or port.isdecimal()) else None
    name, _, port = host.partition(":")
    return name if name and (not port or port.isdecimal()) else None


class TooLarge(HTTPException):
    def __init__(self, most: int) -> None:
        super().__init__(413, f"The body is larger than {most:,} bytes.", headers={"Connection": "close"})


class TooSlow(HTTPException):
    def __init__(self) -> None:
        super().__init__(408, "The body did not arrive in time.", headers={"Connection": "close"})


class Guard:
    """ASGI middleware. `keys` None: whoever reaches the server may ask."""

    def __init__(self, app: ASGIApp, *, hosts: Hosts, keys: Keys | None, most_bytes: int) -> None:
        self.app = app
        self.hosts = hosts
        self.keys = keys
        self.most_bytes = most_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
        elif scope["type"] == "http":
            await self._guard(scope, receive, send)
        else:
            await send({"type": "websocket.close", "code": 1008})

    async def _guard(self, scope: Scope, receive: Receive, send: Send) -> None:
        begun = time.monotonic()
        id = f"req_{_PROCESS}{next(_COUNT):08x}"
        status = 0

        async def told(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                ours = MutableHeaders(scope=message)
                ours["x-request-id"] = id
                ours["x-content-type-options"] = "nosniff"
                ours["cache-control"] = "no-store"
            await send(message)

        try:
            headers = Headers(scope=scope)
            scope["tomoni.key"] = self._admit(headers, scope["path"])
            self._refuse_size(headers.get("content-length", ""))
            # no route reads a cookie, but FastAPI parses them, and Python before 3.11.10 takes seconds for one of 60 kB
            scope["headers"] = [(name, value) for name, value in scope["headers"] if name != b"cookie"]
            await self.app(scope, self._limited(receive), told)
        except Exception as error:
            if not status:  # else it was told and logged where it happened
                await refusal_of(error).response()(scope, receive, told)
        finally:
            route = scope.get("route")
            place = getattr(route, "path", "-")  # the route's, never what was typed
            log.info("%s %s %s %d %.0f ms", id, scope["method"], place, status, 1000 * (time.monotonic() - begun))

    def _admit(self, headers: Headers, path: str) -> str | None:
        """The name of the key; raises Refusal."""
        hosts = headers.getlist("host")
        if len(hosts) != 1 or hosts[0] not in self.hosts:
            raise Refusal(403, "The Host header names another server.", code="wrong_host")
        site = headers.get("sec-fetch-site")
        if site not in (None, "same-origin", "none"):
            raise Refusal(403, "Another site's page may not ask this server.", code="cross_site")
        origin = headers.get("origin")
        if origin is not None and origin.lower() not in (f"http://{hosts[0].lower()}", f"https://{hosts[0].lower()}"):
            raise Refusal(403, "Another site's page may not ask this server.", code="cross_site")
        if self.keys is None or path in OPEN:
            return None
        scheme, _, key = headers.get("authorization", "").partition(" ")
        name = self.keys.name_of(key.strip()) if scheme.lower() == "bearer" and key else None
        if name is None:
            said = "Incorrect API key provided." if key else "No API key provided: send Authorization: Bearer KEY."
            raise Refusal(401, said, code="invalid_api_key", headers={"WWW-Authenticate": "Bearer"})
        return name

    def _refuse_size(self, size: str) -> None:
        if len(size) > 20 or (size.isdecimal() and int(size) > self.most_bytes):
            raise TooLarge(self.most_bytes)

    def _limited(self, receive: Receive) -> Receive:
        seen, ended = 0, False

        async def limited() -> Message:
            nonlocal seen, ended
            if ended:
                return await receive()
            try:
                message: Any = await asyncio.wait_for(receive(), BODY_SECONDS)
            except TimeoutError:
                raise TooSlow from None
            seen += len(message.get("body", b""))
            ended = not message.get("more_body", False)
            if seen > self.most_bytes:
                raise TooLarge(self.most_bytes)
            return message

        return limited
