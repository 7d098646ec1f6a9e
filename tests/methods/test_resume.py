"""A run that was interrupted anywhere ends with the bits of one that was not, whatever the method: an interruption
between two updates on the same completions replays that rollout from its beginning."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.methods import runs
from tests.methods.every import METHODS
from tests.run.test_kill import KILLED, Server
from tomoni.run import start
from tomoni.run.events import Event, Started, Stepped
from tomoni.run.folder import read_status


class Crash(Exception):
    pass


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("材料")
    runs.write(folder)
    return folder


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOMONI_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


def interrupted_at(step: int, cfg: Any) -> None:
    def crash(event: Event) -> None:
        if isinstance(event, Stepped) and event.step == step:
            raise Crash

    with pytest.raises(Crash):
        start(cfg, on_event=crash)


@pytest.mark.parametrize("method", METHODS)
def test_interrupted_between_two_updates_and_again_it_ends_with_the_same_bits(
    method: str, place: Path, tmp_path: Path
) -> None:
    start(runs.config(method, place, tmp_path / "whole"))
    updates = runs.UPDATES.get(method, 1)
    cfg = runs.config(method, place, tmp_path / "run")
    first, second = updates + 1, min(2 * updates + 1, runs.STEPS - 1)  # the first updates on later rollouts, mostly
    interrupted_at(first, cfg)
    interrupted_at(second, cfg)
    begun: list[int] = []
    start(cfg, on_event=lambda event: begun.append(event.step) if isinstance(event, Started) else None)
    assert begun == [(second - 1) // updates * updates]  # what was learnt of the rollout is learnt once more
    assert runs.traces(tmp_path / "run") == runs.traces(tmp_path / "whole")


@dataclass(frozen=True)
class Whole:
    """A run that nobody interrupted, in a process of its own."""

    server: Server
    traces: Mapping[str, str]
    moments: int
    cpu_seconds: float

    def check(self, folder: Path, *kills: int | float) -> None:
        """Killed at each of these moments, or after so many seconds, and then left alone."""
        for kill in kills:
            how: dict[str, Any] = {"kill_at": kill} if isinstance(kill, int) else {"kill_after": kill}
            assert self.server.train(folder, **how) == KILLED, f"at {kill}"
            assert (read_status(folder) or {})["state"] == "killed"
        assert self.server.train(folder) == 0
        assert runs.traces(folder) == self.traces


@pytest.fixture(scope="module", params=["grpo", "ppo"])
def whole(request: pytest.FixtureRequest, place: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Whole]:
    folder = tmp_path_factory.mktemp("whole") / "run"
    server = Server("tests.methods.kill_server", request.param, str(place))
    assert server.train(folder) == 0
    yield Whole(server, runs.traces(folder), server.operations, server.cpu_seconds)
    server.close()


def test_killed_as_completions_are_scored_and_between_updates_it_ends_with_the_same_bits(
    whole: Whole, tmp_path: Path
) -> None:
    """Moments: a look, a rollout, its updates, a rollout, its updates, …, a look. The second rollout's first update is
    done when the first kill comes; the second comes as that rollout is scored once more."""
    updates = {13: 3, 12: 4}[whole.moments]
    whole.check(tmp_path / "run", 3 + updates, 0)


def test_killed_at_a_random_moment_of_its_work_it_ends_with_the_same_bits(whole: Whole, tmp_path: Path) -> None:
    draw = random.Random(7)
    whole.check(tmp_path / "run", draw.uniform(0.1, 0.8) * whole.cpu_seconds)


@pytest.mark.slow
def test_killed_at_every_moment_it_ends_with_the_same_bits(whole: Whole, tmp_path: Path) -> None:
    for moment in range(whole.moments):
        whole.check(tmp_path / f"run-{moment}", moment)
