"""The store against plain dicts: whatever is said, undone, erased, taken out and brought back, in any order."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.feedback.conftest import Cluster
from tests.feedback.saying import judgement
from tomoni.errors import UserError
from tomoni.feedback.exchange import export, import_
from tomoni.feedback.resolve import resolve
from tomoni.feedback.store import Store
from tomoni.records import Kind

NAMES = ("花子", "太郎", "Ann")
TEXTS = ("はい。", "いいえ、違います。", "ﾊﾝｶｸ", "👘", "NUL\0")
SAID = st.one_of(
    st.tuples(st.just(Kind.COMPARISON), st.sampled_from(["first", "second", "tie", "both_bad"]).map(lambda v: {"verdict": v})),
    st.tuples(st.just(Kind.THUMB), st.booleans().map(lambda up: {"answer": 0, "up": up})),
    st.tuples(st.just(Kind.CORRECTION), st.sampled_from(TEXTS).map(lambda text: {"answer": 1, "text": text})),
    st.tuples(st.just(Kind.RATING), st.integers(1, 5).map(lambda stars: {"answer": 1, "stars": stars})),
)  # fmt: skip


class Machine(RuleBasedStateMachine):
    """The model: `said` by id, `stacks` of ids that replace each other, `keys`; nothing of it is the store's code."""

    url: str | None = None
    said_ids = Bundle("said_ids")

    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp(prefix="tomoni-machine-"))
        self.workspace = self.root / "w0"
        self.moves = 0
        self.number = 0
        self.people: dict[str, str] = {}  # name -> id
        self.said: dict[str, Any] = {}
        self.stacks: dict[str, list[str]] = {}
        self.stack_of: dict[str, str] = {}
        self.keys: dict[str, tuple[str, int]] = {}
        self.store = Store.open(self.workspace, url=self.url)

    @initialize()
    def people_come(self) -> None:
        for name in NAMES:
            self.people[name] = self.store.add_person(name, role="annotator").id

    def _next(self) -> str:
        self.number += 1
        return f"j{self.number}"

    @rule(target=said_ids, name=st.sampled_from(NAMES), what=SAID, texts=st.permutations(TEXTS))
    def judge(self, name: str, what: tuple[Kind, Any], texts: list[str]) -> str:
        id = self._next()
        if name in self.people:
            one = judgement(id, self.people[name], *what, answers=(texts[0], texts[1]))
            ack = self.store.judge(one, key=f"k{id}")
            self.said[id] = one
            self.stacks[id], self.stack_of[id] = [id], id
            self.keys[f"k{id}"] = (id, ack.sequence)
        return id

    @rule(target=said_ids, old=said_ids, what=SAID)
    def replace(self, old: str, what: tuple[Kind, Any]) -> str:
        id = self._next()
        if old in self.said:
            one = judgement(id, self.said[old].person, *what, replaces=old)
            ack = self.store.judge(one, key=f"k{id}")
            self.said[id] = one
            self.stack_of[id] = self.stack_of[old]
            self.stacks[self.stack_of[old]].append(id)
            self.keys[f"k{id}"] = (id, ack.sequence)
        return id

    @rule(old=said_ids)
    def undo(self, old: str) -> None:
        if old in self.said:
            key = f"u{self._next()}"
            self.store.undo(old, person=self.said[old].person, key=key)
            stack = self.stacks[self.stack_of[old]]
            if stack:
                stack.pop()

    @rule(old=said_ids)
    def send_again(self, old: str) -> None:
        if old in self.said and f"k{old}" in self.keys:
            ack = self.store.judge(self.said[old], key=f"k{old}")
            assert (ack.id, ack.sequence) == self.keys[f"k{old}"] and ack.duplicate

    @rule()
    def reopen(self) -> None:
        self.store.close()
        self.store = Store.open(self.workspace, url=self.url)

    @precondition(lambda self: self.url is None)
    @rule()
    def move_by_export_and_import(self) -> None:
        self.moves += 1
        file = self.root / f"{self.moves}.jsonl"
        export(self.store, file)
        self.store.close()
        self.workspace = self.root / f"w{self.moves}"
        self.store = Store.open(self.workspace)
        import_(self.store, [file])
        again = self.root / f"{self.moves}-again.jsonl"
        export(self.store, again)
        assert file.read_bytes() == again.read_bytes()
        sequences = {one.judgement.id: one.sequence for one in self.store.judgements(live=False)}
        self.keys = {key: (id, sequences[id]) for key, (id, _) in self.keys.items()}

    @precondition(lambda self: len(self.people) > 1)
    @rule(name=st.sampled_from(NAMES))
    def erase(self, name: str) -> None:
        if name not in self.people:
            return
        person = self.people.pop(name)
        mine = [id for id, one in self.said.items() if one.person == person]
        self.store.erase_person(person)
        for id in mine:
            del self.said[id], self.stack_of[id]
            self.keys.pop(f"k{id}", None)
            self.stacks.pop(id, None)
        with pytest.raises(UserError):
            self.store.person(person)

    @invariant()
    def what_counts_is_what_the_model_says(self) -> None:
        live = {stack[-1] for stack in self.stacks.values() if stack}
        stored = self.store.judgements()
        assert {one.judgement.id for one in stored} == live
        assert all(one.judgement == self.said[one.judgement.id] for one in stored)
        everything = self.store.judgements(live=False)
        assert {one.judgement.id for one in everything if one.judgement.kind is not Kind.UNDO} == set(self.said)
        sequences = [one.sequence for one in everything]
        assert sequences == sorted(set(sequences)) and all(number <= self.store.sequence for number in sequences)

    @invariant()
    def what_is_resolved_comes_from_what_counts(self) -> None:
        everything = self.store.judgements(live=False)
        snapshot = resolve(everything)
        live = {stack[-1] for stack in self.stacks.values() if stack}
        used = {
            record.extra["judgement"] for record in (*snapshot.comparisons, *snapshot.corrections, *snapshot.thumbs)
        }
        assert used <= live and snapshot.hash == resolve(self.store.judgements()).hash

    def teardown(self) -> None:
        self.store.close()
        shutil.rmtree(self.root, ignore_errors=True)


def test_the_store_is_its_model_whatever_happens_in_whatever_order() -> None:
    run_state_machine_as_test(Machine, settings=settings(max_examples=10, stateful_step_count=20, deadline=None))


def test_so_it_is_on_postgresql(cluster: Cluster) -> None:
    class OnServer(Machine):
        def __init__(self) -> None:
            type(self).url = cluster.emptied()
            super().__init__()

    run_state_machine_as_test(OnServer, settings=settings(max_examples=6, stateful_step_count=15, deadline=None))


@pytest.mark.slow
def test_the_store_is_its_model_for_long() -> None:
    run_state_machine_as_test(Machine, settings=settings(max_examples=40, stateful_step_count=40, deadline=None))
