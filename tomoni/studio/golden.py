"""Pairs whose better answer is known: proposed by what people said, confirmed by the owner, woven in for the others. No torch.

A gold pair is the pair that people judged under an id of its own (`~gold`), with what is expected of it. Whoever has
judged the pair is not asked again.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from tomoni.errors import UserError
from tomoni.feedback.entries import Pair
from tomoni.records import Verdict
from tomoni.studio.faults import Fault
from tomoni.studio.insight import GOLD, GOLD_OUT, base_of

if TYPE_CHECKING:
    from tomoni.feedback.store import Store
    from tomoni.studio.insight import Fitted

PROPOSED = 5  # shown at once


@dataclass(frozen=True, slots=True)
class Known:
    """A pair as the owner looks at it. `chance` of a proposal: that `better` is."""

    pair: str
    question: str
    better: str
    other: str
    chance: float | None = None
    people: int = 0


def proposals(store: Store, fitted: Fitted | None) -> list[Known]:
    """Pairs that two people or more have judged and of which the better answer is nearly certain, surest first."""
    from tomoni.feedback import weave

    if fitted is None:
        return []
    settled = {base_of(pair.id) for pair in store.pairs(purpose="gold")} | set(store.get(GOLD_OUT, []))
    found = []
    for one in weave.could_be_gold(fitted.judged, fitted.people):
        if one.pair not in settled and (pair := _pair(store, one.pair)) is not None:
            expected = Verdict.FIRST if one.expected == 1 else Verdict.SECOND
            found.append(replace(_shown(store, pair, expected), chance=one.probability, people=one.people))
            if len(found) == PROPOSED:
                break
    return found


def confirmed(store: Store) -> list[Known]:
    """In use now."""
    out = set(store.get(GOLD_OUT, []))
    return [
        _shown(store, pair, pair.expected)
        for pair in store.pairs(purpose="gold")
        if pair.expected is not None and base_of(pair.id) not in out
    ]


def confirm(store: Store, fitted: Fitted | None, base: str) -> None:
    """The answer is the one that was proposed: nobody makes gold of anything else. Fault 404 where it is not proposed."""
    if base not in {one.pair for one in proposals(store, fitted)}:
        raise Fault("no_pair", 404)
    from tomoni.feedback import weave

    assert fitted is not None  # noqa: S101  (there was a proposal)
    certain = next(one for one in weave.could_be_gold(fitted.judged, fitted.people) if one.pair == base)
    expected = Verdict.FIRST if certain.expected == 1 else Verdict.SECOND
    pair = store.pair(base)
    gold = replace(
        pair, id=f"{base}{GOLD}", purpose="gold", selected_by="gold", person=None, expected=expected, created=""
    )
    store.add_pairs([gold])


def put_out(store: Store, base: str) -> None:
    """A proposal declined, or a gold pair taken out of use: it is neither asked nor counted as known from now on."""
    if _pair(store, base) is None:
        raise Fault("no_pair", 404)
    store.set(GOLD_OUT, sorted({*store.get(GOLD_OUT, []), base}))


def _pair(store: Store, id: str) -> Pair | None:
    try:
        return store.pair(id)
    except UserError:
        return None


def _shown(store: Store, pair: Pair, expected: Verdict) -> Known:
    better, other = store.answer(pair.first).text, store.answer(pair.second).text
    if expected is Verdict.SECOND:
        better, other = other, better
    return Known(base_of(pair.id), store.prompt(pair.prompt).messages[-1].content, better, other)
