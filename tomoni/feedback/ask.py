"""Which pair of answers to put before a person next. Numpy only.

Rules, over the posterior of the reward head (gap D ~ N(m, v) of a pair, omega the information of one answer about D,
seen through the channel q of the person who will answer):

    vopt      omega mean_t (t^T Sigma delta)^2 / (1 + omega v): how much less is then unknown about the gaps t that the
              current policy will act on (V-optimal; Bickford Smith et al. 2023 call it EPIG). The default.
    infomax   Var_D[q(D)]: where it is most open who wins
    bald      H(E[q]) - E[H(q)]: what an answer tells about the taste as a whole
    dopt      log(1 + omega v): what it takes off the posterior's volume
    dts       double Thompson sampling: two draws of the taste, the best answer of each
    random    by traffic, then any pair of the prompt

Within a batch Sigma is updated after each pick, which is exact up to omega, for Sigma does not depend on the answer.
Before that: prompts drawn by traffic, one pair a prompt while there are enough; pairs that are nearly the same answer
twice are left out, and so are those whose answer is foregone (|m| >= 4). A share of the picks, a fifth, is always random:
unbiased accuracy, calibration, the gate's pool, and the arm to fall back to.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray
from scipy.special import entr

from tomoni.errors import DataError
from tomoni.feedback.arrays import Float
from tomoni.feedback.channel import Channel
from tomoni.feedback.head import Head

Rule = Literal["vopt", "infomax", "bald", "dopt", "dts", "random"]
RULES: tuple[Rule, ...] = get_args(Rule)
Whole = NDArray[np.int64]

RANDOM_SHARE = 0.2
FOREGONE = 4.0  # |m| from which nobody needs to be asked
SAME = 1e-3  # of the usual squared distance between two answers
PROMPTS_A_PICK = 8  # prompts drawn by traffic for each pair that is wanted
FEWEST_PROMPTS = 256  # drawn at least
REDRAWS = 30  # of the second taste, until it likes another answer best
NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(16)
WEIGHTS = WEIGHTS / WEIGHTS.sum()


@dataclass(frozen=True, slots=True)
class Candidates:
    """Answers that could be compared: `phi_AD` of A answers, each to a prompt, and the P pairs of them by number.

    `traffic`: how often each prompt is really asked; 1 where it is not said.
    """

    answers: tuple[str, ...]
    prompt_A: Whole
    phi_AD: Float
    first_P: Whole
    second_P: Whole
    traffic_Q: Float

    @classmethod
    def of(
        cls,
        answers: Sequence[str],
        prompts: Sequence[str],
        phi_AD: Float,
        *,
        pairs: Sequence[tuple[str, str]] | None = None,
        traffic: dict[str, float] | None = None,
    ) -> Candidates:
        """`prompts`: of each answer. All pairs of answers to one prompt, unless `pairs` names some by answer."""
        phi_AD = np.asarray(phi_AD, dtype=np.float64)
        if not len(answers) == len(prompts) == len(phi_AD) or not np.isfinite(phi_AD).all():
            raise DataError(
                f"{len(answers)} answers, {len(prompts)} prompts, features of shape {phi_AD.shape}",
                next_step="one prompt and one row of finite features an answer",
            )
        names, prompt_A = np.unique(list(prompts), return_inverse=True)
        if pairs is None:
            first_P, second_P = _all_pairs(prompt_A)
        else:
            place = {name: number for number, name in enumerate(answers)}
            if missing := [name for pair in pairs for name in pair if name not in place]:
                raise DataError(f"no answer {missing[0]!r}", next_step="name the answers that are given")
            first_P = np.array([place[first] for first, _ in pairs], dtype=np.int64)
            second_P = np.array([place[second] for _, second in pairs], dtype=np.int64)
        traffic_Q = np.array([(traffic or {}).get(str(name), 1.0) for name in names], dtype=np.float64)
        return cls(tuple(answers), prompt_A, phi_AD, first_P, second_P, traffic_Q)

    def __len__(self) -> int:
        return len(self.first_P)

    @property
    def prompt_P(self) -> Whole:
        return self.prompt_A[self.first_P]

    def deltas(self, which: Whole) -> Float:
        return self.phi_AD[self.first_P[which]] - self.phi_AD[self.second_P[which]]


@dataclass(frozen=True, slots=True)
class Chosen:
    """`pair`: its number among the candidates. `score`: by the rule, larger is more worth asking; 0 for a random pick."""

    first: str
    second: str
    selected_by: Rule
    score: float
    pair: int


def choose(
    candidates: Candidates,
    head: Head,
    *,
    n: int,
    seed: int,
    rule: Rule = "vopt",
    random_share: float = RANDOM_SHARE,
    targets_TD: Float | None = None,
    channel: Channel | None = None,
) -> list[Chosen]:
    """At most n different pairs, in the order in which to ask.

    `targets_TD`: best-against-reference differences of the current policy, for vopt; without them, the gaps of the
    candidates' best answers to their prompts' mean answers, as the head sees them now. `channel`: of the person who
    will answer, not placed (Reliability.channel(0)). `seed` keys every draw.
    """
    if rule not in RULES:
        raise DataError(f"no rule {rule!r}", choices=RULES)
    rng = np.random.default_rng(seed)
    n = min(n, len(candidates))
    at_random_N = np.zeros(n, dtype=bool)
    whole = n * (1.0 if rule == "random" else random_share)
    count = int(whole) + int(rng.random() < whole - int(whole))
    at_random_N[rng.permutation(n)[: min(count, n)]] = True
    active = _active(candidates, head, int((~at_random_N).sum()), rule, rng, targets_TD, channel)
    taken = {one.pair for one in active}
    spare = iter(_random(candidates, n, rng, taken))
    queue = iter(active)
    picks = [next(spare if alone else queue, None) or next(spare, None) for alone in at_random_N]
    return [pick for pick in picks if pick is not None]


def _random(candidates: Candidates, n: int, rng: np.random.Generator, taken: set[int]) -> list[Chosen]:
    """By traffic over prompts, then any pair of the prompt: a weighted draw without replacement (Gumbel's trick)."""
    prompt_P = candidates.prompt_P
    pairs_Q = np.bincount(prompt_P, minlength=len(candidates.traffic_Q))
    odds_P = candidates.traffic_Q[prompt_P] / pairs_Q[prompt_P]
    with np.errstate(divide="ignore"):
        key_P = np.log(odds_P) + rng.gumbel(size=len(odds_P))
    order = np.argsort(-key_P, kind="stable")[: n + len(taken)]
    free = [int(pair) for pair in order if int(pair) not in taken and odds_P[pair] > 0]
    return [_chosen(candidates, pair, "random", 0.0) for pair in free[:n]]


def _chosen(candidates: Candidates, pair: int, rule: Rule, score: float) -> Chosen:
    first, second = candidates.first_P[pair], candidates.second_P[pair]
    return Chosen(candidates.answers[first], candidates.answers[second], rule, score, pair)


def _active(
    candidates: Candidates,
    head: Head,
    n: int,
    rule: Rule,
    rng: np.random.Generator,
    targets_TD: Float | None,
    channel: Channel | None,
) -> list[Chosen]:
    if n == 0 or rule == "random":
        return []
    which_P = _open(candidates, head, n, rng)
    if not len(which_P):
        return []
    channel = channel or Channel.perfect(1)
    if rule == "dts":
        return _thompson(candidates, head, which_P, n, rng, channel)
    if rule == "vopt" and targets_TD is None:
        targets_TD = best_against_mean(candidates, head)
    batch = Batch(candidates.deltas(which_P), head, channel, rule, targets_TD)
    found: list[Chosen] = []
    prompt_P = candidates.prompt_P[which_P]
    fresh_P = np.ones(len(which_P), dtype=bool)
    left_P = np.ones(len(which_P), dtype=bool)
    while len(found) < n and left_P.any():
        if not (fresh_P & left_P).any():
            fresh_P[:] = True
        score_P = np.where(fresh_P & left_P, batch.scores(), -np.inf)
        best = int(score_P.argmax())
        found.append(_chosen(candidates, int(which_P[best]), rule, float(score_P[best])))
        left_P[best] = False
        fresh_P &= prompt_P != prompt_P[best]
        if len(found) < n:
            batch.take(best)
    return found


def _open(candidates: Candidates, head: Head, n: int, rng: np.random.Generator) -> Whole:
    """Numbers of the pairs that may be asked: of prompts drawn by traffic, of two different answers, not foregone."""
    wanted = max(PROMPTS_A_PICK * n, FEWEST_PROMPTS)
    which_P = np.arange(len(candidates))
    if wanted < len(candidates.traffic_Q):
        with np.errstate(divide="ignore"):
            key_Q = np.log(candidates.traffic_Q) + rng.gumbel(size=len(candidates.traffic_Q))
        drawn_Q = np.zeros(len(key_Q), dtype=bool)
        drawn_Q[np.argsort(-key_Q)[:wanted]] = True
        which_P = which_P[drawn_Q[candidates.prompt_P]]
    deltas_PD = candidates.deltas(which_P)
    apart_P = (deltas_PD**2).sum(1)
    different_P = apart_P > SAME * max(float(np.median(apart_P)) if len(apart_P) else 0.0, 1e-12)
    return which_P[different_P & (np.abs(head.mean(deltas_PD)) < FOREGONE)]


def best_against_mean(candidates: Candidates, head: Head) -> Float:
    """Of each prompt: phi of the answer that the head likes best, less the mean of all. Stands for the gaps by which a
    policy that is improved by this head will move."""
    order_A = np.lexsort((head.mean(candidates.phi_AD), candidates.prompt_A))
    last_A = np.append(np.diff(candidates.prompt_A[order_A]) != 0, True)
    count_Q = np.bincount(candidates.prompt_A, minlength=len(candidates.traffic_Q))
    sum_QD = np.add.reduceat(candidates.phi_AD[order_A], np.append(0, np.flatnonzero(last_A)[:-1] + 1), axis=0)
    weight_Q = np.sqrt(candidates.traffic_Q / max(float(candidates.traffic_Q.mean()), 1e-12))
    return (candidates.phi_AD[order_A[last_A]] - sum_QD / count_Q[:, None]) * weight_Q[:, None]


class Batch:
    """Scores of P pairs under a rule, kept up to date in O(P D) as pairs are taken."""

    def __init__(
        self, deltas_PD: Float, head: Head, channel: Channel, rule: Rule, targets_TD: Float | None = None
    ) -> None:
        self._deltas_PD, self._channel, self._rule = deltas_PD, channel, rule
        self._seen_PD = deltas_PD @ head.covariance_DD  # Sigma delta of each pair
        self._mean_P = head.mean(deltas_PD)
        self._variance_P = np.maximum((self._seen_PD * deltas_PD).sum(1), 0.0)
        q_P, slope_P = channel.first_wins(self._mean_P)
        self._omega_P = slope_P**2 / (q_P * (1 - q_P))
        if rule == "vopt":
            root_DR = _root(targets_TD if targets_TD is not None else deltas_PD)
            self._root_DR, self._reach_PR = root_DR, self._seen_PD @ root_DR

    def scores(self) -> Float:
        match self._rule:
            case "vopt":
                reach_P = (self._reach_PR**2).sum(1)
                return self._omega_P * reach_P / (1 + self._omega_P * self._variance_P)
            case "dopt":
                return np.log1p(self._omega_P * self._variance_P)
            case _:
                return openness(self._mean_P, self._variance_P, self._channel, entropy=self._rule == "bald")

    def take(self, pair: int) -> None:
        """Sigma after an answer to it, whatever the answer."""
        seen_D, omega = self._seen_PD[pair].copy(), float(self._omega_P[pair])
        share = omega / (1 + omega * float(self._variance_P[pair]))
        along_P = self._deltas_PD @ seen_D
        self._variance_P = np.maximum(self._variance_P - share * along_P**2, 0.0)
        if self._rule == "vopt":
            self._reach_PR -= np.outer(share * along_P, seen_D @ self._root_DR)
        self._seen_PD -= np.outer(share * along_P, seen_D)


def openness(mean_P: Float, variance_P: Float, channel: Channel, *, entropy: bool) -> Float:
    """Var[q(D)], or with `entropy` H(E[q]) - E[H(q)] in nats, over D ~ N(mean, variance) by 16 Gauss-Hermite points."""
    gap_P16 = mean_P[:, None] + np.sqrt(variance_P)[:, None] * NODES
    q_P16, _ = channel.first_wins(gap_P16)
    mean_q_P = q_P16 @ WEIGHTS
    if entropy:
        return _binary_entropy(mean_q_P) - _binary_entropy(q_P16) @ WEIGHTS
    return ((q_P16 - mean_q_P[:, None]) ** 2) @ WEIGHTS


def _binary_entropy(q: Float) -> Float:
    return np.asarray(entr(q) + entr(1 - q))


def _root(targets_TD: Float) -> Float:
    """R with R R^T = mean of t t^T; no wider than it must be."""
    if len(targets_TD) <= targets_TD.shape[1]:
        return targets_TD.T / np.sqrt(max(len(targets_TD), 1))
    size_D, vectors_DD = np.linalg.eigh(targets_TD.T @ targets_TD / len(targets_TD))
    return vectors_DD * np.sqrt(np.maximum(size_D, 0.0))


def _thompson(
    candidates: Candidates, head: Head, which_P: Whole, n: int, rng: np.random.Generator, channel: Channel
) -> list[Chosen]:
    """Double Thompson sampling: a prompt, two tastes drawn jointly, the best answer of each; where both like the same
    one after 30 draws, the most open pair of the prompt."""
    root_DD = np.linalg.cholesky(head.covariance_DD + 1e-12 * np.eye(len(head.w_D)))
    prompt_P = candidates.prompt_P[which_P]
    found: list[Chosen] = []
    for prompt in _spread(prompt_P, n, rng):
        of_prompt = which_P[prompt_P == prompt]
        pairs = {
            tuple(sorted((int(candidates.first_P[pair]), int(candidates.second_P[pair])))): int(pair)
            for pair in of_prompt
            if all(one.pair != pair for one in found)
        }
        if not pairs:
            continue
        answers = np.array(sorted({answer for pair in pairs for answer in pair}))
        draws_SD = head.w_D + rng.standard_normal((REDRAWS + 1, len(head.w_D))) @ root_DD.T
        best_S = answers[(candidates.phi_AD[answers] @ draws_SD.T).argmax(0)]
        other = next((int(one) for one in best_S[1:] if tuple(sorted((int(best_S[0]), int(one)))) in pairs), None)
        if other is not None:
            pair = pairs[tuple(sorted((int(best_S[0]), other)))]
            found.append(_chosen(candidates, pair, "dts", 1.0))
        else:
            some = np.array(list(pairs.values()))
            deltas_PD = candidates.deltas(some)
            score_P = openness(head.mean(deltas_PD), head.variance(deltas_PD), channel, entropy=False)
            found.append(_chosen(candidates, int(some[score_P.argmax()]), "dts", float(score_P.max())))
    return found


def _spread(prompt_P: Whole, n: int, rng: np.random.Generator) -> list[int]:
    """n prompts, each once before any twice."""
    prompts = np.unique(prompt_P)
    turns = -(-n // len(prompts))
    return [int(prompt) for _ in range(turns) for prompt in rng.permutation(prompts)][:n]


def _all_pairs(prompt_A: Whole) -> tuple[Whole, Whole]:
    order_A = np.argsort(prompt_A, kind="stable")
    groups = np.split(order_A, np.flatnonzero(np.diff(prompt_A[order_A])) + 1)
    shapes = [np.triu_indices(len(group), 1) for group in groups]
    first = [group[i] for group, (i, _) in zip(groups, shapes, strict=True)]
    second = [group[j] for group, (_, j) in zip(groups, shapes, strict=True)]
    return np.concatenate(first).astype(np.int64), np.concatenate(second).astype(np.int64)


class Ahead(NamedTuple):
    """Held-out log-loss, nats a label: that of the random arm less that of the active one; above 0, active is ahead.

    `rule`: what to ask by from now on. `checked`: whether there were labels enough to compare.
    """

    gain: float
    low: float
    high: float
    sure: float
    rule: Rule
    checked: bool


CHECK_AFTER = 100
FEWEST_RANDOM = 15
RESAMPLES = 1000


def check(
    deltas_ND: Float,
    y_N: Float,
    random_N: NDArray[np.bool_],
    *,
    seed: int,
    rule: Rule = "vopt",
    channel: Channel | None = None,
    folds: int = 5,
) -> Ahead:
    """Is the active rule ahead of asking at random, at the same number of labels? If not, ask at random.

    Held out are the random labels, fold by fold, for they alone are unbiased. Each fold is predicted by a head from the
    other random labels and by one from as many active labels, three draws of them. The difference of log-loss is
    bootstrapped label by label. The rule is kept while it is more likely ahead than not (share of resamples over
    half); the interval says how sure that is.
    """
    random_at, active_at = np.flatnonzero(random_N), np.flatnonzero(~random_N)
    if len(y_N) < CHECK_AFTER or len(random_at) < FEWEST_RANDOM or len(active_at) < FEWEST_RANDOM:
        return Ahead(0.0, float("-inf"), float("inf"), 0.5, rule, False)
    channel = channel or Channel.perfect(len(y_N))
    rng = np.random.default_rng(seed)
    gain_N = np.zeros(len(y_N))
    for out in np.array_split(rng.permutation(random_at), folds):
        rest = np.setdiff1d(random_at, out)
        size = min(len(rest), len(active_at))
        for _ in range(3):
            arms = (rng.permutation(rest)[:size], rng.permutation(active_at)[:size])
            loss_2 = [_held_out_loss(deltas_ND, y_N, channel, arm, out) for arm in arms]
            gain_N[out] += (loss_2[0] - loss_2[1]) / 3
    gains = gain_N[random_at]
    means = gains[rng.integers(0, len(gains), (RESAMPLES, len(gains)))].mean(1)
    low, high = np.quantile(means, (0.025, 0.975))
    sure = float((means > 0).mean())
    return Ahead(float(gains.mean()), float(low), float(high), sure, rule if sure > 0.5 else "random", True)


def _held_out_loss(deltas_ND: Float, y_N: Float, channel: Channel, train: Whole, out: Whole) -> Float:
    head = Head.fit(deltas_ND[train], y_N[train], channel=channel[train])
    mean_N, variance_N = head.mean(deltas_ND[out]), head.variance(deltas_ND[out])
    moderated_N = mean_N / np.sqrt(1 + np.pi * variance_N / 8)
    return -channel[out].answered(moderated_N, y_N[out]).loglik_N
