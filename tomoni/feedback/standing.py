"""Which judgements count: those that no later one of the same chain replaces or takes back. Pure; no torch.

The database keeps the same answer up to date event by event (`judging`); this is the whole of it in one look.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tomoni.feedback.entries import Stored
from tomoni.records import Kind


@dataclass(frozen=True, slots=True)
class Standing:
    live: list[Stored]  # in the order they were said
    replaced: int
    undone: int  # taken back; the events that do so are in no count


def standing(stored: Sequence[Stored]) -> Standing:
    """What replaces something that is not among `stored` begins a chain of its own, so that a list of live judgements
    stays as it is."""
    chain_of: dict[str, str] = {}
    chains: dict[str, list[Stored]] = {}
    undone = said = 0
    for one in sorted(stored, key=lambda each: each.sequence):
        judgement = one.judgement
        chain = chain_of.get(judgement.replaces or "", judgement.id)
        chain_of[judgement.id] = chain
        stack = chains.setdefault(chain, [])
        if judgement.kind is not Kind.UNDO:
            said += 1
            stack.append(one)
        elif stack:
            undone += 1
            stack.pop()
    live = sorted((stack[-1] for stack in chains.values() if stack), key=lambda each: each.sequence)
    return Standing(live, said - undone - len(live), undone)
