"""Full queues, clients that leave, answers that take too long, models that break."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
import pytest
import torch

from tests import tiny
from tests.serve.running import CHAT, Running, serving
from tests.serve.test_versions import until
from tomoni.serve import worker as workers
from tomoni.serve.refusals import Refusal
from tomoni.serve.service import Limits, Load
from tomoni.serve.versions import Loaded

LONG: Any = {"model": "tiny", "messages": CHAT, "max_tokens": 480, "temperature": 1.0, "seed": 1}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Two answers at once, two behind them."""
    folder = tiny.folder(tmp_path_factory.mktemp("small") / "m")
    with serving(folder, max_batch=2, limits=Limits(running=2, waiting=2)) as running:
        yield running


def slowly(monkeypatch: pytest.MonkeyPatch, server: Running, seconds: float = 0.02) -> None:
    """Every step takes this long, so that answers are still running when the test looks."""
    sampler = server.loaded.sampler
    step = sampler.step
    monkeypatch.setattr(sampler, "step", lambda: (time.sleep(seconds), step())[1])


def places(server: Running) -> tuple[int, int]:
    """Answers of which the sampler knows, and those that count as unfinished."""
    return sum(1 for _ in server.loaded.sampler._answers()), server.service.load.unfinished


def test_a_full_queue_is_a_rate_limit_error_that_says_when_to_come_again(
    small: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    slowly(monkeypatch, small)
    with small.client() as client, ThreadPoolExecutor(4) as pool:
        streams = [client.chat.completions.create(**LONG, stream=True) for _ in range(4)]
        first = [pool.submit(lambda stream=stream: next(iter(stream))) for stream in streams[:2]]
        assert all(future.result().choices for future in first)
        with small.http() as http:
            state = http.get("/tomoni/state").json()
            assert (state["running"], state["waiting"]) == (2, 2)
        with pytest.raises(openai.RateLimitError) as caught:
            client.chat.completions.create(**LONG)
        assert int(caught.value.response.headers["retry-after"]) >= 1 and caught.value.code == "rate_limit_exceeded"
        for stream in streams:
            stream.close()
    until(lambda: places(small) == (0, 0))
    with small.client() as client:
        with pytest.raises(openai.RateLimitError):
            client.chat.completions.create(**{**LONG, "n": 5})
        assert client.chat.completions.create(**{**LONG, "max_tokens": 3, "n": 4}).choices
        # the client waits and comes again by itself
        patient = small.client(max_retries=3)
        with patient, ThreadPoolExecutor(6) as pool:
            asked = [
                pool.submit(lambda: patient.chat.completions.create(**{**LONG, "max_tokens": 20})) for _ in range(6)
            ]
            assert all(future.result().choices for future in asked)


@pytest.mark.parametrize("streams", [True, False])
def test_a_client_that_leaves_frees_its_place(small: Running, monkeypatch: pytest.MonkeyPatch, streams: bool) -> None:
    slowly(monkeypatch, small)
    with small.http() as http:
        try:
            with http.stream(
                "POST", "/v1/chat/completions", json={**LONG, "n": 2, "stream": streams}, timeout=0.5
            ) as reply:
                next(reply.iter_lines())
        except Exception as error:  # nothing came before the timeout: the whole answer takes 10 s
            assert not streams, error
        until(lambda: places(small) == (0, 0), 3)


def test_an_answer_that_does_not_begin_in_time_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limits = Limits(running=1, waiting=4, queue_seconds=0.3)
    with serving(tiny.folder(tmp_path / "m"), max_batch=1, limits=limits) as server, server.client() as client:
        slowly(monkeypatch, server)
        running = client.chat.completions.create(**LONG, stream=True)
        next(iter(running))
        with pytest.raises(openai.RateLimitError, match=r"No place was free for 0\.3 s"):
            client.chat.completions.create(**LONG)
        waiting = client.chat.completions.create(**LONG, stream=True)
        with pytest.raises(openai.APIError, match="No place was free"):
            list(waiting)
        running.close()
        until(lambda: places(server) == (0, 0))
        assert client.chat.completions.create(**{**LONG, "max_tokens": 2}).choices


def test_an_answer_that_takes_too_long_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limits = Limits(request_seconds=0.4)
    with serving(tiny.folder(tmp_path / "m"), limits=limits) as server, server.client() as client:
        slowly(monkeypatch, server)
        with pytest.raises(openai.APIStatusError) as caught:
            client.chat.completions.create(**LONG)
        assert caught.value.status_code == 408 and "0.4 s" in caught.value.message
        told: list[str] = []
        with pytest.raises(openai.APIError, match=r"0\.4 s"):
            for chunk in client.chat.completions.create(**LONG, stream=True):
                told.append(chunk.choices[0].delta.content or "")
        assert "".join(told)
        until(lambda: places(server) == (0, 0))


def test_a_model_that_breaks_fails_its_answers_and_no_others(tmp_path: Path) -> None:
    with serving(tiny.folder(tmp_path / "m")) as server, server.client() as client, server.http() as http:
        good = server.loaded.sampler
        broken = tiny.model(seed=3)
        with torch.no_grad():
            broken.model.embed_tokens.weight.fill_(float("nan"))
        server.loaded.sampler = type(good)(broken, server.subject.tokenizer, eos_ids=[258])
        with pytest.raises(openai.APIStatusError, match="not a number"):
            client.chat.completions.create(**LONG)
        with pytest.raises(openai.APIError, match="not a number"):
            server.loaded.sampler = type(good)(broken, server.subject.tokenizer, eos_ids=[258])
            list(client.chat.completions.create(**LONG, stream=True))
        assert client.chat.completions.create(**{**LONG, "max_tokens": 2}).choices
        assert http.get("/tomoni/state").json()["ready"] is True and places(server) == (0, 0)


def test_places_are_counted_and_the_wait_is_a_guess_from_what_was_seen() -> None:
    load = Load(Limits(running=2, waiting=3))
    load.take(4)
    assert (load.running, load.waiting) == (2, 2)
    with pytest.raises(Refusal) as caught:
        load.take(2)
    assert caught.value.status == 429 and load.unfinished == 4
    load.take(1)
    for _ in range(100):
        load.give_back(0, seconds=8.0)
    assert load.wait() == 12  # three wait, two at a time, 8 s each
    load.give_back(5, seconds=8.0)
    assert (load.running, load.waiting) == (0, 0)


def test_features_that_fail_lose_no_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        def answers(self, prompts: Any, answers: Any) -> Any:
            raise RuntimeError("no such layer")

    monkeypatch.setattr(Loaded, "pooled", Broken())
    (tmp_path / "w").mkdir()
    with serving(tiny.folder(tmp_path / "m"), workspace=tmp_path / "w") as server, server.http() as http:
        body = {"messages": CHAT, "max_tokens": 3, "features": True}
        reply = http.post("/tomoni/answers", json=body).json()
        assert reply["answers"][0]["features"] is None and reply["answers"][0]["tokens"] == 3
    assert workers.BACKLOG > 1
