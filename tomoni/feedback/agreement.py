"""Do people agree, with each other and with themselves? Numpy only.

A *unit* is what several people said of one item: their labels, in any order. All coefficients are linear in what one
item adds, so that intervals come from resampling items (percentile bootstrap), a matrix product each.

    Krippendorff's alpha = 1 - D_o / D_e over pairs of labels within units (nominal or ordinal; Krippendorff 2011)
    Fleiss' kappa = (P_o - P_e) / (1 - P_e), P_e from pooled shares; units may have different numbers of labels
    Gwet's AC1 (2008): P_e = sum_k pi_k (1 - pi_k) / (C - 1), which stays sound where nearly all labels are alike
    Cohen's kappa, of two people or of one person twice
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from tomoni.errors import DataError
from tomoni.feedback.arrays import Float

Metric = Literal["nominal", "ordinal"]
Unit = Sequence[Hashable]
RESAMPLES = 1000
EDGES = (0.025, 0.975)


@dataclass(frozen=True, slots=True)
class Agreement:
    """`value` is None where it is not defined: no item with two labels, or nothing but one label throughout.

    `items` with two labels or more, `labels` on them, `share`: of pairs of labels that are alike.
    """

    value: float | None
    low: float | None
    high: float | None
    items: int
    labels: int
    share: float | None


def alpha(
    units: Sequence[Unit],
    *,
    metric: Metric = "nominal",
    values: Sequence[Hashable] | None = None,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Agreement:
    """Krippendorff's alpha. `values`: the scale in its order; needed for ordinal ones that do not sort by themselves."""
    counts_UC = _counts(units, values)
    m_U, c = counts_UC.sum(1), counts_UC.shape[1]
    pairs_UCC = counts_UC[:, :, None] * counts_UC[:, None, :] - counts_UC[:, :, None] * np.eye(c)
    coincidences_UCC = pairs_UCC / np.maximum(m_U - 1, 1)[:, None, None]

    def of(weight_RU: Float) -> Float:
        o_RCC = np.einsum("ru,uck->rck", weight_RU, coincidences_UCC)
        n_RC = o_RCC.sum(2)
        far_RCC = _distances(n_RC, metric)
        observed_R = (o_RCC * far_RCC).sum((1, 2))
        expected_R = (n_RC[:, :, None] * n_RC[:, None, :] * far_RCC).sum((1, 2))
        return 1 - _ratio((n_RC.sum(1) - 1) * observed_R, expected_R)

    return _with_interval(of, counts_UC, seed, resamples)


def fleiss(units: Sequence[Unit], *, seed: int = 0, resamples: int = RESAMPLES) -> Agreement:
    """Fleiss' kappa; where units differ in size, each counts as one item and pooled shares count labels."""
    counts_UC = _counts(units, None)
    alike_U = _alike(counts_UC)

    def of(weight_RU: Float) -> Float:
        pooled_RC = weight_RU @ counts_UC
        chance_R = ((pooled_RC / pooled_RC.sum(1, keepdims=True)) ** 2).sum(1)
        return _over_chance(weight_RU @ alike_U / weight_RU.sum(1), chance_R)

    return _with_interval(of, counts_UC, seed, resamples)


def gwet(
    units: Sequence[Unit],
    *,
    values: Sequence[Hashable] | None = None,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Agreement:
    """Gwet's AC1. `values`: all labels that could have been given, also those that nobody gave."""
    counts_UC = _counts(units, values)
    alike_U, shares_UC = _alike(counts_UC), counts_UC / np.maximum(counts_UC.sum(1, keepdims=True), 1)
    others = max(counts_UC.shape[1] - 1, 1)

    def of(weight_RU: Float) -> Float:
        total_R = weight_RU.sum(1)
        pi_RC = weight_RU @ shares_UC / total_R[:, None]
        return _over_chance(weight_RU @ alike_U / total_R, (pi_RC * (1 - pi_RC)).sum(1) / others)

    return _with_interval(of, counts_UC, seed, resamples)


def kappa(
    first: Sequence[Hashable], second: Sequence[Hashable], *, seed: int = 0, resamples: int = RESAMPLES
) -> Agreement:
    """Cohen's kappa of two people over the same items."""
    if len(first) != len(second):
        raise DataError(f"{len(first)} labels beside {len(second)}", next_step="give both people's labels of each item")
    units = list(zip(first, second, strict=True))
    place = _places(units, None)
    pair_U2 = np.array([[place[a], place[b]] for a, b in units], dtype=np.int64).reshape(-1, 2)
    each_U2C = np.eye(max(len(place), 1))[pair_U2]
    alike_U = (pair_U2[:, 0] == pair_U2[:, 1]).astype(float)

    def of(weight_RU: Float) -> Float:
        total_R = weight_RU.sum(1)
        shares_R2C = np.einsum("ru,usc->rsc", weight_RU, each_U2C) / total_R[:, None, None]
        return _over_chance(weight_RU @ alike_U / total_R, (shares_R2C[:, 0] * shares_R2C[:, 1]).sum(1))

    return _with_interval(of, each_U2C.sum(1), seed, resamples)


def self_consistency(
    repeats: Sequence[tuple[Hashable, Hashable]], *, seed: int = 0, resamples: int = RESAMPLES
) -> Agreement:
    """One person's earlier and later answers to the same pairs, sides swapped in between, both in stored order."""
    return kappa([one for one, _ in repeats], [again for _, again in repeats], seed=seed, resamples=resamples)


def _places(units: Sequence[Unit], values: Sequence[Hashable] | None) -> dict[Hashable, int]:
    found = {label for unit in units for label in unit}
    if values is None:
        try:
            values = sorted(found)  # type: ignore[type-var]
        except TypeError:
            values = sorted(found, key=str)
    if strange := found - set(values):
        raise DataError(
            f"labels that the scale does not have: {sorted(map(str, strange))[:3]}",
            choices=[str(one) for one in values],
        )
    return {value: number for number, value in enumerate(values)}


def _counts(units: Sequence[Unit], values: Sequence[Hashable] | None) -> Float:
    """How often each label was given, for units with two labels or more."""
    several = [unit for unit in units if len(unit) > 1]
    place = _places(several, values)
    counts_UC = np.zeros((len(several), max(len(place), 1)))
    for number, unit in enumerate(several):
        for label in unit:
            counts_UC[number, place[label]] += 1
    return counts_UC


def _alike(counts_UC: Float) -> Float:
    """Share of the pairs of labels of a unit that are alike."""
    m_U = counts_UC.sum(1)
    return np.asarray((counts_UC * (counts_UC - 1)).sum(1) / np.maximum(m_U * (m_U - 1), 1))


def _distances(n_RC: Float, metric: Metric) -> Float:
    """Squared distances between labels."""
    c = n_RC.shape[1]
    if metric == "nominal":
        return np.broadcast_to(1 - np.eye(c), (len(n_RC), c, c))
    # how many labels lie between the two, each end counted half: differences of the cumulative count's middle
    middle_RC = np.cumsum(n_RC, axis=1) - n_RC / 2
    return np.asarray((middle_RC[:, :, None] - middle_RC[:, None, :]) ** 2)


def _ratio(above_R: Float, below_R: Float) -> Float:
    return np.divide(above_R, below_R, out=np.full(len(above_R), np.nan), where=below_R > 0)


def _over_chance(share_R: Float, chance_R: Float) -> Float:
    return 1 - _ratio(1 - share_R, 1 - chance_R)


def _with_interval(of: Callable[[Float], Float], counts_UC: Float, seed: int, resamples: int) -> Agreement:
    items = len(counts_UC)
    if not items:
        return Agreement(None, None, None, 0, 0, None)
    value = float(of(np.ones((1, items)))[0])
    drawn_RU = np.random.default_rng(seed).multinomial(items, np.full(items, 1 / items), resamples).astype(float)
    spread_R = of(drawn_RU)
    spread_R = spread_R[np.isfinite(spread_R)]
    low, high = np.quantile(spread_R, EDGES) if len(spread_R) and items > 1 else (np.nan, np.nan)
    return Agreement(
        _known(value), _known(low), _known(high), items, int(counts_UC.sum()), float(_alike(counts_UC).mean())
    )


def _known(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
