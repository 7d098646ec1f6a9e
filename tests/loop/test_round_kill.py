"""kill -9 of a round, in every stage and at any operation on the disk: the workspace stays whole, and the round goes on."""

from __future__ import annotations

import json
import random
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.loop.judging import judge_all, pairs_of, prefers_new
from tests.loop.workspaces import LETTERS, made, prefer
from tests.run.test_kill import KILLED, Server
from tomoni.feedback.roundfolders import rounds
from tomoni.feedback.store import Store
from tomoni.registry import Registry


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    running = Server("tests.loop.kill_rounds")
    yield running
    running.close()


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    path, person = made(tmp_path_factory.mktemp("prepared") / "w", held_out=16)
    for letter in LETTERS[:6]:
        prefer(path, person, f"{letter}?", "AAAA", "zzzz")
    return path, person


def play(server: Server, path: Path, kill_at: int = -1) -> int:
    return server.train(path, kill_at=kill_at)


def outcome(path: Path) -> dict[str, Any]:
    """What must be the same whatever was killed: the candidate, what was asked, what was decided."""
    folder = rounds(path)[-1]
    registry = Registry.open(path)
    return {
        "versions": [(version.id, version.hash, version.base) for version in registry.versions()],
        "history": [(move.kind, move.version) for move in registry.history()],
        "asked": [(one.id, one.texts, one.candidate) for one in pairs_of(folder)],
        "decision": json.loads((folder / "gate.json").read_text()),
    }


def whole(path: Path) -> None:
    """Whatever the moment: versions and pointer can be read, the store opens, nothing is asked twice."""
    registry = Registry.open(path)
    current = registry.current()
    assert current is not None
    registry.verify(current)
    with Store.open(path) as store:
        store.take_in()
        asked = Counter((pair.first, pair.second, pair.id) for pair in store.pairs(purpose="gate"))
        assert max(asked.values(), default=1) == 1 and not store.kept_aside()


def to_the_end(server: Server, path: Path, person: str, kills: list[int]) -> int:
    """Plays the round with these kills until it is decided; how many of them came."""
    came, waiting = 0, list(kills)
    for _ in range(200):
        status = play(server, path, waiting.pop(0) if waiting else -1)
        came += status == KILLED
        whole(path)
        if status == KILLED:
            continue
        assert status == 0
        if Registry.open(path).history()[-1].version != "v1":
            return came
        judge_all(path, person, prefers_new(0.9))
    raise AssertionError("the round does not end")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same for all: an adapter names its base by path, and so its hash would differ."""
    return tmp_path_factory.mktemp("place") / "w"


def copied(prepared: tuple[Path, str], path: Path) -> Path:
    shutil.rmtree(path, ignore_errors=True)
    shutil.copytree(prepared[0], path)
    return path


@pytest.fixture(scope="module")
def uninterrupted(server: Server, prepared: tuple[Path, str], place: Path) -> tuple[dict[str, Any], int]:
    path = copied(prepared, place)
    assert play(server, path) == 0
    operations = server.operations
    to_the_end(server, path, prepared[1], [])
    return outcome(path), operations


def test_killed_six_times_a_round_ends_as_if_nothing_had_been(
    server: Server, prepared: tuple[Path, str], uninterrupted: tuple[dict[str, Any], int], place: Path
) -> None:
    path = copied(prepared, place)
    known, operations = uninterrupted
    rng = random.Random(0)
    kills = [rng.randrange(operations // 4) for _ in range(6)]
    assert to_the_end(server, path, prepared[1], kills) == 6
    found = outcome(path)
    assert found["history"] == known["history"] and found["asked"] == known["asked"]
    assert found["decision"]["outcome"] == "promote" == known["decision"]["outcome"]
    assert found["decision"]["log_e_path"] == pytest.approx(known["decision"]["log_e_path"])
    assert found["versions"] == known["versions"]


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_killed_ten_times_in_any_stage_it_ends_as_if_nothing_had_been(
    seed: int, server: Server, prepared: tuple[Path, str], uninterrupted: tuple[dict[str, Any], int], place: Path
) -> None:
    path = copied(prepared, place)
    known, operations = uninterrupted
    rng = random.Random(1000 + seed)
    kills = [rng.randrange(max(operations // rng.choice((2, 4, 16)), 1)) for _ in range(10)]
    came = to_the_end(server, path, prepared[1], kills)
    found = outcome(path)
    assert came >= 5
    assert found["history"] == known["history"] and found["asked"] == known["asked"]
    assert found["versions"] == known["versions"]
