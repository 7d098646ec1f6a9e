"""E3: what is a label with flips worth? Against the law of Fisher information."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from scipy.special import expit

from tomoni.feedback.arrays import Float
from tomoni.feedback.channel import Channel
from tomoni.feedback.head import Head
from tomoni.loop.rehearse_figures import Figure, bootstrap
from tomoni.loop.rehearse_protocol import Protocol
from tomoni.loop.rehearse_session import excess
from tomoni.loop.rehearse_world import Bank, Kind


def e3(p: Protocol) -> Iterator[Figure]:
    """What a label with flips is worth."""
    part = p.e3
    for kind in part.worlds:
        for a in part.accuracies:
            e = 1 - a
            clean: list[float] = []
            predicted: list[float] = []
            curves: list[list[float]] = []
            for seed in p.seeds:
                bank = p.world.bank(kind, seed)
                rng = np.random.default_rng([seed, 3])
                ratio = _law(bank, e)
                sizes = np.array(part.around) * part.labels / ratio
                predicted.append(ratio)
                clean.append(_excess_after(bank, part.labels, 0.0, rng, seed, part.repeats))
                curves.append([_excess_after(bank, round(size), e, rng, seed, part.repeats) for size in sizes])
            yield _value_of_a_label(p, kind, a, np.array(clean), np.array(curves), float(np.mean(predicted)))


def information(gap: Float, e: float) -> Float:
    """Fisher information about the gap in an answer with flip rate e."""
    return Channel.flipping(np.full(len(gap), e)).answered(gap, np.ones(len(gap))).information_N


def _law(bank: Bank, e: float) -> float:
    """E_D[I_e(D)] / E_D[I_0(D)] over the pairs that are asked."""
    first_N, second_N = bank.some_pairs(20_000, np.random.default_rng(7))
    gap_N = bank.gold_A[first_N] - bank.gold_A[second_N]
    return float(information(gap_N, e).mean() / information(gap_N, 0.0).mean())


def _excess_after(bank: Bank, n: int, e: float, rng: Any, seed: int, repeats: int) -> float:
    """Mean over draws of n labels with flip rate e."""
    found = []
    for _ in range(repeats):
        first_N, second_N = bank.some_pairs(n, rng)
        p_N = expit(bank.gold_A[first_N] - bank.gold_A[second_N])
        y_N = (rng.random(n) < e + (1 - 2 * e) * p_N).astype(float)
        head = Head.fit(bank.phi_AD[first_N] - bank.phi_AD[second_N], y_N, noise_N=np.full(n, e))
        found.append(excess(head, bank, seed))
    return float(np.mean(found))


def _value_of_a_label(p: Protocol, kind: Kind, a: float, clean_S: Float, curve_SN: Float, predicted: float) -> Figure:
    """Measured: the labels at which the noisy curve (a line through log excess against log labels) meets the clean one."""
    log_size_N = np.log(np.array(p.e3.around) * p.e3.labels / predicted)

    def measured(weight_S: Float) -> float:
        level_N = np.log(weight_S @ curve_SN / weight_S.sum())
        slope, start = np.polyfit(log_size_N, level_N, 1)
        size = np.exp((np.log(float(weight_S @ clean_S / weight_S.sum())) - start) / slope)
        return float(p.e3.labels / size)

    low, high = bootstrap(measured, len(clean_S), resamples=p.resamples)
    value, within = measured(np.ones(len(clean_S))), p.e3.criteria["within"]
    return Figure(
        "E3",
        f"{kind}: value of a label at accuracy {a:.2f}; law {predicted:.3f}, (2a-1)^2 {(2 * a - 1) ** 2:.3f}",
        value,
        low,
        high,
        f"within {100 * within:.0f} % of the law",
        abs(value / predicted - 1) <= within,
    )
