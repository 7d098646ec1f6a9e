"""What a gate asks people, and what they said: pairs of the base's and the candidate's answers to held-out prompts.

Prompts are drawn anew for each round: those that no earlier gate has asked first. Where there are fewer than pairs wanted,
they are drawn with replacement, each time with new answers, so that the pairs stay independent draws. Which of the two
answers is stored first is drawn too, and nothing in a pair's or an answer's id tells which is which.
"""

from __future__ import annotations

import hashlib
import json
import math
import random
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tomoni.feedback.checks import is_skip
from tomoni.feedback.entries import PromptRow, Stored, message_from, plain_message
from tomoni.feedback.inbox import PairAnswer, PairEvent
from tomoni.loop.evidence import OTHER, RANDOM, Said
from tomoni.records import Kind, Message, Verdict
from tomoni.registry import Version

if TYPE_CHECKING:
    from tomoni.evaluate.subject import Subject

BOTH = 0.10  # of the pairs are asked in both orders
AGAIN = "~again"  # ends the id of the second order; the studio then swaps the sides
SLICE = "slice"  # selected_by of pairs that a small topic gets besides
LEAST = 20  # pairs of a topic, the first time
MORE = 40  # pairs of a topic that the gate is not sure about yet, each time after that
FEW = 16  # held-out prompts: where fewer are marked, others are set aside by the hash of their content
SET_ASIDE = 5  # every fifth then
LONGEST = 64  # tokens of an answer
Prompt = tuple[Message, ...]


@dataclass(frozen=True, slots=True)
class Asked:
    """A pair. `texts` as stored, first and second; `candidate` says which of them is the candidate's, 0 or 1."""

    id: str
    prompt: str
    messages: Prompt
    topic: str
    slice: str
    texts: tuple[str, str]
    candidate: int
    both: bool
    selected_by: str
    expected: float | None = None  # see evidence.Said
    elsewhere: float | None = None

    @property
    def new(self) -> str:
        return self.texts[self.candidate]

    @property
    def old(self) -> str:
        return self.texts[1 - self.candidate]

    @property
    def dlen(self) -> float:
        return math.log((len(self.new) + 1) / (len(self.old) + 1))


# -- prompts ---------------------------------------------------------------------------------------------------------


def held_out_of(prompts: Sequence[PromptRow], judged: Collection[str]) -> list[PromptRow]:
    """What is kept from training: what is marked so; where that is little, also every fifth prompt by the hash of its
    content, of those that nobody has judged yet (`judged`: ids)."""
    marked = [row for row in prompts if row.held_out and row.status != "retired"]
    if len(marked) >= FEW:
        return marked
    free = [row for row in prompts if not row.held_out and row.status == "active" and row.id not in judged]
    return marked + [row for row in free if _number(row.id) % SET_ASIDE == 0]


def slices_of(prompts: Sequence[PromptRow], share: float) -> dict[str, str]:
    """The slice of each topic; topics below `share` of the prompts have one together, and so have prompts without any."""
    counts = Counter(row.topic for row in prompts)
    return {
        topic: topic if topic and count >= max(share * len(prompts), 2) else OTHER for topic, count in counts.items()
    }


def drawn(
    held_out: Sequence[PromptRow],
    count: int,
    *,
    used: Mapping[str, int],
    key: str,
    slices: Mapping[str, str],
    again: bool = False,
    unsure: Collection[str] | None = None,
) -> list[tuple[PromptRow, str]]:
    """`count` prompts that speak for all, and more of each slice that they hold too few of; with how they were chosen.

    `again`: with replacement however many there are, as `foresee` needs it. `unsure`: slices that the gate has to know more
    of; before it has looked, None, every slice gets a few.
    """
    rng = random.Random(key)
    if count <= len(held_out) and not again:
        order = sorted(held_out, key=lambda row: (used.get(row.id, 0), _number(f"{key} {row.id}")))
        chosen = order[:count]
    else:
        chosen = [rng.choice(held_out) for _ in range(count)]
    rng.shuffle(chosen)
    found = [(row, RANDOM) for row in chosen]
    if len(set(slices.values())) > 1:
        for name in sorted(set(slices.values())):
            of_slice = [row for row in held_out if slices[row.topic] == name]
            least = LEAST if unsure is None else MORE if name in unsure else 0
            lacking = min(least, count) - sum(slices[row.topic] == name for row in chosen)
            found += [(rng.choice(of_slice), SLICE) for _ in range(lacking)]
    return found


def others(held_out: Sequence[PromptRow], count: int, *, key: str) -> list[Prompt]:
    """Prompts of pairs that nobody judges, drawn like those of `drawn(again=True)`."""
    rng = random.Random(f"{key} others")
    return [rng.choice(held_out).messages for _ in range(count)]


def _number(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:8], "big")


# -- answers ---------------------------------------------------------------------------------------------------------


def answered(base: Subject, candidate: Subject, prompts: Sequence[Prompt], *, seed: int) -> list[tuple[str, str]]:
    """One answer of each to every prompt, base first, drawn at temperature 1 as people are shown them."""
    from tomoni.engine.sampler import Sampling

    how = Sampling(max_new_tokens=LONGEST, temperature=1.0, seed=seed)
    both = []
    for subject in (base, candidate):
        tokens = [subject.renderer.prompt(prompt) for prompt in prompts]
        ids = [f"gate {place}" for place in range(len(prompts))]
        both.append([completion.text.strip() for completion in subject.sampler().sample(tokens, how, ids=ids)])
    return list(zip(*both, strict=True))


def pairs_of(
    round_: int,
    chosen: Sequence[tuple[PromptRow, str]],
    answers: Sequence[tuple[str, str]],
    *,
    key: str,
    slices: Mapping[str, str],
) -> tuple[list[Asked], int]:
    """The pairs, and how many answers were alike or empty: those are ties that nobody need look at."""
    found, alike = [], 0
    for place, ((row, selected_by), (old, new)) in enumerate(zip(chosen, answers, strict=True)):
        if not differ(old, new):
            alike += 1
            continue
        rng = random.Random(f"{key} {place}")
        candidate = rng.randrange(2)
        texts = (new, old) if candidate == 0 else (old, new)
        id = f"r{round_:04}-{hashlib.sha256(f'{key} {place}'.encode()).hexdigest()[:12]}"
        both = selected_by == RANDOM and rng.random() < BOTH
        one = Asked(id, row.id, row.messages, row.topic, slices[row.topic], texts, candidate, both, selected_by)
        found.append(one)
    return found, alike


def differ(old: str, new: str) -> bool:
    """Whether people need look at them: both say something, and not the same."""
    return bool(old and new) and " ".join(old.split()) != " ".join(new.split())


def events_of(asked: Sequence[Asked], base: Version, candidate: Version) -> Iterator[PairEvent]:
    """For the inbox: whoever writes the store takes them in. A pair in both orders is two, far apart in the queue."""
    for one in asked:
        yield _event(one, one.id, base, candidate)
    for one in asked:
        if one.both:
            yield _event(one, one.id + AGAIN, base, candidate)


def _event(one: Asked, id: str, base: Version, candidate: Version) -> PairEvent:
    answers = []
    for place, text in enumerate(one.texts):
        version = candidate if place == one.candidate else base
        answers.append(PairAnswer(f"{one.id}-{place}", version.id, version.hash, text))
    return PairEvent(
        id, one.messages, (answers[0], answers[1]), "gate", one.selected_by, one.topic, event=f"{id}-asked"
    )


def spread(events: Sequence[PairEvent], among: Sequence[PairEvent]) -> list[PairEvent]:
    """The latter evenly between the former, so that they are judged early or late alike."""
    every = max(len(events) // (len(among) + 1), 1)
    found, rest = [], list(among)
    for place, event in enumerate(events, 1):
        found.append(event)
        if place % every == 0 and rest:
            found.append(rest.pop(0))
    return found + rest


def write(path: Path, asked: Sequence[Asked]) -> None:
    lines = []
    for one in asked:
        body: dict[str, Any] = asdict(replace(one, messages=()))
        body["messages"] = [plain_message(message) for message in one.messages]
        lines.append(json.dumps(body, ensure_ascii=False) + "\n")
    path.write_text("".join(lines), encoding="utf-8")


def read(path: Path) -> list[Asked]:
    found = []
    for line in path.read_text(encoding="utf-8").split("\n")[:-1]:  # not splitlines: answers may hold U+2028
        body = json.loads(line)
        body["messages"] = tuple(message_from(message) for message in body["messages"])
        body["texts"] = (body["texts"][0], body["texts"][1])
        found.append(Asked(**body))
    return found


# -- what was said ---------------------------------------------------------------------------------------------------


def said_of(stored: Sequence[Stored], asked: Sequence[Asked]) -> list[Said]:
    """Judgements on these pairs, as the gate counts them, and those that were passed over."""
    by_id = {one.id: one for one in asked}
    found = []
    for entry in stored:
        judgement = entry.judgement
        pair = str(judgement.extra.get("pair") or "")
        one = by_id.get(pair.partition("~")[0])
        skipped = is_skip(judgement)
        if one is None or not (skipped or judgement.kind is Kind.COMPARISON):
            continue
        wins = {Verdict.FIRST: 1.0 - one.candidate, Verdict.SECOND: float(one.candidate)}
        x = 0.5 if skipped else wins.get(Verdict(judgement.value["verdict"]), 0.5)
        found.append(
            Said(
                entry.sequence, pair, judgement.person, x, one.slice, both=one.both, dlen=one.dlen,
                selected_by=one.selected_by, expected=one.expected, elsewhere=one.elsewhere, skipped=skipped,
            )
        )  # fmt: skip
    return found


def flagged_of(stored: Sequence[Stored], asked: Sequence[Asked]) -> tuple[int, int]:
    """Pairs in which only the candidate's answer was flagged, and only the base's."""
    by_id = {one.id: one for one in asked}
    flagged: dict[str, set[int]] = {}
    for entry in stored:
        judgement = entry.judgement
        one = by_id.get(str(judgement.extra.get("pair") or "").partition("~")[0])
        if one is None or judgement.kind is not Kind.FLAG:
            continue
        if any(value is True for name, value in judgement.value.items() if name != "answer"):
            flagged.setdefault(one.id, set()).add(int(judgement.value["answer"]))
    new = sum(places == {by_id[id].candidate} for id, places in flagged.items())
    old = sum(places == {1 - by_id[id].candidate} for id, places in flagged.items())
    return new, old
