"""How good is each person's judgement? A mixture model, fitted together with the reward head. Numpy and scipy only.

Person k either attends, reverses, or clicks a side without reading (SCIENCE of feedback; Chen et al. 2013 and
Bugakova et al. 2019 have special cases of it):

    P(left wins) = A_k s(D + b_k) + F_k s(-D) + S_k s(c_k)          (A, F, S)_k ~ a broad and a narrow Dirichlet, mixed

What a label of that person is worth, at a gap near 0, is (A - F)^2 labels of a perfect judge.

How it is fitted, in turn until nothing moves:

1. the head, with each label seen through its person's channel (posterior means of A, F, S);
2. each label's gap as all *other* labels have it (leave one out), mean and variance, so that nobody is praised for
   agreeing with himself, and nothing is concluded while nothing is known;
3. each person's posterior over a grid of (A, F, S) and c, exactly; b by a penalised Newton step.

Gold pairs, whose answer is known, have a gap of their own that does not depend on the head: they anchor the signs.
Ties are soft labels of the head, half to each side. Of reliability they say nothing: in Davidson's model (1970) the odds
of the first over the second, given that it is no tie, are those of Bradley and Terry whatever the person's liking for ties.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logsumexp

from tomoni.errors import DataError
from tomoni.feedback.arrays import Float
from tomoni.feedback.channel import Channel
from tomoni.feedback.head import Cavity, Head, Prior, calibrated
from tomoni.feedback.weights import Weight

ATTENTIVE = (8.0, 1.0, 1.0)  # Dirichlet of a person who means well
ANYBODY = (1.0, 1.0, 1.0)
SHARE_OF_ANYBODY = 0.25  # so that eight answers of a bad one are not outvoted by the prior
GRID = 15  # steps along a side of the simplex
CLICKS = (-2.5, 0.0, 2.5)  # log odds that a click without reading falls left
LEAN = 0.5  # prior standard deviation of b
GOLD_GAP = 3.0  # of a gold pair: 95 of 100 attentive answers are the expected one
WINDOW = 40  # labels over which a stream is watched
CHANGED = 0.3  # chance, before they are seen, that they are no longer what the person's earlier ones were
BLIND = 0.05  # a value under this, over the window, is blind feedback
INTERVAL = (0.025, 0.975)
MOST_ROUNDS = 30
STILL = 0.004


@dataclass(frozen=True, slots=True)
class Judged:
    """One person's answer to one pair. `y`: 1 the stored first won, 0 the second, .5 a tie or both bad.

    `side`: 1 the stored first was shown left, -1 right. `expected`: the right `y`, for a gold pair. `item` names the
    pair; `length` is log(length of first / length of second); `words`: of both answers, `seconds` that it took;
    `topic` of the prompt, `tags`: the reasons that were given.
    """

    person: str
    delta: Float
    y: float
    side: int = 1
    expected: float | None = None
    item: str = ""
    seconds: float | None = None
    words: int = 0
    length: float = 0.0
    topic: str = ""
    tags: tuple[str, ...] = ()

    @property
    def gold(self) -> bool:
        return self.expected is not None


@dataclass(frozen=True, slots=True)
class Reliability:
    """Posterior means of A, F, S; `value` = (A - F)^2 with its 95 % interval.

    `position`: log odds by which the left side is favoured when attending (b); `clicks`: those of a click without reading.
    `recent`: A - F over the last 40 labels that are no ties. `surely_inattentive`: P(A < .5). `reversing`: P(F > A).
    `n` labels, `decided` of them no ties.
    """

    person: str
    a: float
    f: float
    s: float
    low: float
    high: float
    position: float = 0.0
    clicks: float = 0.0
    recent: float = 0.0
    surely_inattentive: float = 0.0
    reversing: float = 0.0
    n: int = 0
    decided: int = 0

    @property
    def kappa(self) -> float:
        return self.a - self.f

    @property
    def value(self) -> float:
        return self.kappa**2

    @property
    def worth(self) -> float:
        """So many labels of a perfect judge are this person's."""
        return self.n * self.value

    @property
    def blind(self) -> bool:
        """Whether the last 40 labels that are no ties are worth less than .05 each; never before there are 40."""
        return self.decided >= WINDOW and max(self.recent, 0.0) ** 2 < BLIND

    def channel(self, side: float | Float = 1.0) -> Channel:
        """Of an answer to a pair whose first stands left (1), right (-1), or is not placed yet (0)."""
        side_N = np.atleast_1d(np.asarray(side, dtype=np.float64))
        one_N = np.ones(len(side_N))
        return Channel(self.a * one_N, self.f * one_N, self.s * expit(side_N * self.clicks), side_N * self.position)


@dataclass(frozen=True, slots=True)
class People:
    """Everybody's reliability, and the head that was fitted with it. `signal`: nats a label by which the labels are
    better explained by a common taste than by coins (log evidence); near or below 0, nothing has been learnt.
    `gaps`: of each answer, in the order given, the gap as all other answers have it (a gold pair's own)."""

    by_person: Mapping[str, Reliability]
    head: Head
    gaps: Cavity
    signal: float = 0.0
    rounds: int = 0

    def of(self, person: str) -> Reliability:
        """A newcomer is taken for what the prior says."""
        return self.by_person.get(person) or replace(NEWCOMER, person=person)

    def weights(self) -> dict[str, Weight]:
        """For training. A stream that went blind counts nothing until it recovers; nothing is deleted."""
        return {
            person: Weight(0.0, Weight.of(0.0).noise) if one.blind else Weight.of(one.kappa)
            for person, one in self.by_person.items()
        }

    @property
    def blind(self) -> tuple[str, ...]:
        return tuple(person for person, one in self.by_person.items() if one.blind)


class _Grid(NamedTuple):
    """(A, F, S) at the middle of each cell of the simplex, each with each of the clicks; log prior of each cell."""

    shares_G3: Float
    clicks_G: Float
    logprior_G: Float
    anybody_G: Float  # probabilities, by the broad part of the prior alone


@cache
def _grid() -> _Grid:
    cells = [(i, j, GRID - i - j) for i in range(GRID + 1) for j in range(GRID + 1 - i)]
    shares_C3 = (np.array(cells) + 1 / 3) / (GRID + 1)
    anybody_C = _dirichlet(shares_C3, ANYBODY)
    mixed_C = np.logaddexp(
        np.log1p(-SHARE_OF_ANYBODY) + _dirichlet(shares_C3, ATTENTIVE), np.log(SHARE_OF_ANYBODY) + anybody_C
    )
    clicks = len(CLICKS)
    return _Grid(
        np.repeat(shares_C3, clicks, axis=0),
        np.tile(CLICKS, len(cells)),
        np.repeat(mixed_C, clicks) - np.log(clicks),
        np.exp(np.repeat(anybody_C, clicks)) / clicks,
    )


def _shares(log_G: Float) -> Float:
    """Probabilities from logarithms that need not be normalised."""
    p_G = np.exp(log_G - log_G.max())
    return np.asarray(p_G / p_G.sum())


def _dirichlet(shares_C3: Float, alpha: Sequence[float]) -> Float:
    """Log probabilities of the cells."""
    log_C = np.log(shares_C3) @ (np.array(alpha) - 1)
    return np.asarray(log_C - logsumexp(log_C))


def _summary(person: str, logpost_G: Float, *, position: float, recent: float) -> Reliability:
    grid = _grid()
    p_G = _shares(logpost_G)
    a, f, s = (float(p_G @ grid.shares_G3[:, part]) for part in range(3))
    kappa_G = grid.shares_G3[:, 0] - grid.shares_G3[:, 1]
    order_G = np.argsort(kappa_G**2, kind="stable")
    below_G = np.cumsum(p_G[order_G])
    low, high = (
        float(kappa_G[order_G][min(int(np.searchsorted(below_G, edge)), len(p_G) - 1)] ** 2) for edge in INTERVAL
    )
    clicking_G = p_G * grid.shares_G3[:, 2]
    return Reliability(
        person,
        a,
        f,
        s,
        low=min(low, (a - f) ** 2),
        high=max(high, (a - f) ** 2),
        position=position,
        clicks=float(clicking_G @ grid.clicks_G / clicking_G.sum()),
        recent=recent,
        surely_inattentive=float(p_G[grid.shares_G3[:, 0] < 0.5].sum()),
        reversing=float(p_G[kappa_G < 0].sum()),
    )


NEWCOMER = _summary("", _grid().logprior_G, position=0.0, recent=1.0)


@dataclass(frozen=True, slots=True)
class _Answers:
    """All labels as arrays, in the order in which they were given."""

    person_N: NDArray[np.int64]
    deltas_ND: Float
    y_N: Float
    side_N: Float
    gold_N: NDArray[np.bool_]
    expected_N: Float
    names: tuple[str, ...]

    @classmethod
    def of(cls, judged: Sequence[Judged]) -> _Answers:
        sizes = {len(one.delta) for one in judged}
        if len(sizes) > 1:
            raise DataError(
                f"answers of {len(sizes)} spaces: {', '.join(map(str, sorted(sizes)))} numbers each",
                next_step="embed all of them in one space",
            )
        if bad := next((one for one in judged if one.side not in (-1, 1)), None):
            raise DataError(f"{bad.person}: the first answer stood at side {bad.side}", choices=["1 (left)", "-1"])
        names, person_N = np.unique([one.person for one in judged], return_inverse=True)
        return cls(
            person_N,
            np.array([one.delta for one in judged], dtype=np.float64),
            np.array([one.y for one in judged], dtype=np.float64),
            np.array([one.side for one in judged], dtype=np.float64),
            np.array([one.gold for one in judged]),
            np.array([0.5 if one.expected is None else one.expected for one in judged]),
            tuple(str(name) for name in names),
        )

    def of_person(self, k: int) -> NDArray[np.int64]:
        return np.flatnonzero(self.person_N == k)

    def channel(self, reliable: Sequence[Reliability]) -> Channel:
        each = np.array([[one.a, one.f, one.s, one.clicks, one.position] for one in reliable])[self.person_N]
        return Channel(each[:, 0], each[:, 1], each[:, 2] * expit(self.side_N * each[:, 3]), self.side_N * each[:, 4])

    def gold_once(self) -> tuple[Float, Float, Float]:
        """The gold pairs' differences, right answers and weights: each pair counts once, however often it was asked."""
        deltas_MD, expected_M = self.deltas_ND[self.gold_N], self.expected_N[self.gold_N]
        _, which_M, count = np.unique(deltas_MD, axis=0, return_inverse=True, return_counts=True)
        return deltas_MD, expected_M, 1 / count[which_M.ravel()]


def fit(judged: Sequence[Judged], *, scale: float | None = None, dimensions: int = 0) -> People:
    """Everybody's reliability with the head, from answers in the order in which they were given.

    `scale`: the head's prior, found by evidence where it is None. Raises DataError for answers that do not fit
    together. Without a single answer, the blank head of `dimensions`.
    """
    if not judged:
        return People({}, Head.blank(dimensions), Cavity(np.zeros(0), np.zeros(0)))
    answers = _Answers.of(judged)
    people: list[Reliability] = [replace(NEWCOMER, person=name) for name in answers.names]
    head: Head | None = None
    for round_ in range(MOST_ROUNDS):
        head, mean_N, variance_N, _ = _head(answers, people, head, scale, search=round_ in (0, 2, 5))
        now = [_reliability(answers, k, mean_N, variance_N, people[k].position) for k in range(len(people))]
        moved = max(abs(one.kappa - before.kappa) for one, before in zip(now, people, strict=True))
        people = now
        if moved < STILL and round_ > 2:
            break
    head, mean_N, variance_N, signal = _head(answers, people, head, scale, search=True)
    return People({one.person: one for one in people}, head, Cavity(mean_N, variance_N), signal, round_ + 1)


def _head(
    answers: _Answers, people: Sequence[Reliability], before: Head | None, scale: float | None, *, search: bool
) -> tuple[Head, Float, Float, float]:
    """The head, each label's gap by the other labels (mean, variance), and the signal."""
    free_N = ~answers.gold_N
    gold_MD, expected_M, weight_M = answers.gold_once()
    channel = answers.channel(people)[free_N]
    perfect = Channel.perfect(len(gold_MD))
    both = Channel(
        np.concatenate([channel.attends_N, perfect.attends_N]),
        np.concatenate([channel.reverses_N, perfect.reverses_N]),
        np.concatenate([channel.base_N, perfect.base_N]),
        np.concatenate([channel.offset_N, perfect.offset_N]),
    )
    deltas_ND = np.concatenate([answers.deltas_ND[free_N], gold_MD])
    y_N = np.concatenate([answers.y_N[free_N], expected_M])
    weights_N = np.concatenate([np.ones(int(free_N.sum())), weight_M])
    prior: Prior = scale if scale is not None else "evidence" if search or before is None else before.scale
    head = Head.fit(deltas_ND, y_N, weights_N=weights_N, channel=both, prior=prior, start=before)
    cavity = head.cavity(deltas_ND, y_N, both, weights_N)
    mean_N = np.where(answers.gold_N, (2 * answers.expected_N - 1) * GOLD_GAP, 0.0)
    variance_N = np.zeros(len(mean_N))
    mean_N[free_N], variance_N[free_N] = cavity.mean_N[: len(channel.base_N)], cavity.variance_N[: len(channel.base_N)]
    return head, mean_N, variance_N, head.evidence / max(float(weights_N.sum()), 1e-9) + float(np.log(2))


def reliability_of(judged: Sequence[Judged], gaps: Cavity, which: Sequence[int]) -> Reliability:
    """Of some answers alone, by one person: such as those on one topic. `gaps`: People.gaps, of all answers."""
    some = _Answers.of([replace(judged[i], person="") for i in which])
    at = np.asarray(which, dtype=np.int64)
    return _reliability(some, 0, gaps.mean_N[at], gaps.variance_N[at], 0.0)


def surely_worse(judged: Sequence[Judged], gaps: Cavity, here: Sequence[int], elsewhere: Sequence[int]) -> float:
    """P(A - F of one person's answers `here` < that of the answers `elsewhere`); both by the usual prior."""
    grid = _grid()
    kappa_G = grid.shares_G3[:, 0] - grid.shares_G3[:, 1]
    order_G = np.argsort(kappa_G, kind="stable")
    p_G, q_G = (_shares(_logpost(judged, gaps, which))[order_G] for which in (here, elsewhere))
    above_G = 1 - np.cumsum(q_G)
    return float(p_G @ (above_G + q_G / 2))


def _logpost(judged: Sequence[Judged], gaps: Cavity, which: Sequence[int]) -> Float:
    """On the grid, of some answers of one person; ties say nothing."""
    at = np.array([number for number in which if judged[number].y in (0, 1)], dtype=np.int64)
    y_N, side_N = np.array([judged[i].y for i in at]), np.array([float(judged[i].side) for i in at])
    m_N, v_N = gaps.mean_N[at], gaps.variance_N[at]
    return np.asarray(_grid().logprior_G + _loglik(calibrated(m_N, v_N), calibrated(-m_N, v_N), side_N, y_N).sum(0))


def recent_path(judged: Sequence[Judged], gaps: Cavity) -> Float:
    """A - F over the last 40 labels of one person, none of them a tie, after each label from the 40th on."""
    y_N, side_N = np.array([one.y for one in judged]), np.array([float(one.side) for one in judged])
    attending_N, reversing_N = gaps.probability_N, calibrated(-gaps.mean_N, gaps.variance_N)
    loglik_NG = _loglik(attending_N, reversing_N, side_N, y_N)
    return np.array([_recent(loglik_NG[:end]) for end in range(WINDOW, len(judged) + 1)])


def _reliability(answers: _Answers, k: int, mean_N: Float, variance_N: Float, position: float) -> Reliability:
    """Person k's posterior, given what the others' labels say of each gap."""
    all_k = answers.of_person(k)
    of_k = all_k[(answers.y_N[all_k] == 0) | (answers.y_N[all_k] == 1)]
    m_N, v_N, y_N, side_N = mean_N[of_k], variance_N[of_k], answers.y_N[of_k], answers.side_N[of_k]
    grid = _grid()
    attending_N, reversing_N = calibrated(m_N + side_N * position, v_N), calibrated(-m_N, v_N)
    loglik_NG = _loglik(attending_N, reversing_N, side_N, y_N)
    logpost_G = grid.logprior_G + loglik_NG.sum(0)
    one = _summary(answers.names[k], logpost_G, position=position, recent=_recent(loglik_NG))
    return replace(one, position=_lean(one, m_N, v_N, y_N, side_N), n=len(all_k), decided=len(of_k))


def _recent(loglik_NG: Float) -> float:
    """A - F over the last 40 labels. What is expected of them is what the labels before showed, unless the person has
    changed: so that one who has long been good is not taken for blind by a run of bad luck."""
    grid = _grid()
    before_G = grid.logprior_G + loglik_NG[:-WINDOW].sum(0)
    expected_G = (1 - CHANGED) * _shares(before_G) + CHANGED * grid.anybody_G
    with np.errstate(divide="ignore"):
        p_G = _shares(np.log(expected_G) + loglik_NG[-WINDOW:].sum(0))
    return float(p_G @ (grid.shares_G3[:, 0] - grid.shares_G3[:, 1]))


def _loglik(attending_N: Float, reversing_N: Float, side_N: Float, y_N: Float) -> Float:
    """Of each label, 1 or 0, in each cell, [N, G]."""
    grid = _grid()
    click_NC = expit(side_N[:, None] * np.array(CLICKS))
    which_G = np.tile(np.arange(len(CLICKS)), len(grid.clicks_G) // len(CLICKS))
    parts_N2 = np.stack([attending_N, reversing_N], axis=1)
    q_NG = parts_N2 @ grid.shares_G3[:, :2].T + click_NC[:, which_G] * grid.shares_G3[:, 2]
    q_NG = np.clip(q_NG, 1e-9, 1 - 1e-9)
    return np.asarray(np.log(np.where(y_N[:, None] > 0.5, q_NG, 1 - q_NG)))


def _lean(one: Reliability, m_N: Float, v_N: Float, y_N: Float, side_N: Float) -> float:
    """b by Newton's steps on the labels, each as far as it was given with attention, with b ~ N(0, .5^2)."""
    shrunk_N = 1 / np.sqrt(1 + np.pi * v_N / 8)
    b = one.position
    for _ in range(3):
        attending_N = calibrated(m_N + side_N * b, v_N)
        reversing_N, clicking_N = calibrated(-m_N, v_N), expit(side_N * one.clicks)
        first_N = np.stack([one.a * attending_N, one.f * reversing_N, one.s * clicking_N])
        second_N = np.stack([one.a * (1 - attending_N), one.f * (1 - reversing_N), one.s * (1 - clicking_N)])
        heed_N = y_N * first_N[0] / first_N.sum(0) + (1 - y_N) * second_N[0] / second_N.sum(0)
        slope = float((heed_N * (y_N - attending_N) * side_N * shrunk_N).sum()) - b / LEAN**2
        bend = float((heed_N * attending_N * (1 - attending_N) * shrunk_N**2).sum()) + 1 / LEAN**2
        b += slope / bend
    return float(np.clip(b, -3, 3))
