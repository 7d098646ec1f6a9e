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
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from tomoni.errors import UserError
from tomoni.feedback.entries import Answer, Pair, PromptRow
from tomoni.records import Judgement, as_dicts
from tomoni.studio.choosing import Candidate, choose
from tomoni.studio.faults import Fault
from tomoni.studio.insight import AGAIN, FEW, NOT_TASTE, OTHER, Insight, base_of, value_of

if TYPE_CHECKING:
    from tomoni.feedback.store import Store
    from tomoni.studio.answering import Answering, Sampled

log = logging.getLogger("tomoni.studio")

AHEAD = 12  # pairs nobody has judged yet, kept ready
SOON = 4  # under so many the next are made even while something trains
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

    # -- what is asked next --------------------------------------------------------------------------------------------

    def ready(self, person: str, lang: str, *, without: Sequence[str] = (), n: int = 2) -> list[Pair]:
        """What this person has not seen, in their language first, with pairs woven in that are judged again: by
        another, by the same person with sides swapped, or whose answer is known. `without` are those the page holds."""
        held = set(without)
        new = [pair for pair in (*self._of_rounds(), *self._new(person, lang)) if pair.id not in held]
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

    def _new(self, person: str, lang: str) -> list[Pair]:
        """Pairs that nobody has judged or passed over: of the current model, if there are any."""
        pairs = [
            pair
            for pair in self.store.pairs(purpose="train", judged=False)
            if pair.person is None or pair.person == person
        ]
        version = self.answering.status.version
        current = [pair for pair in pairs if self._of_version(pair, version)] or pairs
        return sorted(current, key=lambda pair: self._language(pair) != lang)

    def _of_rounds(self) -> list[Pair]:
        """Pairs of two versions that a round asks about, while it is open: they come first, for it waits for them."""
        return [
            pair
            for pair in self.store.pairs(purpose="gate", judged=False)
            if (found := ROUND.fullmatch(pair.id)) is not None and self._is_open(found[1])
        ]

    def _is_open(self, round_: str) -> bool:
        folder = self.store.workspace.root / "rounds" / round_
        ended = (folder / "promotion" / "stage.json", folder / "closed.json")
        return folder.is_dir() and not any(path.exists() for path in ended)

    def _language(self, pair: Pair) -> str:
        if pair.prompt not in self._languages:
            self._languages[pair.prompt] = language_of(self.store.prompt(pair.prompt))
        return self._languages[pair.prompt]

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
        gold = [
            weave.Gold(pair.id, value_of(pair.expected), fresh=number)
            for number, pair in enumerate(self.store.pairs(purpose="gold"))
            if pair.expected is not None
        ]
        due = weave.next_for(person, seen, gold=gold, judged_by=by_pair)
        if due.pair is None or due.purpose == "train":
            return None
        pair = self.store.pair(due.pair)
        if due.purpose == "gold":
            return pair
        end = AGAIN if due.purpose == "repeat" else f"{OTHER}{person}"
        again = replace(pair, id=f"{pair.id}{end}"[:200], purpose=due.purpose, person=person, created="")
        self.store.add_pairs([again])
        return again

    def _of_version(self, pair: Pair, version: str | None) -> bool:
        if pair.first not in self._versions:
            self._versions[pair.first] = self.store.answer(pair.first).version
        return version is None or self._versions[pair.first] == version

    def waiting(self) -> int:
        """Pairs of the current model that nobody has judged."""
        version = self.answering.status.version
        pairs = self.store.pairs(purpose="train", judged=False)
        return sum(1 for pair in pairs if self._of_version(pair, version))

    # -- making them ahead ---------------------------------------------------------------------------------------------

    def _loop(self) -> None:
        while not self._ended.is_set():
            pause = 2.0
            try:
                if self.answering.status.state == "ready":
                    waiting = self.waiting()
                    if waiting < (SOON if self.busy() else AHEAD):
                        self.making = True
                        pause = 0.0 if self.make() else 10.0
            except (Fault, UserError) as error:  # the model went away, the disk is full: told where people look
                log.warning("no new pairs: %s", type(error).__name__)
                pause = 3.0
            finally:
                self.making = False
            self._wake.wait(pause)
            self._wake.clear()

    def make(self) -> int:
        """Answers to a few prompts, and the pairs that are worth asking about; how many."""
        version = self.answering.status.version
        self._pool = {id: one for id, one in self._pool.items() if one.answers[0].version == version}
        for prompt in self._prompts():
            answers = self._answers(prompt)
            if len(answers) > 1:
                self._pool[prompt.id] = Candidate(prompt.id, tuple(answers))
        if not self._pool:
            return 0
        chosen = choose(list(self._pool.values()), self.insight.fitted(), PROMPTS)
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

    def _prompts(self) -> list[PromptRow]:
        """Those asked about least, in the languages of the people there are first, otherwise by chance."""
        version = self.answering.status.version
        prompts = self.store.prompts(status="active", held_out=False)
        asked: dict[str, int] = {}
        for pair in self.store.pairs(purpose="train"):
            here = self._of_version(pair, version)
            asked[pair.prompt] = asked.get(pair.prompt, 0) + (2 if here else 1)
        langs = {person.lang for person in self.store.people() if person.active}
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
    """Japanese where kana or Chinese characters stand in it."""
    text = prompt.messages[-1].content
    return "ja" if any("\u3040" <= letter <= "\u30ff" or "\u4e00" <= letter <= "\u9fff" for letter in text) else "en"
