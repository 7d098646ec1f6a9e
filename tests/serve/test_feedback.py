"""What is kept of answers, and what people say of them, on its way to the store."""

from __future__ import annotations

import base64
import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests import tiny
from tests.serve.running import CHAT, Running, serving, workspace
from tests.serve.test_versions import until
from tomoni.feedback import inbox
from tomoni.feedback.inbox import AnswerEvent, FeedbackEvent, event_of
from tomoni.feedback.store import Store
from tomoni.records import Kind, Message

ASK = {"model": "tiny", "messages": CHAT, "max_tokens": 12, "temperature": 1.0, "seed": 4, "n": 2, "user": "花子"}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Running]:
    workspace(tmp_path / "w")
    with serving(workspace=tmp_path / "w") as running:
        yield running


def kept(folder: Path) -> list[Any]:
    lines = [line for path in sorted((folder / "inbox").glob("*.jsonl")) for line in path.read_bytes().splitlines()]
    return [event_of(line) for line in lines]


def test_every_answer_is_kept_with_its_version_and_its_features(tmp_path: Path) -> None:
    workspace(tmp_path / "w")
    with serving(workspace=tmp_path / "w") as server, server.client() as client:
        answer = client.chat.completions.create(**ASK)
        list(client.chat.completions.create(**{**ASK, "n": 1, "seed": 5}, stream=True))
        client.completions.create(model="tiny", prompt="むかし", max_tokens=3)
        subject, loaded = server.subject, server.loaded
    events = kept(tmp_path / "w")
    assert [type(event) for event in events] == [AnswerEvent] * 4
    prompt = subject.renderer.prompt([Message("user", CHAT[0]["content"])]).tolist()
    for choice, event in zip(answer.choices, events, strict=False):
        assert event.id == f"{answer.id}-{choice.index}" and event.text == choice.message.content
        assert (event.version, event.version_hash, event.by) == ("v1", loaded.hash, "花子")
        assert event.messages == (Message("user", CHAT[0]["content"]),) and event.how["seed"] == 4
        assert event.how["finish"] == "length" and event.how["choice"] == choice.index and event.tokens == 12
        how = dict(temperature=1.0, max_new_tokens=12, seed=4, logprobs=True)
        alone = subject.sampler().sample([prompt], tiny_sampling(**how), ids=[str(choice.index)])[0]
        assert event.logprob == pytest.approx(float(alone.logprobs.sum()), abs=1e-3)
        with torch.no_grad():  # two layers: the middle is after the first
            states = subject.model(
                torch.tensor([prompt + alone.tokens.tolist()]), output_hidden_states=True
            ).hidden_states
        assert event.features == pytest.approx(states[1][0, len(prompt) :].mean(0).numpy(), abs=1e-4)
    assert events[3].how["form"] == "text" and events[3].messages == (Message("user", "むかし"),)


def tiny_sampling(**how: Any) -> Any:
    from tomoni.engine.sampler import Sampling

    return Sampling(**how)


def test_feedback_is_on_the_disk_when_it_is_acknowledged_and_the_store_takes_it_in(
    server: Running, tmp_path: Path
) -> None:
    with server.client() as client, server.http() as http:
        answer = client.chat.completions.create(**ASK)
        said = [
            {"id": answer.id, "thumb": "up", "user": "花子"},
            {"id": answer.id, "choice": 1, "rating": 2, "tags": ["長い"], "user": "花子"},
            {"id": answer.id, "choice": 1, "correction": "東京です。", "comment": "短く", "user": "Bob"},
            {"id": answer.id, "flags": ["untrue"]},
        ]
        for body in said:
            reply = http.post("/v1/feedback", json=body)
            assert reply.status_code == 200, reply.text
            assert reply.json()["saved"] is True and reply.json()["completion"] == answer.id
            events = [event for event in kept(tmp_path / "w") if isinstance(event, FeedbackEvent)]
            assert events[-1].event == reply.json()["id"]
    with Store.open(tmp_path / "w") as store:
        assert store.take_in() >= 6
        judgements = [stored.judgement for stored in store.judgements()]
        assert [(judgement.kind, judgement.person) for judgement in judgements] == [
            (Kind.THUMB, "api:花子"), (Kind.RATING, "api:花子"), (Kind.CORRECTION, "api:Bob"), (Kind.COMMENT, "api:Bob"),
            (Kind.FLAG, "api:unnamed"),
        ]  # fmt: skip
        assert judgements[2].value["text"] == "東京です。" and judgements[2].model_versions == ("v1",)
        features = store.answer(f"{answer.id}-1").features
        assert features is not None and features.shape == (32,)


def test_an_answer_whose_client_left_is_kept_as_far_as_it_came(server: Running, tmp_path: Path) -> None:
    how = {**ASK, "n": 1, "max_tokens": 450, "stream": True}
    with server.client() as client:
        stream = client.chat.completions.create(**how)
        told = next(iter(stream)).choices[0].delta.content
        stream.close()
        until(lambda: bool(kept(tmp_path / "w")))
    (event,) = kept(tmp_path / "w")
    assert event.how["finish"] == "cancelled" and 0 < event.tokens < 450 and event.text.startswith(told)
    assert event.features is not None


def test_the_same_key_is_the_same_feedback(server: Running, tmp_path: Path) -> None:
    with server.client() as client, server.http(headers={"Idempotency-Key": "鍵".encode().hex()}) as http:
        body = {"id": client.chat.completions.create(**ASK).id, "thumb": "down"}
        first, second = http.post("/v1/feedback", json=body).json(), http.post("/v1/feedback", json=body).json()
        assert first["id"] == second["id"] and (first["duplicate"], second["duplicate"]) == (False, True)
        other = http.post("/v1/feedback", json={**body, "thumb": "up"})
        assert other.status_code == 409 and other.json()["error"]["code"] == "idempotency_conflict"
    assert len([event for event in kept(tmp_path / "w") if isinstance(event, FeedbackEvent)]) == 1


def test_after_a_restart_the_same_key_still_counts_once_and_old_answers_are_known(tmp_path: Path) -> None:
    workspace(tmp_path / "w")
    headers = {"Idempotency-Key": "again"}
    with serving(workspace=tmp_path / "w") as server, server.client() as client, server.http(headers=headers) as http:
        body = {"id": client.chat.completions.create(**ASK).id, "thumb": "down"}
        http.post("/v1/feedback", json=body)
    with serving(workspace=tmp_path / "w") as server, server.http(headers=headers) as http:
        assert http.post("/v1/feedback", json=body).status_code == 200
    with Store.open(tmp_path / "w") as store:
        store.take_in()
        assert len(store.judgements()) == 1


def test_feedback_that_cannot_be_is_refused(server: Running) -> None:
    with server.client() as client, server.http() as http:
        id = client.chat.completions.create(**ASK).id
        wrong = id[:-1] + ("0" if id[-1] != "0" else "1")
        for body, status in (
            ({"id": wrong, "thumb": "up"}, 404),
            ({"id": "chatcmpl-1", "thumb": "up"}, 404),
            ({"id": id, "choice": 2, "thumb": "up"}, 404),
            ({"id": id}, 400),
            ({"id": id, "tags": ["x"]}, 400),
            ({"id": id, "thumb": "sideways"}, 400),
            ({"id": id, "rating": 6}, 400),
            ({"id": id, "rating": True}, 400),
            ({"id": id, "flags": ["ugly"]}, 400),
            ({"id": id, "thumb": "up", "extra": 1}, 400),
        ):
            assert http.post("/v1/feedback", json=body).status_code == status, body


def test_without_a_workspace_nothing_is_kept_and_that_is_said(tmp_path: Path) -> None:
    with serving(tiny.folder(tmp_path / "m")) as server, server.client() as client, server.http() as http:
        id = client.chat.completions.create(**ASK).id
        reply = http.post("/v1/feedback", json={"id": id, "thumb": "up"})
        assert reply.status_code == 404 and "--workspace" in reply.json()["error"]["message"]
        assert http.get("/tomoni/state").json()["records"] is False


def test_a_full_disk_is_said_and_answers_go_on(
    server: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full:
        def __getattr__(self, name: str) -> Any:
            return getattr(os, name)

        def write(self, handle: int, data: Any) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    with server.client() as client, server.http() as http:
        id = client.chat.completions.create(**ASK).id
        assert http.post("/v1/feedback", json={"id": id, "thumb": "up"}).status_code == 200
        before = len(kept(tmp_path / "w"))
        with monkeypatch.context() as patch:
            patch.setattr(inbox, "os", Full())
            reply = http.post("/v1/feedback", json={"id": id, "thumb": "down"})
            assert reply.status_code == 507 and reply.json()["error"]["code"] == "insufficient_storage"
            assert client.chat.completions.create(**ASK).choices
            http.post("/v1/feedback", json={"id": id, "thumb": "down"})  # waits for what came before
            assert http.get("/tomoni/state").json()["lost"] == 2
        assert http.post("/v1/feedback", json={"id": id, "thumb": "down"}).status_code == 200
    assert len(kept(tmp_path / "w")) == before + 1


# -- what the studio asks ------------------------------------------------------------------------------------------------


def test_several_answers_come_with_what_is_known_of_them(server: Running, tmp_path: Path) -> None:
    body = {"messages": CHAT, "n": 3, "temperature": 1.0, "max_tokens": 9, "seed": 1, "features": True}
    with server.http() as http:
        reply = http.post("/tomoni/answers", json=body).json()
        again = http.post("/tomoni/answers", json={**body, "features": False, "record": False}).json()
    assert reply["version"] == "v1" and reply["version_hash"] == server.loaded.hash and reply["seconds"] > 0
    assert [answer["text"] for answer in reply["answers"]] == [answer["text"] for answer in again["answers"]]
    assert all(answer["features"] is None for answer in again["answers"])
    for number, answer in enumerate(reply["answers"]):
        features = np.frombuffer(base64.b64decode(answer["features"]), dtype="<f4")
        assert features.shape == (32,) and np.isfinite(features).all() and answer["tokens"] == 9
        assert answer["id"].endswith(f"-{number}") and answer["finish"] == "length" and answer["logprob"] < 0
    with server.http() as http:  # nothing more is written than what was to be recorded
        http.post("/v1/feedback", json={"id": reply["answers"][0]["id"].rpartition("-")[0], "thumb": "up"})
    events = kept(tmp_path / "w")
    assert [event.id for event in events[:3]] == [answer["id"] for answer in reply["answers"]]
    assert len(events) == 4 and events[0].how["asked_by"] == "studio"


def test_another_version_can_be_asked_and_stays_loaded(server: Running) -> None:
    body = {"messages": CHAT, "max_tokens": 9, "temperature": 0}
    with server.http() as http:
        first = http.post("/tomoni/answers", json=body).json()
        second = http.post("/tomoni/answers", json={**body, "version": "v2"}).json()
        assert (first["version"], second["version"]) == ("v1", "v2")
        assert first["answers"][0]["text"] != second["answers"][0]["text"]
        assert http.get("/tomoni/state").json()["loaded"] == ["v1", "v2"]
        assert (
            http.post("/v1/chat/completions", json={"model": "v2", "messages": CHAT, "max_tokens": 1}).json()["model"]
            == "v2"
        )
        missing = http.post("/tomoni/answers", json={**body, "version": "v9"})
        assert missing.status_code == 404 and missing.json()["error"]["code"] == "version_not_found"
