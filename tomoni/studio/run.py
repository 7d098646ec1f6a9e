"""Starting the studio: everything that can be refused is refused before anything listens. No torch."""

from __future__ import annotations

import contextlib
import getpass
import logging
import os
import signal
import socket
import sys
import threading
import webbrowser
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tomoni.errors import ConfigError, DiskError, UserError
from tomoni.studio.quota import ANSWERS_A_MINUTE
from tomoni.studio.words import Lang, Words, chosen

if TYPE_CHECKING:
    import uvicorn

    from tomoni.feedback.entries import Person
    from tomoni.feedback.store import Store
    from tomoni.studio.house import House

SERVE = (sys.executable, "-m", "tomoni", "serve")
LOOPBACK = ("127.0.0.1", "localhost", "::1")
HAND_OVER = 0.001  # seconds after which a thread that computes makes way: a click goes through several threads
PASSWORD = "TOMONI_OWNER_PASSWORD"  # noqa: S105  (the variable's name)


@dataclass(frozen=True, slots=True)
class Settings:
    """What the command line asks for."""

    workspace: Path
    model: str | None = None
    host: str = "127.0.0.1"
    port: int = 8420
    browser: bool = True
    lang: Lang | None = None
    owner: str | None = None
    names: tuple[str, ...] = ()
    certificate: str | None = None
    private_key: str | None = None
    behind_proxy: bool = False
    database: str | None = None
    answers_a_minute: int = ANSWERS_A_MINUTE

    @property
    def local(self) -> bool:
        return self.host in LOOPBACK

    @property
    def open(self) -> bool:
        """Whether others than this machine can reach it."""
        return not self.local or self.behind_proxy

    @property
    def tls(self) -> bool:
        return self.certificate is not None or self.behind_proxy

    @property
    def scheme(self) -> str:
        return "https" if self.tls else "http"


def run(settings: Settings) -> int:
    """Until it is stopped. Raises UserError for whatever stands in the way."""
    require_sense(settings)
    os.umask(0o077)  # what people say, and what is made of it, is for this user's eyes
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    sys.setswitchinterval(HAND_OVER)
    with listening(settings) as listener:
        port = listener.getsockname()[1]
        with opened(settings, port) as house:
            owner = owner_of(house.store, settings)
            require_account(settings, owner)
            serve(settings, house, owner, listener, port)
    return 0


def require_sense(settings: Settings) -> None:
    if (settings.certificate is None) != (settings.private_key is None):
        raise ConfigError("--certificate and --private-key belong together", next_step="give both, or neither")
    for path in (settings.certificate, settings.private_key):
        if path is not None and not Path(path).is_file():
            raise ConfigError(f"there is no file {path!r}", next_step="name the certificate's and the key's file (PEM)")
    if settings.answers_a_minute < 0:
        raise ConfigError(f"--answers-a-minute {settings.answers_a_minute}", choices=["1 or more", "0: no limit"])
    if not 0 <= settings.port <= 65535:
        raise ConfigError(f"--port {settings.port}", choices=["0 to 65535"])
    if settings.open and not settings.names and settings.host in (*LOOPBACK, "0.0.0.0", "::"):  # noqa: S104
        raise ConfigError(
            "no name is given under which browsers reach the studio",
            next_step="give --name, for example studio.example.jp",
        )
    if not settings.local and not settings.tls:
        raise ConfigError(
            f"--host {settings.host} would send passwords and answers through the network in the clear",
            next_step="give --certificate and --private-key, or --behind-proxy where a proxy in front speaks TLS",
        )


def require_account(settings: Settings, owner: Person) -> None:
    if settings.open and owner.password_hash is None:
        raise ConfigError(
            "the studio would be open to others, and the owner has no account yet",
            next_step="make one first: the same command with --owner NAME",
        )


def owner_of(store: Store, settings: Settings) -> Person:
    """The owner, made where there is none; with --owner, with a name and a password of their own."""
    there = next((person for person in store.people() if person.role == "owner" and person.active), None)
    # without a choice the pages follow the browser's language, and not that of the terminal, which is often plain C
    owner = there or store.add_person(_own_name(), role="owner", lang=settings.lang or "")
    if settings.lang and owner.lang != settings.lang:
        owner = store.change_person(owner.id, lang=settings.lang)
    if settings.owner is None:
        return owner
    from tomoni.studio.doors import SHORTEST_PASSWORD, hashed

    password = os.environ.pop(PASSWORD, "") or _asked()  # not for the processes that the studio starts
    if len(password) < SHORTEST_PASSWORD:
        raise ConfigError("the password is too short", choices=[f"at least {SHORTEST_PASSWORD} characters"])
    return store.change_person(owner.id, name=settings.owner, password_hash=hashed(password))


def _own_name() -> str:
    try:
        name = getpass.getuser()
    except (KeyError, OSError):  # a user without a name, as in some containers
        name = ""
    kept = "".join(letter for letter in name if letter.isprintable()).strip()[:60]
    return kept or "owner"


def _asked() -> str:
    if not sys.stdin.isatty():
        raise ConfigError(
            "--owner asks for a password, and there is no terminal to ask on", next_step=f"set {PASSWORD} instead"
        )
    password = getpass.getpass("password: ")
    if getpass.getpass("again: ") != password:
        raise ConfigError("the two passwords differ", next_step="try again")
    return password


@contextlib.contextmanager
def listening(settings: Settings) -> Iterator[socket.socket]:
    """A socket on the port asked for; of the usual one, on a free one where that is taken."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    made = socket.socket(family, socket.SOCK_STREAM)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        try:
            made.bind((settings.host, settings.port))
        except OSError as error:
            if settings.port != Settings(Path()).port:
                raise ConfigError(
                    f"port {settings.port} of {settings.host} is not to be had: {error.strerror}",
                    next_step="choose another --port, or 0 for any",
                ) from error
            made.bind((settings.host, 0))
        made.listen(128)
        yield made
    finally:
        made.close()


@contextlib.contextmanager
def opened(settings: Settings, port: int, *, serve: Sequence[str] | None = SERVE) -> Iterator[House]:
    """The workspace, with its store held for writing, and the parts that work behind the pages. `serve` starts the model
    that answers; None: none is started."""
    from tomoni.feedback.store import Store
    from tomoni.registry import Registry
    from tomoni.studio.answering import Answering
    from tomoni.studio.asking import Asking
    from tomoni.studio.doors import Doors
    from tomoni.studio.holding import Holding
    from tomoni.studio.house import House
    from tomoni.studio.insight import Insight
    from tomoni.studio.opening import first_model, first_probes, first_prompts
    from tomoni.studio.processes import Processes
    from tomoni.studio.rounding import Rounds
    from tomoni.studio.steward import Steward
    from tomoni.studio.teaching import Teaching
    from tomoni.studio.training import Training

    try:
        settings.workspace.expanduser().mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DiskError(
            f"{settings.workspace} cannot be made: {error.strerror}", next_step="choose a folder you may write to"
        ) from error
    workspace = settings.workspace.expanduser().resolve()
    with Store.open(workspace, url=settings.database) as store:
        registry = Registry.open(workspace)
        first_model(workspace, registry, settings.model)
        if first_prompts(store, registry):
            first_probes(workspace, registry)
        processes = Processes()
        answering = Answering(workspace, command=serve or ())
        teaching = Teaching(workspace, store, registry, processes)
        training = Training(workspace, registry, processes)
        rounds = Rounds(workspace, store, registry, processes)
        insight = Insight(store)

        def busy() -> bool:
            return teaching.going() is not None or training.going() or rounds.going()

        asking = Asking(store, answering, insight, busy=busy)
        holding, steward = Holding(workspace), Steward(store, registry, training, teaching, rounds, answering)
        prefix = "__Host-" if settings.tls else ""
        doors = Doors(store, cookie=f"{prefix}tomoni-{port}", secure=settings.tls, behind_proxy=settings.behind_proxy)
        house = House(
            workspace,
            store,
            registry,
            doors,
            answering,
            asking,
            insight,
            teaching,
            training,
            rounds,
            holding,
            steward,
            settings.lang,
            settings.answers_a_minute,
        )
        if registry.current() is not None:
            answering.start()
        asking.start()
        steward.start()
        try:
            yield house
        finally:
            steward.close()
            asking.close()
            insight.close()
            answering.close()


def hosts_of(settings: Settings, port: int) -> list[str]:
    """What a browser may send as Host: names with the port, and those of a proxy without."""
    names = [*LOOPBACK[:2], "[::1]"] if settings.local else []
    if not settings.local and settings.host not in ("0.0.0.0", "::"):  # noqa: S104
        names.append(f"[{settings.host}]" if ":" in settings.host else settings.host)
    hosts = [f"{name}:{port}" for name in [*names, *settings.names]]
    return [*hosts, *settings.names]


def serve(settings: Settings, house: House, owner: Person, listener: socket.socket, port: int) -> None:
    server = server_of(settings, house, port)
    announce(settings, house, owner, port)
    signal.signal(signal.SIGTERM, _interrupt)  # it ends as by Ctrl-C: the model's process and the store are closed
    with contextlib.suppress(KeyboardInterrupt):
        server.run(sockets=[listener])


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def server_of(settings: Settings, house: House, port: int) -> uvicorn.Server:
    import uvicorn

    from tomoni.connections import Connection
    from tomoni.studio.app import create, guarded

    app = guarded(create(house), hosts=hosts_of(settings, port), scheme=settings.scheme)
    config: dict[str, Any] = {"ssl_certfile": settings.certificate, "ssl_keyfile": settings.private_key}
    return uvicorn.Server(
        uvicorn.Config(
            app,
            http=Connection,
            log_level="warning",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            ws="none",
            lifespan="off",
            h11_max_incomplete_event_size=64 * 1024,
            timeout_graceful_shutdown=3,
            **{name: value for name, value in config.items() if value is not None},
        )
    )


def announce(settings: Settings, house: House, owner: Person, port: int) -> None:
    """The address, on the terminal and in the browser."""
    words = Words(chosen([owner.lang, *map(os.environ.get, ("LC_ALL", "LC_MESSAGES", "LANG"))]))
    host = settings.host if settings.local else (settings.names or (settings.host,))[0]
    base = f"{settings.scheme}://{f'[{host}]' if ':' in host else host}:{port}/"
    if settings.open:
        behind = settings.behind_proxy and settings.names
        print(words("terminal.team", address=f"https://{settings.names[0]}/" if behind else base), flush=True)
        return
    address = f"{base}?token={house.doors.link(owner.id)}"
    print(words("terminal.open", address=address), flush=True)
    print("  " + words("terminal.stop"), flush=True)
    if settings.browser:
        threading.Thread(target=_browse, args=(address,), daemon=True).start()
    if sys.stdin is not None and sys.stdin.isatty():
        threading.Thread(target=_more_links, args=(house, owner, base, words), daemon=True).start()


def _browse(address: str) -> None:
    # without a browser the printed address is enough
    with contextlib.suppress(webbrowser.Error, OSError):
        webbrowser.open(address)


def _more_links(house: House, owner: Person, base: str, words: Words) -> None:
    """Enter on the terminal gives another link: the first one works once."""
    with contextlib.suppress(OSError, ValueError, UserError):
        for _ in sys.stdin:
            print(words("terminal.open", address=f"{base}?token={house.doors.link(owner.id)}"), flush=True)
