"""A workspace with a tiny model, prompts and a person, for presses that take seconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests import tiny
from tomoni.feedback.entries import NewPrompt
from tomoni.feedback.store import Store
from tomoni.records import Judgement, Kind, Message
from tomoni.registry import Registry

LETTERS = "abcdefghijklmnopqrstuvwxyz"


def asked(text: str) -> tuple[Message, ...]:
    return (Message("user", text),)


def made(path: Path, *, prompts: int = 20, held_out: int = 6) -> tuple[Path, str]:
    """The workspace and the id of its one person."""
    path.mkdir()
    tiny.folder(path / "model")
    registry = Registry.open(path)
    registry.promote(registry.register(path / "model").id)
    with Store.open(path) as store:
        person = store.add_person("Aoi", role="owner").id
        store.add_prompts([NewPrompt(asked(f"{LETTERS[n]}?"), "typed") for n in range(prompts)])
        store.add_prompts([NewPrompt(asked(f"{LETTERS[n]}!"), "typed", held_out=True) for n in range(held_out)])
    return path, person


def say(path: Path, person: str, kind: Kind, prompt: str, answers: tuple[str, ...], value: dict[str, Any]) -> None:
    with Store.open(path) as store:
        number = store.sequence
        order = (0, 1)[: len(answers)]
        said = Judgement(f"j{number}", person, asked(prompt), answers, order, kind, value, extra={"purpose": "train"})
        store.judge(said, key=f"k{number}")


def prefer(path: Path, person: str, prompt: str, better: str, worse: str) -> None:
    say(path, person, Kind.COMPARISON, prompt, (better, worse), {"verdict": "first", "strength": 1})
