from __future__ import annotations

import io
from pathlib import Path

import pytest

from tomoni.errors import ConfigError
from tomoni.run import tracking
from tomoni.run.events import Ended, Evaluated, Evaluating, Event, Notice, Preparing, Saved, Started, Stepped, Working
from tomoni.run.outcome import Result
from tomoni.run.progress import Bar, Lines, progress
from tomoni.run.report import duration


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def stepped(step: int) -> Stepped:
    metrics = {"step": step, "loss": 2.5 / step}
    return Stepped(step, 3, 2.5 / step, 1234.5, 61.0, 3 * 2**29, metrics)


EVENTS: tuple[Event, ...] = (
    Preparing("model"),
    Started(0, 3, 40, 1_000),
    Notice("damaged: [step]-000010 は壊れています"),
    Evaluating(4, 8),
    *(stepped(step) for step in (1, 2, 3)),
    Evaluated(3, {"step": 3, "eval_loss": 0.75}, best=True),
    Saved(Path("checkpoints/step-000003")),
    Ended(Result(Path("run"), "finished", 3, 3)),
)


def test_without_a_terminal_progress_is_plain_lines_and_not_one_a_step() -> None:
    out = io.StringIO()
    listener = progress(out)
    assert isinstance(listener, Lines)
    for event in EVENTS:
        listener(event)
    assert out.getvalue().splitlines() == [
        "loading the model",
        "starting: step 0 of 3, 40 items, 1,000 trained weights",
        "note: damaged: [step]-000010 は壊れています",
        "step 1/3  loss 2.500  1,234 tokens/s  1.5 GiB  1 min 01 s left",
        "step 3/3  loss 0.833  1,234 tokens/s  1.5 GiB  1 min 01 s left",
        "step 3: eval_loss 0.75 (best so far)",
    ]


def test_where_there_is_a_reward_it_stands_in_the_place_of_the_loss() -> None:
    out = io.StringIO()
    listener = progress(out)
    listener(Stepped(1, 1, -0.004, 1234.5, 0.0, 2**30, reward=0.75))
    listener(Evaluated(1, {"step": 1, "eval_reward": 0.5, "eval_loss": -0.5}))
    assert out.getvalue().splitlines() == [
        "step 1/1  reward 0.750  1,234 tokens/s  1.0 GiB  0.0 s left",
        "step 1: eval_reward 0.5",
    ]


def test_in_a_terminal_there_is_a_bar_with_loss_speed_memory_and_time_left() -> None:
    out = Terminal()
    listener = progress(out)
    assert isinstance(listener, Bar)
    for event in EVENTS[:7]:
        listener(event)
    assert listener.bar is not None
    listener.bar.refresh()
    for part in ("3/3", "loss 0.833", "1,234 tokens/s", "1.5 GiB", "[step]-000010 は壊れています"):
        assert part in out.getvalue()
    listener.close()
    listener.close()
    assert listener.bar is None


def test_metrics_reach_tensorboard_under_their_names(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    listener = tracking.TensorBoard(tmp_path)
    for event in EVENTS:
        listener(event)
    found = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(entry.step, entry.value) for entry in found.Scalars("train/loss")] == [
        (step, pytest.approx(2.5 / step)) for step in (1, 2, 3)
    ]
    assert [(entry.step, entry.value) for entry in found.Scalars("eval/eval_loss")] == [(3, 0.75)]


def test_tensorboard_that_is_not_installed_is_said_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracking, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"tomoni\[tracking\]"):
        tracking.TensorBoard(tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0.0 s"), (59.94, "59.9 s"), (60, "1 min 00 s"), (754.6, "12 min 35 s"), (11_100, "3 h 05 min")],
)
def test_durations_are_written_for_people(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_a_long_step_says_every_five_seconds_what_it_is_at(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("tomoni.run.progress.time.monotonic", lambda: now[0])
    out = io.StringIO()
    listener = Lines(out)
    for second in range(11):
        now[0] = 100.0 + second
        listener(Working("read", 1_000 * second, 20_000))
    now[0] = 200.0
    listener(Working("solve", 12, 0))
    assert out.getvalue().splitlines() == [
        "reading texts 5,000/20,000",
        "reading texts 10,000/20,000",
        "solving for the best head, round 12",
    ]
