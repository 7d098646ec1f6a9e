"""What somebody tries who means harm: paths where names are meant, other sites' requests, bodies without end, clients that
say nothing, texts that make parsers slow, secrets in logs."""

from __future__ import annotations

import base64
import itertools
import json
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from tests.studio.process import Studio, cookies, free_port
from tests.studio.rooms import HOST, OWN, Browser, add_pairs, annotator, house_in, model_in, owner, until
from tests.studio.test_doors import example, routes
from tests.studio.test_in_a_browser import Served, served_in
from tests.studio.test_teaching import press
from tomoni import connections
from tomoni.cli.app import main
from tomoni.feedback.masking import find
from tomoni.feedback.store import Store
from tomoni.studio import guard
from tomoni.studio.access import Rule
from tomoni.studio.asking import plain
from tomoni.studio.doors import TRIES_OF_ADDRESS, hashed
from tomoni.studio.holding import Holding
from tomoni.studio.house import House
from tomoni.studio.processes import Processes
from tomoni.studio.words import chosen

STAYS = "/%:@!$&'()*+,;=~|"  # written into a path as it is; what was coded already is not coded again
SECRET = "KANARIENVOGEL-7f3a"
EVERY_ADDRESS = ".".join("0000")

# -- paths -----------------------------------------------------------------------------------------------------------------


def traversals(target: Path) -> list[str]:
    """Ways to say `target` where an id or a name is meant, from folders of several depths."""
    names = [f"{'../' * up}{target.name}" for up in range(1, 7)] + [
        str(target),
        "/etc/passwd",
        f"{'../' * 12}etc/passwd",
    ]
    found: list[str] = []
    for name in names:
        found += [
            name, name.replace("/", "\\"), name.replace("../", "....//"), name.replace("../", "..;/"), name.replace("..", "%2e%2e"),
            name.replace("/", "%2f"), name.replace("/", "%252f"), name.replace("../", "..%c0%af"), name.replace(".", "\uff0e"),
            name.replace("/", "\u2215"), f"./{name}", f"{name}\0", f"{name}\0.jsonl", f"{name}%00.jsonl", f"{name}#", f"{name}?x",
            f"{name}/", f"{name}/.", f"file://{name}", f"//{name}", f"{name}\n", f" {name}", f"{name}.jsonl", f"run1/{name}",
            f"0001/{name}", f"0123456789ab/{name}", f"town/{name}", f"~/{name}", f"$HOME/{name}", f"$(cat {name})", f"`cat {name}`",
            f"|cat {name}", f";cat {name}", f"-f{name}", f"@{name}", f"../runs/{name}",
        ]  # fmt: skip
    return list(dict.fromkeys(found))


class Opened:
    """Files that this process opens while it is on; an audit hook cannot be taken out again."""

    on: bool = False
    paths: list[str] = []  # noqa: RUF012

    @classmethod
    def hook(cls, event: str, arguments: tuple[Any, ...]) -> None:
        if cls.on and event == "open" and isinstance(arguments[0], str | bytes | os.PathLike):
            cls.paths.append(os.fsdecode(arguments[0]))

    @classmethod
    @contextmanager
    def watched(cls) -> Iterator[list[str]]:
        if cls.hook not in _HOOKS:
            sys.addaudithook(cls.hook)
            _HOOKS.append(cls.hook)
        cls.on, cls.paths = True, []
        try:
            yield cls.paths
        finally:
            cls.on = False


_HOOKS: list[Any] = []


def fields_of(schema: dict[str, Any], document: dict[str, Any]) -> Iterator[tuple[dict[str, Any], str]]:
    """A body that the schema of a request takes, and each of its fields that may hold text."""
    found = document["components"]["schemas"][schema["$ref"].rsplit("/", 1)[1]]
    body = {name: sample(part, document) for name, part in found["properties"].items()}
    for name, value in body.items():
        if isinstance(value, str):
            yield body, name


def sample(part: dict[str, Any], document: dict[str, Any]) -> Any:
    if "$ref" in part:
        found = document["components"]["schemas"][part["$ref"].rsplit("/", 1)[1]]
        return {name: sample(inner, document) for name, inner in found["properties"].items()}
    if "anyOf" in part:
        return sample(part["anyOf"][0], document)
    if "enum" in part or "const" in part:
        return part.get("enum", [part.get("const")])[0]
    match part.get("type"):
        case "array":
            return [sample(part["items"], document)] * part.get("minItems", 0)
        case "object":
            return {}
        case "boolean":
            return False
        case "integer" | "number":
            return 1
    return "abcdefghij"


@pytest.mark.parametrize("few", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_no_text_field_is_ever_a_path(tmp_path: Path, few: bool) -> None:
    target = tmp_path / "secret.txt"
    target.write_text(SECRET, encoding="utf-8")
    every = traversals(target)
    assert len(every) >= 300
    with house_in(tmp_path) as house:
        house.training.processes = house.teaching.processes = Processes(command=["/bin/true"])
        press(house)
        browser = Browser(house).enter(owner(house))
        document = browser.app.openapi()
        before = {path for path in tmp_path.rglob("*") if house.workspace not in path.parents}
        asked = 0
        with Opened.watched() as opened:
            for path, operation in ((path, item["post"]) for path, item in document["paths"].items() if "post" in item):
                if (
                    path in ("/api/sign-in", "/api/sign-out", "/api/join", "/api/account/password")
                    or "requestBody" not in operation
                ):
                    continue
                schema = operation["requestBody"]["content"]["application/json"]["schema"]
                for (body, field), text in itertools.product(fields_of(schema, document), every[:: 29 if few else 1]):
                    answer = browser.post(path, body | {field: text})
                    asked += 1
                    assert answer.status_code < 500 and SECRET not in answer.text and "root:" not in answer.text, (
                        path,
                        field,
                        text,
                    )
            for path, text in itertools.product(
                [path for path in document["paths"] if "{" in path], every[:: 9 if few else 1]
            ):
                hole = path[path.index("{") : path.index("}") + 1]
                answer = browser.client.get(example(path.replace(hole, quote(text, safe=STAYS))))
                asked += 1
                assert answer.status_code in (404, 422, 303) and SECRET not in answer.text, (path, text)
        outside = [path for path in opened if path.startswith("/etc/passwd") or path == str(target)]
        assert not outside and asked > 300
        assert {path for path in tmp_path.rglob("*") if house.workspace not in path.parents} == before


@pytest.mark.parametrize(
    "name",
    ["../x.jsonl", "/etc/passwd.jsonl", "a\0.jsonl", "a\n.txt", "-rf.csv", "x" * 296 + ".csv", "\u202elnosj.txt"],
)
def test_the_name_of_a_file_is_kept_as_a_name_only(house: House, browser: Browser, name: str) -> None:
    content = base64.b64encode(
        b"prompt,completion\na,b\n" if name.endswith("csv") else b'{"prompt": "a", "completion": "b"}\n'
    )
    held = browser.post("/api/data/import", {"name": name, "content": content.decode()})
    assert held.status_code == 200
    assert sorted(path.suffix for path in house.holding.folder.iterdir()) == [".json", ".jsonl"]
    assert house.holding.all()[0].name == name[-120:]


def test_what_is_wrong_with_a_file_names_it_as_its_owner_does_and_not_by_a_path(browser: Browser) -> None:
    for content in (b"a,a\n1,2\n", b"a,b\n1,2\n", b'prompt,"x\n', b"\xff\xfe"):
        told = browser.post("/api/data/look", {"name": "売上.csv", "content": base64.b64encode(content).decode()})
        assert (
            told.status_code == 400
            and "売上.csv" in told.text
            and "/tmp" not in told.text
            and "upload" not in told.text
        )


# -- other sites -----------------------------------------------------------------------------------------------------------


def test_of_all_combinations_of_headers_only_our_own_pages_reach_an_unsafe_route(visitor: Browser) -> None:
    own = OWN["origin"]
    origins = (
        None,
        own,
        "null",
        "http://evil.example",
        own + ".evil.example",
        own.replace("8420", "84200"),
        own.upper(),
        f"{own}/",
    )
    sites = (None, "same-origin", "same-site", "cross-site", "none", "SAME-ORIGIN")
    hosts = (HOST, "evil.example")
    unsafe = [example(path) for method, path, _ in routes(visitor.house) if method == "POST"]
    reached = 0
    for origin, site, host in itertools.product(origins, sites, hosts):
        sent = {"origin": origin, "sec-fetch-site": site, "host": host, "content-type": "application/json"}
        headers = {name: value for name, value in sent.items() if value is not None}
        ours = (
            host == HOST
            and (origin, site) != (None, None)
            and origin in (None, own, own.upper())
            and site in (None, "same-origin")
        )
        for path in unsafe:
            if not ours and host == HOST:
                assert visitor.forge("POST", path, headers, b"{").status_code in (403, 421), (path, headers)
        answer = visitor.forge("POST", "/api/judge/next", headers)
        assert (answer.status_code == 200) is ours, headers
        reached += ours
    assert reached == 5


# -- bodies, connections, parsers --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def open_one(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served_in(tmp_path_factory.mktemp("open"), serve=None) as served:
        yield served


def raw(served: Served, *, length: int | None, path: str = "/api/data/look", cookie: str = "") -> socket.socket:
    """A connection on which the head of a request has been sent."""
    host = served.address.removeprefix("http://")
    made = socket.create_connection(("127.0.0.1", int(host.rsplit(":", 1)[1])), timeout=20)
    size = "Transfer-Encoding: chunked" if length is None else f"Content-Length: {length}"
    head = f"POST {path} HTTP/1.1\r\nHost: {host}\r\nOrigin: {served.address}\r\nContent-Type: application/json\r\nCookie: {cookie}\r\n{size}\r\n\r\n"
    made.sendall(head.encode())
    return made


def poured(made: socket.socket, most: int) -> int:
    """Bytes of a body without end that were taken before the other side had enough."""
    sent, piece = 0, b"10000\r\n" + b"x" * 0x10000 + b"\r\n"
    try:
        while sent < most:
            sent += made.send(piece)
    except OSError:
        pass
    return sent


def rss() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_an_endless_body_is_cut_off_and_only_the_owner_may_send_a_file(open_one: Served) -> None:
    house = open_one.house
    port = int(open_one.address.rsplit(":", 1)[1])
    other = annotator(house)
    session = cookies(house.store, [other], port)[0]
    before = rss()
    for cookie, path in (("", "/api/data/look"), (session, "/api/data/import"), (session, "/api/judge")):
        with raw(open_one, length=10**10, path=path, cookie=cookie) as made:
            assert b" 413 " in made.makefile("rb").readline()
        with raw(open_one, length=None, path=path, cookie=cookie) as made:
            assert poured(made, 200_000_000) < 20_000_000
    with raw(open_one, length=30_000_000) as made:  # a file's size, of nobody
        assert poured(made, 100_000_000) < 20_000_000
    assert rss() - before < 64 << 20
    mine = cookies(house.store, [owner(house)], port)[0]
    with raw(open_one, length=None, cookie=mine) as made:
        assert 30_000_000 < poured(made, 200_000_000) < 100_000_000
    assert httpx.get(open_one.address + "/sign-in", trust_env=False).status_code == 200


@pytest.mark.parametrize(
    "content",
    [b"[" * 250_000, b'{"a":' * 40_000, b'{"n": ' + b"9" * 200_000 + b"}", b'{"n": 1.' + b"1" * 200_000 + b"}", b"\0" * 100_000,
     b'{"trial": "' + b"\\ud800" * 20_000 + b'"}', json.dumps({f"k{n}": 1 for n in range(15_000)}).encode(), b"\xff\xfe", b"", b"null"],
)  # fmt: skip
def test_bodies_that_no_page_sends_are_refused_at_once(visitor: Browser, content: bytes) -> None:
    began = time.process_time()
    answer = visitor.forge("POST", "/api/judge/next", {**OWN, "content-type": "application/json"}, content)
    assert answer.status_code in (400, 422) and time.process_time() - began < 2
    assert len(answer.content) < 2_000


@pytest.mark.parametrize(
    ("name", "value"),
    [("cookie", 'tomoni-8420="' + "\\a" * 30_000 + '"'), ("cookie", "a=1;" * 15_000), ("accept-language", "a," * 30_000),
     ("content-type", "a;" * 30_000), ("if-none-match", '"' * 60_000), ("range", "bytes=" + "0-," * 20_000)],
)  # fmt: skip
def test_no_header_keeps_the_studio_busy(visitor: Browser, name: str, value: str) -> None:
    """A quoted cookie of 60 kB takes seconds in Python before 3.11.10; it is never parsed."""
    began = time.process_time()
    for path in ("/sign-in", "/api/state"):
        assert visitor.client.get(path, headers={"host": HOST, name: value}).status_code in (200, 401)
    assert time.process_time() - began < 1


def test_of_many_cookies_ours_is_found(house: House, browser: Browser) -> None:
    token = browser.client.cookies[house.doors.cookie]
    others = "; ".join(f'tomoni-{port}=x; other{port}="quoted; \\"{port}"' for port in range(9000, 9100))
    answer = Browser(house).client.get("/api/state", headers={"cookie": f"{others}; {house.doors.cookie}={token}"})
    assert answer.status_code == 200


def seconds(work: Callable[[], Any]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


def grows_as_it_does(work: Callable[[int], Any], size: int) -> bool:
    """Whether eight times as much takes no more than 24 times as long. Tried up to three times, so that a busy machine
    does not count."""
    most = 24 * min(seconds(lambda: work(size)) for _ in range(3)) + 0.05
    return any(seconds(lambda: work(8 * size)) < most for _ in range(3))


REPEATED = (
    "0-", "a@", "1 ", "http://", "+1 ", "(0", "0(1)", "://", "a://a:", "?token=", "〒", "1234 ", "090-", "@a.", "+1 (", "x://y?code=",
    "郵便番号", "http://a:b@", "4111 1111 1111 ", "ｅ@ａ．", "\u0300", "ﷺ",
)  # fmt: skip


@pytest.mark.parametrize("text", REPEATED)
def test_texts_are_looked_through_in_time_that_grows_as_they_do(text: str) -> None:
    for look in (find, plain, lambda said: chosen([said])):
        assert grows_as_it_does(lambda size, look=look: look(text * (size // len(text))), 20_000), look  # type: ignore[misc]


@pytest.mark.parametrize(
    ("name", "part", "around"),
    [
        ("a.csv", b"a,", (b"", b"\n1")),
        ("a.json", b"1,", (b"[", b"1]")),
        ("a.json", b'{"prompt":"a","completion":"b"},', (b"[", b"1]")),
        ("a.json", b"  ", (b"", b"[]")),
        ("a.json", b"[", (b"", b"")),
        ("a.jsonl", b"{}\n", (b'{"prompt":"a","completion":"b"}\n', b"")),
        ("a.jsonl", b'"k":1,', (b"{", b'"k":1}')),
        ("a.txt", b"a\n", (b"", b"")),
        ("a.txt", b"a\n\x0c\n", (b"", b"")),
        ("a.csv", b'"",', (b'prompt,completion\n"', b"")),
    ],
)
def test_files_are_looked_through_in_time_that_grows_as_they_do(
    tmp_path: Path, name: str, part: bytes, around: tuple[bytes, bytes]
) -> None:
    """A header with many columns, keys that repeat, arrays of a thousand elements a line: each was, or could be, quadratic."""
    holding = Holding(tmp_path)

    def look(size: int) -> None:
        content = base64.b64encode(around[0] + part * (size // len(part)) + around[1]).decode()
        try:
            holding.look(name, content)
        except Exception as error:
            assert type(error).__name__ in ("DataError", "Fault"), error

    assert grows_as_it_does(look, 20_000)


def test_connections_that_say_nothing_or_never_end_a_sentence_are_closed(
    open_one: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "HEAD_SECONDS", 0.3)
    monkeypatch.setattr(guard, "BODY_SECONDS", 0.3)
    port = int(open_one.address.rsplit(":", 1)[1])
    with ExitStack() as stack:
        silent = [stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=20)) for _ in range(40)]
        for made in silent[:20]:
            made.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nX-Slow: ")
        again = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=20))
        again.sendall(
            f"GET /sign-in HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\nGET /sig".encode()
        )  # a second request that stops
        slow = [stack.enter_context(raw(open_one, length=100, path="/api/judge")) for _ in range(20)]
        with httpx.Client(base_url=open_one.address, trust_env=False) as client:
            assert client.get("/sign-in").status_code == 200  # meanwhile others are served
            for made in silent:
                assert made.recv(1) == b""
            assert b"408" in b"".join(iter(lambda: slow[0].recv(65536), b""))
            assert b"200 OK" in b"".join(iter(lambda: again.recv(65536), b""))
            assert client.get("/sign-in").status_code == 200


def test_there_is_an_end_to_how_many_connections_there_are(open_one: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "MOST", 10)
    port = int(open_one.address.rsplit(":", 1)[1])
    with ExitStack() as stack:
        made = [stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=20)) for _ in range(30)]
        assert sum(one.recv(1) == b"" for one in made[15:]) == 15
    until(lambda: httpx.get(open_one.address + "/sign-in", trust_env=False).status_code == 200)


# -- signing in --------------------------------------------------------------------------------------------------------------


def test_a_whole_office_signs_in_from_one_address_and_guesses_are_still_few(house: House) -> None:
    kept = hashed("正しい馬の電池ホチキス")
    for number in range(12):
        house.store.add_person(f"社員{number}", role="annotator", lang="ja", password_hash=kept)
    browser = Browser(house)
    for number in range(12):
        body = {"name": f"社員{number}", "password": "正しい馬の電池ホチキス"}
        assert browser.post("/api/sign-in", body).status_code == 200
    most = int(TRIES_OF_ADDRESS.split()[0])
    statuses = [
        browser.post("/api/join", {"token": f"guess-{n:06}", "name": "x", "password": "0123456789"}).status_code
        for n in range(most)
    ]
    assert set(statuses) == {403, 429} and statuses[-1] == 429


def test_behind_a_proxy_the_address_is_the_one_that_the_proxy_saw(house: House) -> None:
    house.doors.behind_proxy = True
    guess = {"token": "guess-000000", "name": "x", "password": "0123456789"}
    browser, most = Browser(house), int(TRIES_OF_ADDRESS.split()[0])
    for number in range(most):  # what a client itself says stands before what the proxy says
        forged = {"x-forwarded-for": f"10.0.0.{number}, 203.0.113.7"}
        assert browser.post("/api/join", guess, **forged).status_code == 403
    assert browser.post("/api/join", guess, **{"x-forwarded-for": "10.9.9.9, 203.0.113.7"}).status_code == 429
    assert browser.post("/api/join", guess, **{"x-forwarded-for": "203.0.113.8"}).status_code == 403


# -- what is written down ----------------------------------------------------------------------------------------------------


def test_no_text_and_no_secret_is_logged_whatever_goes_wrong(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through a real server, which logs what an application lets through."""
    caplog.set_level(logging.INFO)
    with served_in(tmp_path, serve=None) as served:
        house = served.house
        token = house.doors.link(owner(house).id)
        add_pairs(house, 1)
        with httpx.Client(base_url=served.address, trust_env=False, headers={"origin": served.address}) as client:
            client.get(f"/?token={token}")
            client.get(f"/{SECRET}?{SECRET}=1", headers={"cookie": SECRET, "user-agent": SECRET})
            leave = ("/api/sign-out", "/api/account/password")  # these end the session, or name its person
            for _, path, _ in (one for one in routes(house) if one[0] == "POST" and one[1] not in leave):
                for body in ({"text": SECRET}, {"name": SECRET, "password": SECRET}, {SECRET: SECRET}, SECRET):
                    assert client.post(path, json=body).status_code < 500
            client.post("/api/guideline/add", json={"text": SECRET})
            client.get(f"/?token={house.doors.link(owner(house).id)}")

            def breaks(*_: Any, **__: Any) -> None:
                raise KeyError(SECRET)

            for place, name in ((Store, "add_rule"), (Store, "rules"), (Store, "session")):
                with monkeypatch.context() as patched:
                    patched.setattr(place, name, breaks)
                    answers = [client.post("/api/guideline/add", json={"text": SECRET}), client.get("/guideline")]
                broken = [answer for answer in answers if answer.status_code == 500]
                assert broken and not [answer for answer in broken if SECRET in answer.text]
        with house.store._readers.connect() as connection, pytest.raises(Exception, match="hidden") as caught:
            from sqlalchemy import text

            connection.execute(text("SELECT :said FROM nowhere"), {"said": SECRET})
        assert SECRET not in str(caught.value)
    written = "\n".join(
        record.getMessage() + (record.exc_text or "") + str(record.exc_info)
        for record in caplog.records
        if not record.name.startswith("httpx")
    )
    out, err = capfd.readouterr()
    for place in (written, out, err):
        assert SECRET not in place and token not in place
    assert "unexpected KeyError" in written and "Traceback" not in err


# -- starting ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [
        ["--host", EVERY_ADDRESS], ["--host", "::"], ["--host", "192.0.2.1"],
        ["--host", EVERY_ADDRESS, "--name", "studio.example.jp"],
        ["--host", EVERY_ADDRESS, "--behind-proxy", "--name", "studio.example.jp"],
        ["--behind-proxy", "--name", "studio.example.jp"], ["--behind-proxy"],
    ],
)  # fmt: skip
def test_an_open_address_without_an_account_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    before = os.umask(0o022)
    try:
        assert main(["studio", str(tmp_path / "ws"), "--no-browser", "--port", str(free_port()), *words]) == 2
    finally:
        os.umask(before)
    said = capsys.readouterr().err
    assert "next:" in said and ("--name" in said or "--owner" in said or "--certificate" in said)


def test_it_listens_on_this_machine_only_and_keeps_everything_for_its_owner(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two installations; the link works once in each and opens nothing in the other."""
    monkeypatch.setenv("TOMONI_OWNER_PASSWORD", SECRET * 2)
    before = os.umask(0o022)
    studios = [Studio(tmp_path / name, "--model", str(model_in(tmp_path, f"model-{name}"))) for name in "ab"]
    try:
        links = []
        for studio in studios:
            studio.up()
            link = next(word for word in studio.log.read_text(encoding="utf-8").split() if "?token=" in word)
            links.append(link.partition("?")[2])
            listening = Path(f"/proc/{studio.process.pid}/net/tcp").read_text() if studio.process else ""
            rows = [line.split()[1] for line in listening.splitlines()[1:] if line.split()[3] == "0A"]
            assert f"0100007F:{studio.port:04X}" in rows and f"00000000:{studio.port:04X}" not in rows
        assert len(set(links)) == 2
        with httpx.Client(trust_env=False) as client:
            assert client.get(f"{studios[0].address}/?{links[1]}").status_code == 403
            assert client.get(f"{studios[0].address}/?{links[0]}").status_code == 200
            assert client.get(f"{studios[0].address}/api/state").status_code == 200
        assert httpx.get(f"{studios[0].address}/?{links[0]}", trust_env=False).status_code == 403
        assert [studio.end(signal.SIGINT) for studio in studios] == [0, 0]
    finally:
        os.umask(before)
        for studio in studios:
            studio.kill()
    open_to_others = [
        str(path) for studio in studios for path in studio.workspace.rglob("*") if path.stat().st_mode & 0o077
    ]
    assert not open_to_others
    secrets = []
    for studio in studios:
        assert (
            links[studios.index(studio)].removeprefix("token=").encode()
            not in (studio.workspace / "tomoni.db").read_bytes()
        )
        with Store.open(studio.workspace) as store:
            secrets.append(store.get("studio.secret", None))
    assert len(set(secrets)) == 2 and all(len(secret) == 64 for secret in secrets)


def test_a_database_is_its_owners_however_it_was_made(tmp_path: Path) -> None:
    before = os.umask(0o000)
    try:
        with Store.open(tmp_path / "ws") as store:
            store.add_person("花子", role="owner", lang="ja")
            modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "ws").glob("tomoni.db*")}
    finally:
        os.umask(before)
    assert modes["tomoni.db"] == modes["tomoni.db-wal"] == 0o600


def test_every_route_of_the_owners_is_closed_to_a_stranger_with_a_made_up_cookie(house: House) -> None:
    browser = Browser(house)
    for token in ("", "0" * 43, "../../", SECRET, "x" * 100):
        browser.client.cookies.set(house.doors.cookie, token)
        for method, path, rule in routes(house):
            if rule is not Rule.ANYONE:
                send = browser.get if method == "GET" else browser.post
                assert send(example(path)).status_code in (401, 303), (path, token)
