"""What the judgements say about the people and about which pair to ask next; kept up to date as they come. No torch.

Answers are compared in one space, made of the features that the model gave when it wrote them; only answers whose
features have as many numbers as the newest ones' belong to it. Imported answers have none, and are left out here.
"""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from sqlalchemy.exc import SQLAlchemyError

from tomoni.errors import UserError
from tomoni.feedback import judging
from tomoni.feedback.entries import Answer, Stored
from tomoni.records import Kind, Verdict
from tomoni.studio.waiting import erased

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from sqlalchemy import Connection

    from tomoni.feedback.ask import Rule
    from tomoni.feedback.people import Judged, People
    from tomoni.feedback.space import Space
    from tomoni.feedback.store import Store

log = logging.getLogger("tomoni.studio")

AT_ONCE = 150  # comparisons up to which a fit takes a moment only
FEW = 10  # comparisons under which nothing is fitted
NOT_TASTE = ("gate", "learn")  # purposes whose pairs are of two models
AGAIN, OTHER, GOLD = "~again", "~for~", "~gold"  # how the ids of pairs that are asked once more end
GOLD_OUT = "studio.gold.out"  # the setting: pairs that are not to be gold, or no longer
WORD = 2.5  # Japanese characters that are read in the time of one English word


@dataclass(frozen=True, slots=True)
class Fitted:
    """`judged` in the order of `stored`; `rule`: by which to ask from now on."""

    stored: tuple[Stored, ...]
    judged: tuple[Judged, ...]
    people: People
    space: Space
    rule: Rule


def base_of(pair: str) -> str:
    """The pair that was asked first, where this one asks it again."""
    return pair.split(AGAIN)[0].split(OTHER)[0].removesuffix(GOLD)


@dataclass
class Insight:
    store: Store
    _lock: threading.RLock = field(default_factory=threading.RLock)
    _fitting: threading.Lock = field(default_factory=threading.Lock)
    _seen: int = 0  # the number of the last event that was looked at
    _live: dict[str, Stored] = field(default_factory=dict)
    _answers: dict[str, Answer | None] = field(default_factory=dict)
    _topics: dict[str, str] = field(default_factory=dict)
    _fitted: tuple[tuple[str, ...], Fitted | None] | None = None
    _thread: threading.Thread | None = None
    _generation: int = 0

    def comparisons(self) -> list[Stored]:
        """Those that count now, in the order they were said."""
        with self._lock:
            sequence = self.store.sequence
            if sequence != self._seen:
                new, gone = self.store.look(self._news)
                if gone:
                    self._forget()
                    new = self.store.judgements(kinds=[Kind.COMPARISON])
                if not all(map(self._take, new)):  # what counts now has to be asked anew
                    self._live = {e.judgement.id: e for e in self.store.judgements(kinds=[Kind.COMPARISON])}
                self._seen = sequence
            return list(self._live.values())

    def _news(self, connection: Connection) -> tuple[list[Stored], bool]:
        """What was said since it was looked at last, and whether somebody was erased."""
        return judging.stored(connection, after=self._seen, live=False), erased(connection, self._seen)

    def _take(self, entry: Stored) -> bool:
        """Count a judgement that is new; False where what it replaces is not the one that counts, as far as is known here.
        An undone one that had replaced another brings that back, which only the store knows."""
        said = entry.judgement
        if said.kind is Kind.COMPARISON or said.kind is Kind.UNDO:
            before = self._live.pop(said.replaces, None) if said.replaces else None
            if said.replaces and before is None:
                return False
            if said.kind is Kind.UNDO:
                return before is not None and before.judgement.replaces is None
            self._live[said.id] = entry
        return True

    def answer(self, id: str) -> Answer | None:
        """None for one that is not in the store (an imported judgement's)."""
        if id not in self._answers:
            try:
                self._answers[id] = self.store.answer(id)
            except UserError:
                self._answers[id] = None
        return self._answers[id]

    # -- the fit -------------------------------------------------------------------------------------------------------

    def fitted(self, *, fresh: bool = False) -> Fitted | None:
        """None while too little was said. Fitted anew once there is a tenth more to go on: few comparisons at once, many in
        the background, and meanwhile the last fit is given, so that nobody waits. `fresh`: up to date, whatever it takes."""
        generation, told = self._generation, self._told()
        ids = tuple(entry.judgement.id for entry in told)
        known = self._fitted
        if known is not None and (known[0] == ids or (not fresh and not _many_more(ids, known))):
            return known[1]
        if fresh or len(ids) <= AT_ONCE:
            if self._fitting.acquire(blocking=fresh or known is None):
                try:
                    if self._fitted is known:
                        made = self._fit(told)
                        if generation == self._generation:  # nobody was erased meanwhile
                            self._fitted = ids, made
                finally:
                    self._fitting.release()
        elif self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._in_background, name="tomoni-insight", daemon=True)
            self._thread.start()
        return self._fitted[1] if self._fitted is not None else None

    @property
    def computing(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def latest(self) -> Fitted | None:
        """The last fit as it is, without looking whether there is more to go on."""
        return self._fitted[1] if self._fitted is not None else None

    def close(self) -> None:
        if self._thread is not None:
            self._thread.join(timeout=15)

    def _in_background(self) -> None:
        try:
            self.fitted(fresh=True)
        except (UserError, SQLAlchemyError) as error:  # the studio is closing, the disk is full: it is tried again
            log.warning("no fit: %s", type(error).__name__)

    def _told(self) -> list[Stored]:
        return [entry for entry in self.comparisons() if entry.judgement.extra.get("purpose") not in NOT_TASTE]

    def _forget(self) -> None:
        """Of a person who was erased nothing is kept in memory either."""
        self._live, self._answers, self._topics, self._fitted = {}, {}, {}, None
        self._generation += 1

    def _fit(self, told: Sequence[Stored]) -> Fitted | None:
        from tomoni.feedback import people
        from tomoni.feedback.space import Space

        pairs = [(entry, pair) for entry in told if (pair := self._pair_of(entry)) is not None]
        size = next((len(pair[0].features) for _, pair in reversed(pairs) if pair[0].features is not None), 0)
        pairs = [(entry, pair) for entry, pair in pairs if all(_size(answer) == size for answer in pair)]
        if len(pairs) < FEW:
            return None
        answers = {answer.id: answer for _, pair in pairs for answer in pair}
        space = Space.fit(*arrays(list(answers.values())), prompts=[answer.prompt for answer in answers.values()])
        phi = dict(zip(answers, embed(space, list(answers.values())), strict=True))
        stored = tuple(entry for entry, _ in pairs)
        judged = tuple(self._judged(entry, pair, phi) for entry, pair in pairs)
        return Fitted(stored, judged, people.fit(judged), space, _rule(stored, judged))

    def _pair_of(self, entry: Stored) -> tuple[Answer, Answer] | None:
        ids = entry.judgement.extra.get("answers")
        if not isinstance(ids, list) or len(ids) != 2:
            return None
        first, second = self.answer(str(ids[0])), self.answer(str(ids[1]))
        return None if first is None or second is None else (first, second)

    def _judged(self, entry: Stored, pair: tuple[Answer, Answer], phi: dict[str, NDArray[np.float64]]) -> Judged:
        from tomoni.feedback.people import Judged

        judgement = entry.judgement
        first, second = pair
        return Judged(
            person=judgement.person,
            delta=phi[first.id] - phi[second.id],
            y=value_of(Verdict(judgement.value["verdict"])),
            side=1 if judgement.order[:1] == (0,) else -1,
            expected=self._expected(str(judgement.extra.get("pair") or "")),
            item=base_of(str(judgement.extra.get("pair") or "")),
            seconds=judgement.seconds,
            words=words_in(first.text) + words_in(second.text),
            length=math.log(max(len(first.text), 1) / max(len(second.text), 1)),
            topic=self._topic(first.prompt),
            tags=judgement.tags,
        )

    def _topic(self, prompt: str) -> str:
        if prompt not in self._topics:
            self._topics[prompt] = self.store.prompt(prompt).topic
        return self._topics[prompt]

    def _expected(self, pair: str) -> float | None:
        try:
            expected = self.store.pair(pair).expected
        except UserError:
            return None
        if expected is None or base_of(pair) in self.store.get(GOLD_OUT, []):
            return None
        return value_of(expected)


def _many_more(ids: tuple[str, ...], known: tuple[tuple[str, ...], Fitted | None]) -> bool:
    return known[1] is None or abs(len(ids) - len(known[0])) >= max(3, len(known[0]) // 10)


def _size(answer: Answer) -> int:
    return -1 if answer.features is None else len(answer.features)


def _rule(stored: Sequence[Stored], judged: Sequence[Judged]) -> Rule:
    """Random where asking by the head has been no better than by chance."""
    from tomoni.feedback import ask

    deltas = np.array([one.delta for one in judged])
    answers = np.array([one.y for one in judged])
    by_chance = np.array([entry.judgement.extra.get("selected_by") == "random" for entry in stored])
    return ask.check(deltas, answers, by_chance, seed=len(judged)).rule


def arrays(answers: Sequence[Answer]) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Features_NF, lengths_N in characters, and mean log-probability a token (NaN where unknown)."""
    features = np.array([answer.features for answer in answers], dtype=np.float64)
    lengths = np.array([float(len(answer.text)) for answer in answers])
    logprobs = [
        math.nan if answer.logprob is None or not answer.tokens else answer.logprob / answer.tokens
        for answer in answers
    ]
    return features, lengths, np.array(logprobs)


def embed(space: Space, answers: Sequence[Answer]) -> NDArray[np.float64]:
    features, lengths, logprobs = arrays(answers)
    return np.asarray(space(features, lengths, logprobs), dtype=np.float64)


def value_of(verdict: Verdict) -> float:
    match verdict:
        case Verdict.FIRST:
            return 1.0
        case Verdict.SECOND:
            return 0.0
        case Verdict.TIE | Verdict.BOTH_BAD:
            return 0.5


def words_in(text: str) -> int:
    """About as many words of reading: runs between spaces, and Japanese by its characters."""
    japanese = sum("\u3040" <= letter <= "\u30ff" or "\u4e00" <= letter <= "\u9fff" for letter in text)
    return round(japanese / WORD) + len("".join(" " if letter > "\u3000" else letter for letter in text).split())
