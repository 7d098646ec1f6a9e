"""What people like, from few judgements, as a score for any answer to any prompt.

Nothing but differences between answers to one prompt is learnt from: those that were judged, as the model that will be
trained sees them (`engine.reading`), in a space made of many answers that nobody has judged (`feedback.space`). The head
(`feedback.head`) keeps what it does not know, so that ten judgements do not pass for a thousand.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Protocol

import numpy as np

from tomoni.feedback.arrays import Float
from tomoni.feedback.entries import prompt_id
from tomoni.feedback.head import Head, Space
from tomoni.feedback.snapshot import Snapshot
from tomoni.records import Comparison, Message, Rated, Verdict

if TYPE_CHECKING:
    from tomoni.evaluate.subject import Subject

CARE = 2.0  # of the score, for a nat a token: what the model itself doubts must please more
AGREEMENT = 1.0  # of the score, between an answer that says what the others to its prompt say and one that does not
GRAM = 3  # letters
THUMB = 0.5  # weight of a thumb, which compares an answer with what the model usually says
PREFERRED = {Verdict.FIRST: 1.0, Verdict.SECOND: 0.0, Verdict.TIE: 0.5}

Prompt = tuple[Message, ...]


@dataclass(frozen=True, slots=True)
class Drawn:
    """Answers that a model gave to one prompt, as drawn: some may be alike."""

    prompt: Prompt
    texts: tuple[str, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Known:
    """An answer as the model sees it: its place in the space, and its log-probability (nats, summed; tokens)."""

    phi_D: Float
    logprob: float
    tokens: int


class Reads(Protocol):
    """Whatever tells answers' places in a space: a model (`Reader`), or a simulated one."""

    space: Space

    def read(self, wanted: Sequence[tuple[Prompt, str]]) -> list[Known]: ...


class Reader:
    """Reads answers once each. The space is fitted on the first ones that are read, `ground`."""

    def __init__(
        self, subject: Subject, ground: Sequence[Drawn], *, told: Callable[[float], None] | None = None
    ) -> None:
        self.subject = subject
        self._known: dict[tuple[str, str], Known] = {}
        answers = _once((one.prompt, text) for one in ground for text in one.texts)
        features_NF, logprobs_N, tokens_N = self._read(list(answers.values()), told)
        self.space = Space.fit(features_NF, tokens_N, prompts=[prompt for prompt, _ in answers])
        self._keep(answers, features_NF, logprobs_N, tokens_N)

    @classmethod
    def of(cls, subject: Subject, space: Space) -> Reader:
        """One for a space that was fitted before."""
        reader = cls.__new__(cls)
        reader.subject, reader.space, reader._known = subject, space, {}
        return reader

    def read(self, wanted: Sequence[tuple[Prompt, str]], *, told: Callable[[float], None] | None = None) -> list[Known]:
        """`told` is given the share that is read, of what was not known yet."""
        new = {key: answer for key, answer in _once(wanted).items() if key not in self._known}
        if new:
            self._keep(new, *self._read(list(new.values()), told))
        return [self._known[prompt_id(prompt), text] for prompt, text in wanted]

    def _read(
        self, answers: Sequence[tuple[Prompt, str]], told: Callable[[float], None] | None
    ) -> tuple[Float, Float, Float]:
        from tomoni.engine.reading import read_answers

        rows = []
        for prompt, text in answers:
            row = self.subject.renderer.completion(prompt, (Message("assistant", text),))
            if row is None:
                raise AssertionError("the renderer cuts rows that are too long, and leaves none out")
            rows.append(row)
        read = read_answers(self.subject.model, rows, told=told)
        return read.features_ND.astype(np.float64), read.logprob_N.astype(np.float64), read.tokens_N.astype(np.float64)

    def _keep(self, keys: Iterable[tuple[str, str]], features_NF: Float, logprobs_N: Float, tokens_N: Float) -> None:
        phi_ND = self.space(features_NF, tokens_N)
        for key, phi_D, logprob, tokens in zip(keys, phi_ND, logprobs_N, tokens_N, strict=True):
            self._known[key] = Known(phi_D, float(logprob), int(tokens))


def understand(reader: Reads, snapshot: Snapshot, drawn: Sequence[Drawn]) -> Head:
    """The head that the snapshot's judgements give. A thumb says that an answer is better, or worse, than what is usually
    said to its prompt, so it needs answers to that prompt among `drawn`; without any it says nothing."""
    usual = {prompt_id(one.prompt): one.texts for one in drawn}
    deltas: list[Float] = []
    labels: list[tuple[float, float, float]] = []  # y, weight, noise
    for comparison in snapshot.comparisons:
        if (y := PREFERRED.get(comparison.verdict)) is None:
            continue
        first, second = reader.read(sides(comparison))
        deltas.append(first.phi_D - second.phi_D)
        labels.append((y, comparison.weight, comparison.noise))
    for thumb in snapshot.thumbs:
        if texts := usual.get(prompt_id(thumb.prompt)):
            answer, *others = reader.read([(thumb.prompt, said(thumb)), *((thumb.prompt, text) for text in texts)])
            deltas.append(answer.phi_D - np.mean([other.phi_D for other in others], axis=0))
            labels.append((float(thumb.good), THUMB * thumb.weight, 0.0))
    if not deltas:
        return Head.blank(reader.space.dimensions, length=reader.space.length)
    y_N, weights_N, noise_N = (np.array(column) for column in zip(*labels, strict=True))
    return Head.fit(np.array(deltas), y_N, weights_N=weights_N, noise_N=noise_N, length=reader.space.length)


def best_of(
    reader: Reads, head: Head, drawn: Drawn, agreed_N: Float | None = None, *, care: float = CARE
) -> tuple[int, float]:
    """Which of the answers to learn: the place of the one with the best score, and by how much it beats their mean.
    `agreed_N`: of these answers, see `agreements`.

    A taste alone would choose what is well said and untrue. What is true is, mostly, what the model is sure of and says
    each time anew, in whatever words.
    """
    known = reader.read([(drawn.prompt, text) for text in drawn.texts])
    scores_N = head.mean(np.array([one.phi_D for one in known]))
    scores_N = scores_N + care * np.array([one.logprob / max(one.tokens, 1) for one in known])
    if agreed_N is not None:
        scores_N += AGREEMENT * agreed_N
    place = int(scores_N.argmax())
    return place, float(scores_N[place] - scores_N.mean())


def agreements(drawn: Sequence[Drawn]) -> list[Float]:
    """For each prompt float64[N]: how much each of its answers says what the others say, 0 to 1. An only answer: 0.

    Dice's coefficient of the sets of three neighbouring letters, mean over the others. What stands in the prompt does not
    count, and the rest counts by how few prompts have it among their answers: a price that comes again tells that the
    model knows it, where the beginning of a sentence that fits every prompt tells nothing.
    """
    grams = [[_grams(text) for text in one.texts] for one in drawn]
    common = Counter(gram for texts in grams for gram in set().union(*texts))
    rarity = {gram: math.log((len(drawn) + 1) / count) for gram, count in common.items()}
    found = []
    for one, texts in zip(drawn, grams, strict=True):
        asked = set().union(*(_grams(message.content) for message in one.prompt))
        found.append(_shared([text - asked for text in texts], rarity))
    return found


def _shared(texts: Sequence[set[str]], rarity: Mapping[str, float]) -> Float:
    """float64[N]: the mean over the others of Dice's coefficient with them, each gram by its rarity. Texts that both add
    nothing to the prompt say the same."""

    def weight(grams: set[str]) -> float:
        return sum(rarity[gram] for gram in sorted(grams))  # in one order: sets have none, and sums have rounding

    own = [weight(text) for text in texts]
    alike_NN = np.ones((len(texts), len(texts)))
    for one, other in combinations(range(len(texts)), 2):
        if both := own[one] + own[other]:
            alike_NN[one, other] = alike_NN[other, one] = 2 * weight(texts[one] & texts[other]) / both
    shared_N: Float = (alike_NN.sum(1) - 1) / max(len(texts) - 1, 1)
    return shared_N


def _grams(text: str) -> set[str]:
    return {text[at : at + GRAM] for at in range(max(len(text) - GRAM + 1, 1))}


@dataclass(frozen=True, slots=True)
class Expected:
    """A win rate with its 95 % interval, as the head expects it: nobody has judged these answers."""

    value: float
    low: float
    high: float


def expected_win_rate(
    reader: Reads, head: Head, trials: Sequence[tuple[Prompt, str, str]], *, draws: int = 400
) -> Expected:
    """How often the last of (prompt, before, after) should be preferred; answers that are alike count half."""
    deltas = []
    for prompt, before, after in trials:
        one, other = reader.read([(prompt, after), (prompt, before)])
        deltas.append(one.phi_D - other.phi_D)
    deltas_ND = np.array(deltas)
    rng = np.random.default_rng(0)
    w_SD = rng.multivariate_normal(head.w_D, head.covariance_DD, size=draws, method="cholesky")
    rates_S = (1 / (1 + np.exp(-w_SD @ deltas_ND.T))).mean(1)
    low, high = np.quantile(rates_S, (0.025, 0.975))
    return Expected(float(rates_S.mean()), float(low), float(high))


def sides(comparison: Comparison) -> list[tuple[Prompt, str]]:
    """The two answers of a comparison, each with its prompt."""
    return [(comparison.prompt, side[-1].content) for side in (comparison.first, comparison.second)]


def said(thumb: Rated) -> str:
    return thumb.completion[-1].content


def _once(answers: Iterable[tuple[Prompt, str]]) -> dict[tuple[str, str], tuple[Prompt, str]]:
    return {(prompt_id(prompt), text): (prompt, text) for prompt, text in answers}
