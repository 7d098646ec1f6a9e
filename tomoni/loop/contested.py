"""Topics on which people contradict each other more than elsewhere: two tastes, or some who lie. Numpy and scipy only.

Who lies about one topic can be a majority on it, and then the head takes the lie for the taste there. So each topic is
looked at with a head that has heard nothing of it: how much each person agrees with that head on the topic, compared
with how much the same person agrees with everybody elsewhere. That all agree less (a taste of the topic's own) is no
contradiction and is taken out; that some agree and others do the reverse is one.

A person's agreement with a head is measured by sum (2y - 1) c over sum c^2, with c = 2p - 1 what the head expects: its mean
is the person's A - F where the head is right.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import chi2

from tomoni.feedback.arrays import Float
from tomoni.feedback.channel import Channel
from tomoni.feedback.head import Head
from tomoni.feedback.people import Judged, People

FEWEST = 40  # labels on a topic, and elsewhere, under which nothing is said of it
CHANCE = 5e-3  # how often a topic of people who agree there as elsewhere is called contested
USUAL = (0.5, 1.0)  # A - F of an unknown person, and the sum of c^2 that it is worth


def contested(judged: Sequence[Judged], people: People) -> dict[str, float]:
    """Each topic on which people contradict each other, with the probability that chance alone does as much."""
    decided = [place for place, one in enumerate(judged) if one.y in (0.0, 1.0) and not one.gold]
    if len(decided) < 2 * FEWEST:
        return {}
    topic_N = np.array([judged[place].topic for place in decided])
    person_N = np.unique([judged[place].person for place in decided], return_inverse=True)[1].astype(np.int64)
    delta_ND = np.array([judged[place].delta for place in decided])
    y_N = np.array([judged[place].y for place in decided])
    channel = _channel([judged[place] for place in decided], people)
    found = {}
    for topic in sorted(set(topic_N.tolist()) - {""}):
        on_N = topic_N == topic
        if min(int(on_N.sum()), int((~on_N).sum())) < FEWEST:
            continue
        head = Head.fit(delta_ND[~on_N], y_N[~on_N], channel=channel[~on_N], prior=people.head.scale, start=people.head)
        c_N = 2 * head.probability(delta_ND) - 1
        elsewhere_N = 2 * head.cavity(delta_ND[~on_N], y_N[~on_N], channel[~on_N]).probability_N - 1
        chance = _chance(2 * y_N - 1, np.where(on_N, c_N, 0.0), _spread(elsewhere_N, ~on_N), person_N)
        if chance < CHANCE:
            found[str(topic)] = chance
    return found


def _spread(value_M: Float, at_N: Float) -> Float:
    whole_N = np.zeros(len(at_N))
    whole_N[at_N.astype(bool)] = value_M
    return whole_N


def _channel(judged: Sequence[Judged], people: People) -> Channel:
    each = [people.of(one.person).channel(float(one.side)) for one in judged]
    parts = ("attends_N", "reverses_N", "base_N", "offset_N")
    return Channel(*(np.concatenate([getattr(one, part) for one in each]) for part in parts))


def _chance(said_N: Float, here_N: Float, there_N: Float, person_N: NDArray[np.int64]) -> float:
    """Of a spread between people as large as it is on this topic. `here_N`, `there_N`: c on the topic and elsewhere, else 0."""
    sums = [np.bincount(person_N, weights) for weights in (said_N * here_N, here_N**2, said_N * there_N, there_N**2)]
    on_K, size_K, off_K, known_K = sums
    kappa_K = np.clip((off_K + USUAL[0] * USUAL[1]) / (known_K + USUAL[1]), -1, 1)
    expected_K = kappa_K * size_K
    noise_K = np.bincount(person_N, here_N**2 * (1 - (kappa_K[person_N] * here_N) ** 2))
    variance_K = noise_K + size_K**2 / (known_K + USUAL[1])
    seen_K = size_K > 0
    on_K, expected_K, variance_K = on_K[seen_K], expected_K[seen_K], variance_K[seen_K]
    if len(on_K) < 2:
        return 1.0
    share = float((on_K * expected_K / variance_K).sum() / max(float((expected_K**2 / variance_K).sum()), 1e-12))
    rest_K = on_K - np.clip(share, -1, 1) * expected_K
    return float(chi2.sf(float((rest_K**2 / variance_K).sum()), len(on_K) - 1))
