"""What a report shows of each method's statistics."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Any

import pytest

from tomoni.cli import training
from tomoni.config import dump, load
from tomoni.evaluate.metrics import mean_interval
from tomoni.report import Looked, Mean, Stats
from tomoni.run.figures import rows
from tomoni.run.methods import METHODS, config_class
from tomoni.run.outcome import Measured, Result


def shown(**stats: tuple[float, float]) -> dict[str, str]:
    measured = Measured(Stats({name.replace("__", "/"): Mean(*pair) for name, pair in stats.items()}), 8, "validation")
    return {row.what: row.after for row in rows(measured, measured)}


def test_of_texts_the_loss_is_a_tokens_and_has_a_perplexity() -> None:
    assert shown(loss=(20 * math.log(3), 20.0), mean_token_accuracy=(15.0, 20.0)) == {
        "loss (nats a token)": "1.099",
        "perplexity": "3.000",
        "tokens predicted right": "75.0%",
    }


def test_of_pairs_there_is_an_accuracy_with_its_interval_and_no_perplexity() -> None:
    found = shown(loss=(9.7, 14.0), rewards__accuracies=(7.0, 14.0), rewards__margins=(-0.0001, 14.0))
    assert found == {
        "loss": "0.693",
        "accuracy (95 % interval)": "50.0% (26.8 to 73.2%)",  # Wilson 1927 for 7 of 14
        "margin, chosen - rejected": "0.000",
    }


def looked(rewards: Sequence[float]) -> Measured:
    count = float(len(rewards))
    total = math.fsum(rewards)
    stats = Stats(
        {"reward": Mean(total, count), "loss": Mean(-total, count), "rewards/polite/mean": Mean(total, count)}
    )
    return Measured(Looked(stats, {"reward": list(rewards)}), len(rewards), "validation")


def test_of_rewards_the_interval_is_that_of_their_standard_error() -> None:
    rewards = [0.5, 1.0, -2.0, 3.25, 0.0, 1.5]
    half = 1.959964 * statistics.stdev(rewards) / math.sqrt(len(rewards))
    mean = statistics.mean(rewards)
    found = rows(looked(rewards), looked(rewards))[0]
    assert (found.what, found.after) == (
        "reward (95 % interval)",
        f"{mean:.3f} ({mean - half:.3f} to {mean + half:.3f})",
    )


def test_the_gain_is_that_of_the_same_prompts() -> None:
    before = [0.0, 5.0, -3.0, 100.0]
    found = rows(looked(before), looked([reward + 1 for reward in before]))
    assert [row.what for row in found] == ["reward (95 % interval)", "gain, prompt by prompt"]
    assert found[1].after == "1.000 (1.000 to 1.000)"  # every prompt gains 1, however far apart prompts are


def test_several_rewards_are_shown_beside_their_sum_under_the_users_names() -> None:
    found = shown(reward=(8.0, 8.0), rewards__short__mean=(2.0, 8.0), rewards__polite__mean=(6.0, 8.0))
    assert found == {"reward (95 % interval)": "1.000", "reward of short": "0.250", "reward of polite": "0.750"}


def test_a_statistic_without_a_heading_stands_under_its_own_name() -> None:
    assert shown(loss=(1.0, 1.0), novel=(3.0, 2.0)) == {"loss": "1.000", "novel": "1.500"}


def test_what_is_no_number_is_shown_as_that() -> None:
    assert shown(loss=(math.nan, 1.0), accuracy=(math.nan, 4.0)) == {
        "loss": "nan",
        "accuracy (95 % interval)": "nan%",
    }


def test_a_measure_of_nothing_is_a_dash() -> None:
    """No span was told, so none of them could be right: no precision."""
    assert shown(precision=(0.0, 0.0), recall=(0.0, 4.0)) == {"precision": "–", "recall": "0.0%"}


def test_one_value_tells_nothing_of_its_spread() -> None:
    assert mean_interval([3.0]).value == 3.0
    assert math.isnan(mean_interval([3.0]).low)
    assert math.isnan(mean_interval([]).value)


@pytest.mark.parametrize(("method", "hint"), [("reward", "--reward_funcs runs/x"), ("grpo", "tomoni chat runs/x")])
def test_the_hint_after_a_run_is_what_one_does_with_its_result(
    method: str, hint: str, tmp_path: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    from pathlib import Path

    training.show(Result(Path("runs/x"), "finished", 3, 3), method=method)
    assert hint in capsys.readouterr().out


@pytest.mark.parametrize("method", [method for method in METHODS if method != "pretrain"])
def test_the_config_that_a_run_writes_down_starts_the_same_run(method: str, tmp_path: Any) -> None:
    """All defaults are in it, also those that only have an effect together with another key."""
    given: dict[str, Any] = {"model_name_or_path": "m", "train_file": "t", "output_dir": "o"}
    if "reward_funcs" in config_class(method).model_fields:
        given["reward_funcs"] = "score.py:f"
    cfg = config_class(method)(**given)
    (tmp_path / "config.yaml").write_text(dump(cfg), encoding="utf-8")
    assert load(config_class(method), tmp_path / "config.yaml") == cfg
