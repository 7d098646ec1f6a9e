"""Who may ask, how much, and what is never written down."""

from __future__ import annotations

import hashlib
import logging
import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from tests import tiny
from tests.serve.running import CHAT, Running, serving
from tests.serve.test_versions import until
from tomoni import connections
from tomoni.cli.app import main
from tomoni.errors import ConfigError
from tomoni.serve.guard import Hosts
from tomoni.serve.ids import Ids
from tomoni.serve.keys import Keys, add_key, line_of
from tomoni.serve.service import Limits

EVERY_ADDRESS = ".".join("0000")
BODY = {"model": "tiny", "messages": CHAT, "max_tokens": 4}


@pytest.fixture(scope="module")
def keyed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Running, str, Path]]:
    folder = tmp_path_factory.mktemp("keyed")
    path = folder / "keys"
    key = add_key(path, "studio")
    (folder / "w").mkdir()
    limits = Limits(body_bytes=20_000)
    with serving(tiny.folder(folder / "m"), workspace=folder / "w", keys=Keys(path), limits=limits) as server:
        yield server, key, path


# -- Host and Origin ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host",
    [
        "evil.example", "evil.example:80", "localhost.evil.example", "127.0.0.1.evil.example", "localhost@evil.example",
        "127.0.0.1:80/a?x=", "", "192.168.1.7", "[::1", EVERY_ADDRESS, "localhost:x", "a/?x=",
    ],
)  # fmt: skip
def test_a_host_header_of_another_name_is_refused_on_every_route(server: Running, host: str) -> None:
    """DNS re-binding: the name is a stranger's, the address ours."""
    with server.http() as http:
        for method, path in every_route(server):
            response = http.request(method, path, headers={"Host": host}, json=BODY if method == "POST" else None)
            # what is no host at all the HTTP library refuses itself
            assert response.status_code in (400, 403), (method, path)


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "https://127.0.0.1"},  # another port is another origin
        {"Origin": "http://localhost.evil.example"},
        {"Origin": ""},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "something"},
        {"Origin": "http://evil.example", "Sec-Fetch-Site": "same-origin"},
    ],
)
def test_another_sites_page_may_not_ask(server: Running, headers: dict[str, str]) -> None:
    with server.http() as http:
        for method, path in [*every_route(server), ("OPTIONS", "/v1/chat/completions")]:
            response = http.request(method, path, headers=headers, json=BODY if method == "POST" else None)
            assert response.status_code == 403, (method, path)
            assert "access-control-allow-origin" not in response.headers


def test_our_own_pages_and_programs_may_ask(server: Running) -> None:
    host = server.url.removeprefix("http://")
    with server.http() as http:
        for headers in (
            {},
            {"Origin": server.url},
            {"Sec-Fetch-Site": "none"},
            {"Host": host.replace("127.0.0.1", "localhost")},
        ):
            assert http.get("/v1/models", headers=headers).status_code == 200
            assert http.get("/health", headers=headers).json() == {"status": "ok"}


def every_route(server: Running) -> list[tuple[str, str]]:
    found = [
        (method.upper(), re.sub(r"\{.*?\}", "x", path))
        for path, methods in server.app.app.openapi()["paths"].items()
        for method in methods
    ] + [("GET", "/openapi.json")]
    assert len(found) >= 9 and ("POST", "/v1/chat/completions") in found
    return found


def test_two_host_headers_are_refused(server: Running) -> None:
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as raw:
        raw.sendall(b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\nConnection: close\r\n\r\n")
        assert raw.makefile("rb").readline().split()[1] in (b"400", b"403")


@pytest.mark.parametrize(
    ("bound", "host", "ours"),
    [
        ("127.0.0.1", "localhost:8000", True),
        ("127.0.0.1", "127.0.0.9", True),
        ("127.0.0.1", "[::1]:80", True),
        ("127.0.0.1", "10.0.0.7", False),
        ("127.0.0.1", "box.lan", False),
        (EVERY_ADDRESS, "10.0.0.7:8000", True),
        (EVERY_ADDRESS, "BOX.lan", True),
        (EVERY_ADDRESS, "evil.example", False),
        ("::", "[fe80::1]:8000", True),
    ],
)
def test_an_address_cannot_be_rebound_so_only_names_are_listed(bound: str, host: str, ours: bool) -> None:
    assert (host in Hosts(bound, ["box.lan"] if bound == EVERY_ADDRESS else [])) is ours


# -- keys --------------------------------------------------------------------------------------------------------------


def test_no_route_but_health_answers_without_a_known_key(keyed: tuple[Running, str, Path]) -> None:
    server, key, _ = keyed
    wrong = [
        "",
        "Bearer",
        f"Bearer {key}x",
        f"Bearer {key[:-1]}",
        f"Basic {key}",
        key,
        f"Bearer {key.upper()}",
    ]
    with server.http() as http:
        for method, path in every_route(server):
            for given in wrong:
                headers = {"Authorization": given} if given else {}
                response = http.request(method, path, headers=headers, json=BODY if method == "POST" else None)
                assert response.status_code == (200 if path == "/health" else 401), (method, path, given)
        right = {"Authorization": f"Bearer {key}"}
        assert http.get("/v1/models", headers=right).status_code == 200
        assert http.get("/openapi.json", headers=right).status_code == 200


def test_the_client_has_its_own_error_for_a_wrong_key(keyed: tuple[Running, str, Path]) -> None:
    server, key, _ = keyed
    with server.client(key) as client:
        assert client.chat.completions.create(**BODY).choices
    with server.client("sk-wrong") as client, pytest.raises(openai.AuthenticationError) as caught:
        client.chat.completions.create(**BODY)
    assert caught.value.code == "invalid_api_key" and "sk-wrong" not in caught.value.message


def test_the_key_file_holds_hashes_and_a_key_taken_out_is_refused_at_once(keyed: tuple[Running, str, Path]) -> None:
    server, key, path = keyed
    text = path.read_text(encoding="utf-8")
    assert key not in text and hashlib.sha256(key.encode()).hexdigest() in text
    assert path.stat().st_mode & 0o777 == 0o600
    another = add_key(path, "app")
    with server.http(headers={"Authorization": f"Bearer {another}"}) as http:
        assert http.get("/v1/models").status_code == 200
        path.write_text(text, encoding="utf-8")
        assert http.get("/v1/models").status_code == 401
        path.rename(path.with_suffix(".away"))
        assert http.get("/v1/models", headers={"Authorization": f"Bearer {key}"}).status_code == 401
        path.with_suffix(".away").rename(path)
        assert http.get("/v1/models", headers={"Authorization": f"Bearer {key}"}).status_code == 200


@pytest.mark.parametrize("text", ["", "# only a comment\n", "tomoni-a-key-in-the-clear\n", "sha256:abc x\n", "\xff"])
def test_a_key_file_without_hashes_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "keys"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigError) as caught:
        Keys(path)
    assert "in-the-clear" not in str(caught.value) and "--new-key" in caught.value.next_step


def test_names_go_with_keys(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text("# two\n" + line_of("鍵", "花子") + "\n" + line_of("b", "app"), encoding="utf-8")
    keys = Keys(path)
    assert (keys.name_of("鍵"), keys.name_of("b"), keys.name_of("c"), keys.name_of("")) == ("花子", "app", None, None)


def test_another_address_than_loopback_needs_keys(capsys: pytest.CaptureFixture[str]) -> None:
    for host in (EVERY_ADDRESS, "::", "192.168.1.7", "example.com", "localhost.example.com"):
        assert main(["serve", "bundled:small", "--host", host]) == 2
        said = capsys.readouterr().err
        assert host in said and "--new-key" in said


def test_a_key_is_made_and_shown_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "keys"
    assert main(["serve", "--new-key", "app", "--key-file", str(path)]) == 0
    key = capsys.readouterr().out.split()[0]
    assert Keys(path).name_of(key) == "app" and len(key) > 40
    assert main(["serve", "--new-key", "a b\n", "--key-file", str(path)]) == 2
    assert main(["serve", "--new-key", "app"]) == 2


# -- size --------------------------------------------------------------------------------------------------------------


def test_a_body_over_the_limit_is_refused_before_it_is_read(keyed: tuple[Running, str, Path]) -> None:
    server, key, _ = keyed
    large = {**BODY, "messages": [{"role": "user", "content": "x" * 30_000}]}
    with server.client(key) as client, pytest.raises(openai.APIStatusError) as caught:
        client.chat.completions.create(**large)
    assert caught.value.status_code == 413 and "20,000 bytes" in caught.value.message
    host, port = server.url.removeprefix("http://").split(":")
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {key}\r\nContent-Type: application/json\r\n"
    with socket.create_connection((host, int(port)), timeout=20) as raw:
        raw.sendall(f"{head}Content-Length: 10000000000\r\n\r\n".encode())
        assert b" 413 " in raw.makefile("rb").readline()
    with socket.create_connection((host, int(port)), timeout=20) as raw:
        raw.sendall(f"{head}Transfer-Encoding: chunked\r\n\r\n".encode())
        sent = 0
        try:
            while sent < 500_000_000:  # an endless body ends when the limit is reached
                sent += raw.send(b"10000\r\n" + b"x" * 0x10000 + b"\r\n")
        except OSError:
            pass
        assert sent < 50_000_000
    with server.client(key) as client:
        assert client.chat.completions.create(**BODY).choices


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b"null", b"[]", b'"x"', b"\xff\xfe", b"[" * 15_000, b'{"a":' * 3_000, b'{"seed": ' + b"9" * 10_000 + b"}",
        b'{"model": "tiny", "messages": [{"role": "user", "content": "\\ud800"}], "max_tokens": 1}',
        b'{"model": "\\udfff", "messages": [{"role": "user", "content": "x"}]}',
        b'{"model": "tiny", "\\ud800": 1, "messages": [{"role": "user", "content": "x"}]}',
        b'{"model": "tiny", "temperature": NaN, "messages": [{"role": "user", "content": "x"}]}',
        b'{"model": "tiny", "temperature": Infinity, "messages": [{"role": "user", "content": "x"}]}',
        b'{"model": "tiny", "seed": 1e400, "messages": [{"role": "user", "content": "x"}]}',
    ],
)  # fmt: skip
def test_a_malformed_body_is_a_bad_request(server: Running, body: bytes) -> None:
    with server.http() as http:
        response = http.post("/v1/chat/completions", content=body, headers={"Content-Type": "application/json"})
        assert response.status_code in (400, 404), response.text
        assert set(response.json()["error"]) == {"message", "type", "param", "code"}


def test_only_json_is_read(server: Running) -> None:
    """A form of another site can send text/plain; it is not taken for JSON."""
    with server.http() as http:
        for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):
            response = http.post("/v1/chat/completions", content=b'{"model": "tiny"}', headers={"Content-Type": kind})
            assert response.status_code == 400


def test_routes_and_methods_that_do_not_exist_are_told_in_the_same_shape(server: Running) -> None:
    with server.http() as http:
        for method, path, status in (
            ("GET", "/nowhere", 404),
            ("GET", "/v1/chat/completions", 405),
            ("GET", "/docs", 404),
        ):
            response = http.request(method, path)
            assert response.status_code == status and response.json()["error"]["type"] == "invalid_request_error"


def test_no_header_keeps_the_server_busy(server: Running) -> None:
    """A quoted cookie of 60 kB takes seconds in Python before 3.11.10; it is never parsed."""
    with server.http() as http:
        for name, value in (
            ("cookie", 'a="' + "\\a" * 30_000 + '"'),
            ("content-type", "a;" * 30_000),
            ("accept", "a," * 30_000),
        ):
            begun = time.process_time()
            assert http.get("/v1/models", headers={name: value}).status_code == 200
            assert time.process_time() - begun < 1, name


def test_a_connection_that_says_nothing_or_half_a_request_is_closed(
    server: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "HEAD_SECONDS", 0.3)
    host, port = server.url.removeprefix("http://").split(":")
    for begun in (b"", b"GET /v1/models HTTP/1.1\r\nHost: "):
        with socket.create_connection((host, int(port)), timeout=20) as raw:
            raw.sendall(begun)
            assert raw.recv(1) == b""
    with server.http() as http:
        assert http.get("/health").status_code == 200


# -- what is written down ----------------------------------------------------------------------------------------------


def test_no_prompt_and_no_key_is_ever_logged(
    keyed: tuple[Running, str, Path], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, key, _ = keyed
    canary = "カナリアCANARY"
    caplog.set_level(logging.DEBUG)
    told: list[str] = []
    with server.http(headers={"Authorization": f"Bearer {key}"}) as http:
        bodies: list[Any] = [
            {**BODY, "messages": [{"role": "user", "content": canary}], "user": canary},
            {**BODY, canary: 1},
            {**BODY, "model": canary},
            {**BODY, "messages": [{"role": canary, "content": canary}]},
            {**BODY, "messages": [{"role": "user", "content": canary * 300}]},
            {"model": "tiny", "prompt": canary, "max_tokens": 2},
            {"model": "tiny", "input": canary},
            {"id": canary, "comment": canary},
            {"messages": [{"role": "user", "content": canary}], "version": canary},
            {"messages": [{"role": "user", "content": canary}], "max_tokens": 1},
        ]
        for path in ("/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/feedback", "/tomoni/answers"):
            for body in bodies:
                told.append(http.post(path, json=body, params={"q": "CANARY"}).text)
            http.post(path, content=canary.encode(), headers={"Content-Type": "application/json"})
            http.post(path, json={}, headers={"Authorization": f"Bearer {key}CANARY"})
        http.get("/v1/models/CANARY")
        http.get("/CANARY?CANARY=1")
        # a mistake of ours, with the prompt in its text
        monkeypatch.setattr(
            server.loaded.subject.renderer,
            "prompt",
            lambda messages: (_ for _ in ()).throw(KeyError(messages[0].content)),
        )
        response = http.post("/v1/chat/completions", json=bodies[0])
        assert response.status_code == 500 and "CANARY" not in response.text
        until(lambda: any("/v1/chat/completions 500" in record.getMessage() for record in list(caplog.records)))
    written = "\n".join(
        [
            record.getMessage() + (record.exc_text or "") + str(record.exc_info)
            for record in caplog.records
            if not record.name.startswith("http")
        ]
    )
    assert "CANARY" not in written and key not in written
    assert "unexpected KeyError at" in written


def test_an_id_that_was_not_given_here_is_not_known(tmp_path: Path) -> None:
    ids = Ids.of(tmp_path)
    id = ids.new("chatcmpl", 3)
    assert ids.choices(id) == 3 and Ids.of(tmp_path).choices(id) == 3
    assert (tmp_path / "serve.secret").stat().st_mode & 0o777 == 0o600
    for wrong in (
        id[:-1] + ("0" if id[-1] != "0" else "1"),
        id + "0",
        id[:-1],
        "",
        "chatcmpl-" + "0" * 38,
        id.replace("03", "04", 1),
    ):
        if wrong != id:
            assert ids.choices(wrong) is None
    (tmp_path / "other").mkdir()
    assert Ids.of(tmp_path / "other").choices(id) is None
    assert ids.event("a") == Ids.of(tmp_path).event("a") != ids.event("b")
