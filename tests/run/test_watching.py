"""Runs that learn from a reward: what they say of their distance from the start, when they end, what they leave."""

from __future__ import annotations

import json
import math
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from tests import tiny
from tomoni import config as configs
from tomoni.errors import ConfigError
from tomoni.evaluate.overoptimisation import Estimate, Point
from tomoni.run import start
from tomoni.run.events import Evaluated, Event, Notice, Stepped
from tomoni.run.methods import config_class
from tomoni.run.watched import as_markdown, chart
from tomoni.run.watching import Watch, point_from_json, point_to_json

REWARDS = """
def letters(completions, **_):
    return [sum(one.isascii() for one in text) / 16 for text in completions]

def few_letters(completions, **_):
    return [-sum(one.isascii() for one in text) for text in completions]
"""
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("材料")
    tiny.folder(folder / "model")
    lines = "".join(json.dumps({"prompt": f"第{n}店は?"}, ensure_ascii=False) + "\n" for n in range(60))
    (folder / "prompts.jsonl").write_text(lines, encoding="utf-8")
    (folder / "rewards.py").write_text(REWARDS, encoding="utf-8")
    return folder


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOMONI_CACHE", str(tmp_path_factory.mktemp("cache")))


def config(place: Path, output: Path, method: str = "grpo", **changes: Any) -> Any:
    settings: dict[str, Any] = {
        "model_name_or_path": str(place / "model"), "train_file": str(place / "prompts.jsonl"), "form": "prompt",
        "validation_share": 0.4, "output_dir": str(output), "max_steps": 12, "eval_steps": 2, "batch_size": 4,
        "num_generations": 4, "max_completion_length": 12, "learning_rate": 1e-2, "lr_scheduler_type": "constant",
        "warmup_ratio": 0, "reward_funcs": f"{place / 'rewards.py'}:letters", "sample_prompts": 0, "device": "cpu",
        "threads": 1, "save_steps": 100,
    }  # fmt: skip
    return config_class(method)(**settings | changes)


def train(cfg: Any) -> tuple[Any, list[str], list[Evaluated]]:
    said: list[str] = []
    evaluated: list[Evaluated] = []

    def listen(event: Event) -> None:
        if isinstance(event, Notice):
            said.append(event.text)
        if isinstance(event, Evaluated):
            evaluated.append(event)

    return start(cfg, on_event=listen), said, evaluated


def metrics(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def best_gain(folder: Path) -> float:
    return max(line["eval_gain"] for line in metrics(folder) if "eval_gain" in line)


def texts(svg: Path) -> list[str]:
    return ["".join(node.itertext()) for node in ElementTree.parse(svg).iter(f"{SVG}text")]  # noqa: S314


@pytest.mark.parametrize("method", ["grpo", "rloo", "ppo", "bestofn"])
def test_a_run_tells_its_distance_at_every_step_and_its_gain_at_every_evaluation(
    place: Path, tmp_path: Path, method: str
) -> None:
    steps = 8 if method == "ppo" else 4  # four updates a rollout
    result, _, _ = train(config(place, tmp_path / "run", method, max_steps=steps, eval_steps=steps // 2))
    lines = metrics(tmp_path / "run")
    trained, looked = [one for one in lines if "reward" in one], [one for one in lines if "eval_reward" in one]
    assert len(trained) == steps and len(looked) == 2
    assert trained[0]["kl_from_start"] < 1e-6 < trained[-1]["kl_from_start"]
    for line in trained:
        assert {"entropy", "completions/repetition", "completions/distinct_1", "completions/distinct_2"} <= line.keys()
    for line in looked:
        assert line["eval_gain"] == pytest.approx(line["eval_reward"] - result.before.stats["reward"].value)
        assert line["eval_kl_from_start"] > 0


def test_the_reward_at_the_starts_length_is_the_reward_less_what_length_brought(place: Path, tmp_path: Path) -> None:
    train(config(place, tmp_path / "run", max_steps=5))
    lines = [line for line in metrics(tmp_path / "run") if "reward" in line]
    first = lines[0]["completions/log_length"]
    controlled = [line for line in lines if "reward_length_controlled" in line]
    assert controlled
    for line in controlled:
        brought = line["completions/length_slope"] * (line["completions/log_length"] - first)
        assert line["reward_length_controlled"] == pytest.approx(line["reward"] - brought)


def test_the_report_holds_the_figures_the_curve_and_the_chart(place: Path, tmp_path: Path) -> None:
    result, _, evaluated = train(config(place, tmp_path / "run"))
    told = json.loads((tmp_path / "run" / "report.json").read_text(encoding="utf-8"))["overoptimisation"]
    assert [point["step"] for point in told["evaluations"]] == [2, 4, 6, 8, 10, 12]
    assert [point["gain"][0] for point in told["evaluations"]] == [event.metrics["eval_gain"] for event in evaluated]
    written = (tmp_path / "run" / "report.md").read_text(encoding="utf-8")
    best = max(told["evaluations"], key=lambda point: point["gain"][0])
    assert f"| best, step {best['step']} | {best['kl']:.3g} |" in written and "overoptimisation.svg" in written
    drawn = tmp_path / "run" / "overoptimisation.svg"
    assert {"Gain over the start", "distinct-2", "entropy (nats a token)", "score at equal length"} <= set(texts(drawn))
    circles = list(ElementTree.parse(drawn).iter(f"{SVG}circle"))  # noqa: S314
    assert len(circles) == 6 + 1, "one for each evaluation, and one in the legend"
    assert result.ended is None


def test_held_out_completions_are_scored_by_what_is_really_wanted(place: Path, tmp_path: Path) -> None:
    wanted = f"{place / 'rewards.py'}:few_letters"
    cfg = config(place, tmp_path / "run", eval_reward_funcs=wanted, max_steps=4)
    result, _, evaluated = train(cfg)
    last = evaluated[-1].metrics
    assert last["eval_reward"] == pytest.approx(-16 * last["eval_trained_reward"])
    assert last["eval_reward"] == pytest.approx(last["eval_rewards/few_letters/mean"])
    assert last["eval_loss"] == -last["eval_reward"]
    trained = [line for line in metrics(tmp_path / "run") if "reward" in line]
    assert all("rewards/few_letters/mean" not in line for line in trained), "what is wanted is not asked in training"
    assert "what is trained on" in texts(tmp_path / "run" / "overoptimisation.svg")
    assert result.before.stats["trained_reward"].value > 0


def hacked(place: Path, output: Path, **changes: Any) -> Any:
    """Learns the very opposite of what is wanted, so that it must fall from the first evaluation on."""
    wanted = f"{place / 'rewards.py'}:few_letters"
    return config(place, output, eval_reward_funcs=wanted, max_steps=30, learning_rate=2e-2, **changes)


def test_a_run_that_goes_wrong_is_warned_of_once_and_goes_on(place: Path, tmp_path: Path) -> None:
    result, said, _ = train(hacked(place, tmp_path / "run"))
    warnings = [text for text in said if "held-out score has fallen" in text]
    assert len(warnings) == 1 and "on_overoptimization: stop" in warnings[0]
    assert result.step == 30 and result.ended is None
    written = (tmp_path / "run" / "report.md").read_text(encoding="utf-8")
    assert "Too far: the held-out score has fallen" in written
    assert ("No evaluation scored better than the start." in written) == (best_gain(tmp_path / "run") <= 0)


def test_a_run_that_is_to_stop_ends_there_with_the_best_evaluations_weights(place: Path, tmp_path: Path) -> None:
    result, said, evaluated = train(hacked(place, tmp_path / "run", on_overoptimization="stop"))
    assert result.status == "finished" and result.step < 30
    assert result.ended is not None and "fallen" in result.ended
    assert any(text.startswith(f"ended after step {result.step}: the held-out score has fallen") for text in said)
    best = max(evaluated, key=lambda event: event.metrics["eval_reward"])
    assert result.best is not None and result.best.name == f"step-{best.step:06d}"
    assert result.model is not None and result.after is not None
    kept, model = load_file(result.best / "weights.safetensors"), load_file(result.model / "model.safetensors")
    shared = kept.keys() & model.keys()
    assert shared and all(np.array_equal(kept[name], model[name]) for name in shared)
    assert result.after.stats["reward"].value == pytest.approx(best.metrics["eval_reward"])
    assert json.loads((tmp_path / "run" / "report.json").read_text(encoding="utf-8"))["ended"] == result.ended
    assert f"Ended: {result.ended}." in (tmp_path / "run" / "report.md").read_text(encoding="utf-8")


def test_a_budget_of_distance_ends_the_run(place: Path, tmp_path: Path) -> None:
    result, _, evaluated = train(config(place, tmp_path / "run", max_kl=0.5, max_steps=30))
    distances = [event.metrics["eval_kl_from_start"] for event in evaluated]
    assert distances[-1] > 0.5 and all(distance <= 0.5 for distance in distances[:-1])
    assert result.step < 30 and result.ended is not None and "max_kl is 0.5" in result.ended


class Crash(Exception):
    pass


def test_a_run_that_died_goes_on_to_the_same_decision(place: Path, tmp_path: Path) -> None:
    whole, _, _ = train(hacked(place, tmp_path / "whole", on_overoptimization="stop"))

    def crash(event: Event) -> None:
        if isinstance(event, Stepped) and event.step == 3:
            raise Crash

    cfg = hacked(place, tmp_path / "run", on_overoptimization="stop")
    with pytest.raises(Crash):
        start(cfg, on_event=crash)
    resumed, _, _ = train(cfg)
    assert (resumed.step, resumed.ended) == (whole.step, whole.ended)
    both = [json.loads((tmp_path / name / "report.json").read_text(encoding="utf-8")) for name in ("whole", "run")]
    assert both[0]["overoptimisation"] == both[1]["overoptimisation"]


@pytest.mark.parametrize(
    ("changes", "missing"),
    [
        ({"on_overoptimization": "stop", "eval_steps": 0}, "set eval_steps"),
        ({"max_kl": 6, "validation_share": 0}, "set validation_file or validation_share"),
    ],
)
def test_a_rule_that_could_never_see_anything_is_refused(
    place: Path, tmp_path: Path, changes: dict[str, Any], missing: str
) -> None:
    body = config(place, tmp_path / "run").model_dump(mode="json") | changes
    with pytest.raises(ConfigError, match=missing):
        configs.load(config_class("grpo"), None, body)


# figures and words alone


def a_point(step: int, kl: float, gain: float, *, controlled: Estimate | None = None) -> Point:
    return Point(step, kl, Estimate(gain, 0.01), controlled or Estimate(0.1, 0.01), None, Estimate(0.0, 0.01))


def test_points_come_back_from_json_as_they_went() -> None:
    points = [a_point(2, 0.3, 0.2), a_point(4, 0.5, 0.3, controlled=Estimate(math.nan, math.nan))]
    back = [point_from_json(json.loads(json.dumps(point_to_json(point), allow_nan=False))) for point in points]
    assert back[0] == points[0]
    assert math.isnan(back[1].controlled.value) and back[1].gain == points[1].gain


def test_a_peak_that_was_not_reached_is_called_a_guess_and_one_that_was_is_not(place: Path, tmp_path: Path) -> None:
    def words(distances: list[float]) -> str:
        points = [a_point(n, d * d, d * (0.8 - 0.5 * math.log(d))) for n, d in enumerate(distances)]
        return as_markdown(Watch(points), config(place, tmp_path), held_out=True, ended=None)

    peak = math.exp(0.8 / 0.5 - 1)
    reached, not_reached = words([0.4, 0.8, 1.2, 1.8, 2.5, 3.0]), words([0.2, 0.4, 0.6, 0.9, 1.2, 1.5])
    assert f"peak is at d = {peak:.2f}" in reached and "guess" not in reached
    assert "beyond what was seen, and is a guess" in not_reached
    assert "too few points: 2 of at least 5" in words([0.4, 0.8])


def test_a_score_that_never_rose_is_not_said_to_go_on_rising(place: Path, tmp_path: Path) -> None:
    def words(slope: float) -> str:
        points = [a_point(n, d * d, slope * d + 0.01 * (-1) ** n) for n, d in enumerate([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])]
        return as_markdown(Watch(points), config(place, tmp_path, "bestofn"), held_out=True, ended=None)

    assert "goes on rising" in words(0.1) and "falls from the start on" not in words(0.1)
    assert "falls from the start on" in words(-0.1) and "goes on rising" not in words(-0.1)
    assert "No evaluation scored better than the start." in words(-0.1)


def test_a_chart_of_one_point_or_of_none_that_moved_is_still_a_picture(place: Path, tmp_path: Path) -> None:
    for points in ([a_point(1, 0.2, 0.1)], [a_point(1, 0.0, 0.0, controlled=Estimate(math.nan, math.inf))]):
        drawn = chart(Watch(points), [], config(place, tmp_path))
        root = ElementTree.fromstring(drawn)  # noqa: S314
        assert root.tag == f"{SVG}svg" and "nan" not in drawn and "inf" not in drawn


def test_a_point_stands_where_its_numbers_say(place: Path, tmp_path: Path) -> None:
    """By the axis' own ticks: pixels between two ticks, and a straight line through them."""
    points = [a_point(n, d * d, gain) for n, (d, gain) in enumerate([(0.5, 0.2), (1.5, 0.7), (3.0, -0.4)])]
    root = ElementTree.fromstring(chart(Watch(points), [], config(place, tmp_path)))  # noqa: S314
    labels = [
        (node.get("text-anchor"), node.text, float(node.get("x", 0)), float(node.get("y", 0)))
        for node in root.iter(f"{SVG}text")
    ]
    across = {float(text): x for anchor, text, x, _ in labels if anchor == "middle" and text and text[0].isdigit()}
    up = {float(text): y - 4 for anchor, text, _, y in labels if anchor == "end" and text}
    circles = [(float(node.get("cx", 0)), float(node.get("cy", 0))) for node in root.iter(f"{SVG}circle")][1:]
    for point, (x, y) in zip(points, circles, strict=True):
        assert np.interp(point.distance, sorted(across), [across[key] for key in sorted(across)]) == pytest.approx(
            x, abs=0.2
        )
        low, high = min(up), max(up)
        assert up[low] + (point.gain.value - low) / (high - low) * (up[high] - up[low]) == pytest.approx(y, abs=0.2)
