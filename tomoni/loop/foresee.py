"""What the reward head expects of the gate's pairs before anybody judges them: the control variate of `gate.control`.

It saves judgements, and can never void the e-value, for three reasons that hold by construction:

- The head and its space are fitted on what was said before the round began, and never on held-out prompts, which are all
  that a gate asks about. So they are fixed before the first judgement.
- Beside each judged pair stand a few that nobody judges (`OTHERS`): prompts drawn with replacement from the same held-out
  ones, both versions' answers drawn anew. Their mean expectation and the judged pair's have the same mean, whatever people
  have said so far, in whatever order they judge, and however wrong the head is.
- No two judged pairs share any of these. One that people pass over stays in the game, as a tie (`evidence`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from tomoni.feedback.arrays import Float
from tomoni.feedback.head import Head
from tomoni.loop.asked import Asked, Prompt
from tomoni.loop.evidence import RANDOM
from tomoni.loop.taste import Drawn, Reader, Reads, understand

if TYPE_CHECKING:
    from tomoni.evaluate.subject import Subject
    from tomoni.feedback.snapshot import Snapshot

OTHERS = 4  # of each judged pair; of what endlessly many would save, so many save 4/5
FEWEST = 10  # labels under which a head knows nothing worth the sampling

Shown = tuple[Prompt, str, str]  # prompt, the base's answer, the candidate's


@dataclass(frozen=True, slots=True)
class Foresight:
    """`reader` and `head` as they were before the round's first judgement."""

    reader: Reads
    head: Head

    def rates(self, shown: Sequence[Shown]) -> Float:
        """How likely the candidate's answer is the better one, of each; by a person who never errs."""
        if not shown:
            return np.zeros(0)
        known = self.reader.read([(prompt, text) for prompt, old, new in shown for text in (new, old)])
        phi_ND = np.array([one.phi_D for one in known])
        return self.head.probability(phi_ND[0::2] - phi_ND[1::2])

    def on(self, pairs: Sequence[Asked], others: Sequence[Shown]) -> list[Asked]:
        """The pairs with what is expected of them and of some of `others` each; those that speak for a topic alone, and those
        for which no others are left, stay as they are."""
        rate_N, other_M = self.rates([(one.messages, one.old, one.new) for one in pairs]), self.rates(others)
        told = [place for place, one in enumerate(pairs) if one.selected_by == RANDOM]
        found = list(pairs)
        for number, place in enumerate(told[: len(other_M)]):
            elsewhere = float(other_M[number :: len(told)][:OTHERS].mean())
            found[place] = replace(found[place], expected=float(rate_N[place]), elsewhere=elsewhere)
        return found


def foresight(eyes: Subject, snapshot: Snapshot) -> Foresight | None:
    """By the comparisons that the round learns from, as `eyes` read them; None where they are too few."""
    judged = [Drawn(one.prompt, (one.first[-1].content, one.second[-1].content)) for one in snapshot.comparisons]
    if len(judged) < FEWEST:
        return None
    reader = Reader(eyes, judged)
    head = understand(reader, snapshot, judged)
    return Foresight(reader, head) if head.labels >= FEWEST else None
