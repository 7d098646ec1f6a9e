"""What a round shows besides its decision: how far the candidate moved, how varied and how long its answers are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from tomoni.loop import practice
from tomoni.loop.taste import Drawn, Prompt, Reader, expected_win_rate, understand
from tomoni.records import Message

if TYPE_CHECKING:
    from tomoni.evaluate.subject import Subject
    from tomoni.feedback.entries import PromptRow
    from tomoni.feedback.snapshot import Snapshot

TRIED = 24  # prompts on which two methods are compared


@dataclass(frozen=True, slots=True)
class Drift:
    """Of (base, candidate) each: `length` in characters, `distinct` the share of different pairs of neighbouring words or
    letters, `different` the share of answers that no other prompt was given. `kl`: nats an answer by which the candidate
    is surer of its answers than the base would be; `kl_first`: than the first version of all would be, where that is not
    the base."""

    length: tuple[float, float]
    distinct: tuple[float, float]
    different: tuple[float, float]
    kl: float | None
    kl_first: float | None = None


def drift(
    base: Subject,
    candidate: Subject,
    prompts: Sequence[Prompt],
    answers: Sequence[tuple[str, str]],
    first: Subject | None = None,
) -> Drift:
    old, new = ([pair[side] for pair in answers] for side in (0, 1))
    return Drift(
        (_length(old), _length(new)),
        (distinct(old), distinct(new)),
        (len(set(old)) / max(len(old), 1), len(set(new)) / max(len(new), 1)),
        _kl(base, candidate, prompts, new),
        None if first is None else _kl(first, candidate, prompts, new),
    )


def distinct(texts: Sequence[str]) -> float:
    """distinct-2: different neighbouring pairs over all of them; of words, or of letters where there are no spaces."""
    pairs = []
    for text in texts:
        parts = text.split() if " " in text else list(text)
        pairs += list(pairwise(parts))
    return len(set(pairs)) / len(pairs) if pairs else 0.0


def _length(texts: Sequence[str]) -> float:
    return float(np.mean([len(text) for text in texts])) if texts else 0.0


def _kl(base: Subject, candidate: Subject, prompts: Sequence[Prompt], answers: Sequence[str]) -> float | None:
    from tomoni.engine.reading import read_answers

    said = [(prompt, text) for prompt, text in zip(prompts, answers, strict=True) if text]
    if not said:
        return None
    logprobs = []
    for subject in (candidate, base):
        rows = [subject.renderer.completion(prompt, (Message("assistant", text),)) for prompt, text in said]
        logprobs.append(read_answers(subject.model, [row for row in rows if row is not None]).logprob_N)
    return float((logprobs[0] - logprobs[1]).mean())


def expected(
    eyes: Subject, base: Subject, candidate: Subject, snapshot: Snapshot, held_out: Sequence[PromptRow]
) -> dict[str, float] | None:
    """The win rate over the base that the head expects of the candidate, as `eyes` read both; None where it knows nothing."""
    prompts = [row.messages for row in held_out[:TRIED]]
    old, new = (practice.draw_one(subject, prompts, seed=7) for subject in (base, candidate))
    ground = [
        Drawn(prompt, (one, other)) for prompt, one, other in zip(prompts, old, new, strict=True) if one and other
    ]
    judged = [Drawn(each.prompt, (each.first[-1].content, each.second[-1].content)) for each in snapshot.comparisons]
    if not ground or not judged:
        return None
    reader = Reader(eyes, [*judged, *ground])
    head = understand(reader, snapshot, judged)
    if not head.labels:
        return None
    return asdict(expected_win_rate(reader, head, [(one.prompt, one.texts[0], one.texts[1]) for one in ground]))
