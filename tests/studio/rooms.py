"""A studio in a test: a workspace with a small stand-in model, its house, and clients that behave like a browser."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from fastapi import FastAPI
from starlette.testclient import TestClient

from tomoni.feedback.entries import Answer, NewPrompt, Pair, Person
from tomoni.records import Message
from tomoni.studio import run
from tomoni.studio.app import create, guarded
from tomoni.studio.house import House

HOST = "127.0.0.1:8420"
STANDIN = [sys.executable, "-m", "tests.studio.standin_serve"]
OWN = {"origin": f"http://{HOST}", "sec-fetch-site": "same-origin"}


def model_in(folder: Path, name: str = "model") -> Path:
    """Files that the registry takes for a model; nothing here loads them."""
    made = folder / name
    made.mkdir(parents=True)
    (made / "config.json").write_text(json.dumps({"model_type": "llama"}), encoding="utf-8")
    (made / "tokenizer.json").write_text("{}", encoding="utf-8")
    (made / "model.safetensors").write_bytes(name.encode())
    return made


@contextmanager
def house_in(folder: Path, *, model: bool = True, answering: bool = False) -> Iterator[House]:
    """The parts of a studio, without a port; nothing is sampled unless `answering`."""
    name = str(model_in(folder)) if model else None
    settings = run.Settings(folder / "ws", model=name, lang="en")
    with run.opened(settings, 8420, serve=STANDIN if answering else None) as house:
        yield house


class Browser:
    """Sends what a browser's own page would send. `forge` leaves those headers to the test."""

    def __init__(self, house: House, app: FastAPI | None = None) -> None:
        self.house = house
        self.app = app or create(house)
        guard = guarded(self.app, hosts=[HOST])
        self.client = TestClient(
            guard, base_url=f"http://{HOST}", raise_server_exceptions=False, follow_redirects=False
        )

    def enter(self, person: Person) -> Browser:
        answer = self.get(f"/?token={self.house.doors.link(person.id)}")
        assert answer.status_code == 200, answer.text
        return self

    def get(self, path: str, **headers: str) -> httpx.Response:
        return self.client.get(path, headers=headers)

    def post(self, path: str, body: Any = None, **headers: str) -> httpx.Response:
        return self.client.post(path, json={} if body is None else body, headers=OWN | headers)

    def forge(self, method: str, path: str, headers: dict[str, str], content: bytes = b"{}") -> httpx.Response:
        return self.client.request(method, path, headers=headers, content=content if method == "POST" else None)


def owner(house: House) -> Person:
    return run.owner_of(house.store, run.Settings(Path(), lang=house.lang))


def annotator(house: House, name: str = "花子") -> Person:
    return house.store.person_named(name) or house.store.add_person(name, role="annotator", lang="ja")


def add_pairs(house: House, count: int, *, question: str = "何時に開きますか", topic: str = "shop.opens") -> list[Pair]:
    """Pairs with features, first answers polite and second ones plain."""
    version = house.registry.current()
    made = []
    drawn = np.random.default_rng(5)
    for number in range(count):
        row = house.store.add_prompts([NewPrompt((Message("user", f"{question}{number}"),), "typed", topic=topic)])[0]
        taste = drawn.standard_normal(8).astype(np.float32)
        answers = [
            Answer(
                f"{row.id}-{place}",
                row.id,
                version.id if version else "v1",
                "h",
                f"{text}{number}",
                taste + shift,
                -3.0,
                6,
            )
            for place, (text, shift) in enumerate((("開きます。", np.float32(1)), ("開くよ。", np.float32(-1))))
        ]
        house.store.add_answers(answers)
        pair = Pair(f"pair-{row.id}", row.id, answers[0].id, answers[1].id, "train", "random")
        house.store.add_pairs([pair])
        made.append(pair)
    return made


def until(what: Callable[[], Any], seconds: float = 20) -> Any:
    """What `what` gives, once it gives something; the test fails where it never does."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := what():
            return found
        time.sleep(0.02)
    raise AssertionError("it did not come about")
