"""The example of docs/overoptimisation.md: the small bundled model, paid by length alone, is stopped when its held-out
answers have become worse, and what is kept is better than what it began with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tomoni.cli.demo import TUNING
from tomoni.run import start
from tomoni.settings import grpo, sft
from tomoni.world import bundled_world, tuning_questions


@pytest.mark.slow
def test_a_policy_that_is_paid_by_length_is_stopped_and_its_best_kept(tmp_path: Path) -> None:
    world = bundled_world()

    def write(name: str, rows: list[dict[str, Any]]) -> str:
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (tmp_path / name).write_text(lines, encoding="utf-8")
        return str(tmp_path / name)

    tuning = write("tuning.jsonl", list(tuning_questions(world, 600, 0)))
    asked = [
        {"id": row["id"], "prompt": row["messages"][0]["content"]}
        for row in tuning_questions(world, 1000, 1, conversations=0)
    ]
    rewards = tmp_path / "rewards.py"
    rewards.write_text("def length(completions, **_):\n    return [len(text) / 100 for text in completions]\n")
    base = {"model_name_or_path": "bundled:small", "train_file": tuning, "output_dir": str(tmp_path / "tuned")}
    start(sft.Config(**base, threads=1, **TUNING))
    paid: dict[str, Any] = {
        "model_name_or_path": str(tmp_path / "tuned"), "train_file": write("prompts.jsonl", asked), "form": "prompt",
        "validation_share": 0.15, "output_dir": str(tmp_path / "paid"), "reward_funcs": f"{rewards}:length",
        "eval_reward_funcs": "tomoni.world.polite:courtesy", "on_overoptimization": "stop", "eval_steps": 4,
        "max_steps": 80, "batch_size": 8, "num_generations": 8, "max_completion_length": 48, "max_length": 256,
        "learning_rate": 1e-4, "lr_scheduler_type": "constant", "sample_prompts": 0, "save_steps": 1000, "threads": 1,
    }  # fmt: skip
    result = start(grpo.Config(**paid))
    report = json.loads((tmp_path / "paid" / "report.json").read_text(encoding="utf-8"))["overoptimisation"]
    last, best = report["evaluations"][-1], max(report["evaluations"], key=lambda point: point["gain"][0])
    assert result.ended is not None and "held-out score has fallen" in result.ended and result.step < 80
    assert last["trained"][0] > best["trained"][0] > 0, "what is paid went on rising"
    assert best["gain"][0] > 2 * best["gain"][1], "what is wanted rose first"
    assert last["gain"][0] < best["gain"][0] - 4 * last["fall"][1], "and then fell"
    assert result.before is not None and result.after is not None
    gained = result.after.stats["reward"].value - result.before.stats["reward"].value
    assert gained == pytest.approx(best["gain"][0]), "the result is the best evaluation's"
