"""E0: labels by coin teach nothing, and a person who turns to coins is noticed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from tomoni.feedback import people as reliability
from tomoni.feedback.arrays import Float
from tomoni.feedback.head import Cavity, Head
from tomoni.feedback.people import BLIND, WINDOW, Judged
from tomoni.loop.rehearse_figures import Figure, bootstrap, mean
from tomoni.loop.rehearse_protocol import Protocol
from tomoni.loop.rehearse_session import stream, win_rate
from tomoni.loop.rehearse_world import Bank, Kind, PersonKind

STARTS: tuple[PersonKind, ...] = ("random", "trained")


def e0(p: Protocol) -> Iterator[Figure]:
    """Blind labels."""
    part = p.e0
    for kind in part.worlds:
        rates: list[float] = []
        signals: list[float] = []
        informed: list[float] = []
        streams: dict[PersonKind, list[Float]] = {"random": [], "crowd": [], "trained": []}
        for run in range(part.runs):
            bank = p.world.bank(kind, p.seeds.first + run)
            rng = np.random.default_rng([p.seeds.first + run, 0])
            by_coin, by_trained = (
                reliability.fit(stream(bank, p.people.person(who, rng), part.labels, rng)) for who in STARTS
            )
            mirrored = replace(by_coin.head, w_D=-by_coin.head.w_D)  # what the same coins, turned, would have taught
            rates.append((win_rate(by_coin.head, bank) + win_rate(mirrored, bank)) / 2)
            signals.append(by_coin.signal)
            informed.append(by_trained.signal)
            head = _known(bank, p, part.known, rng)
            for who, paths in streams.items():
                labels = stream(bank, p.people.person(who, rng), part.stream, rng, gold_gap=p.e4.gold_gap)
                paths.append(_watched(labels, head))
        figure = mean("E0", f"{kind}: win rate after {part.labels} labels by coin", rates, resamples=p.resamples)
        within = part.criteria["win_rate_within"]
        yield replace(figure, criterion=f"50 ± {100 * within:.0f} %", met=abs(figure.value - 0.5) <= within)
        for name, values in (("by coin", signals), ("by a trained person", informed)):
            yield mean(
                "E0",
                f"{kind}: share of starts {name} whose labels are explained no better than by coins",
                [float(one <= 0) for one in values],
                resamples=p.resamples,
            )
        yield from _alarms(p, kind, streams)


def _known(bank: Bank, p: Protocol, n: int, rng: Any) -> Head:
    """The head from before, by trained people."""
    labels = stream(bank, p.people.person("trained", rng), n, rng)
    noise_N = np.full(n, p.people.trained)
    return Head.fit(np.array([one.delta for one in labels]), np.array([one.y for one in labels]), noise_N=noise_N)


def _watched(labels: Sequence[Judged], head: Head) -> Float:
    """A - F over the last 40 labels, after each label from the 40th on."""
    delta_ND = np.array([one.delta for one in labels])
    gold_N = np.array([one.gold for one in labels])
    expected_N = np.array([0.0 if one.expected is None else (2 * one.expected - 1) for one in labels])
    mean_N = np.where(gold_N, expected_N * reliability.GOLD_GAP, head.mean(delta_ND))
    gaps = Cavity(mean_N, np.where(gold_N, 0.0, head.variance(delta_ND)))
    return reliability.recent_path(labels, gaps)


def _alarms(p: Protocol, kind: Kind, streams: Mapping[PersonKind, list[Float]]) -> Iterator[Figure]:
    for who, paths in streams.items():
        blind_RT = np.maximum(np.array(paths), 0) ** 2 < BLIND
        for until, hit_R in ((WINDOW, blind_RT[:, 0]), (p.e0.stream, blind_RT.max(1))):
            name = f"{kind}: share of streams of kind {who} that raise the alarm by label {until}"
            yield mean("E0", name, hit_R.astype(np.float64), resamples=p.resamples)
        if who == "random":
            first_R = np.where(blind_RT.max(1), blind_RT.argmax(1) + float(WINDOW), np.inf)
            yield _median_alarm(p, kind, first_R)


def _median_alarm(p: Protocol, kind: Kind, first_R: Float) -> Figure:
    """inf: never within the stream."""

    def median(weight_R: Float) -> float:
        each_R = np.sort(np.repeat(first_R, weight_R.astype(np.int64)))
        return float(each_R[len(each_R) // 2])

    low, high = bootstrap(median, len(first_R), resamples=p.resamples)
    value, limit = median(np.ones(len(first_R))), p.e0.criteria["alarm_by"]
    name = f"{kind}: labels by coin until the alarm, median"
    return Figure("E0", name, value, low, high, f"at most {limit:.0f}", value <= limit)
