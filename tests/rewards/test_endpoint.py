"""A reward that another program gives: what is sent, what is taken, and every way in which it can fail."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from tests.rewards.completions import answered
from tomoni.errors import ConfigError, RunError
from tomoni.rewards.endpoint import TRIES, Endpoint
from tomoni.rewards.opening import Weighed

ANSWERS = [answered("九時です。", name="問-1/4/0", lang="ja"), answered("nine", name="q-2/4/0")]
Reply = Callable[[dict[str, Any], dict[str, str]], tuple[int, str]]


@contextmanager
def serving(*replies: Reply) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """An address that gives these replies in order, the last one again and again; and the requests that came."""
    requests: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            reply = replies[min(len(requests), len(replies) - 1)]
            requests.append({"body": body, "headers": dict(self.headers)})
            status, text = reply(body, dict(self.headers))
            self.send_response(status)
            if status in (301, 302, 307):
                self.send_header("Location", text)
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/score", requests
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def saying(status: int, text: str) -> Reply:
    return lambda body, headers: (status, text)


def asked(url: str, **options: Any) -> Endpoint:
    return Endpoint(url, wait=lambda seconds: None, **options)


def test_prompts_completions_and_columns_are_sent_and_scores_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REWARD_KEY", "秘密".encode().hex())
    with serving(lambda body, _: (200, json.dumps({"scores": [len(text) for text in body["completions"]]}))) as (
        url,
        seen,
    ):
        scores = Weighed([asked(url, key_from="REWARD_KEY")])(ANSWERS)
    assert scores.total_N.tolist() == [5.0, 4.0] and scores.names == ("127.0.0.1",)
    body = seen[0]["body"]
    assert body["completions"] == ["九時です。", "nine"] and body["columns"] == [{"lang": "ja"}, {}]
    assert body["prompts"][0] == [{"role": "user", "content": "何時に開きますか。"}]
    assert seen[0]["headers"]["Authorization"] == f"Bearer {'秘密'.encode().hex()}"


def test_a_program_that_is_busy_is_asked_again_and_then_its_scores_count() -> None:
    with serving(saying(503, "busy"), saying(500, "busy"), saying(200, '{"scores": [1, 2]}')) as (url, seen):
        assert asked(url)(ANSWERS) == [1, 2]
    assert len(seen) == 3


def test_one_that_stays_busy_stops_the_run_and_names_the_completions() -> None:
    with (
        serving(saying(503, "忙しい")) as (url, seen),
        pytest.raises(RunError, match=r"503: 忙しい.*for 2 completions from 問-1/4/0"),
    ):
        asked(url)(ANSWERS)
    assert len(seen) == TRIES


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (saying(400, "no such field"), "it answers 400: no such field"),
        (saying(200, "<html>"), "no JSON"),
        (saying(200, "[" * 100_000), "nested too deep"),
        (saying(200, "[1, 2]"), "no list `scores`"),
        (saying(200, '{"scores": 3}'), "no list `scores`"),
        (saying(302, "http://127.0.0.1:9/elsewhere"), "it answers 302"),
    ],
)
def test_an_answer_that_is_none_is_not_asked_for_again(reply: Reply, said: str) -> None:
    with serving(reply) as (url, seen), pytest.raises(RunError, match=said):
        asked(url)(ANSWERS)
    assert len(seen) == 1


@pytest.mark.parametrize("scores", ["[1]", "[1, null]", "[1, NaN]", '[1, "2"]'])
def test_scores_that_are_missing_or_no_numbers_are_refused(scores: str) -> None:
    with serving(saying(200, f'{{"scores": {scores}}}')) as (url, _), pytest.raises(RunError):
        Weighed([asked(url)])(ANSWERS)


def test_a_program_that_is_not_there_is_said() -> None:
    with serving(saying(200, "")) as (url, _):
        pass
    with pytest.raises(RunError, match="cannot be reached"):
        asked(url)(ANSWERS)


@pytest.mark.parametrize(
    ("url", "key", "said"),
    [
        ("http:///path", None, "is no address"),
        ("https://user:word@example.org/score", None, "an address with a password"),
        ("https://example.org/score", "TOMONI_NO_SUCH_KEY", "TOMONI_NO_SUCH_KEY is not set"),
    ],
)
def test_an_address_or_key_that_cannot_be_is_refused_before_anything_is_sent(
    url: str, key: str | None, said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        Endpoint(url, key_from=key)
