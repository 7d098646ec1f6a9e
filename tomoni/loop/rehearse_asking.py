"""E2: does it matter which pair is asked? Online in both arms: the policy that gives the answers follows the head."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from scipy.special import expit

from tomoni.feedback.ask import Candidates, Rule, choose
from tomoni.feedback.channel import Channel
from tomoni.feedback.head import Head, Prior
from tomoni.loop.rehearse_figures import Figure, labels_saved, mean
from tomoni.loop.rehearse_protocol import Protocol
from tomoni.loop.rehearse_session import win_rate
from tomoni.loop.rehearse_world import Bank

REFIT = 4  # batches, after which the prior's scale is searched anew


def e2(p: Protocol) -> Iterator[Figure]:
    part = p.e2
    sizes_N = np.arange(part.batch, part.labels[-1] + 1, part.batch, dtype=np.float64)
    for kind in part.worlds:
        banks = {seed: p.world.bank(kind, seed) for seed in p.seeds}
        curves = {
            rule: np.array([_arm(p, bank, rule, seed) for seed, bank in banks.items()])
            for rule in ("random", *part.rules)
        }
        for labels in part.labels:
            n = labels // part.batch
            for rule, curve_SN in curves.items():
                name = f"{kind}: win rate after {labels} labels, {rule}"
                yield mean("E2", name, curve_SN[:, n - 1], resamples=p.resamples)
            for rule in part.rules:
                name = f"{kind}: labels of random asking at {labels} over those of {rule}"
                arms = curves[rule], curves["random"][:, :n]
                figure = labels_saved("E2", name, *arms, sizes_N, resamples=p.resamples)
                decides = rule == part.rules[0] and labels == part.labels[-1]
                yield _judged(figure, part.criteria) if decides else figure


def _judged(figure: Figure, criteria: Mapping[str, float]) -> Figure:
    wanted = f"at least {criteria['ratio']}, low end over {criteria['low']}"
    met = figure.value >= criteria["ratio"] and figure.low > criteria["low"]
    return replace(figure, criterion=wanted, met=met)


def _arm(p: Protocol, bank: Bank, rule: Rule, seed: int) -> list[float]:
    """Win rate of the head's best answer on held-out prompts, after each batch."""
    part, rng = p.e2, np.random.default_rng([seed, 2])
    flips = p.people.trained if part.person == "trained" else p.people.crowd
    channel = Channel.flipping(np.array([flips]))
    head = Head.blank(bank.phi_AD.shape[1], length=bank.length)
    deltas, answers, levels = [], [], []
    for batch in range(part.labels[-1] // part.batch):
        candidates, at = _offered(bank, head, part.answers, part.sharpness, rng)
        chosen = choose(
            candidates,
            head,
            n=part.batch,
            seed=seed * 1000 + batch,
            rule=rule,
            random_share=part.random_share,
            channel=channel,
        )
        for one in chosen:
            first, second = at[candidates.first_P[one.pair]], at[candidates.second_P[one.pair]]
            p_first = float(expit(bank.gold_A[first] - bank.gold_A[second]))
            deltas.append(bank.phi_AD[first] - bank.phi_AD[second])
            answers.append(float(rng.random() < flips + (1 - 2 * flips) * p_first))
        noise_N = np.full(len(answers), flips)
        start = head if head.labels else None
        prior: Prior = "evidence" if start is None or batch % REFIT == 0 else head.scale
        head = Head.fit(
            np.array(deltas), np.array(answers), noise_N=noise_N, start=start, prior=prior, length=bank.length
        )
        levels.append(win_rate(head, bank))
    return levels


def _offered(bank: Bank, head: Head, each: int, sharpness: float, rng: Any) -> tuple[Candidates, Any]:
    """Answers of the current policy to every prompt that may be asked: different ones, with odds exp(sharpness head)."""
    per_prompt = len(bank.prompt_A) // bank.prompts
    asked = bank.held_out * per_prompt
    key_QA = (sharpness * head.mean(bank.phi_AD[:asked]) + rng.gumbel(size=asked)).reshape(bank.held_out, per_prompt)
    picked_QK = np.argsort(-key_QA, axis=1)[:, :each]
    at = (picked_QK + per_prompt * np.arange(bank.held_out)[:, None]).ravel()
    names = [str(number) for number in at]
    return Candidates.of(names, [f"{prompt:04}" for prompt in bank.prompt_A[at]], bank.phi_AD[at]), at
