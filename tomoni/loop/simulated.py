"""Simulated people who teach and judge as people in the studio do: through the store, pair by pair, blind.

A hidden taste (`world.tastes`) reads two texts; a person says which one the taste likes better, with slips of their own, or
does not read at all. The loop sees what they say, never the taste. `truth` asks the taste itself, for the figures that a
simulation alone can give.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tomoni.evaluate.metrics import Interval, paired_bootstrap
from tomoni.feedback import ask, weave
from tomoni.feedback.arrays import Float
from tomoni.feedback.entries import Answer, Pair, PromptRow, prompt_id
from tomoni.feedback.head import Head
from tomoni.feedback.roundfolders import rounds
from tomoni.feedback.space import Space
from tomoni.feedback.store import Store
from tomoni.loop import asked as asking
from tomoni.loop import practice
from tomoni.loop.rehearse_world import Asked as Seen
from tomoni.loop.rehearse_world import Manners, Person, PersonKind
from tomoni.records import Judgement, Kind, Message, Verdict
from tomoni.registry import Version

if TYPE_CHECKING:
    from tomoni.evaluate.subject import Subject
    from tomoni.world.tastes import Taste

MANNERS = Manners(trained=0.05, crowd=0.2, side_lean=0.1, length_lean=0.1, clicks_left=0.9, lasts=40)
NAMES = ("Aoi", "Haruto", "Mei", "Ren", "Sora", "Yui", "Kaito", "Hina", "Tomo", "Riku")
SHARPNESS = 4.0  # logits a unit of the taste
EQUAL = 0.05  # units of the taste, within which people who read say "about equal"
ANSWERS = 4  # to a prompt, of which pairs are made
BATCH = 20  # judgements between two looks at what was said
GOLD_GAP = 0.8  # units of the taste: so clear that the better answer is known


@dataclass(frozen=True, slots=True)
class Member:
    """`id`: in the store."""

    id: str
    name: str
    person: Person


@dataclass(slots=True)
class Panel:
    """The people of one workspace. What they say is drawn by `seed` and their names, each pair by itself: the same after a
    kill, and in another workspace, where their ids are others."""

    workspace: Path
    taste: Taste
    members: Sequence[Member]
    seed: int = 0
    _asked: int = 0  # pairs of rounds judged so far, by all in turn

    @classmethod
    def move_in(cls, workspace: Path, taste: Taste, kinds: Sequence[PersonKind], *, seed: int = 0) -> Panel:
        """People of these kinds, entered in the workspace; at most as many as there are names."""
        members = []
        with Store.open(workspace) as store:
            for place, (name, kind) in enumerate(zip(NAMES, kinds, strict=False)):
                person = MANNERS.person(kind, np.random.default_rng([seed, place]))
                members.append(Member(store.add_person(name, role="annotator").id, name, person))
        return cls(workspace, taste, members, seed)

    # -- teaching ------------------------------------------------------------------------------------------------------

    def teach(self, subject: Subject, version: Version, count: int) -> int:
        """`count` judgements on answers of this version to prompts that are practised on; how many pairs there were to
        choose from. The pairs are chosen as the studio chooses them: by the head on what was said so far, one in five by
        chance; gold pairs, overlaps and repeats are woven in."""
        with Store.open(self.workspace) as store:
            pool = Pool.drawn(store, subject, version, prompts=max(count, 40), seed=self.seed)
            gold = self._golden(store, pool)
            judged: dict[str, list[str]] = {}
            seen: dict[str, list[weave.Seen]] = {member.name: [] for member in self.members}
            queue: list[Pair] = []
            for number in range(count):
                member = self.members[number % len(self.members)]
                due = weave.next_for(member.name, seen[member.name], gold=list(gold.values()), judged_by=judged)
                if due.pair is None:
                    queue = queue or pool.chosen(store, BATCH, seed=self.seed * 1000 + number)
                    pair, side = queue.pop(0), random.Random(f"{self.seed} {number}").choice((1, -1))
                else:
                    pair, side = pool.pairs[due.pair], due.side
                self._teach_one(store, pool, pair, member, side, due.purpose, number)
                judged.setdefault(pair.id, []).append(member.name)
                seen[member.name].append(weave.Seen(pair.id, 1 if side > 0 else -1))
            return len(pool.among)

    def _teach_one(
        self, store: Store, pool: Pool, pair: Pair, member: Member, side: int, purpose: weave.Purpose, number: int
    ) -> None:
        first, second = pool.answers[pair.first], pool.answers[pair.second]
        prompt = pool.prompts[pair.prompt]
        texts = (first.text, second.text)
        verdict = self.verdict(member, texts, side, f"{pair.id} {number}")
        extra = {"purpose": purpose, "pair": pair.id, "prompt": prompt.id, "selected_by": pair.selected_by}
        id = f"{self.seed}-said-{first.version}-{number}"
        _say(store, id, member, prompt.messages, texts, side, verdict, extra)
        if purpose == "train":
            pool.learn(pair, verdict)

    def _golden(self, store: Store, pool: Pool) -> dict[str, weave.Gold]:
        """A few pairs whose better answer is beyond doubt, as an owner would enter them."""
        found: dict[str, weave.Gold] = {}
        for id in pool.one_pair_a_prompt():
            first, second = (pool.answers[answer].text for answer in id.split("~"))
            gap = self.taste.score(first) - self.taste.score(second)
            if abs(gap) < GOLD_GAP or len(found) == BATCH // 2:
                continue
            expected = Verdict.FIRST if gap > 0 else Verdict.SECOND
            pool.enter(store, id, "gold", "known", expected)
            found[id] = weave.Gold(id, float(gap > 0), (len(first) < len(second)) == (gap > 0))
        return found

    # -- judging -------------------------------------------------------------------------------------------------------

    def judge_round(self, most: int = BATCH) -> int:
        """At most so many of the pairs that the newest round waits for, by the people in turn; how many."""
        by_id = {
            one.id: one
            for path in sorted(rounds(self.workspace)[-1].glob("answers-*/*.jsonl"))
            for one in asking.read(path)
        }
        with Store.open(self.workspace) as store:
            store.take_in()
            waiting = [pair for pair in store.pairs(purpose="gate", judged=False) if pair.id.partition("~")[0] in by_id]
            for pair in waiting[:most]:
                one = by_id[pair.id.partition("~")[0]]
                member = self.members[self._asked % len(self.members)]
                self._asked += 1
                side = random.Random(f"{self.seed} {pair.id}").choice((1, -1))
                verdict = self.verdict(member, one.texts, side, pair.id)
                extra = {"purpose": "gate", "pair": pair.id, "prompt": one.prompt}
                _say(store, f"{pair.id}-{member.name}", member, one.messages, one.texts, side, verdict, extra)
        return len(waiting[:most])

    def verdict(self, member: Member, texts: tuple[str, str], side: int, key: str) -> Verdict:
        """`side`: 1 where the first is shown left. As stored: first or second, whatever the side."""
        gap = self.taste.score(texts[0]) - self.taste.score(texts[1])
        reads = member.person.kind not in ("random", "position")
        if reads and abs(gap) < EQUAL:
            return Verdict.TIE
        length = float(np.log((len(texts[0]) + 1) / (len(texts[1]) + 1)))
        chance = member.person.first_wins(Seen(SHARPNESS * gap, length, side, 1, 0))
        return Verdict.FIRST if random.Random(f"{self.seed} {member.name} {key}").random() < chance else Verdict.SECOND

    # -- truth ---------------------------------------------------------------------------------------------------------

    def truth(self, before: Sequence[str], after: Sequence[str]) -> Interval:
        """How often the taste itself, without anybody's slips, likes the answers after better; ties count half."""
        gaps = [self.taste.score(new) - self.taste.score(old) for old, new in zip(before, after, strict=True)]
        won = [1.0 if gap > EQUAL else 0.0 if gap < -EQUAL else 0.5 for gap in gaps]
        return paired_bootstrap([0.0] * len(won), won)


def _say(
    store: Store,
    id: str,
    member: Member,
    prompt: tuple[Message, ...],
    texts: tuple[str, str],
    side: int,
    verdict: Verdict,
    extra: Mapping[str, Any],
) -> None:
    """As the studio stores a comparison; `side`: 1 where the first was shown left."""
    value = {"verdict": verdict.value, "strength": 0 if verdict is Verdict.TIE else 1}
    order = (0, 1) if side > 0 else (1, 0)
    store.judge(Judgement(id, member.id, prompt, texts, order, Kind.COMPARISON, value, extra=extra), key=id)


@dataclass(slots=True)
class Pool:
    """Answers of one version to many prompts, and what was said of pairs of them."""

    prompts: Mapping[str, PromptRow]
    answers: Mapping[str, Answer]
    among: ask.Candidates
    pairs: dict[str, Pair] = field(default_factory=dict)  # in the store, by id
    _deltas: list[Float] = field(default_factory=list)
    _y: list[float] = field(default_factory=list)

    @classmethod
    def drawn(cls, store: Store, subject: Subject, version: Version, *, prompts: int, seed: int) -> Pool:
        """Different answers to that many prompts, in the store with their features."""
        from tomoni.engine.reading import read_answers

        rows = store.prompts(status="active", held_out=False)
        random.Random(seed).shuffle(rows)
        by_id = {row.id: row for row in rows[:prompts]}
        said: list[tuple[PromptRow, str]] = []
        for one in practice.draw(subject, [row.messages for row in by_id.values()], ANSWERS, seed=seed):
            said += [(by_id[prompt_id(one.prompt)], text) for text in dict.fromkeys(one.texts)]
        whole = [subject.renderer.completion(row.messages, (Message("assistant", text),)) for row, text in said]
        read = read_answers(subject.model, [row for row in whole if row is not None])
        answers = [
            Answer(
                f"drawn-{version.id}-{number}", row.id, version.id, version.hash, text, read.features_ND[number],
                float(read.logprob_N[number]), int(read.tokens_N[number]), {"temperature": 1.0},
            )
            for number, (row, text) in enumerate(said)
        ]  # fmt: skip
        store.add_answers(answers)
        tokens_N = read.tokens_N.astype(np.float64)
        space = Space.fit(read.features_ND.astype(np.float64), tokens_N, prompts=[row.id for row, _ in said])
        phi_AD = space(read.features_ND.astype(np.float64), tokens_N)
        among = ask.Candidates.of([one.id for one in answers], [one.prompt for one in answers], phi_AD)
        return cls(by_id, {one.id: one for one in answers}, among)

    def one_pair_a_prompt(self) -> list[str]:
        first_of: dict[str, str] = {}
        for first, second in zip(self.among.first_P, self.among.second_P, strict=True):
            one, other = self.among.answers[int(first)], self.among.answers[int(second)]
            first_of.setdefault(self.answers[one].prompt, f"{one}~{other}")
        return list(first_of.values())

    def head(self) -> Head:
        if not self._y:
            return Head.blank(self.among.phi_AD.shape[1])
        return Head.fit(np.array(self._deltas), np.array(self._y))

    def chosen(self, store: Store, count: int, *, seed: int) -> list[Pair]:
        """The next pairs to ask, none twice, in the store."""
        picks = ask.choose(self.among, self.head(), n=count + len(self.pairs), seed=seed)
        fresh = [one for one in picks if f"{one.first}~{one.second}" not in self.pairs][:count]
        return [self.enter(store, f"{one.first}~{one.second}", "train", one.selected_by) for one in fresh]

    def enter(self, store: Store, id: str, purpose: Any, selected_by: str, expected: Verdict | None = None) -> Pair:
        first, second = id.split("~")
        pair = Pair(id, self.answers[first].prompt, first, second, purpose, selected_by, expected=expected)
        store.add_pairs([pair])
        self.pairs[id] = pair
        return pair

    def learn(self, pair: Pair, verdict: Verdict) -> None:
        place = {name: number for number, name in enumerate(self.among.answers)}
        self._deltas.append(self.among.phi_AD[place[pair.first]] - self.among.phi_AD[place[pair.second]])
        self._y.append({Verdict.FIRST: 1.0, Verdict.SECOND: 0.0}.get(verdict, 0.5))
