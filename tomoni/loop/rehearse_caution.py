"""E5: over-optimisation. Does the best of very many answers, by a head that a quarter of false labels taught, stay good?

From the starting policy of `rehearse_policy`: few pairs, labels of which a quarter are flipped, one head. Then the best of n
answers by its score, n up to 4,096, to prompts that nobody was asked about, and how much gold that answer has over the mean.
Ways to score:

    cautious    the product's: the posterior's mean less `caution` standard deviations, from the mean of reference answers
    single      the posterior's mean: the same head, told how often labels are false, its prior found by evidence
    plain       labels believed as they are, the prior tuned for this very figure
    loose       the same with hardly any prior, as reward models are usually trained
    worst       the least of five such heads, each fitted on labels drawn with replacement (Coste et al.'s WCO)
    uncertain   their mean less their variance (UWO)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from scipy.special import gammaln

from tomoni.feedback.arrays import Float
from tomoni.feedback.head import Head
from tomoni.loop.rehearse_figures import Figure, bootstrap, mean
from tomoni.loop.rehearse_loop import Form, land_of
from tomoni.loop.rehearse_policy import Answers, Land, Seen, says

WAYS = ("cautious", "single", "plain", "loose", "worst", "uncertain")


def e5(form: Form, seeds: range) -> Iterator[Figure]:
    part, resamples = form["e5"], int(form["resamples"])
    lands = {seed: land_of(form, seed) for seed in seeds}
    for labels in part["labels"]:
        gains = [gained(form, land, labels, seed) for seed, land in lands.items()]
        curve = {way: np.array([one[way] for one in gains]) for way in WAYS}
        decides = labels == part["decisive"]
        for way in WAYS:
            name = f"{labels} labels, {way}: gold of the best of {part['most']} over that at the peak"
            kept = _ratio(name, curve[way], None, resamples)
            yield mean(
                "E5",
                f"{labels} labels, {way}: gold won by the best of {part['most']}, logits",
                curve[way][:, -1],
                resamples=resamples,
            )
            yield (
                _judged(kept, part["criteria"]["kept"], part["criteria"]["kept_aim"])
                if decides and way == "cautious"
                else kept
            )
        for way in WAYS[1:]:
            name = f"{labels} labels: gold won by cautious over that by {way}, best of {part['most']}"
            figure = _ratio(name, curve["cautious"], curve[way], resamples)
            yield (
                _judged(figure, part["criteria"]["gain"], part["criteria"]["gain_aim"])
                if decides and way == "single"
                else figure
            )


def _judged(figure: Figure, wanted: float, aim: float) -> Figure:
    return replace(figure, criterion=f"at least {wanted:g} (aim {aim:g})", met=figure.value >= wanted)


def _ratio(name: str, ours_SN: Float, theirs_SN: Float | None, resamples: int) -> Figure:
    """Of mean gains at the last n, over theirs there; without them, over our own highest."""

    def ratio(weight_S: Float) -> float:
        ours_N = weight_S @ ours_SN
        return float(ours_N[-1] / (ours_N.max() if theirs_SN is None else (weight_S @ theirs_SN)[-1]))

    low, high = bootstrap(ratio, len(ours_SN), resamples=resamples)
    return Figure("E5", name, ratio(np.ones(len(ours_SN))), low, high)


def gained(form: Form, land: Land, labels: int, seed: int) -> Mapping[str, Float]:
    """By way of scoring: gold over the mean of the best of 1, 2, 4 … answers, mean over prompts."""
    part, rng = form["e5"], np.random.default_rng([seed, 85, labels])
    score = _scorers(form, land, labels, rng)
    most, sizes = int(part["most"]), 2 ** np.arange(int(np.log2(part["most"])) + 1)
    weight_NM = best_of_weights(most, sizes)
    found = {way: np.zeros(len(sizes)) for way in WAYS}
    prompts = range(land.held_out, land.held_out + int(part["prompts"]))
    for prompt in prompts:
        pool = land.answers(land.start(), np.full(most, prompt), rng)
        reference = land.answers(land.start(), np.full(int(part["references"]), prompt), rng)
        gold_M = pool.gold_A - pool.gold_A.mean()
        for way, scores_M in score(pool, reference).items():
            found[way] += weight_NM @ gold_M[np.argsort(scores_M, kind="stable")] / len(prompts)
    return found


def best_of_weights(most: int, sizes: Any) -> Float:
    """[N, M]: the chance that the i-th worst of M is the best of n drawn without replacement, C(i - 1, n - 1) / C(M, n)."""
    rank_M, n_N1 = np.arange(1, most + 1), np.asarray(sizes)[:, None]
    with np.errstate(invalid="ignore"):
        log_NM = _choose(rank_M - 1, n_N1 - 1) - _choose(most, n_N1)
    return np.asarray(np.where(rank_M >= n_N1, np.exp(log_NM), 0.0))


def _choose(n: Any, k: Any) -> Any:
    return gammaln(n + 1) - gammaln(k + 1) - gammaln(np.maximum(n - k, 0) + 1)


def _scorers(form: Form, land: Land, labels: int, rng: Any) -> Any:
    part, flips = form["e5"], float(form["people"]["flips"])
    prompt_N = rng.integers(0, land.held_out, labels)
    pairs = land.answers(land.start(), np.repeat(prompt_N, 2), rng)
    ground = land.answers(land.start(), np.repeat(np.arange(land.held_out), 8), rng)
    seen = Seen(ground)
    phi_ND = seen.space(pairs.features_AF, pairs.length_A)
    delta_ND = phi_ND[0::2] - phi_ND[1::2]
    y_N = np.array([float(says(gap, flips, rng)) for gap in pairs.gold_A[0::2] - pairs.gold_A[1::2]])
    head = Head.fit(delta_ND, y_N, noise_N=np.full(labels, flips), prior="evidence", length=seen.space.length)
    plain, loose = (Head.fit(delta_ND, y_N, prior=float(part[which])) for which in ("plain", "loose"))
    again = [rng.integers(0, labels, labels) for _ in range(5)]
    five = [Head.fit(delta_ND[which], y_N[which], prior=float(part["plain"])) for which in again]

    def score(pool: Answers, reference: Answers) -> dict[str, Float]:
        phi_MD = seen.space(pool.features_AF, pool.length_A)
        reference_MD = seen.space(reference.features_AF, reference.length_A)
        each_5M = np.array([one.mean(phi_MD - reference_MD.mean(0)) for one in five])
        return {
            "cautious": head.scores(phi_MD, reference_MD=reference_MD, caution=float(part["caution"])),
            "single": head.mean(phi_MD),
            "plain": plain.mean(phi_MD),
            "loose": loose.mean(phi_MD),
            "worst": each_5M.min(0),
            "uncertain": each_5M.mean(0) - float(part["variance"]) * each_5M.var(0),
        }

    return score
