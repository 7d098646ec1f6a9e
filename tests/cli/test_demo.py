"""The demo on the bundled models: small here, whole among the slow tests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tomoni.cli import demo
from tomoni.errors import RunError, UserError
from tomoni.feedback.store import Store
from tomoni.records import Judgement, Kind, Message


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOMONI_CACHE", str(tmp_path / "cache"))


def run(folder: Path, *options: str) -> dict[str, Any]:
    assert demo.command(["--folder", str(folder), *options]) == 0
    found: dict[str, Any] = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    return found


def test_a_small_demo_measures_every_arm_and_leaves_a_model_to_talk_to(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = run(tmp_path / "demo", "--tuning-questions", "24", "--held-out", "12", "--no-round")
    arms = {arm["name"]: arm for arm in result["held_out"]}
    assert list(arms) == [
        "most frequent answer",
        "small untuned, in chat",
        "small untuned, plain text",
        "small untuned, 5 examples",
        "large untuned, in chat",
        "large untuned, plain text",
        "large untuned, 5 examples",
        "small from scratch, tuned",
        "small, tuned",
    ]
    assert all(arm["asked"] == 12 for arm in arms.values())
    assert arms["small from scratch, tuned"]["tuning_tokens"] == 3 * arms["small, tuned"]["tuning_tokens"] > 0
    opening = json.loads((tmp_path / "demo" / "run" / "model" / "tomoni.json").read_text(encoding="utf-8"))
    assert len(opening["questions"]) >= 6
    printed = capsys.readouterr().out
    assert "tomoni chat" in printed
    assert max(len(line) for line in printed.splitlines()) <= 120

    # made anew without asking, since it is the demo's own folder
    asked_again = run(tmp_path / "demo", "--tuning-questions", "24", "--held-out", "12", "--no-round")
    same = ("name", "right", "asked", "tokens")
    assert [[arm[key] for key in same] for arm in asked_again["held_out"]] == [
        [arm[key] for key in same] for arm in result["held_out"]
    ]


def test_a_folder_that_is_not_the_demos_own_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work", encoding="utf-8")
    with pytest.raises(RunError, match="not made by the demo"):
        demo.command(["--folder", str(tmp_path)])
    assert (tmp_path / "thesis.txt").read_text(encoding="utf-8") == "years of work"


def test_a_demo_in_which_people_have_judged_is_not_begun_anew(tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    folder.mkdir()
    (folder / demo.MARK).touch()
    with Store.open(folder) as store:
        person = store.add_person("葵", role="owner").id
        thumb = Judgement("j", person, (Message("user", "?"),), ("!",), (0,), Kind.THUMB, {"answer": 0, "up": True})
        store.judge(thumb, key="k")
    with pytest.raises(RunError, match="1 judgement that people made"):
        demo.command(["--folder", str(folder)])
    with Store.read(folder) as store:
        assert store.count_judgements() == 1


def test_no_questions_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="below 1"):
        demo.command(["--folder", str(tmp_path / "demo"), "--held-out", "0"])


@pytest.mark.slow
def test_the_tuned_model_answers_what_it_was_never_asked_and_the_one_from_scratch_does_not(tmp_path: Path) -> None:
    result = run(tmp_path / "demo")
    arms = {arm["name"]: arm for arm in result["held_out"]}
    tuned, scratch = arms["small, tuned"], arms["small from scratch, tuned"]
    assert tuned["asked"] >= 500
    assert tuned["low"] >= 0.80
    assert result["tuned_elsewhere"][0]["share"] >= 0.70  # phrasings never used in tuning
    assert abs(scratch["share"] - arms["most frequent answer"]["share"]) <= 0.05
    assert tuned["low"] > max(arm["high"] for name, arm in arms.items() if name != "small, tuned")

    played = result["round"]  # people with a hidden taste taught it, and judged what came of it
    assert played["taste_prefers"]["low"] > 0.55
    # half a point is what a round costs, give or take one; 600 questions tell to 1.8
    assert played["right_change"]["low"] > -0.05
    assert played["state"] in ("promoted", "waiting")
    weights = {row["is"]: row["weight"] for row in played["people"]}
    assert weights["clicks at random"] < weights["reads carefully"] > weights["clicks left"]
    assert (tmp_path / "demo" / "round" / "rounds" / "0001" / "report.html").stat().st_size > 5_000
