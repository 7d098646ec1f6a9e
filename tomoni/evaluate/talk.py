"""A conversation with a model: turn by turn, streamed, kept within the model's context."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property

from tomoni.engine.sampler import Sampler, Sampling
from tomoni.errors import ModelError
from tomoni.evaluate.subject import Subject, shorter
from tomoni.hub import read_json
from tomoni.records import Message
from tomoni.rows import Int32

OPENING_FILE = "tomoni.json"


class Talk:
    """`messages` is what was said so far; `how` and `system` may be changed between turns."""

    def __init__(self, subject: Subject, how: Sampling, system: str = "") -> None:
        self.subject = subject
        self.how = how
        self.system = system
        self.turns: list[Message] = []
        self.forgotten = 0  # messages that no longer fitted, dropped before the last answer
        self.finish: str | None = None  # of the last answer: "stop", "length", or None where it was interrupted
        self._asked = 0

    @property
    def messages(self) -> list[Message]:
        return [*([Message("system", self.system)] if self.system else []), *self.turns]

    @cached_property
    def _sampler(self) -> Sampler:
        return self.subject.sampler(max_batch=1)

    def say(self, text: str) -> Iterator[str]:
        """The answer, part by part. Where it is interrupted, what was told of it stays in the conversation, and a
        question without any answer does not.

        Raises UserError where the template refuses the conversation or the question alone fills the context; then
        nothing of it stays.
        """
        self.finish = None
        self.turns.append(Message("user", text))
        told: list[str] = []
        try:
            tokens = self._fitting()
            self._asked += 1
            sampler = self._sampler
            sampler.add(tokens, self.how, id=str(self._asked))
            while not sampler.idle:
                for increment in sampler.step():
                    self.finish = increment.finished
                    if increment.text:
                        told.append(increment.text)
                        yield increment.text
        finally:
            if not self._sampler.idle:  # interrupted, and perhaps within a step
                del self._sampler
            answer = "".join(told)
            if answer or self.finish:
                self.turns.append(Message("assistant", answer))
            else:
                self.turns.pop()

    def reset(self) -> None:
        """Forget what was said; the same questions give the same answers again."""
        self.turns = []
        self.forgotten = self._asked = 0

    def change(self, **how: float | int) -> None:
        """Raises ConfigError for a value out of range."""
        self.how = replace(self.how, **how)  # type: ignore[arg-type]

    def _fitting(self) -> Int32:
        """The prompt's tokens, without as many of the oldest turns as it takes to leave room for an answer."""
        sampler = self._sampler
        wanted = (
            self.how.max_new_tokens if sampler.context is None else min(self.how.max_new_tokens, sampler.context // 4)
        )
        before = len(self.turns)
        while True:
            tokens = self.subject.renderer.prompt(self.messages)
            fewer = shorter(self.turns)
            if sampler.room(tokens) >= wanted or len(fewer) == len(self.turns):
                break
            self.turns = fewer
        self.forgotten = before - len(self.turns)
        return tokens


def opening(subject: Subject) -> tuple[str, tuple[str, ...]]:
    """What the model's folder says of it (`chat_opening` in tomoni.json) and questions to try; empty where it says
    nothing or nothing readable."""
    folders = [subject.located.folder, subject.located.model.folder]
    path = next((folder / OPENING_FILE for folder in folders if (folder / OPENING_FILE).is_file()), None)
    if path is None:
        return "", ()
    try:
        said = read_json(path)
    except ModelError:
        return "", ()
    text, questions = said.get("chat_opening"), said.get("questions")
    return (
        text if isinstance(text, str) else "",
        tuple(one for one in questions if isinstance(one, str)) if isinstance(questions, list) else (),
    )


def printable(text: str) -> str:
    """Without control characters: a model's words must not move the cursor or rename the window."""
    return "".join(letter for letter in text if letter in "\n\t" or not (ord(letter) < 32 or 127 <= ord(letter) < 160))
