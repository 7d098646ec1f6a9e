"""API keys: a file of their SHA-256, read again when it changes, so that a key can be taken away at once.

    sha256:9f86d081884c7d65…  name-of-who-uses-it

A key is shown once, when it is made; what stands in the file opens nothing.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
from pathlib import Path

from tomoni.durable import naming_disk
from tomoni.errors import ConfigError

_LINE = re.compile(r"sha256:([0-9a-f]{64})(?:\s+(\S.*))?")
_NAME = re.compile(r"[\w.@-]{1,64}")


def line_of(key: str, name: str) -> str:
    """What the key file holds of a key."""
    return f"sha256:{hashlib.sha256(key.encode()).hexdigest()} {name}\n"


def add_key(path: Path, name: str) -> str:
    """A new key; its hash is added to the file, which only its owner may read. Raises ConfigError, DiskError."""
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"{name!r} cannot name a key", next_step="letters, digits, . _ - and @, at most 64, for example studio"
        )
    key = f"tomoni-{secrets.token_urlsafe(32)}"
    with naming_disk(path, 0):
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            os.write(handle, line_of(key, name).encode())
            os.fsync(handle)
        finally:
            os.close(handle)
    return key


class Keys:
    """The keys of a file. Raises ConfigError where it cannot be read or holds anything but hashes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._seen: tuple[int, ...] = ()
        self._names: dict[str, tuple[str, str]] = {}
        self._read()

    def name_of(self, key: str) -> str | None:
        """Whose key this is; None: nobody's."""
        try:
            if self._mark() != self._seen:
                self._read()
        except (ConfigError, OSError):
            return None  # a file that is gone or broken opens to nobody
        digest = hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()
        found = self._names.get(digest)
        return found[1] if found is not None and hmac.compare_digest(found[0], digest) else None

    def _mark(self) -> tuple[int, ...]:
        found = os.stat(self.path)
        return found.st_mtime_ns, found.st_size, found.st_ino

    def _read(self) -> None:
        mend = "make a key: tomoni serve --key-file FILE --new-key NAME"
        self._names = {}
        try:
            self._seen = self._mark()
            lines = self.path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not text"
            raise ConfigError(f"the key file {self.path} cannot be read: {reason}", next_step=mend) from error
        found: dict[str, tuple[str, str]] = {}
        for number, line in enumerate(lines, start=1):
            if not line.strip() or line.startswith("#"):
                continue
            match = _LINE.fullmatch(line.strip())
            if match is None:
                raise ConfigError(
                    f"{self.path}:{number} is no hash of a key (sha256:64 hex digits, then a name)", next_step=mend
                )
            found[match[1]] = (match[1], match[2] or f"line {number}")
        if not found:
            raise ConfigError(f"the key file {self.path} holds no key", next_step=mend)
        self._names = found
