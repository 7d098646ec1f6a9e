"""Every loss and its gradient against what TRL gives on the same numbers (trl.json, written by make_trl.py)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tomoni.losses import Outputs, Rows, Term, policy, preference, ranking
from tomoni.methods import grpo as grpo_method
from tomoni.rewards.advantages import gae, whitened
from tomoni.rewards.answered import Answered, Scores
from tomoni.rewards.rollouts import Rollout
from tomoni.rows import Item, Row
from tomoni.settings.grpo import Config

TRL: dict[str, Any] = json.loads(Path(__file__).with_name("trl.json").read_text(encoding="utf-8"))


def flat(values_NT: Any, mask_NT: Tensor) -> Tensor:
    return torch.tensor(values_NT, dtype=torch.float64)[mask_NT.bool()]


def in_our_order(values: Any) -> Tensor:
    """TRL has all chosen answers before all rejected ones, we have pair by pair."""
    chosen, rejected = torch.tensor(values).chunk(2)
    return torch.stack([chosen, rejected], 1).flatten(0, 1)


def rows_of(mask_NT: Tensor, item_N: Tensor, **columns: Any) -> Rows:
    row_P = mask_NT.nonzero()[:, 0]
    items = int(item_N.max()) + 1
    usual = {
        "weights_P": torch.ones(len(row_P), dtype=torch.float64),
        "weight_B": torch.ones(items, dtype=torch.float64),
        "margin_B": torch.zeros(items, dtype=torch.float64),
        "noise_B": torch.zeros(items, dtype=torch.float64),
    }
    return Rows(row_P=row_P, item_N=item_N, **(usual | columns))


def pairs() -> tuple[Tensor, Tensor, Rows]:
    """Mask at predicted positions [N, T - 1], the policy's log-probabilities [P], and the rows."""
    mask_NT = in_our_order(TRL["pairs"]["mask"])[:, 1:]
    policy_P = flat(in_our_order(TRL["pairs"]["policy"]).tolist(), mask_NT).requires_grad_()
    reference_P = flat(in_our_order(TRL["pairs"]["reference"]).tolist(), mask_NT)
    return mask_NT, policy_P, rows_of(mask_NT, torch.arange(len(mask_NT)) // 2, reference_P=reference_P)


def minimised(terms: dict[str, Term], counts: dict[str, float]) -> Tensor:
    found = [term.coefficient * term.sum / counts[term.unit] for term in terms.values() if not term.metric]
    return torch.stack(found).sum()


def assert_same(loss: Tensor, leaf_P: Tensor, stored: dict[str, Any], mask_NT: Tensor | None, *, ours: bool) -> None:
    """The loss, and its gradient at the positions that are trained; `ours`: the stored rows are in TRL's order."""
    assert loss.item() == pytest.approx(stored["loss"], rel=1e-6, abs=1e-7)
    gradient = torch.autograd.grad(loss, leaf_P)[0]
    expected = in_our_order(stored["gradient"]) if ours else torch.tensor(stored["gradient"])
    expected = expected.double() if mask_NT is None else expected.double()[mask_NT.bool()]
    torch.testing.assert_close(gradient, expected, rtol=1e-5, atol=1e-9)


def assert_metrics(terms: dict[str, Term], items: int, stored: dict[str, float]) -> None:
    for name, value in stored.items():
        assert terms[name].sum.item() / items == pytest.approx(value, rel=1e-6), name


def outputs(policy_P: Tensor) -> Outputs:
    return Outputs(policy_P, torch.zeros_like(policy_P))


@pytest.mark.parametrize("stored", TRL["dpo"], ids=lambda one: f"{one['loss_type']}-{one['beta']}")
def test_dpo(stored: dict[str, Any]) -> None:
    mask_NT, policy_P, rows = pairs()
    how = {name: stored[name] for name in ("beta", "loss_type", "label_smoothing")}
    terms = preference.dpo(outputs(policy_P), rows, **how)
    assert_metrics(terms, 4, stored["metrics"])
    assert_same(minimised(terms, {"item": 4}), policy_P, stored, mask_NT, ours=True)


@pytest.mark.parametrize("stored", TRL["simpo"], ids=lambda one: f"{one['beta']}-{one['label_smoothing']}")
def test_simpo(stored: dict[str, Any]) -> None:
    mask_NT, policy_P, rows = pairs()
    terms = preference.simpo(
        outputs(policy_P), rows, beta=stored["beta"], gamma=stored["gamma"], label_smoothing=stored["label_smoothing"]
    )
    assert_metrics(terms, 4, stored["metrics"])
    assert_same(minimised(terms, {"item": 4}), policy_P, stored, mask_NT, ours=True)


@pytest.mark.parametrize("stored", TRL["orpo"], ids=lambda one: str(one["beta"]))
def test_the_odds_ratio_of_orpo(stored: dict[str, Any]) -> None:
    mask_NT, policy_P, rows = pairs()
    terms = preference.orpo(outputs(policy_P), rows, beta=stored["beta"])
    assert_metrics(terms, 4, stored["metrics"])
    only_odds = {"odds_ratio_loss": terms["odds_ratio_loss"]}
    assert_same(minimised(only_odds, {"item": 4}), policy_P, stored, mask_NT, ours=True)


@pytest.mark.parametrize("stored", TRL["kto"], ids=lambda one: str(one["beta"]))
def test_kto(stored: dict[str, Any]) -> None:
    width = len(stored["policy"][0])
    mask_NT = torch.tensor([[0] + [1] * n + [0] * (width - 1 - n) for n in stored["lengths"]])
    policy_P = flat(stored["policy"], mask_NT).requires_grad_()
    rows = rows_of(
        mask_NT,
        torch.arange(len(mask_NT)),
        reference_P=flat(stored["reference"], mask_NT),
        label_N=torch.tensor(stored["labels"], dtype=torch.float64),
    )
    terms = preference.kto(
        outputs(policy_P),
        rows,
        beta=stored["beta"],
        reference_point=stored["metrics"]["kl"],
        desirable_weight=stored["desirable_weight"],
        undesirable_weight=stored["undesirable_weight"],
    )
    assert_same(minimised(terms, {"item": 5}), policy_P, stored, mask_NT, ours=False)


@pytest.mark.parametrize("stored", TRL["reward"], ids=lambda one: f"{one['margins'] is not None}-{one['center']}")
def test_the_loss_of_reward_models(stored: dict[str, Any]) -> None:
    scores_N = in_our_order(stored["scores"]).double().requires_grad_()
    margins = {} if stored["margins"] is None else {"margin_B": torch.tensor(stored["margins"], dtype=torch.float64)}
    rows = rows_of(torch.zeros(8, 1), torch.arange(8) // 2, **margins)
    none_P = torch.zeros(0)
    terms = ranking.bradley_terry(
        Outputs(none_P, none_P, scores_N=scores_N[:, None]), rows, center_rewards_coefficient=stored["center"] or 0.0
    )
    assert_metrics(terms, 4, stored["metrics"])
    assert_same(minimised(terms, {"item": 4}), scores_N, stored, None, ours=True)


def completions() -> tuple[Tensor, Tensor, Tensor, Tensor, list[float]]:
    stored = TRL["sampled"]
    mask_NT = torch.tensor(stored["mask"])
    policy_P, old_P, reference_P = (flat(stored[name], mask_NT) for name in ("policy", "old", "reference"))
    return mask_NT, policy_P.requires_grad_(), old_P, reference_P, stored["advantages"]


@pytest.mark.parametrize(
    "stored", TRL["grpo"], ids=lambda one: f"{one['loss_type']}-{one['beta']}-{one['kl_estimator']}-{one['moved']}"
)
def test_grpo(stored: dict[str, Any]) -> None:
    """The method's own weights of tokens, and the loss."""
    mask_NT, policy_P, old_P, reference_P, advantages = completions()
    cfg = Config(
        model_name_or_path="m", train_file="t", output_dir="o", reward_funcs="r", loss_type=stored["loss_type"],
        beta=stored["beta"], epsilon_high=stored["epsilon_high"], max_completion_length=8, num_generations=6,
        kl_estimator=stored["kl_estimator"],
    )  # fmt: skip
    lengths = mask_NT.sum(1).tolist()
    group = Item("p", tuple(Row(np.zeros(n + 1, np.int32), np.r_[0, np.ones(n)].astype(np.float32)) for n in lengths))
    answers = [Answered(str(number), (), "", row) for number, row in enumerate(group.rows)]
    rollout = Rollout([group], answers, Scores(("r",), np.array(advantages)[:, None], (1.0,)))
    (weighted,) = grpo_method.weighted([group], np.array([advantages]), rollout, cfg)
    rows = rows_of(
        mask_NT,
        torch.zeros(6, dtype=torch.long),
        weights_P=torch.tensor(np.concatenate([row.weights[1:] for row in weighted.rows])).double(),
        advantages_P=torch.tensor(np.concatenate([row.advantages[1:] for row in weighted.rows])).double(),  # type: ignore[index]
        behaviour_P=old_P if stored["moved"] else None,
        reference_P=reference_P,
    )
    terms = grpo_method.loss_of(cfg)(outputs(policy_P), rows)
    counts = {"token": float(rows.weights_P.sum()), "item": 1.0}
    assert_same(minimised(terms, counts), policy_P, stored, mask_NT, ours=False)


@pytest.mark.parametrize("stored", TRL["rloo"])
def test_rloo(stored: dict[str, Any]) -> None:
    mask_NT, policy_P, old_P, _, advantages = completions()
    rows = rows_of(
        mask_NT,
        torch.zeros(6, dtype=torch.long),
        advantages_P=torch.tensor(advantages, dtype=torch.float64)[mask_NT.nonzero()[:, 0]],
        behaviour_P=old_P,
    )
    terms = policy.clipped_sequence(
        outputs(policy_P), rows, epsilon=stored["epsilon"], epsilon_high=stored["epsilon_high"]
    )
    assert_same(minimised(terms, {"item": 1}), policy_P, stored, mask_NT, ours=False)


PPO: list[dict[str, Any]] = json.loads(Path(__file__).with_name("trl_ppo.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("stored", PPO, ids=lambda one: f"{one['gamma']}-{one['lam']}")
def test_ppo(stored: dict[str, Any]) -> None:
    """Written by make_trl_ppo.py."""
    mask_NT = torch.tensor(stored["mask"])
    logprobs_P, vpreds_P = (flat(stored[name], mask_NT).requires_grad_() for name in ("logprobs", "vpreds"))
    rows = rows_of(
        mask_NT,
        torch.arange(len(mask_NT)),
        behaviour_P=flat(stored["old"], mask_NT),
        advantages_P=flat(stored["advantages"], mask_NT),
        values_P=flat(stored["values"], mask_NT),
        returns_P=flat(stored["returns"], mask_NT),
    )
    terms = policy.ppo(
        Outputs(logprobs_P, torch.zeros_like(logprobs_P), scores_P=vpreds_P[:, None]),
        rows,
        **{name: stored[name] for name in ("cliprange", "cliprange_value", "vf_coef")},
    )
    count = float(mask_NT.sum())
    for name in ("policy/clipfrac_avg", "policy/approxkl_avg", "val/clipfrac_avg"):
        assert terms[name].sum.item() / count == pytest.approx(stored[name], rel=1e-6), name
    loss = minimised(terms, {"token": count})
    assert loss.item() == pytest.approx(stored["loss"], rel=1e-9)
    for leaf_P, name in ((logprobs_P, "policy_gradient"), (vpreds_P, "value_gradient")):
        found = torch.autograd.grad(loss, leaf_P, retain_graph=True)[0]
        torch.testing.assert_close(found, flat(stored[name], mask_NT), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("stored", PPO, ids=lambda one: f"{one['gamma']}-{one['lam']}")
def test_advantages_and_returns(stored: dict[str, Any]) -> None:
    """TRL divides by the standard deviation of a sample, lm-human-preferences and we by that of all there is."""
    mask_NT = np.array(stored["mask"], dtype=bool)
    found = [
        gae(np.array(rewards)[mask], np.array(values)[mask], gamma=stored["gamma"], lam=stored["lam"])
        for rewards, values, mask in zip(stored["rewards"], stored["values"], mask_NT, strict=True)
    ]
    returns = np.concatenate([one for _, one in found])
    np.testing.assert_allclose(returns, np.array(stored["returns"])[mask_NT], rtol=1e-9)
    mine, count = whitened(np.concatenate([one for one, _ in found]), shift_mean=True), mask_NT.sum()
    theirs = np.array(stored["advantages"])[mask_NT]
    np.testing.assert_allclose(mine * ((count - 1) / count) ** 0.5, theirs, rtol=1e-6, atol=1e-7)
