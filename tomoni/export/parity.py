"""Is the exported model the one that was trained? Asked of the program that will run it, on the user's own prompts.

Four things, for each prompt: the template writes the same text (a plain text has none: where all are plain, built-in
conversations are written instead); the text becomes the same tokens; the likeliest tokens
follow each other as before, with logprobs that differ by no more than the form's bound; the answer ends where it ended.

Logprobs are compared at every place of the original's greedy answer up to the first token that differs (both have seen
the same tokens there), over the tokens that the original gives at least 1 %. Two greedy answers may part where the two
likeliest tokens are nearly as likely: if no logprob moves by more than b, their margin there is at most 2 b. A wider
margin is a failure.

What was measured stands beside the bounds in docs/export.md.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np

from tomoni.export.answers import Answer, Prompt, Reader
from tomoni.rows import Int32

LIKELY: Final = np.log(0.01)
MOST_TOKENS: Final = 48  # of an answer that is compared
SHOWN: Final = 200  # characters of a text in the report
# however coarse the form: an answer that the original preferred by more than this (20 to 1) must not become another
MOST_MARGIN: Final = 3.0
# with an end token this likely the original's answer is over; an answer that goes on there has lost its end
SURE_END: Final = np.log(0.9)
FEW: Final = 8  # prompts too few to ask for a share of them


@dataclass(frozen=True, slots=True)
class Bound:
    """`logprob`: the largest difference of a logprob, in nats. `divergence`: the mean over places of the
    Kullback-Leibler divergence from the original, in nats a token. `equal`: the least share of greedy answers that must
    be the same."""

    logprob: float
    divergence: float
    equal: float

    @property
    def margin(self) -> float:
        """The largest by which the original may have preferred its own token where answers part."""
        return min(2 * self.logprob, MOST_MARGIN)


BOUNDS: Final = {
    ("hf", "f32"): Bound(0.002, 1e-5, 0.9),
    ("hf", "f16"): Bound(0.1, 1e-4, 0.75),
    ("hf", "bf16"): Bound(0.5, 3e-4, 0.6),
    ("gguf", "f32"): Bound(0.01, 1e-5, 0.9),
    ("gguf", "f16"): Bound(0.1, 1e-4, 0.75),
    ("gguf", "bf16"): Bound(0.5, 3e-4, 0.6),
    ("gguf", "q8_0"): Bound(0.7, 1e-3, 0.6),
    ("gguf", "q5_1"): Bound(3.0, 0.01, 0.5),
    ("gguf", "q4_0"): Bound(5.0, 0.03, 0.3),
    ("onnx", "f32"): Bound(0.002, 1e-5, 0.9),
    ("onnx", "int8"): Bound(3.0, 0.02, 0.4),
}


@dataclass(frozen=True, slots=True)
class Difference:
    """One prompt on which something is not as it was. `kind`: text, tokens, logprob, answer, end. `passed`: it is
    within what the form allows."""

    prompt: str
    kind: str
    before: str
    after: str
    at: int | None = None
    margin: float | None = None
    passed: bool = False


@dataclass(frozen=True)
class Parity:
    """`logprob` the largest difference and `divergence` the mean, `places` over how many; the counts are of prompts,
    out of `prompts`; `ended` of those that ended before. `text_equal` is out of `texts`, which are the conversations
    among the prompts, or built-in ones where `built_in_texts`; 0 where the template was not compared. `ends` has for each end token whether it ends an answer."""

    form: str
    program: str
    bound: Bound
    prompts: int
    text_equal: int
    texts: int
    built_in_texts: bool
    tokens_equal: int
    answers_equal: int
    ended_before: int
    ended: int
    logprob: float
    divergence: float
    places: int
    ends: dict[str, bool]
    differences: tuple[Difference, ...]
    problems: tuple[str, ...]

    @property
    def passed(self) -> bool:
        return not self.problems

    def as_json(self) -> dict[str, Any]:
        return {"passed": self.passed, **asdict(self)}


@dataclass(frozen=True, eq=False)
class Known:
    """What the original makes of a prompt."""

    prompt: Prompt
    text: str
    tokens: Int32
    answer: Answer


def answers_of(
    original: Any, prompts: Sequence[Prompt], *, most: int = MOST_TOKENS, context: int | None = None
) -> list[Known]:
    """The original's text, tokens and greedy answer to each prompt that leaves room for one."""
    read = [(prompt, str(original.text(prompt)), original.tokens(prompt)) for prompt in prompts]
    fitting = [one for one in read if context is None or len(one[2]) + most <= context]
    found = original.answers([tokens for _, _, tokens in fitting], most)
    return [Known(*one, answer) for one, answer in zip(fitting, found, strict=True)]


def compare(
    known: Sequence[Known],
    reader: Reader,
    form: tuple[str, str],
    *,
    ends: dict[int, str],
    shown: Callable[[Int32], str],
    most: int = MOST_TOKENS,
    spoken: Sequence[tuple[Prompt, str]] = (),
) -> Parity:
    """Ask the program the same and compare. `ends` are the tokens that must end an answer, with their texts; `shown`
    turns tokens into text for the report. `spoken` are conversations with their texts, for prompts that have none."""
    bound = BOUNDS[form]
    differences: list[Difference] = []
    answers = reader.answers([one.tokens for one in known], most)
    divergences: list[float] = []
    largest, tokens, same = 0.0, 0, 0
    written = _compare_texts(spoken or [(one.prompt, one.text) for one in known if one.prompt.text is None], reader)
    differences += [found for found in written if found is not None]
    for one, after in zip(known, answers, strict=True):
        other = _compare_tokens(one, reader)
        differences += other
        tokens += not other
        moved, apart = distances(one.answer, after)
        largest = max(largest, moved)
        divergences += apart
        if moved > bound.logprob:
            differences.append(Difference(one.prompt.shown[:SHOWN], "logprob", "", f"differs by {moved:.3g}"))
        same += _same(one.answer, after)
        differences += _compare_answers(one, after, bound, shown, set(ends))
    stopping = {text: reader.ends_at(token, known[0].tokens) for token, text in ends.items()} if known else {}
    divergence = float(np.mean(divergences)) if divergences else 0.0
    return Parity(
        form=" ".join(form),
        program=reader.name,
        bound=bound,
        prompts=len(known),
        text_equal=sum(found is None for found in written),
        texts=len(written),
        built_in_texts=bool(spoken and written),
        tokens_equal=tokens,
        answers_equal=same,
        ended_before=sum(one.answer.finish == "stop" for one in known),
        ended=sum(one.answer.finish == "stop" == after.finish for one, after in zip(known, answers, strict=True)),
        logprob=largest,
        divergence=divergence,
        places=len(divergences),
        ends=stopping,
        differences=tuple(differences),
        problems=(
            *_problems(differences, divergence, bound, stopping, {"text": len(written)}, len(known)),
            *_too_few_equal(same, len(known), bound),
        ),
    )


def _problems(
    differences: Sequence[Difference],
    divergence: float,
    bound: Bound,
    ends: dict[str, bool],
    out_of: dict[str, int],
    prompts: int,
) -> list[str]:
    found = []
    said = {
        "text": "the chat template writes another text",
        "tokens": "the text becomes other tokens",
        "logprob": f"logprobs differ by more than {bound.logprob:g}",
        "answer": f"greedy answers part where the margin is more than {bound.margin:g}",
        "end": "an answer does not end where it ended",
    }
    for kind, words in said.items():
        number = sum(one.kind == kind and not one.passed for one in differences)
        if number:
            found.append(f"{words} (on {number} of {out_of.get(kind, prompts)} prompts)")
    if divergence > bound.divergence:
        found.append(f"predictions diverge by {divergence:.2g} nats a token; at most {bound.divergence:g} is expected")
    found += [f"the token {text!r} does not end an answer" for text, ending in ends.items() if not ending]
    if not prompts:
        found.append("no prompt was compared")
    return found


def _too_few_equal(same: int, prompts: int, bound: Bound) -> list[str]:
    if prompts < FEW or same >= bound.equal * prompts:
        return []
    return [f"only {same} of {prompts} greedy answers are the same; at least {bound.equal:.0%} are expected"]


def _compare_texts(prompts: Sequence[tuple[Prompt, str]], reader: Reader) -> list[Difference | None]:
    """Of each conversation that the program writes itself: how its text differs, None where it does not."""
    found: list[Difference | None] = []
    for prompt, wanted in prompts:
        text = reader.text(prompt)
        if text == wanted:
            found.append(None)
        elif text is not None:
            found.append(Difference(prompt.shown[:SHOWN], "text", *_around(wanted, text)))
    return found


def _compare_tokens(one: Known, reader: Reader) -> list[Difference]:
    tokens = reader.tokens(one.prompt)
    if np.array_equal(tokens, one.tokens):
        return []
    at = _parting(one.tokens, tokens)
    near = slice(max(0, at - 3), at + 8)
    before, after = str(one.tokens[near].tolist()), str(tokens[near].tolist())
    return [Difference(one.prompt.shown[:SHOWN], "tokens", before, after, at)]


def _compare_answers(
    one: Known, after: Answer, bound: Bound, shown: Callable[[Int32], str], ends: set[int]
) -> list[Difference]:
    before = one.answer
    if _same(before, after):
        return []
    at = _parting(before.tokens, after.tokens)
    texts = shown(before.tokens)[:SHOWN], shown(after.tokens)[:SHOWN]
    shorter = at >= min(len(before.tokens), len(after.tokens))  # the same as far as the shorter one goes
    if shorter or (int(before.tokens[at]) in ends and _logprob(before, at, int(before.tokens[at])) > SURE_END):
        return [Difference(one.prompt.shown[:SHOWN], "end", *texts, at)]
    margin = _margin(before, at, int(after.tokens[at]))
    passed = margin <= bound.margin
    return [Difference(one.prompt.shown[:SHOWN], "answer", *texts, at, round(margin, 4), passed)]


def distances(before: Answer, after: Answer) -> tuple[float, list[float]]:
    """The largest difference of a likely token's logprob, and the divergence at each place, up to where the answers
    part. What `after` does not tell among its likeliest tokens is taken as the least likely of those."""
    largest, divergences = 0.0, []
    shared = min(_parting(before.tokens, after.tokens) + 1, len(before.tokens), len(after.tokens))
    for place in range(shared):
        told = np.isfinite(after.logprobs[place])
        if not told.any():
            continue
        least = float(after.logprobs[place][told].min())
        theirs = dict(zip(after.ids[place][told].tolist(), after.logprobs[place][told].tolist(), strict=True))
        ours = before.logprobs[place].astype(np.float64)
        moved = ours - np.array([theirs.get(token, least) for token in before.ids[place].tolist()])
        likely = ours > LIKELY
        largest = max(largest, float(np.abs(moved[likely]).max(initial=0.0)))
        divergences.append(max(0.0, float((np.exp(ours) * moved).sum())))
    return largest, divergences


def _logprob(before: Answer, at: int, token: int) -> float:
    """Of a token at a place of the original's answer; minus infinity where it was not among the likeliest."""
    where = np.flatnonzero(before.ids[at] == token)
    return float(before.logprobs[at][where[0]]) if len(where) else float("-inf")


def _margin(before: Answer, at: int, token: int) -> float:
    """By how much the original preferred its own token to `token`; infinite where that was not among the likeliest."""
    return _logprob(before, at, int(before.tokens[at])) - _logprob(before, at, token)


def _same(before: Answer, after: Answer) -> bool:
    return bool(np.array_equal(before.tokens, after.tokens)) and before.finish == after.finish


def _parting(first: Int32, second: Int32) -> int:
    shorter = min(len(first), len(second))
    unequal = np.flatnonzero(first[:shorter] != second[:shorter])
    return int(unequal[0]) if len(unequal) else shorter


def _around(before: str, after: str) -> tuple[str, str]:
    """Both texts from shortly before the character where they part."""
    pairs = zip(before, after, strict=False)
    at = next((place for place, (one, other) in enumerate(pairs) if one != other), min(len(before), len(after)))
    start = max(0, at - 20)
    return before[start : start + SHOWN], after[start : start + SHOWN]
