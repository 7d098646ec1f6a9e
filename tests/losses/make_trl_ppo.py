"""Writes trl_ppo.json: what the loss and the advantages of TRL's first PPOTrainer give on fixed inputs. Later versions
compute them in the middle of `train`, and the newest have no PPO. Run by hand, never by the tests:

    pip download --no-deps trl==0.11.4 && unzip trl-0.11.4-*.whl -d OLD
    .venv-bench/bin/python tests/losses/make_trl_ppo.py OLD

That version does not import beside today's transformers, so the two methods and the functions that they call are taken
out of its files.
"""

from __future__ import annotations

import ast
import json
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

FUNCTIONS = ("masked_mean", "masked_var", "masked_whiten", "clip_by_value", "entropy_from_logits", "flatten_dict")
METHODS = ("loss", "compute_advantages")
LENGTHS = (5, 2, 4, 1)


def taken(path: Path, names: tuple[str, ...], known: dict[str, Any]) -> dict[str, Any]:
    """Functions and methods of a file by their names, without their annotations."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name in names]
    for node in found:
        node.decorator_list, node.returns = [], None
        for argument in (*node.args.args, *node.args.kwonlyargs):
            argument.annotation = None
    space = dict(known)
    exec(compile(ast.Module(found, []), str(path), "exec"), space)  # noqa: S102
    return {name: space[name] for name in names}


def draw(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def made(core: dict[str, Any], trainer: dict[str, Any], gamma: float, lam: float, vf_coef: float) -> dict[str, Any]:
    mask = torch.tensor([[1] * n + [0] * (max(LENGTHS) - n) for n in LENGTHS])
    shape = mask.shape
    config = SimpleNamespace(
        gamma=gamma, lam=lam, vf_coef=vf_coef, cliprange=0.2, cliprange_value=0.3, whiten_rewards=False,
        ratio_threshold=1e9,
    )  # fmt: skip
    this = SimpleNamespace(config=config)
    values, rewards = draw(*shape, seed=1) * mask, draw(*shape, seed=2) * mask
    values, advantages, returns = trainer["compute_advantages"](this, values, rewards, mask)
    logprobs = (-draw(*shape, seed=3).abs() * mask).requires_grad_()
    old = (logprobs.detach() + 0.3 * draw(*shape, seed=4)) * mask
    vpreds = (values + 0.5 * draw(*shape, seed=5) * mask).requires_grad_()
    logits = torch.zeros(*shape, 3, dtype=torch.float64)
    policy, value, stats = trainer["loss"](this, old, values, logits, vpreds, logprobs, mask, advantages, returns)
    gradients = torch.autograd.grad(policy + value, (logprobs, vpreds))
    tensors = {
        "mask": mask, "values": values, "rewards": rewards, "advantages": advantages, "returns": returns, "old": old,
        "logprobs": logprobs, "vpreds": vpreds, "policy_gradient": gradients[0], "value_gradient": gradients[1],
    }  # fmt: skip
    numbers = {
        "loss": float(policy + value), "policy/clipfrac_avg": float(stats["policy/clipfrac"]),
        "policy/approxkl_avg": float(stats["policy/approxkl"]), "val/clipfrac_avg": float(stats["val/clipfrac"]),
    }  # fmt: skip
    how = {"gamma": gamma, "lam": lam, "vf_coef": vf_coef, "cliprange": 0.2, "cliprange_value": 0.3}
    return how | numbers | {name: tensor.tolist() for name, tensor in tensors.items()}


def main(folder: Path) -> None:
    known = {"torch": torch, "warnings": warnings, "Dict": dict, "Mapping": dict}
    core = taken(folder / "trl" / "core.py", FUNCTIONS, known)
    trainer = taken(folder / "trl" / "trainer" / "ppo_trainer.py", METHODS, known | core)
    body = [made(core, trainer, *how) for how in ((1.0, 0.95, 0.1), (0.9, 0.8, 0.7))]
    Path(__file__).with_name("trl_ppo.json").write_text(
        json.dumps(body, separators=(",", ":")) + "\n", encoding="utf-8"
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
