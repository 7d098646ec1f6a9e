"""E1: the loop against offline training at equal labels, in the world of `rehearse_policy`.

Both arms practise in the same way, the product's (`taste.best_of`: the best of eight of its own answers to each prompt,
learnt). Offline, all pairs are drawn once from the starting policy, the head is fitted once, and the policy then practises
by that head as many steps as are best (on the seeds for tuning). In the loop each round's pairs are the current policy's,
asked by the product's rule, the head is fitted anew in a space of the current policy's answers, and one step is made.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from scipy.optimize import isotonic_regression

from tomoni.feedback.arrays import Float
from tomoni.feedback.ask import Candidates, Rule, choose
from tomoni.feedback.channel import Channel
from tomoni.feedback.head import Head
from tomoni.feedback.weights import Weight
from tomoni.loop.rehearse_figures import Figure, bootstrap, mean, needed
from tomoni.loop.rehearse_policy import LATENT, Answers, Land, Policy, Seen, compared, joined, says, snapshot
from tomoni.loop.taste import best_of, understand
from tomoni.records import Comparison

Form = Mapping[str, Any]


def e1(form: Form, seeds: range) -> Iterator[Figure]:
    part, resamples = form["e1"], int(form["resamples"])
    lands = [land_of(form, seed) for seed in seeds]
    sizes = list(part["offline"]["sizes"])
    offline_SN = np.array(
        [[offline(form, land, n, seed) for n in sizes] for land, seed in zip(lands, seeds, strict=True)]
    )
    for place, n in enumerate(sizes):
        yield mean(
            "E1", f"offline: win rate over the start after {n} labels", offline_SN[:, place], resamples=resamples
        )
    for rule in part["loop"]["rules"]:
        curve_SN = np.array([loop(form, land, rule, seed) for land, seed in zip(lands, seeds, strict=True)])
        batch = int(part["loop"]["batch"])
        at_N = batch * np.arange(1, curve_SN.shape[1] + 1, dtype=np.float64)
        for labels in part["loop"]["shown"]:
            name = f"loop ({rule}): win rate over the start after {labels} labels"
            yield mean("E1", name, curve_SN[:, labels // batch - 1], resamples=resamples)
        figure = _saved(rule, curve_SN, at_N, offline_SN, sizes, resamples)
        decides = rule == part["loop"]["rules"][0]
        wanted = float(part["criteria"]["ratio"])
        met = figure.value >= wanted
        yield (
            replace(figure, criterion=f"at least {wanted:g} (aim {part['criteria']['aim']:g})", met=met)
            if decides
            else figure
        )


def _saved(rule: str, ours_SN: Float, at_N: Float, theirs_SN: Float, sizes: list[int], resamples: int) -> Figure:
    def ratio(weight_S: Float) -> float:
        ours_N, theirs_N = weight_S @ ours_SN / weight_S.sum(), weight_S @ theirs_SN / weight_S.sum()
        target = float(isotonic_regression(theirs_N).x[-1])
        return float(sizes[-1] / needed(ours_N, at_N, target))

    low, high = bootstrap(ratio, len(ours_SN), resamples=resamples)
    name = f"labels of offline training at {sizes[-1]} over those of the loop ({rule}), at equal win rate"
    return Figure("E1", name, ratio(np.ones(len(ours_SN))), low, high)


def land_of(form: Form, seed: int) -> Land:
    world = form["world"]
    return Land.of(seed, prompts=world["prompts"], held_out=world["held_out"], agreement=world["agreement"])


def step(form: Form, land: Land, policy: Policy, seen: Seen, head: Head, *, care: float) -> Policy:
    """Practise once: the best of the answers to each prompt, learnt. `care`: for a nat of an answer, which have no words
    here to agree in."""
    each = int(form["practice"]["answers"])
    drawn = seen.drawn(each)
    best = np.array([int(one.texts[best_of(seen, head, one, care=care * LATENT)[0]]) for one in drawn])
    chosen, context_QC = seen.answers[best], land.context_QC
    inertia = float(form["practice"]["inertia"])
    return policy.learnt(
        context_QC[chosen.prompt_A], chosen.x_AL, inertia=inertia, usual_QC=context_QC[: land.held_out]
    )


def practised(form: Form, land: Land, policy: Policy, seen: Seen, head: Head, part: Form, rng: Any) -> Policy:
    """So many steps by one head, each from answers drawn anew but the first."""
    for number in range(int(part["steps"])):
        if number:
            seen = Seen(draws(form, land, policy, rng), space=seen.space)
        policy = step(form, land, policy, seen, head, care=float(part["care"]))
    return policy


def draws(form: Form, land: Land, policy: Policy, rng: Any) -> Answers:
    prompts = np.repeat(np.arange(land.held_out), int(form["practice"]["answers"]))
    return land.answers(policy, prompts, rng)


def offline(form: Form, land: Land, labels: int, seed: int) -> float:
    part, rng = form["e1"]["offline"], np.random.default_rng([seed, 82, labels])
    flips, start = float(form["people"]["flips"]), land.start()
    prompt_N = rng.integers(0, land.held_out, labels)
    pairs, ground = land.answers(start, np.repeat(prompt_N, 2), rng), draws(form, land, start, rng)
    seen = Seen(joined(pairs, ground), ground=2 * labels)
    weight = Weight(1.0, flips)
    said = [
        compared(n, int(prompt_N[n]), 2 * n, 2 * n + 1, says(pairs.gold_A[2 * n] - pairs.gold_A[2 * n + 1], flips, rng), weight)
        for n in range(labels)
    ]  # fmt: skip
    policy = practised(form, land, start, seen, understand(seen, snapshot(said), []), part, rng)
    return land.better(policy, start, rng, each=int(form["world"]["measured"]))


def loop(form: Form, land: Land, rule: Rule, seed: int) -> list[float]:
    """Win rate over the start after each round."""
    part, rng = form["e1"]["loop"], np.random.default_rng([seed, 83])
    start = policy = land.start()
    kept = land.answers(start, np.zeros(0, dtype=np.int64), rng)
    said: list[Comparison] = []
    rates = []
    for number in range(int(part["labels"]) // int(part["batch"])):
        own = draws(form, land, policy, rng)
        seen, head, kept = asked_and_told(form, kept, own, said, rule, seed * 1000 + number, rng)
        policy = practised(form, land, policy, seen, head, part, rng)
        rates.append(land.better(policy, start, rng, each=int(form["world"]["measured"])))
    return rates


def asked_and_told(
    form: Form, kept: Answers, own: Answers, said: list[Comparison], rule: Rule, seed: int, rng: Any
) -> tuple[Seen, Head, Answers]:
    """One round's pairs of the policy's own answers, asked and answered (`said` grows), and the head that follows."""
    part, flips, each = form["e1"]["loop"], float(form["people"]["flips"]), int(form["practice"]["answers"])
    before = Seen(joined(kept, own), ground=len(kept.prompt_A))
    head = understand(before, snapshot(said), [])
    offered = np.flatnonzero(np.arange(len(own.prompt_A)) % each < int(part["offered"]))
    names = [str(place) for place in offered]
    prompts = [f"{prompt:04}" for prompt in own.prompt_A[offered]]
    candidates = Candidates.of(names, prompts, before.phi(offered + len(kept.prompt_A)))
    channel = Channel.flipping(np.array([flips]))
    chosen = choose(candidates, head, n=int(part["batch"]), seed=seed, rule=rule, channel=channel)
    places = np.array([int(name) for one in chosen for name in (one.first, one.second)])
    first = len(kept.prompt_A)
    kept = joined(kept, own[places])
    for number in range(len(chosen)):
        at = first + 2 * number
        gap = float(kept.gold_A[at] - kept.gold_A[at + 1])
        said.append(compared(len(said), int(kept.prompt_A[at]), at, at + 1, says(gap, flips, rng), Weight(1.0, flips)))
    seen = Seen(joined(kept, own), ground=len(kept.prompt_A), space=before.space)
    return seen, understand(seen, snapshot(said), []), kept
