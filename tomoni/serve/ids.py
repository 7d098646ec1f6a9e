"""Names of completions that the server knows again without keeping a list: their last digits are a MAC of the others.

So feedback on an answer that this workspace never gave is refused, also after a restart.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import itertools
import os
import re
import secrets
from pathlib import Path

from tomoni.durable import naming_disk, sync

FILE = "serve.secret"
_PROCESS, _COUNT = secrets.token_hex(6), itertools.count()  # together 20 digits that come only once
_ID = re.compile(r"(?:chatcmpl|cmpl|answers)-([0-9a-f]{20})([0-9a-f]{2})([0-9a-f]{16})")


class Ids:
    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    @classmethod
    def of(cls, workspace: Path | None) -> Ids:
        """With the workspace's secret, made when there is none yet; without a workspace with one of this process."""
        if workspace is None:
            return cls(secrets.token_bytes(32))
        path = workspace / FILE
        with naming_disk(path, 0):
            with contextlib.suppress(FileExistsError):
                _make(path)
            return cls(path.read_bytes())

    def new(self, prefix: str, choices: int) -> str:
        """A completion with so many choices (at most 255)."""
        body = f"{_PROCESS}{next(_COUNT):08x}{choices:02x}"
        return f"{prefix}-{body}{self._mac(body)}"

    def choices(self, id: str) -> int | None:
        """How many choices a completion of this name has; None: it is not ours."""
        found = _ID.fullmatch(id)
        if found is None or not hmac.compare_digest(found[3], self._mac(found[1] + found[2])):
            return None
        return int(found[2], 16)

    def event(self, key: str) -> str:
        """The name of what is said with an Idempotency-Key: the same for the same key."""
        return hmac.new(self._secret, b"event\0" + key.encode("utf-8", "replace"), hashlib.sha256).hexdigest()[:32]

    def _mac(self, body: str) -> str:
        return hmac.new(self._secret, body.encode(), hashlib.sha256).hexdigest()[:16]


def answer_id(completion: str, choice: int) -> str:
    return f"{completion}-{choice}"


def _make(path: Path) -> None:
    """Whole or not at all, also where two servers begin at once."""
    aside = path.with_name(f".{path.name}-{secrets.token_hex(6)}")
    handle = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        os.write(handle, secrets.token_bytes(32))
        os.fsync(handle)
    finally:
        os.close(handle)
    try:
        os.link(aside, path)
    finally:
        os.unlink(aside)
    sync(path.parent)
