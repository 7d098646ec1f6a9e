"""What every request must pass before any page sees it, and the headers every answer carries.

Pure ASGI, so that streams are not held back. Nothing here reads `request.url`: a Host header can alter it. Who may do
what is decided per route (`access.py`), never by path.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import Callable, Iterable
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.types import ASGIApp, Message, Receive, Scope, Send

CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)
# a round's report: text and drawings with a style of their own, and nothing that could run
REPORT = "default-src 'none'; style-src 'unsafe-inline'; sandbox; frame-ancestors 'none'; base-uri 'none'"
HEADERS = (
    (b"content-security-policy", CSP.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"x-frame-options", b"DENY"),
    (b"permissions-policy", b"camera=(), microphone=(), geolocation=(), payment=(), usb=()"),
)
POLICY_OF_REPORT = (b"content-security-policy", REPORT.encode())
REPORT_HEADERS = (POLICY_OF_REPORT, *HEADERS[1:])
SAFE = frozenset({"GET", "HEAD"})
METHODS = SAFE | {"POST"}  # all that the studio's routes use
MOST = 256 * 1024  # bytes of a body
MOST_FILE = 48 * 1024 * 1024  # of a data file, in base64
BODY_SECONDS = 60.0  # for a whole body
FILE_SECONDS = 600.0
# of the cookies a browser sends, those of the studio, and these only as the studio makes them: Python before 3.11.10 takes
# seconds for a quoted one of 60 kB (CVE-2024-7592), and other servers on 127.0.0.1 may set what they like
COOKIE = re.compile(r"(?:__Host-)?tomoni-[a-z0-9]{1,8}=[A-Za-z0-9_-]{1,100}")
log = logging.getLogger("tomoni.studio")
FILE_PATHS = frozenset({"/api/data/look", "/api/data/import", "/api/data/judgements", "/api/prompts/import"})


class Refusal(Exception):
    """Turned away at the door."""

    def __init__(self, status: int, code: str) -> None:
        self.status, self.code = status, code
        super().__init__(f"{status} {code}")


class Guard:
    """Host, origin, method, content type and size, in this order; then the page.

    `hosts` are host:port pairs, without a scheme, as a browser sends them in Host and (behind scheme://) in Origin.
    `owner` says whether a request (its scope) is the owner's: nobody else may fill the memory with a file.
    """

    def __init__(
        self, app: ASGIApp, *, hosts: Iterable[str], owner: Callable[[Scope], bool], scheme: str = "http"
    ) -> None:
        self.app = app
        self.owner = owner
        self.hosts = frozenset(host.lower() for host in hosts)
        self.origins = frozenset(f"{scheme}://{host}" for host in self.hosts)
        self.scheme = scheme

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "websocket":  # there are none here
                await receive()
                await send({"type": "websocket.close", "code": 1008})
                return
            await self.app(scope, receive, send)
            return
        scope = {**scope, "headers": _with_own_cookies(scope["headers"])}
        sender = _Sender(send, secure=self.scheme == "https")
        try:
            headers = _headers(scope)
            limit = self.admit(scope["method"], scope["path"], headers)
            body = await self._body(scope, receive, limit)
        except Refusal as refusal:
            await _refuse(sender, refusal)
            return
        try:
            await self.app(scope, _Replay(body, receive), sender)
        except Exception as error:
            # told and logged where it happened; it goes no further, for a server logs it with its text, and that may be
            # what a person wrote
            if not sender.begun:
                await _refuse(sender, Refusal(500, "unexpected"))
            elif not scope.get("state", {}).get("logged"):
                log.error("unexpected %s in an answer that had begun", type(error).__name__)

    async def _body(self, scope: Scope, receive: Receive, limit: int) -> bytes:
        large = limit > MOST and await run_in_threadpool(self.owner, scope)
        try:
            async with asyncio.timeout(FILE_SECONDS if large else BODY_SECONDS):
                return await _whole(receive, limit if large else min(limit, MOST))
        except TimeoutError:
            raise Refusal(408, "slow") from None

    def admit(self, method: str, path: str, headers: dict[str, list[str]]) -> int:
        """Bytes that the body may have; Refusal where the request is turned away."""
        hosts = headers.get("host", [])
        if len(hosts) != 1 or hosts[0].lower() not in self.hosts:
            raise Refusal(421, "host")
        if method not in METHODS:
            raise Refusal(405, "method")
        site = headers.get("sec-fetch-site", [])
        origin = headers.get("origin", [])
        if len(site) > 1 or len(origin) > 1:
            raise Refusal(403, "origin")
        if method in SAFE:
            # a page may be linked to from elsewhere; anything else is for our own pages
            navigates = headers.get("sec-fetch-mode", ["navigate"]) == ["navigate"]
            if site and site[0] not in ("same-origin", "none") and not navigates:
                raise Refusal(403, "origin")
            return 0
        self._same_origin(site, origin)
        kind = headers.get("content-type", [""])[0].partition(";")[0].strip().lower()
        if kind != "application/json":
            raise Refusal(415, "json")
        limit = MOST_FILE if path in FILE_PATHS else MOST
        length = headers.get("content-length", [])
        if length and (len(length) > 1 or not length[0].isdecimal() or int(length[0][:16]) > limit):
            raise Refusal(413, "too_large")
        return limit

    def _same_origin(self, site: list[str], origin: list[str]) -> None:
        """A browser says where an unsafe request comes from in at least one of two headers; both must be ours."""
        if not site and not origin:
            raise Refusal(403, "origin")
        if site and site[0] != "same-origin":
            raise Refusal(403, "origin")
        if origin and origin[0].lower() not in self.origins:
            raise Refusal(403, "origin")


class _Sender:
    """Adds the headers to whatever is answered."""

    def __init__(self, send: Send, *, secure: bool) -> None:
        self.send = send
        self.begun = False
        self.secure = ((b"strict-transport-security", b"max-age=31536000"),) if secure else ()

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.begun = True
            names = {name for name, _ in (*HEADERS, *self.secure)}
            given = message.get("headers", [])
            kept = [(name, value) for name, value in given if name.lower() not in names]
            extra = REPORT_HEADERS if POLICY_OF_REPORT in given else HEADERS  # the one other policy that there is
            if not any(name.lower() == b"cache-control" for name, _ in kept):
                kept.append((b"cache-control", b"no-store"))
            message = {**message, "headers": [*kept, *extra, *self.secure]}
        await self.send(message)


async def _whole(receive: Receive, limit: int) -> bytes:
    """The body, read before any page sees it; Refusal as soon as it is longer than its limit, whatever headers said."""
    parts, left, more = [], limit, True
    while more:
        message = await receive()
        if message["type"] != "http.request":
            raise Refusal(400, "left")
        part = message.get("body", b"")
        left -= len(part)
        if left < 0:
            raise Refusal(413, "too_large")
        parts.append(part)
        more = message.get("more_body", False)
    return b"".join(parts)


class _Replay:
    """Gives the body once, then whatever else comes: that the browser has left."""

    def __init__(self, body: bytes, receive: Receive) -> None:
        self.body: bytes | None = body
        self.receive = receive

    async def __call__(self) -> Message:
        if self.body is None:
            return await self.receive()
        body, self.body = self.body, None
        return {"type": "http.request", "body": body, "more_body": False}


def _headers(scope: Scope) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, value in scope["headers"]:
        found.setdefault(name.decode("latin-1").lower(), []).append(value.decode("latin-1"))
    return found


def _with_own_cookies(headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    kept, own = [], []
    for name, value in headers:
        if name == b"cookie":
            pairs = (pair.strip() for pair in value.decode("latin-1").split(";"))
            own += [pair for pair in pairs if COOKIE.fullmatch(pair)]
        else:
            kept.append((name, value))
    return [*kept, (b"cookie", "; ".join(own).encode())] if own else kept


async def _refuse(send: Any, refusal: Refusal) -> None:
    # in both languages: nobody is known yet
    said = {
        "host": "This address is not one the studio answers to. / このアドレスでは開けません。",
        "method": "Not possible here. / ここではできません。",
        "origin": "The request came from another site. / 別のサイトからの要求のため受け付けません。",
        "json": "Only JSON is taken. / JSON以外は受け付けません。",
        "too_large": "Too large. / 大きすぎます。",
        "left": "Nobody is there. / 接続が切れました。",
        "slow": "It took too long to arrive. / 送信に時間がかかりすぎました。",
        "unexpected": "Something unexpected happened in the studio. / スタジオで問題が起きました。",
    }[refusal.code]
    body = json.dumps({"error": {"code": refusal.code, "message": said}}, ensure_ascii=False).encode()
    headers = [(b"content-type", b"application/json; charset=utf-8"), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
