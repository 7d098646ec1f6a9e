"""Writes trl.json: what TRL's own loss functions give on fixed inputs. Run by hand in the peers' environment
(bench/requirements.txt), never by the tests:

    .venv-bench/bin/python tests/losses/make_trl.py

Models are stand-ins that hand back given log-probabilities or scores, so that only the loss is TRL's.
"""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import trl
from trl import DPOTrainer, GRPOTrainer, KTOTrainer, RewardTrainer, RLOOTrainer
from trl.experimental.cpo import CPOTrainer
from trl.experimental.orpo import ORPOTrainer

PROMPT, ANSWERS = 2, ((5, 3), (2, 6), (4, 4), (1, 5))  # tokens of a prompt; of the chosen and the rejected answer
NAMED = ("rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies", "accuracy", "margin", "mean_reward", "kl")  # fmt: skip


def bare(kind: type, **attributes: Any) -> Any:
    """A trainer that was never set up: just what its loss reads."""
    made = object.__new__(kind)
    accelerator = SimpleNamespace(
        device=torch.device("cpu"), num_processes=1, gather_for_metrics=lambda x: x, gather=lambda x: x,
        reduce=lambda x, reduction: x, unwrap_model=lambda x: x,
    )  # fmt: skip
    usual = {
        "accelerator": accelerator, "model": SimpleNamespace(training=True), "_metrics": {"train": defaultdict(list)},
        "aux_loss_enabled": False, "_total_train_tokens": 0, "_tp_size": 1, "args": SimpleNamespace(average_tokens_across_devices=False),
    }  # fmt: skip
    for name, value in (usual | attributes).items():
        object.__setattr__(made, name, value)
    return made


def draw(*shape: int, seed: int, scale: float = 1.0) -> torch.Tensor:
    return -scale * torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def masks(lengths: list[int]) -> torch.Tensor:
    width = PROMPT + max(lengths)
    return torch.tensor([[0] * PROMPT + [1] * n + [0] * (width - PROMPT - n) for n in lengths])


def outputs_of(logps_NT: torch.Tensor) -> Any:
    return lambda **inputs: SimpleNamespace(
        log_probs=logps_NT, entropy=torch.zeros_like(logps_NT), aux_loss=None, logits=torch.zeros(*logps_NT.shape, 3),
        is_top1=torch.zeros_like(logps_NT, dtype=torch.bool), mean_logits=torch.zeros_like(logps_NT), sum_logits=torch.zeros_like(logps_NT),
    )  # fmt: skip


def pairs() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """TRL's order: all chosen answers, then all rejected ones. [2B, T] mask, [2B, T - 1] policy, [2B, T - 1] reference."""
    mask = masks([first for first, _ in ANSWERS] + [second for _, second in ANSWERS])
    shifted = mask[:, 1:]
    policy = (draw(*shifted.shape, seed=1, scale=3) * shifted).requires_grad_()
    return mask, policy, draw(*shifted.shape, seed=2, scale=3) * shifted


def told(loss: torch.Tensor, leaf: torch.Tensor, trainer: Any) -> dict[str, Any]:
    (gradient,) = torch.autograd.grad(loss, leaf)
    metrics = {name: found[-1] for name, found in trainer._metrics["train"].items() if name in NAMED}
    return {"loss": loss.item(), "gradient": gradient.tolist(), "metrics": metrics}


def dpo(loss_type: str, beta: float, label_smoothing: float) -> dict[str, Any]:
    mask, policy, reference = pairs()
    chosen, rejected = reference.sum(1).chunk(2)
    trainer = bare(
        DPOTrainer, ld_alpha=None, precompute_ref_logps=True, f_divergence_type="reverse_kl", loss_types=[loss_type],
        loss_weights=[1.0], beta=beta, label_smoothing=label_smoothing, use_weighting=False,
    )  # fmt: skip
    inputs = {
        "input_ids": torch.ones_like(mask), "attention_mask": torch.ones_like(mask), "completion_mask": mask,
        "ref_chosen_logps": chosen, "ref_rejected_logps": rejected,
    }  # fmt: skip
    loss = trainer._compute_loss(outputs_of(policy), inputs, False)
    how = {"loss_type": loss_type, "beta": beta, "label_smoothing": label_smoothing}
    return how | told(loss, policy, trainer)


def averaged(policy: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    chosen, rejected = (policy.sum(1) / mask.sum(1)).chunk(2)
    return chosen, rejected


def simpo(beta: float, gamma: float, label_smoothing: float) -> dict[str, Any]:
    mask, policy, _ = pairs()
    trainer = bare(
        CPOTrainer, alpha=0.0, loss_type="simpo", simpo_gamma=gamma, beta=beta, label_smoothing=label_smoothing
    )
    losses, chosen, rejected = trainer.cpo_loss(*averaged(policy, mask))
    metrics = {"rewards/chosen": chosen.mean().item(), "rewards/rejected": rejected.mean().item()}
    how = {"beta": beta, "gamma": gamma, "label_smoothing": label_smoothing}
    return how | told(losses.mean(), policy, trainer) | {"metrics": metrics}


def orpo(beta: float) -> dict[str, Any]:
    """TRL's whole loss is the chosen answers' likelihood minus this; its likelihood term is a mean over all their tokens
    where the paper's is over answers, so only the odds ratio's part is compared."""
    mask, policy, _ = pairs()
    trainer = bare(ORPOTrainer, beta=beta)
    ratio, chosen, rejected, _, _ = trainer.odds_ratio_loss(*averaged(policy, mask))
    metrics = {"rewards/chosen": chosen.mean().item(), "rewards/rejected": rejected.mean().item()}
    return {"beta": beta} | told(-ratio.mean(), policy, trainer) | {"metrics": metrics}


def kto(beta: float, desirable: float, undesirable: float) -> dict[str, Any]:
    lengths, labels = [3, 5, 1, 4, 2], torch.tensor([True, False, True, True, False])
    mask = masks(lengths)
    shifted = mask[:, 1:]
    policy = (draw(*shifted.shape, seed=3, scale=3) * shifted).requires_grad_()
    reference = draw(*shifted.shape, seed=4, scale=3) * shifted
    kl_policy, kl_reference = draw(5, seed=5), draw(5, seed=6, scale=4)
    trainer = bare(
        KTOTrainer, precompute_ref_logps=True, calculate_KL=True, loss_type="kto", beta=beta,
        desirable_weight=desirable, undesirable_weight=undesirable, _compute_kl_logps=lambda model, batch: kl_policy,
    )  # fmt: skip
    inputs = {
        "input_ids": torch.ones_like(mask), "attention_mask": torch.ones_like(mask), "completion_mask": mask,
        "label": labels, "ref_logps": reference.sum(1), "ref_KL_logps": kl_reference,
    }  # fmt: skip
    loss = trainer._compute_loss(outputs_of(policy), inputs, False)
    how = {"beta": beta, "desirable_weight": desirable, "undesirable_weight": undesirable, "lengths": lengths, "labels": labels.tolist()}  # fmt: skip
    values = {"policy": policy.tolist(), "reference": reference.tolist()}
    return how | values | told(loss, policy, trainer)


def reward(margin: bool, centre: float | None) -> dict[str, Any]:
    scores = draw(8, seed=7, scale=4).requires_grad_()
    margins = -draw(4, seed=8) if margin else None
    trainer = bare(RewardTrainer, args=SimpleNamespace(center_rewards_coefficient=centre))
    inputs = {"attention_mask": torch.ones(8, 3)} | ({"margin": margins} if margins is not None else {})
    loss = trainer.compute_loss(lambda **given: SimpleNamespace(logits=scores[:, None]), inputs)
    how = {"scores": scores.tolist(), "margins": None if margins is None else margins.tolist(), "center": centre}
    return how | told(loss, scores, trainer)


def sampled() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    lengths = [4, 2, 6, 1, 3, 5]
    mask = masks(lengths)[:, PROMPT:]
    policy = (draw(*mask.shape, seed=9, scale=2) * mask).requires_grad_()
    old = (policy.detach() + 0.4 * draw(*mask.shape, seed=10) + 0.2) * mask
    reference = draw(*mask.shape, seed=11, scale=2) * mask
    advantages = torch.tensor([0.5, -1.0, 0.5, 1.2, -0.7, -0.5], dtype=torch.float64)
    return mask, policy, old, reference, advantages


def grpo(loss_type: str, beta: float, moved: bool, high: float, unbiased: bool = False) -> dict[str, Any]:
    mask, policy, old, reference, advantages = sampled()
    trainer = bare(
        GRPOTrainer, top_entropy_quantile=1.0, off_policy_mask_threshold=None, importance_sampling_level="token",
        beta=beta, loss_type=loss_type, epsilon_low=0.2, epsilon_high=high, use_vllm=False, _entropy_bonus_enabled=False,
        current_gradient_accumulation_steps=1, max_completion_length=8,
        args=SimpleNamespace(delta=None, use_bias_correction_kl=unbiased, steps_per_generation=1),
        _get_per_token_logps_and_entropies=lambda *given, **more: (policy, torch.zeros_like(policy), None),
    )  # fmt: skip
    inputs = {
        "prompt_ids": torch.ones(6, 1), "prompt_mask": torch.ones(6, 1), "completion_ids": torch.ones_like(mask),
        "completion_mask": mask, "advantages": advantages, "ref_per_token_logps": reference,
        "num_items_in_batch": mask.sum(),
    } | ({"old_per_token_logps": old} if moved else {})  # fmt: skip
    loss = trainer._compute_loss(None, inputs)
    how = {"loss_type": loss_type, "beta": beta, "moved": moved, "epsilon_high": high}
    return how | {"kl_estimator": "k3_ratio" if unbiased else "k3"} | told(loss, policy, trainer)


def rloo() -> dict[str, Any]:
    mask, policy, old, _, advantages = sampled()
    trainer = bare(
        RLOOTrainer, epsilon_low=0.2, epsilon_high=0.3,
        _get_per_token_logps_and_entropies=lambda *given, **more: (policy, torch.zeros_like(policy), None),
    )  # fmt: skip
    inputs = {
        "prompt_ids": torch.ones(6, 1), "prompt_mask": torch.ones(6, 1), "completion_ids": torch.ones_like(mask),
        "completion_mask": mask, "advantages": advantages, "old_logps": old.sum(1),
    }  # fmt: skip
    return {"epsilon": 0.2, "epsilon_high": 0.3} | told(trainer._compute_loss(None, inputs), policy, trainer)


def main() -> None:
    mask, policy, reference = pairs()
    sampled_mask, sampled_policy, old, sampled_reference, advantages = sampled()
    body = {
        "made with": {"trl": trl.__version__, "torch": torch.__version__},
        "pairs": {"mask": mask.tolist(), "policy": policy.tolist(), "reference": reference.tolist()},
        "sampled": {
            "mask": sampled_mask.tolist(), "policy": sampled_policy.tolist(), "old": old.tolist(),
            "reference": sampled_reference.tolist(), "advantages": advantages.tolist(),
        },
        "dpo": [dpo(kind, beta, e) for kind, beta, e in (("sigmoid", 0.1, 0.0), ("sigmoid", 0.7, 0.0), ("ipo", 0.3, 0.0), ("hinge", 0.5, 0.0), ("robust", 0.4, 0.2))],
        "simpo": [simpo(2.0, 0.5, 0.0), simpo(2.5, 1.4, 0.1)],
        "orpo": [orpo(0.1), orpo(0.6)],
        "kto": [kto(0.1, 1.0, 1.0), kto(0.8, 1.0, 1.33)],
        "reward": [reward(False, None), reward(True, None), reward(True, 0.01)],
        "grpo": [grpo(kind, *how) for kind in ("grpo", "dapo", "dr_grpo") for how in ((0.0, False, 0.2), (0.04, True, 0.2), (0.3, True, 0.28), (0.3, True, 0.28, True), (0.3, False, 0.2, True))],
        "rloo": [rloo()],
    }  # fmt: skip
    Path(__file__).with_name("trl.json").write_text(json.dumps(body, indent=None, separators=(",", ":")) + "\n", encoding="utf-8")  # fmt: skip


if __name__ == "__main__":
    main()
