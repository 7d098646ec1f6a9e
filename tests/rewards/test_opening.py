"""Several rewards as one: what fails or says no number stops the run and names the completion; nothing becomes a 0."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.methods import rollouts
from tests.rewards.completions import answered
from tomoni.errors import ConfigError, RunError
from tomoni.rewards.functions import FunctionReward, load_function
from tomoni.rewards.opening import Weighed, open_eval_rewards, open_rewards

ANSWERS = [answered("九時です。", name="問-1/4/0", answer="九時"), answered("", name="問-2/4/1")]


def weighed(*functions: Callable[..., Any], weights: tuple[float, ...] = ()) -> Weighed:
    return Weighed([FunctionReward(function.__name__, function) for function in functions], weights)


def length(completions: list[str]) -> list[int]:
    return [len(text) for text in completions]


def is_empty(completion: str) -> float:
    return float(not completion)


def test_scores_are_kept_for_each_reward_and_weighed_into_one() -> None:
    scores = weighed(length, is_empty, weights=(0.5, -2.0))(ANSWERS)
    assert scores.names == ("length", "is_empty")
    np.testing.assert_array_equal(scores.values_NF, [[5, 0], [0, 1]])
    np.testing.assert_array_equal(scores.total_N, [2.5, -2.0])
    assert weighed(length, length).names == ("length", "length#2")


@pytest.mark.parametrize(
    "value",
    [float("nan"), float("inf"), None, "1.0", True, [1.0], 1e300, -(10**400)],
    ids=["nan", "inf", "None", "text", "bool", "list", "huge", "digits"],
)
def test_what_is_no_finite_number_stops_and_names_the_completion(value: Any) -> None:
    def score(completions: list[str]) -> list[Any]:
        return [1.0, value]

    with pytest.raises(RunError, match=r"reward score gave .* for completion 問-2/4/1: ''"):
        weighed(score)(ANSWERS)


def test_a_function_that_raises_stops_and_names_the_completion() -> None:
    def score(completion: str) -> float:
        return 1 / len(completion)

    with pytest.raises(RunError, match=r"reward score raised ZeroDivisionError.*at completion 問-2/4/1: ''") as caught:
        weighed(score)(ANSWERS)
    assert isinstance(caught.value.__cause__, ZeroDivisionError) and "same command" in str(caught.value.next_step)

    def together(completions: list[str]) -> list[float]:
        raise KeyError("answer")

    with pytest.raises(RunError, match=r"KeyError.*問-1/4/0 \(one of 2\)"):
        weighed(together)(ANSWERS)


def test_an_error_tells_the_place_in_the_users_code_and_the_column_that_no_record_has() -> None:
    def score(completion: str, anser: str) -> float:
        return float(anser in completion)

    line = inspect.getsourcelines(score)[1] + 1
    with pytest.raises(
        RunError,
        match=rf'TypeError: .*test_opening\.py:{line}\) \(no record has anser \(did you mean "answer"\?\); columns: answer',
    ) as caught:
        weighed(score)(ANSWERS)
    assert "\n" not in caught.value.what


def test_what_cannot_score_is_not_offered_and_async_is_refused(tmp_path: Path) -> None:
    (tmp_path / "r.py").write_text(
        "class Kept: ...\n\n\ndef _own(x): ...\n\n\nasync def later(completion): ...\n\n\ndef score(completion): ...\n",
        encoding="utf-8",
    )
    with pytest.raises(ConfigError) as caught:
        load_function(f"{tmp_path / 'r.py'}:scores")
    assert list(caught.value.choices) == ["score"]
    with pytest.raises(ConfigError, match=r"later in .* is async"):
        load_function(f"{tmp_path / 'r.py'}:later")


@pytest.mark.parametrize("found", [[1.0], [1.0, 2.0, 3.0], []])
def test_too_few_or_too_many_numbers_are_no_scores(found: list[float]) -> None:
    def score(completions: list[str]) -> list[float]:
        return found

    with pytest.raises(RunError, match=f"gave {len(found)} numbers for 2 completions"):
        weighed(score)(ANSWERS)


def test_one_number_for_all_is_not_spread_over_them() -> None:
    def score(completions: list[str]) -> float:
        return 1.0

    with pytest.raises(RunError, match="gave float, not a list of 2 numbers"):
        weighed(score)(ANSWERS)


def test_columns_that_a_record_does_not_have_are_none() -> None:
    def score(completion: str, answer: str | None, other: str | None) -> float:
        return float(answer is not None) + 10 * float(other is not None)

    np.testing.assert_array_equal(weighed(score)(ANSWERS).total_N, [1.0, 0.0])


def test_numbers_of_numpy_and_lists_of_torch_are_numbers() -> None:
    def array(completions: list[str]) -> np.ndarray:
        return np.array([0.5, 1.5], dtype=np.float32)

    np.testing.assert_array_equal(weighed(array)(ANSWERS).total_N, [0.5, 1.5])


def test_held_out_completions_are_scored_by_others_with_those_of_the_training_beside_them(tmp_path: Path) -> None:
    (tmp_path / "r.py").write_text(
        "def a(completions):\n    return [1.0] * len(completions)\n\n\ndef b(completions):\n    return [3.0] * len(completions)\n",
        encoding="utf-8",
    )
    cfg = rollouts.config("grpo", reward_funcs=f"{tmp_path / 'r.py'}:a", eval_reward_funcs=f"{tmp_path / 'r.py'}:b")
    trained = open_rewards(cfg, None)  # type: ignore[arg-type]
    looked = open_eval_rewards(trained, cfg, None)(ANSWERS)  # type: ignore[arg-type]
    assert trained(ANSWERS).total_N.tolist() == [1.0, 1.0]
    assert looked.total_N.tolist() == [3.0, 3.0] and looked.values_NF.tolist() == [[1.0, 3.0]] * 2


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("no/such/file.py:score", "there is no file"),
        ("rewards", "is no folder of a reward model, no function and no address"),
        ("no_such_package:score", "No module named"),
        ("math:sqroot", "has no function 'sqroot'"),
        ("ftp://there/score", "is no folder of a reward model, no function and no address"),
    ],
)
def test_a_reward_that_is_not_there_is_named_before_anything_is_sampled(spec: str, said: str) -> None:
    cfg = rollouts.config("grpo", reward_funcs=spec)
    with pytest.raises(ConfigError, match=said):
        open_rewards(cfg, None)  # type: ignore[arg-type]


def test_a_file_that_cannot_be_read_as_python_is_said(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("def score(completions)\n    return []\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="SyntaxError"):
        load_function(f"{tmp_path / 'broken.py'}:score")
