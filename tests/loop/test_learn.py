"""A press of Learn on a tiny model: what it leaves, and what it refuses."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from tests.loop.workspaces import LETTERS, made, prefer, say
from tomoni.cli.app import main
from tomoni.errors import DataError, RegistryError, RunError
from tomoni.feedback.store import Store
from tomoni.loop import learn as learning
from tomoni.loop.learn import Plan, learn
from tomoni.records import Kind
from tomoni.registry import Registry

SMALL: dict[str, Any] = {"prompts": 16, "answers": 3, "trials": 4, "threads": 1}


def read(folder: Path, name: str) -> dict[str, Any]:
    body: dict[str, Any] = json.loads((folder / name).read_text(encoding="utf-8"))
    return body


@pytest.fixture
def workspace(tmp_path: Path) -> tuple[Path, str]:
    return made(tmp_path / "w")


def test_a_press_makes_a_candidate_beside_the_version_that_is_served(workspace: tuple[Path, str]) -> None:
    path, person = workspace
    for letter in LETTERS[:4]:
        prefer(path, person, f"{letter}?", "AAAA", "zzzz")
    folder = learn(Plan(path, **SMALL))
    result, status = read(folder, "result.json"), read(folder, "status.json")
    assert (status["state"], status["stage"], status["done"]) == ("finished", "done", 1.0)
    assert result["learnt_from"]["comparisons"] == 4 and result["learnt_from"]["people"] == 1
    registry = Registry.open(path)
    version = registry.get(result["version"])
    current = registry.current()
    assert current is not None and current.id == result["base"] == version.base != version.id
    assert (version.judgements, version.people) == (4, (person,))
    assert version.snapshot == result["snapshot"] and (path / "snapshots" / result["snapshot"]).is_dir()
    assert result["cost"] == pytest.approx(result["seconds"] / 3600 * 0.10, rel=0.2)
    assert (
        result["expected_win_rate"]["low"]
        <= result["expected_win_rate"]["value"]
        <= result["expected_win_rate"]["high"]
    )


def test_trials_are_prompts_that_are_held_out_and_none_of_these_is_practised_on(workspace: tuple[Path, str]) -> None:
    path, person = workspace
    for letter in LETTERS[:4]:
        prefer(path, person, f"{letter}?", "AAAA", "zzzz")
    prefer(path, person, "a!", "AAAA", "zzzz")  # held out: this must teach nothing
    folder = learn(Plan(path, **SMALL))
    result = read(folder, "result.json")
    assert len(result["trials"]) == 4
    assert all(trial["prompt"][0]["content"].endswith("!") for trial in result["trials"])
    practised = [json.loads(line) for line in (folder / "run.jsonl").read_text().splitlines()]
    assert practised and all(row["prompt"][0]["content"].endswith("?") for row in practised)
    assert result["learnt_from"]["left_out"] == {"on a held-out prompt": 1}


def test_corrections_that_the_model_would_hardly_say_are_imitated_and_stand_among_the_rows(
    workspace: tuple[Path, str],
) -> None:
    path, person = workspace
    for letter in LETTERS[:3]:
        say(path, person, Kind.CORRECTION, f"{letter}?", ("zzzz",), {"answer": 0, "text": f"{letter} is a letter."})
    folder = learn(Plan(path, **SMALL))
    assert (folder / "imitator-1").is_dir()
    result = read(folder, "result.json")
    rows = [json.loads(line) for line in (folder / "run.jsonl").read_text().splitlines()]
    assert sum(row["completion"][0]["content"].endswith("is a letter.") for row in rows) >= 3
    assert result["learnt_from"]["corrections"] == 3


def test_the_next_press_goes_on_from_the_version_that_is_served_then(workspace: tuple[Path, str]) -> None:
    path, person = workspace
    for letter in LETTERS[:4]:
        prefer(path, person, f"{letter}?", "AAAA", "zzzz")
    registry = Registry.open(path)
    first = read(learn(Plan(path, **SMALL)), "result.json")["version"]
    registry.promote(first)
    prefer(path, person, "e?", "AAAA", "zzzz")
    second = read(learn(Plan(path, **SMALL)), "result.json")
    assert second["base"] == first and registry.get(second["version"]).judgements == 5
    assert [folder.name for folder in sorted((path / "learn").glob("0*"))] == ["0001", "0002"]


def test_what_cannot_be_done_is_said_and_stands_in_the_folder(workspace: tuple[Path, str], tmp_path: Path) -> None:
    path, _ = workspace
    with pytest.raises(DataError, match="nothing to learn from"):
        learn(Plan(path, **SMALL))
    status = read(path / "learn" / "0001", "status.json")
    assert status["state"] == "failed" and "nothing to learn from" in status["error"]
    few, someone = made(tmp_path / "few", prompts=3)
    prefer(few, someone, "a?", "AAAA", "zzzz")
    with pytest.raises(DataError, match="3 prompts"):
        learn(Plan(few, **SMALL))
    (tmp_path / "empty").mkdir()
    with pytest.raises(RegistryError):
        learn(Plan(tmp_path / "empty", **SMALL))


@pytest.mark.parametrize("verb", ["learn", "round"])
def test_a_folder_that_is_no_workspace_is_left_as_it_is(
    verb: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine", encoding="utf-8")
    assert main([verb, str(tmp_path / "mine")]) == 2
    assert "is no workspace" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["notes.txt"]


def test_two_presses_at_once_are_refused(workspace: tuple[Path, str], monkeypatch: pytest.MonkeyPatch) -> None:
    path, _ = workspace
    inside, leave = threading.Event(), threading.Event()

    def wait(*_: object) -> dict[str, Any]:
        inside.set()
        leave.wait(30)
        return {}

    monkeypatch.setattr(learning, "_press", wait)
    monkeypatch.setattr(learning, "stoppable", lambda: threading.Lock())
    other = threading.Thread(target=learn, args=(Plan(path, **SMALL),))
    other.start()
    assert inside.wait(30)
    with pytest.raises(RunError, match="already learning"):
        learn(Plan(path, **SMALL))
    leave.set()
    other.join()


def test_a_press_that_is_stopped_says_so_and_registers_nothing(workspace: tuple[Path, str]) -> None:
    path, person = workspace
    for letter in LETTERS[:4]:
        prefer(path, person, f"{letter}?", "AAAA", "zzzz")
    process = subprocess.Popen(
        [sys.executable, "-m", "tomoni", "learn", str(path), "--threads", "1"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    status = path / "learn" / "0001" / "status.json"
    while not status.exists() and process.poll() is None:
        pass
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 130
    assert read(path / "learn" / "0001", "status.json")["state"] == "stopped"
    assert [version.id for version in Registry.open(path).versions()] == ["v1"]


def test_the_verb_says_what_was_learnt_and_what_comes_next(
    workspace: tuple[Path, str], capsys: pytest.CaptureFixture[str]
) -> None:
    path, person = workspace
    for letter in LETTERS[:4]:
        prefer(path, person, f"{letter}?", "AAAA", "zzzz")
    assert main(["learn", str(path), "--prompts", "16", "--threads", "1"]) == 0
    shown = capsys.readouterr().out
    assert "v2 learnt from 4 comparisons" in shown and f"tomoni promote {path} v2" in shown
    assert main(["learn", str(path / "nowhere")]) == 2
    assert main(["learn", str(path), "--prompts", "0"]) == 2


def test_judgements_before_a_number_can_be_left_out(workspace: tuple[Path, str]) -> None:
    path, person = workspace
    prefer(path, person, "a?", "AAAA", "zzzz")
    with Store.read(path) as store:
        after = store.sequence
    prefer(path, person, "b?", "AAAA", "zzzz")
    result = read(learn(Plan(path, after=after, **SMALL)), "result.json")
    assert result["learnt_from"]["comparisons"] == 1


def test_prompts_that_are_left_out_as_unsure_make_a_press_no_shorter(tmp_path: Path) -> None:
    path, person = made(tmp_path / "w", prompts=26)
    for letter in LETTERS[:4]:
        prefer(path, person, f"{letter}?", "AAAA", "zzzz")
    folder = learn(Plan(path, **{**SMALL, "prompts": 26}))
    rows = [json.loads(line) for line in (folder / "run.jsonl").read_text().splitlines()]
    said = read(folder, "result.json")["practised_on"]
    there = len({row["prompt"][0]["content"] for row in rows})
    assert there == said["prompts"] == 17 and len(rows) == said["own_answers"] == 26
