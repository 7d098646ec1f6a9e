"""Pairs to judge, made ahead so that the next one is there at once: two different answers of the model to one prompt.

A thread of its own asks the model while nobody waits for it and nothing trains, and puts prompts, answers with their
features, and pairs into the store. Which of the possible pairs is asked is `choosing`'s to say. No torch.
"""

from __future__ import annotations

import logging
import random
import re
import threading
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from tomoni.errors import UserError
from tomoni.feedback.entries import Answer, Pair, PromptRow
from tomoni.feedback.roundfolders import FOLDER, is_open
from tomoni.records import Judgement, Verdict, as_dicts
from tomoni.studio.choosing import Candidate, choose
from tomoni.studio.faults import Fault
from tomoni.studio.insight import AGAIN, FEW, GOLD_OUT, NOT_TASTE, OTHER, Insight, base_of, value_of
from tomoni.studio.waiting import Waiting, language_of_text
from tomoni.studio.words import LANGS

if TYPE_CHECKING:
    from tomoni.feedback.store import Store
    from tomoni.studio.answering import Answering, Sampled

log = logging.getLogger("tomoni.studio")

AHEAD = 12  # pairs nobody has judged yet, kept ready
SOON = 4  # under so many the next are made even while something trains
MISSES = 1  # in a row, after which people get pairs in another language than theirs
ANSWERS = 4  # sampled for one prompt
PROMPTS = 3  # whose answers are made, and pairs that are chosen, in one go
IN_POOL = 40  # prompts with answers that wait to be chosen
LONGEST = 160  # tokens of an answer
ROUND = re.compile(r"r([0-9]{4,9})-[0-9a-f]{12}(?:~again)?")  # ids of a round's pairs
HEAT = 1.0  # temperature: answers must differ to be compared


@dataclass
class Asking:
    store: Store
    answering: Answering
    insight: Insight
    busy: Callable[[], bool] = lambda: False  # whether something trains
    _wake: threading.Event = field(default_factory=threading.Event)
    _ended: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None
    making: bool = False
    _pool: dict[str, Candidate] = field(default_factory=dict)  # by prompt
    _languages: dict[str, str] = field(default_factory=dict)  # of prompts
    _versions: dict[str, str] = field(default_factory=dict)  # of answers; they never change
    _misses: Counter[str] = field(
        default_factory=Counter
    )  # by language: times in a row that no pair came of making them
    _read: dict[str, str] = field(default_factory=dict)  # by person: the language their pages are in

    def __post_init__(self) -> None:
        self._waiting = Waiting(self.store)

    def start(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._loop, name="tomoni-asking", daemon=True)
            self._thread.start()

    def close(self) -> None:
        self._ended.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join(timeout=10)

    def wake(self) -> None:
        self._wake.set()

    def reads(self, person: str, lang: str) -> None:
        """Their pages are in this language now: chosen, or their browser's."""
        self._read[person] = lang

    def languages_read(self) -> set[str]:
        people = [person for person in self.store.people() if person.active]
        return {self._read.get(person.id, person.lang) for person in people} & set(LANGS)

    # -- what is asked next --------------------------------------------------------------------------------------------

    def ready(self, person: str, lang: str, *, without: Sequence[str] = (), n: int = 2) -> list[Pair]:
        """What this person has not seen, in their language first, with pairs woven in that are judged again: by
        another, by the same person with sides swapped, or whose answer is known. `without` are those the page holds."""
        held = set(without)
        rounds = [pair for pair in self._of_rounds() if pair.id not in held]
        new = [*rounds, *self._new(person, lang, held, n)]
        found: list[Pair] = []
        said = [one.judgement for one in self.insight.comparisons()]
        said = [one for one in said if one.extra.get("purpose") not in NOT_TASTE and one.extra.get("pair")]
        for place in range(n):
            woven = self._woven(person, said, len(held) + place)
            if woven is not None and woven.id not in held and woven not in found:
                found.append(woven)
            elif new:
                found.append(new.pop(0))
        self.wake()
        return found

    def _new(self, person: str, lang: str, held: set[str], n: int) -> list[Pair]:
        """At most `n` pairs that nobody has judged or passed over: of the current model, if there are any."""
        version = self.answering.status.version
        current: tuple[list[Pair], list[Pair]] = ([], [])  # in this language, in another
        older: tuple[list[Pair], list[Pair]] = ([], [])
        any_current = False
        for one in self._waiting.every():
            if one.pair.person is not None and one.pair.person != person:
                continue
            here = version is None or one.version == version
            any_current |= here
            if one.pair.id not in held:
                (current if here else older)[one.lang != lang].append(one.pair)
            if len(current[0]) == n:
                break
        first, other = current if any_current else older
        return [*first, *(() if self._will_make(lang) else other)][:n]

    def _will_make(self, lang: str) -> bool:
        """Whether pairs in this language are on their way, worth waiting for rather than judging in another."""
        if self._thread is None or not self._thread.is_alive() or self.answering.status.state != "ready":
            return False
        return lang in self.languages_read() and self._misses[lang] < MISSES

    def _of_rounds(self) -> list[Pair]:
        """Pairs of two versions that a round asks about, while it is open: they come first, for it waits for them."""
        return [
            pair
            for pair in self.store.pairs(purpose="gate", judged=False)
            if (found := ROUND.fullmatch(pair.id)) is not None and self._is_open(found[1])
        ]

    def _is_open(self, round_: str) -> bool:
        return is_open(self.store.workspace.root / FOLDER / round_)

    def _woven(self, person: str, said: Sequence[Judgement], ahead: int) -> Pair | None:
        """A pair that is due to be judged again as this person's answer number (so far + `ahead`), or None."""
        from tomoni.feedback import weave

        seen = [
            weave.Seen(base_of(str(one.extra["pair"])), 1 if one.order[:1] == (0,) else -1)
            for one in said
            if one.person == person
        ]
        seen += [weave.Seen("", 1)] * ahead
        if weave.purpose_of(len(seen), person) == "train":
            return None
        by_pair: dict[str, list[str]] = {}
        for one in said:
            by_pair.setdefault(base_of(str(one.extra["pair"])), []).append(one.person)
        golden = self._golden()
        gold = [
            weave.Gold(base, value_of(expected), self._longer_is_worse(pair, expected), fresh=number)
            for number, (base, pair) in enumerate(golden.items())
            if (expected := pair.expected) is not None
        ]
        due = weave.next_for(person, seen, gold=gold, judged_by=by_pair)
        if due.pair is None or due.purpose == "train":
            return None
        if due.purpose == "gold":
            return golden[due.pair]
        pair = self.store.pair(due.pair)
        end = AGAIN if due.purpose == "repeat" else f"{OTHER}{person}"
        again = replace(pair, id=f"{pair.id}{end}"[:200], purpose=due.purpose, person=person, created="")
        self.store.add_pairs([again])
        return again

    def _golden(self) -> dict[str, Pair]:
        """Pairs whose answer is known, by the pair that people judged."""
        out = set(self.store.get(GOLD_OUT, []))
        pairs = {base_of(pair.id): pair for pair in self.store.pairs(purpose="gold") if pair.expected is not None}
        return {base: pair for base, pair in pairs.items() if base not in out}

    def _longer_is_worse(self, pair: Pair, expected: Verdict) -> bool:
        first, second = (len(self.store.answer(id).text) for id in (pair.first, pair.second))
        return first < second if expected is Verdict.FIRST else second < first

    def _of_version(self, pair: Pair, version: str | None) -> bool:
        if pair.first not in self._versions:
            self._versions[pair.first] = self.store.answer(pair.first).version
        return version is None or self._versions[pair.first] == version

    def _by_language(self) -> Counter[str]:
        """How many pairs of the current model wait, by language."""
        version = self.answering.status.version
        return Counter(one.lang for one in self._waiting.every() if version is None or one.version == version)

    def waiting(self) -> int:
        """Pairs of the current model that nobody has judged."""
        return self._by_language().total()

    def wanted(self) -> set[str]:
        """The languages in which pairs are to be made now: of all, where few wait; else those that somebody here reads and
        in which hardly any wait, so that nobody gets another language for the rest of the queue. Before anybody's language
        is known, only a few."""
        waiting, read, busy = self._by_language(), self.languages_read(), self.busy()
        if waiting.total() < (SOON if busy or not read else AHEAD):
            return set(LANGS)
        return {lang for lang in read if waiting[lang] < (1 if busy else SOON)}

    # -- making them ahead ---------------------------------------------------------------------------------------------

    def _loop(self) -> None:
        while not self._ended.is_set():
            pause = 2.0
            try:
                if self.answering.status.state == "ready" and (wanted := self.wanted()):
                    self.making = True
                    before = self._by_language()
                    pause = 0.0 if self.make(wanted) else 10.0
                    self._note(wanted, before)
            except (Fault, UserError) as error:  # the model went away, the disk is full: told where people look
                log.warning("no new pairs: %s", type(error).__name__)
                pause = 3.0
            finally:
                self.making = False
            self._wake.wait(pause)
            self._wake.clear()

    def _note(self, wanted: Set[str], before: Counter[str]) -> None:
        """Of languages for which prompts are missing, or answers that differ, nobody is made to wait."""
        after = self._by_language()
        for lang in wanted:
            self._misses[lang] = 0 if after[lang] > before[lang] else self._misses[lang] + 1

    def make(self, langs: Set[str] = frozenset(LANGS)) -> int:
        """Answers to a few prompts in these languages, and the pairs that are worth asking about; how many."""
        version = self.answering.status.version
        self._pool = {id: one for id, one in self._pool.items() if one.answers[0].version == version}
        for prompt in self._prompts(langs):
            answers = self._answers(prompt)
            if len(answers) > 1:
                self._pool[prompt.id] = Candidate(prompt.id, tuple(answers))
        pool = [one for one in self._pool.values() if self._language(one.prompt) in langs]
        if not pool:
            return 0
        chosen = choose(pool, self.insight.fitted(), PROMPTS)
        for first, _, _ in chosen:
            del self._pool[first.prompt]
        while len(self._pool) > IN_POOL:
            del self._pool[next(iter(self._pool))]
        return self.store.add_pairs(
            [
                Pair(f"{first.id}~{second.id}", first.prompt, first.id, second.id, "train", selected_by)
                for first, second, selected_by in chosen
            ]
        )

    def _language(self, prompt: str) -> str:
        if prompt not in self._languages:
            self._languages[prompt] = language_of(self.store.prompt(prompt))
        return self._languages[prompt]

    def _prompts(self, wanted: Set[str]) -> list[PromptRow]:
        """Those asked about least, in the languages of the people there are first, otherwise by chance."""
        version = self.answering.status.version
        prompts = self.store.prompts(status="active", held_out=False)
        prompts = [prompt for prompt in prompts if language_of(prompt) in wanted]
        asked: dict[str, int] = {}
        for pair in self.store.pairs(purpose="train"):
            here = self._of_version(pair, version)
            asked[pair.prompt] = asked.get(pair.prompt, 0) + (2 if here else 1)
        langs = self.languages_read()
        random.shuffle(prompts)
        prompts.sort(key=lambda prompt: (asked.get(prompt.id, 0), language_of(prompt) not in langs))
        free = [prompt for prompt in prompts if prompt.id not in self._pool]
        enough = len(self.insight.comparisons()) >= FEW
        return free[: PROMPTS * (2 if enough else 1)]  # more to choose from, once there is something to choose by

    def _answers(self, prompt: PromptRow) -> list[Answer]:
        """Different ones only: answers that no reader tells apart are not put before people."""
        sampled = self.answering.sample(
            as_dicts(prompt.messages), n=ANSWERS, temperature=HEAT, max_tokens=LONGEST, seed=random.getrandbits(31)
        )
        different: dict[str, Sampled] = {}
        for answer in sampled:
            if answer.text.strip():
                different.setdefault(plain(answer.text), answer)
        answers = [kept(answer, prompt.id) for answer in different.values()]
        if len(answers) > 1:
            self.store.add_answers(answers)
        return answers


def kept(answer: Sampled, prompt: str) -> Answer:
    return Answer(
        id=answer.id,
        prompt=prompt,
        version=answer.version,
        version_hash=answer.version_hash,
        text=answer.text,
        features=answer.features,
        logprob=answer.logprob,
        tokens=answer.tokens,
        how={"temperature": HEAT, "finish": answer.finish},
    )


def plain(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).split()).casefold()


def language_of(prompt: PromptRow) -> str:
    return language_of_text(prompt.messages[-1].content)
