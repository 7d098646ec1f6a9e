"""Pairs that wait to be judged, kept in memory by what is new, so that the next one is found in the same time however many
there are. No torch.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sqlalchemy import Connection, func, select

from tomoni.feedback import judging, pool
from tomoni.feedback.entries import Pair, Stored
from tomoni.feedback.events import last
from tomoni.feedback.schema import answers, events, pairs, prompts
from tomoni.records import Kind

if TYPE_CHECKING:
    from tomoni.feedback.store import Store

AT_ONCE = 400  # ids in one question


@dataclass(frozen=True, slots=True)
class Open:
    """A pair that nobody has judged or passed over, with the version that answered and the language of the prompt."""

    pair: Pair
    version: str
    lang: str


@dataclass(frozen=True, slots=True)
class News:
    """What came after event `since`, until event `sequence`. `anew`: what counted before may count no more."""

    sequence: int
    top: int  # number of the newest pair
    said: tuple[Stored, ...]
    made: tuple[Open, ...]
    anew: bool


@dataclass
class Waiting:
    store: Store
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _seen: int = -1
    _top: int = 0
    _open: dict[str, Open] = field(default_factory=dict)

    def every(self) -> list[Open]:
        """In the order they were made."""
        with self._lock:
            if self.store.sequence != self._seen:
                news = self.store.look(lambda connection: news_of(connection, self._seen, self._top))
                if news.anew:
                    news = self.store.look(lambda connection: news_of(connection, -1, 0))
                    self._open = {}
                for one in news.made:
                    self._open[one.pair.id] = one
                for entry in news.said:
                    if entry.judgement.kind is Kind.COMPARISON or entry.judgement.extra.get("skipped"):
                        self._open.pop(str(entry.judgement.extra.get("pair")), None)
                self._seen, self._top = news.sequence, news.top
            return list(self._open.values())


def news_of(connection: Connection, since: int, top: int) -> News:
    sequence = last(connection)
    said: list[Stored] = []
    if since >= 0:
        said = judging.stored(connection, after=since, live=False)
    anew = erased(connection, since) or any(map(_opens, said))
    made = [] if anew else pool.list_pairs(connection, purpose="train", judged=False, after=top)
    newest = connection.execute(select(func.max(pairs.c.number))).scalar() or 0
    return News(sequence, newest, tuple(said), tuple(_opened(connection, made)), anew and since >= 0)


def _opens(entry: Stored) -> bool:
    """Whether a pair that was judged may wait again. A comparison takes the place of one of the same pair."""
    return entry.judgement.replaces is not None and entry.judgement.kind is not Kind.COMPARISON


def erased(connection: Connection, since: int) -> bool:
    """Whether a person was erased after event `since`: then what is kept in memory is not what counts."""
    found = connection.execute(select(events.c.sequence).where(events.c.sequence > since, events.c.what == "erased"))
    return since >= 0 and found.first() is not None


def _opened(connection: Connection, made: list[Pair]) -> Iterable[Open]:
    version: dict[str, str] = {}
    lang: dict[str, str] = {}
    for start in range(0, len(made), AT_ONCE):
        some = made[start : start + AT_ONCE]
        of = select(answers.c.id, answers.c.version).where(answers.c.id.in_({pair.first for pair in some}))
        version |= {row[0]: row[1] for row in connection.execute(of)}
        asked = select(prompts.c.id, prompts.c.messages).where(prompts.c.id.in_({pair.prompt for pair in some}))
        lang |= {row[0]: language_of_text(row[1][-1]["content"]) for row in connection.execute(asked)}
    return [Open(pair, version[pair.first], lang[pair.prompt]) for pair in made]


def language_of_text(text: str) -> str:
    """Japanese where kana or Chinese characters stand in it."""
    return "ja" if any("\u3040" <= letter <= "\u30ff" or "\u4e00" <= letter <= "\u9fff" for letter in text) else "en"
