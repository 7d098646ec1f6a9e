"""The bar of a press moves as the work does, never back, and what it says of the time left comes true."""

from __future__ import annotations

import itertools
import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tomoni.feedback.workspace import machine
from tomoni.loop import progress as progress_module
from tomoni.loop.progress import STAGES, USUAL, Pace, Progress, Stage


@pytest.fixture(autouse=True)
def unsynced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Thousands of statuses are written here: none of them need survive a power cut."""
    monkeypatch.setattr(
        progress_module, "write_object", lambda path, body, indent: path.write_text(json.dumps(body), encoding="utf-8")
    )


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def told(folder: Path) -> dict[str, Any]:
    body: dict[str, Any] = json.loads((folder / "status.json").read_text(encoding="utf-8"))
    return body


def press(
    folder: Path, pace: Pace, took: dict[Stage, float], *, prompts: int = 120, imitations: int = 0
) -> tuple[list[dict[str, Any]], float]:
    """A press that takes so many seconds a stage; everything it told, and how long it took."""
    clock = Clock()
    progress = Progress(folder, pace, clock)
    found: list[dict[str, Any]] = []

    def work(stage: Stage) -> None:
        for part in range(20):
            progress.say(stage, part / 20)
            found.append(told(folder))
            clock.now += took[stage] / 20

    work("reading")
    progress.plan(prompts, imitating=imitations > 0)
    work("sampling")
    work("fitting")
    for number in range(imitations):
        if number:
            progress.once_more("imitating")
        work("imitating")
    work("training")
    work("answering")
    progress.say("done", 1.0, state="finished")
    return [*found, told(folder)], clock.now - 100.0


seconds = st.floats(0.01, 300)


@settings(max_examples=30, deadline=None)
@given(st.lists(seconds, min_size=len(STAGES), max_size=len(STAGES)), st.integers(0, 3), st.integers(16, 500))
def test_whatever_the_stages_take_the_bar_never_goes_back_and_ends_full(
    tmp_path_factory: pytest.TempPathFactory, took: list[float], imitations: int, prompts: int
) -> None:
    folder = tmp_path_factory.mktemp("press")
    found, _ = press(folder, Pace.usual(), dict(zip(STAGES, took, strict=True)), imitations=imitations, prompts=prompts)
    done = [one["done"] for one in found]
    assert done == sorted(done) and done[0] == 0 and done[-1] == 1 and found[-1]["left"] is None
    assert all(one["left"] is None or one["left"] >= 0 for one in found)


def test_the_bar_moves_while_corrections_are_imitated(tmp_path: Path) -> None:
    found, whole = press(tmp_path, Pace.usual(), dict(USUAL), imitations=1)
    assert whole == pytest.approx(sum(USUAL.values()))
    during = [one["done"] for one in found if one["stage"] == "imitating"]
    steps = [later - earlier for earlier, later in itertools.pairwise(during)]
    assert len(steps) >= 10 and min(steps) > 0 and during[-1] - during[0] > 0.25  # 8 of 27 seconds
    assert "imitating" in found[-1]["stages"]


def test_on_a_machine_without_a_press_no_seconds_are_promised_until_some_work_is_done(tmp_path: Path) -> None:
    slow: dict[Stage, float] = {stage: 6 * took for stage, took in USUAL.items()}
    found, whole = press(tmp_path, Pace.usual(), slow)
    assert whole == pytest.approx(6 * (4 + 5 + 3.5 + 5.5 + 1))
    assert [one["left"] for one in found if one["done"] < 0.14] == [None] * sum(one["done"] < 0.14 for one in found)
    said = [(one["seconds"] + one["left"]) for one in found if one["left"] is not None]
    assert len(said) > 40 and all(one == pytest.approx(whole, abs=2) for one in said)


def test_the_second_press_knows_from_its_first_moment_how_long_it_takes_here(tmp_path: Path) -> None:
    odd: dict[Stage, float] = {
        "reading": 9, "sampling": 3, "fitting": 20, "imitating": 40, "training": 30, "answering": 1, "done": 0,
    }  # fmt: skip
    for number, pace in (("0001", Pace.usual()), ("0002", Pace.of_last(tmp_path))):
        (tmp_path / number).mkdir()
        press(tmp_path / number, pace, odd)
    (tmp_path / "0003").mkdir()
    found, whole = press(tmp_path / "0003", Pace.of_last(tmp_path), odd)
    assert whole == pytest.approx(63)
    assert all(
        one["seconds"] + one["left"] == pytest.approx(whole, abs=0.2) for one in found if one["left"] is not None
    )
    shares = [one["done"] * whole - one["seconds"] for one in found[:-1]]
    assert max(map(abs, shares)) < 0.5  # the bar is a clock, then


def test_twice_as_many_prompts_take_twice_as_long_to_practise_on(tmp_path: Path) -> None:
    press(tmp_path_of(tmp_path, 1), Pace.usual(), dict(USUAL), prompts=60)
    pace = Pace.of_last(tmp_path)
    assert pace.of("sampling", 120) == pytest.approx(2 * USUAL["sampling"], rel=0.01)
    assert pace.of("answering", 120) == pytest.approx(USUAL["answering"], rel=0.01)


@pytest.mark.parametrize(
    "change", [{"machine": "another"}, {"state": "failed"}, {"took": None}, {"took": {"sampling": "long"}}, "{", "[]"]
)
def test_what_was_measured_elsewhere_or_is_damaged_is_no_measure(tmp_path: Path, change: Any) -> None:
    folder = tmp_path_of(tmp_path, 1)
    press(folder, Pace.usual(), {stage: 100.0 for stage in STAGES})
    body = json.dumps(told(folder) | change) if isinstance(change, dict) else change
    (folder / "status.json").write_text(body, encoding="utf-8")
    pace = Pace.of_last(tmp_path)
    assert pace.seconds["sampling"] == USUAL["sampling"]


def test_the_mark_of_a_machine_does_not_hold_its_name() -> None:
    import socket

    assert socket.gethostname() not in machine() and machine() == machine()


def tmp_path_of(folder: Path, number: int) -> Path:
    made = folder / f"{number:04}"
    made.mkdir()
    return made


def test_the_bar_moves_while_a_model_is_loaded_and_stops_when_that_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress_module, "TICK", 0.001)
    monkeypatch.setattr(progress_module, "BETWEEN", 0.0)
    clock = Clock()
    progress = Progress(tmp_path, Pace.usual(), clock)
    seen: set[float] = set()
    with pytest.raises(KeyboardInterrupt), progress.opaque("reading"):
        for _ in range(8):
            seen.add(progress.done)
            before, clock.now = progress.part, clock.now + 0.5
            end = time.monotonic() + 20
            while progress.part == before and time.monotonic() < end:
                time.sleep(0.001)
        raise KeyboardInterrupt
    share = USUAL["reading"] / (sum(USUAL.values()) - USUAL["imitating"])
    assert len(seen) == 8 and 0 < max(seen) < share  # loading is not over
    assert not [thread for thread in threading.enumerate() if thread.name == "tomoni-progress"]
