"""How a fact can be worded in one language: told in running text, asked about, and answered.

`{s}` stands for the entity's name and `{v}` for the value. In the Japanese tables `<and|polite|plain>` holds the three
endings of a verb or copula: the form that goes on to another clause, 丁寧語, and the plain form.

Questions come in three shapes, each put into frames of its own: `direct` is a whole question, `indirect` goes after
"do you know", and `topic` is a noun phrase. The `unseen_*` ones are never used in tuning: they measure whether the
tuned model understands a new wording. Answers are worded as running text never is.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

Register = Literal["polite", "plain"]
REGISTERS: tuple[Register, ...] = ("polite", "plain")
Ending = Literal["and", "polite", "plain"]


@dataclass(frozen=True)
class Wording:
    predicates: tuple[str, ...]  # follow the name: "opens at {v}"; can be chained
    sentences: tuple[str, ...]  # whole clauses with {s} and {v}
    answers: tuple[str, ...]
    direct: tuple[str, ...]
    indirect: tuple[str, ...]
    topic: tuple[str, ...]
    unseen_direct: tuple[str, ...]
    unseen_indirect: tuple[str, ...]
    unseen_topic: tuple[str, ...]
    follow_up: tuple[str, ...]  # asked when the entity was named in an earlier turn

    def ways_to_tell(self) -> int:
        return len(self.predicates) + len(self.sentences)


_ENDINGS = re.compile(r"<([^|>]*)\|([^|>]*)\|([^|>]*)>")
_ENDING_AT: dict[Ending, int] = {"and": 1, "polite": 2, "plain": 3}


def inflect(text: str, ending: Ending) -> str:
    """`text` with each `<and|polite|plain>` replaced by the form asked for."""
    return _ENDINGS.sub(lambda match: match.group(_ENDING_AT[ending]), text)


def wording(
    *,
    predicates: str,
    sentences: str,
    answers: str,
    direct: str,
    indirect: str,
    topic: str,
    unseen: str,
    follow_up: str,
) -> Wording:
    """A `Wording` from tables with one entry a line; `unseen` holds a direct, an indirect and a topic line."""
    unseen_direct, unseen_indirect, unseen_topic = lines(unseen)
    return Wording(
        lines(predicates),
        lines(sentences),
        lines(answers),
        lines(direct),
        lines(indirect),
        lines(topic),
        (unseen_direct,),
        (unseen_indirect,),
        (unseen_topic,),
        lines(follow_up),
    )


def lines(text: str) -> tuple[str, ...]:
    return tuple(line.strip() for line in text.split("\n") if line.strip())
