"""Pairs to judge, made ahead so that the next one is there at once: two different answers of the model to one prompt.

A thread of its own asks the model while nobody waits for it and nothing trains, and puts prompts, answers with their
features, and pairs into the store. Which of the possible pairs is asked is `choosing`'s to say. No torch.
"""

from __future__ import annotations

import logging
import random
import threading
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tomoni.errors import UserError
from tomoni.feedback.entries import Answer, Pair, PromptRow
from tomoni.records import as_dicts
from tomoni.studio.choosing import Candidate, choose
from tomoni.studio.faults import Fault

if TYPE_CHECKING:
    from tomoni.feedback.store import Store
    from tomoni.studio.answering import Answering, Sampled

log = logging.getLogger("tomoni.studio")

AHEAD = 12  # pairs nobody has judged yet, kept ready
SOON = 4  # under so many the next are made even while something trains
ANSWERS = 4  # sampled for one prompt
PROMPTS = 3  # whose answers are made before pairs are chosen among them
LONGEST = 160  # tokens of an answer
HEAT = 1.0  # temperature: answers must differ to be compared


@dataclass
class Asking:
    store: Store
    answering: Answering
    busy: Callable[[], bool] = lambda: False  # whether something trains
    _wake: threading.Event = field(default_factory=threading.Event)
    _ended: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None
    making: bool = False
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
        """Pairs that this person has not seen, in their language first; `without` are those that the page holds."""
        skipped = set(without)
        pairs = [
            pair
            for pair in self.store.pairs(judged=False, person=person)
            if pair.id not in skipped and pair.purpose not in ("gate", "learn")
        ]
        judged_by_others = {pair.id for pair in self.store.pairs(purpose="train", judged=True)}
        pairs = [pair for pair in pairs if pair.purpose != "train" or pair.id not in judged_by_others]
        status = self.answering.status
        current = [pair for pair in pairs if pair.purpose != "train" or self._of_version(pair, status.version)]
        chosen = current or pairs
        chosen.sort(key=lambda pair: language_of(self.store.prompt(pair.prompt)) != lang)
        self.wake()
        return chosen[:n]

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
        candidates: list[Candidate] = []
        for prompt in self._prompts():
            answers = self._answers(prompt)
            if len(answers) > 1:
                candidates.append(Candidate(prompt.id, tuple(answers)))
        if not candidates:
            return 0
        chosen = choose(self.store, candidates)
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
        return prompts[:PROMPTS]

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
