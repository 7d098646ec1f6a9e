"""The served version is a pointer that moves: no request fails, each answer is wholly one version's."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from tests import tiny
from tests.serve.running import CHAT, Running, opener, serving, workspace
from tomoni.engine.sampler import Sampling
from tomoni.errors import RegistryError
from tomoni.records import Message
from tomoni.registry import Registry
from tomoni.serve import versions

LENGTH = 24


def until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Running, Registry]]:
    registry = workspace(tmp_path / "w")
    with serving(workspace=tmp_path / "w") as running:
        yield running, registry


def text_of(folder: Path, seed: int) -> str:
    """What this seed's model answers, alone."""
    subject = opener().model(str(folder / "w" / "models" / str(seed)), "x").subject
    prompt = subject.renderer.prompt([Message("user", CHAT[0]["content"])])
    return subject.sampler().sample([prompt], Sampling(max_new_tokens=LENGTH, temperature=0))[0].text


def test_twenty_clients_chat_while_the_pointer_moves_and_none_fails(
    served: tuple[Running, Registry], tmp_path: Path
) -> None:
    server, registry = served
    expected = {"v1": text_of(tmp_path, 0), "v2": text_of(tmp_path, 1)}
    fingerprints = {version.id: f"fp_{version.hash[:12]}" for version in registry.versions()}
    assert expected["v1"] != expected["v2"]
    failures: list[Exception] = []
    answered: list[str] = []
    ending = threading.Event()

    def chat(number: int) -> None:
        with server.client() as client:
            while not ending.is_set():
                try:
                    answered.append(once(client, streams=number % 2 == 0))
                except Exception as error:
                    failures.append(error)

    def once(client: openai.OpenAI, *, streams: bool) -> str:
        how: Any = {"model": "tiny", "messages": CHAT, "max_tokens": LENGTH, "temperature": 0}
        if streams:
            chunks = list(client.chat.completions.create(**how, stream=True))
            (model,), (mark,) = {chunk.model for chunk in chunks}, {chunk.system_fingerprint for chunk in chunks}
            text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
        else:
            answer = client.chat.completions.create(**how)
            model, mark, text = answer.model, answer.system_fingerprint, answer.choices[0].message.content or ""
        assert text == expected[model] and mark == fingerprints[model]
        return model

    def more(count: int) -> None:
        before = len(answered)
        until(lambda: len(answered) > before + count)

    clients = [threading.Thread(target=chat, args=(number,)) for number in range(20)]
    for client in clients:
        client.start()
    try:
        for turn in range(8):
            more(20)
            moved = registry.promote("v2") if turn % 2 == 0 else registry.rollback()
            until(lambda id=moved.id: server.loaded.id == id)  # type: ignore[misc]
        more(20)
    finally:
        ending.set()
        for client in clients:
            client.join()
    assert failures == []
    assert min(answered.count("v1"), answered.count("v2")) > 20


def test_an_answer_that_runs_ends_on_the_version_it_began_with(served: tuple[Running, Registry]) -> None:
    server, registry = served
    how: Any = {"model": "tiny", "messages": CHAT, "max_tokens": 400, "temperature": 1.0, "seed": 3}
    with server.client() as client:
        whole = client.chat.completions.create(**how).choices[0].message.content
        stream = client.chat.completions.create(**how, stream=True)
        parts = [next(stream)]
        registry.promote("v2")
        server.on_loop(server.service.versions.look())
        assert client.chat.completions.create(**{**how, "max_tokens": 1}).model == "v2"
        parts += list(stream)
    assert {part.model for part in parts} == {"v1"}
    assert "".join(part.choices[0].delta.content or "" for part in parts) == whole


def test_a_version_that_cannot_be_loaded_leaves_the_old_one_and_says_so(
    served: tuple[Running, Registry], tmp_path: Path
) -> None:
    server, registry = served
    weights = tmp_path / "w" / "models" / "1" / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-4] + b"\0\1\2\3")
    with pytest.raises(RegistryError):
        registry.promote("v2")
    # as if it were damaged between promotion and loading
    registry._point("promote", registry.get("v2"), registry.history(), "", "")
    until(lambda: server.service.versions.failed is not None)
    with server.client() as client, server.http() as http:
        assert client.chat.completions.create(model="tiny", messages=CHAT, max_tokens=2).model == "v1"
        state = http.get("/tomoni/state").json()
        assert state["version"] == "v1" and state["failed"]["version"] == "v2"
        assert (
            "model.safetensors has changed" in state["failed"]["reason"]
            and str(tmp_path) not in state["failed"]["reason"]
        )
        # mended, it is served at the next promotion
        weights.write_bytes(whole)
        registry.promote("v1")
        until(lambda: server.service.versions.failed is None)
        registry.promote("v2")
        until(lambda: server.loaded.id == "v2")
        assert http.get("/tomoni/state").json()["failed"] is None


@pytest.mark.parametrize("content", [b"", b"{}", b"\0" * 300, b'{"version": "v2"}'])
def test_a_damaged_pointer_changes_nothing_that_is_served(served: tuple[Running, Registry], content: bytes) -> None:
    server, registry = served
    (registry.workspace / "current.json").write_bytes(content)
    until(lambda: server.service.versions.failed is not None)
    with server.client() as client:
        assert client.chat.completions.create(model="tiny", messages=CHAT, max_tokens=2).model == "v1"
    registry.promote("v2")
    until(lambda: server.loaded.id == "v2")


def test_only_so_many_versions_stay_loaded(tmp_path: Path) -> None:
    workspace(tmp_path / "w", versions=4)
    with serving(workspace=tmp_path / "w", keep=2) as server, server.http() as http:
        for id in ("v2", "v3", "v2", "v4"):
            assert (
                http.post("/tomoni/answers", json={"messages": CHAT, "max_tokens": 1, "version": id}).status_code == 200
            )
        assert http.get("/tomoni/state").json()["loaded"] == ["v1", "v4", "v2"]


def test_the_same_version_asked_for_at_once_is_loaded_once(
    served: tuple[Running, Registry], monkeypatch: pytest.MonkeyPatch
) -> None:
    server, _ = served
    loads: list[str] = []
    real = versions.Opener.version
    monkeypatch.setattr(
        versions.Opener, "version", lambda self, registry, id: (loads.append(id), real(self, registry, id))[1]
    )

    async def both() -> list[Any]:
        return await asyncio.gather(*(server.service.versions.version("v2") for _ in range(5)))

    assert len(set(map(id, server.on_loop(both())))) == 1 and loads == ["v2"]


def test_a_model_named_for_an_empty_workspace_becomes_its_first_version(tmp_path: Path) -> None:
    (tmp_path / "w").mkdir()
    said: list[str] = []
    loaded, registry, name = versions.first(
        opener(), model=str(tiny.folder(tmp_path / "m")), workspace=tmp_path / "w", name=None, note=said.append
    )
    assert (loaded.version, name) == ("v1", "tomoni") and registry is not None and len(said) == 1
    assert registry.history()[0].version == "v1"
    with pytest.raises(RegistryError, match="serves v1"):
        versions.first(opener(), model=str(tmp_path / "m"), workspace=tmp_path / "w", name=None, note=said.append)
    with pytest.raises(RegistryError, match="no version is promoted"):
        (tmp_path / "empty").mkdir()
        versions.first(opener(), model=None, workspace=tmp_path / "empty", name=None, note=said.append)
    with pytest.raises(RegistryError, match="neither"):
        versions.first(opener(), model=None, workspace=None, name=None, note=said.append)


def test_without_a_workspace_the_name_tells_nothing_of_the_machine(tmp_path: Path) -> None:
    loaded, registry, name = versions.first(
        opener(), model=str(tiny.folder(tmp_path / "mine")), workspace=None, name=None, note=lambda said: None
    )
    assert (loaded.id, loaded.version, name, registry) == ("mine", "", "mine", None)
