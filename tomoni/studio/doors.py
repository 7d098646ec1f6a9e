"""Who comes in: links that work once, sessions, passwords, invitations, limits on guessing.

A session is a random id in an HttpOnly cookie; the store keeps its SHA-256 only, so it can be ended and not forged. A
link's token works once and for ten minutes.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tomoni.studio.faults import Fault
from tomoni.studio.quota import Quota

if TYPE_CHECKING:
    from pwdlib import PasswordHash
    from starlette.requests import Request
    from starlette.responses import Response

    from tomoni.feedback.entries import Person
    from tomoni.feedback.store import Store

SESSION = 14 * 24 * 3600  # seconds
LINK = 600  # seconds that the printed address works
INVITATION = 7 * 24 * 3600
SHORTEST_PASSWORD = 10  # characters
LONGEST_PASSWORD = 256
TRIES = "8 per 5 minutes"  # per account
TRIES_OF_ADDRESS = "100 per 5 minutes"  # a whole office may come from one
HASHING = threading.BoundedSemaphore(2)  # Argon2 takes 64 MiB a time: forty at once would take the machine
INVITATIONS = "studio.invitations"  # the setting that keeps them, by hash


def digest(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()


@dataclass
class Doors:
    store: Store
    cookie: str
    secure: bool = False  # the pages are served over TLS
    behind_proxy: bool = False
    _links: dict[str, tuple[str, float]] = field(default_factory=dict)  # hash of a token: person, until
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _quota: Quota = field(default_factory=Quota)
    _decoy: str | None = None

    # -- links of this process -----------------------------------------------------------------------------------------

    def link(self, person: str) -> str:
        """A token for the address that is printed and opened."""
        token = secrets.token_urlsafe(24)
        with self._lock:
            self._links[digest(token)] = person, time.monotonic() + LINK
        return token

    def use(self, token: str) -> str | None:
        """The person it was made for; the token is spent."""
        with self._lock:
            person, until = self._links.pop(digest(token), ("", 0.0))
        return person if person and time.monotonic() < until else None

    def address(self, request: Request) -> str:
        """Where a request comes from; behind a proxy as the proxy says it, which is what stands last."""
        said = request.headers.get("x-forwarded-for", "") if self.behind_proxy else ""
        return said.rpartition(",")[2].strip()[:64] or (request.client.host if request.client else "")

    # -- sessions ------------------------------------------------------------------------------------------------------

    def begin(self, person: str, response: Response) -> None:
        token = secrets.token_urlsafe(32)
        self.store.begin_session(person, digest(token), SESSION)
        response.set_cookie(
            self.cookie, token, max_age=SESSION, path="/", httponly=True, samesite="strict", secure=self.secure
        )

    def person(self, token: str | None) -> Person | None:
        if not token:
            return None
        person = self.store.session(digest(token))
        return person if person is not None and person.active else None

    def end(self, token: str | None, response: Response) -> None:
        if token:
            self.store.end_session(digest(token))
        response.delete_cookie(self.cookie, path="/", httponly=True, samesite="strict", secure=self.secure)

    # -- passwords -----------------------------------------------------------------------------------------------------

    def sign_in(self, name: str, password: str, address: str) -> Person:
        """Fault where name and password do not belong together, told the same way and as slowly for an unknown name."""
        self.count("address", address, TRIES_OF_ADDRESS)
        self.count("sign-in", name.casefold(), TRIES)
        person = self.store.person_named(name)
        kept = person.password_hash if person is not None and person.active else None
        right = check(password, kept or self._nobody())
        if person is None or kept is None or not right:
            raise Fault("wrong_password", 403)
        return person

    def change_password(self, person: str, name: str, password: str) -> None:
        """And the name to sign in with; ends all sessions of the person."""
        require_password(password)
        self.store.change_person(person, name=name, password_hash=hashed(password))
        self.store.end_sessions(person)

    def _nobody(self) -> str:
        if self._decoy is None:
            self._decoy = hashed(secrets.token_urlsafe(16))
        return self._decoy

    def count(self, what: str, key: str, most: str) -> None:
        """Fault 429 where there were too many tries for the key."""
        self._quota.take("too_many_tries", most, what, key)

    # -- invitations ---------------------------------------------------------------------------------------------------

    def invite(self, role: str, name: str = "") -> str:
        token = secrets.token_urlsafe(24)
        with self._lock:
            kept = self._invitations()
            kept[digest(token)] = {"role": role, "name": name, "until": time.time() + INVITATION}
            self.store.set(INVITATIONS, kept)
        return token

    def invitation(self, token: str) -> dict[str, str] | None:
        found = self._invitations().get(digest(token))
        return None if found is None else {"role": str(found["role"]), "name": str(found["name"])}

    def accept(self, token: str, name: str, password: str, lang: str) -> Person:
        if self.invitation(token) is None:
            raise Fault("invitation_spent", 403)
        require_password(password)
        password_hash = hashed(password)  # slow: outside the lock, and for nobody who only guesses
        with self._lock:
            kept = self._invitations()
            found = kept.pop(digest(token), None)
            if found is None:
                raise Fault("invitation_spent", 403)
            if self.store.person_named(name) is not None:
                raise Fault("name_taken", 409, name=name)
            person = self.store.add_person(
                name, role="owner" if found["role"] == "owner" else "annotator", lang=lang, password_hash=password_hash
            )
            self.store.set(INVITATIONS, kept)
        return person

    def _invitations(self) -> dict[str, dict[str, object]]:
        kept: dict[str, dict[str, object]] = self.store.get(INVITATIONS, {})
        return {key: value for key, value in kept.items() if float(str(value["until"])) > time.time()}


def require_password(password: str) -> None:
    if not SHORTEST_PASSWORD <= len(password) <= LONGEST_PASSWORD:
        raise Fault("password_length", 400, least=SHORTEST_PASSWORD, most=LONGEST_PASSWORD)


def hasher() -> PasswordHash:
    from pwdlib import PasswordHash

    return PasswordHash.recommended()


def hashed(password: str) -> str:
    with HASHING:
        return hasher().hash(password)


def check(password: str, kept: str) -> bool:
    with HASHING:
        return len(password) <= LONGEST_PASSWORD and hasher().verify(password, kept)


def order_of(secret: str, person: str, pair: str) -> tuple[int, int]:
    """How two answers are shown to this person: drawn once, the same after a reload, not to be guessed from outside."""
    drawn = hmac.new(bytes.fromhex(secret), f"{person}\n{pair}".encode(), hashlib.sha256).digest()[0] & 1
    return (1, 0) if drawn else (0, 1)
