"""Answers of one or several models to the same prompts, against the desired ones."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from tomoni.engine.sampler import Sampling
from tomoni.evaluate.metrics import Interval, same_answer, wilson
from tomoni.evaluate.subject import Subject
from tomoni.records import Chat, Message, Record, Text
from tomoni.rows import Int32

Right = Callable[[str, str], bool]  # answer, desired


@dataclass(frozen=True, slots=True)
class Task:
    """A prompt, in messages or plain text to continue, and what should come."""

    id: str
    prompt: tuple[Message, ...] | str
    desired: str

    @property
    def shown(self) -> str:
        """The prompt as people read it: the last thing that was said."""
        return self.prompt if isinstance(self.prompt, str) else self.prompt[-1].content


@dataclass(frozen=True, slots=True)
class Answers:
    """One model's answers in the order of the tasks; `tokens` counts prompts and answers."""

    name: str
    texts: tuple[str, ...]
    finishes: tuple[str, ...]
    seconds: float
    tokens: int

    @property
    def unended(self) -> int:
        """How many were cut off by the length."""
        return self.finishes.count("length")


def tasks(records: Iterable[Record]) -> list[Task]:
    """What can be asked of conversations: everything before the last answer. Other records have nothing to ask."""
    found = []
    for record in records:
        if isinstance(record, Chat):
            last = max((at for at, message in enumerate(record.messages) if message.role == "assistant"), default=0)
            if last > 0:
                found.append(Task(record.id, record.messages[:last], record.messages[last].content))
    return found


def continuations(records: Iterable[Record], characters: int = 60) -> list[Task]:
    """Beginnings of plain texts, and what follows there."""
    return [
        Task(record.id, record.text[:characters], record.text[characters:])
        for record in records
        if isinstance(record, Text) and len(record.text) > characters
    ]


def ask(subject: Subject, asked: Sequence[Task], how: Sampling) -> Answers:
    """Greedy or drawn, as `how` says; draws are keyed by the tasks' places. A prompt that fills the model's context has
    the empty answer and the finish "too long"."""
    begin = time.monotonic()
    sampler = subject.sampler()
    prompts = [_tokens(subject, task) for task in asked]
    short = [at for at, prompt in enumerate(prompts) if sampler.room(prompt) > 0]
    completions = sampler.sample([prompts[at] for at in short], how, ids=[str(at) for at in short])
    texts, finishes = [""] * len(asked), ["too long"] * len(asked)
    for at, completion in zip(short, completions, strict=True):
        texts[at], finishes[at] = completion.text.strip(), completion.finish
    tokens = sum(len(prompts[at]) for at in short) + sum(len(completion.tokens) for completion in completions)
    return Answers(subject.name, tuple(texts), tuple(finishes), time.monotonic() - begin, tokens)


def right(answers: Answers, asked: Sequence[Task], is_right: Right = same_answer) -> list[bool]:
    return [is_right(text, task.desired) for text, task in zip(answers.texts, asked, strict=True)]


def accuracy(marks: Sequence[bool]) -> Interval:
    return wilson(sum(marks), len(marks))


def _tokens(subject: Subject, task: Task) -> Int32:
    if isinstance(task.prompt, str):
        encoder = subject.renderer.encoder
        return np.asarray([*encoder.bos, *encoder.plain(task.prompt)], dtype=np.int32)
    return subject.renderer.prompt(task.prompt)
