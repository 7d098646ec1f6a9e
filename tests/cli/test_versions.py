"""`tomoni promote`, `rollback`, `log` and `why`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.test_registry import model
from tomoni.cli.app import main
from tomoni.cli.family import drawn
from tomoni.feedback.inbox import AnswerEvent, FeedbackEvent, Inbox
from tomoni.feedback.store import Store
from tomoni.records import Message
from tomoni.registry import Registry, Version


@pytest.fixture
def family(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    """v1 - v2 - v3 (served) and v4 from v2."""
    monkeypatch.chdir(tmp_path)
    workspace = tmp_path / "w"
    workspace.mkdir()
    opened = Registry.open(workspace)
    opened.register(model(tmp_path / "one", "一"))
    opened.register(model(workspace / "two", "二"), base="v1", method="sft", cost={"seconds": 41.5})
    opened.register(
        model(workspace / "three", "三"), base="v2", method="dpo", snapshot="f00d" * 16, judgements=84, config={"beta": 0.1},
        people=["花子", "Bob"], evaluation={"win_rate": {"value": 0.614, "low": 0.52, "high": 0.7}},
        cost={"seconds": 600, "money": 0.125, "currency": "USD"}, note="敬語を直した",
    )  # fmt: skip
    opened.register(model(workspace / "four", "四"), base="v2", method="kto")
    opened.promote("v1")
    opened.promote("v3", reason="勝率 61 %", by="山田")
    return opened


def graph(*bases: str | None) -> list[str]:
    versions = [Version(f"v{number}", "", "", base=base) for number, base in enumerate(bases, start=1)]
    return [line + (f" {version.id}" if version else "") for line, version in drawn(versions)]


def test_a_straight_line_is_drawn_as_one() -> None:
    assert graph(None, "v1", "v2") == ["* v3", "* v2", "* v1"]


def test_two_from_one_base_join_above_it() -> None:
    assert graph(None, "v1", "v1") == ["* v3", "| * v2", "|/", "* v1"]
    assert graph(None, "v1", "v1", "v2") == ["* v4", "| * v3", "* | v2", "|/", "* v1"]


def test_a_line_that_joins_over_another_crosses_it_as_git_draws_it() -> None:
    assert graph(None, "v1", "v2", "v1") == ["* v4", "| * v3", "| * v2", "|/", "* v1"]
    assert graph(None, "v1", None, "v1", "v3", "v2") == [
        "* v6",
        "| * v5",
        "| | * v4",
        "| * | v3",
        "|  /",
        "* | v2",
        "|/",
        "* v1",
    ]
    assert graph(None, "v1", "v1", "v2", "v3", "v2") == [
        "* v6",
        "| * v5",
        "| | * v4",
        "| * | v3",
        "|_|/",
        "* | v2",
        "|/",
        "* v1",
    ]


def test_the_log_shows_the_family_with_what_is_known(family: Registry, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["log", "w"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line[:7].rstrip() for line in lines] == ["*  v4", "| *  v3", "| |", "|/", "*  v2", "*  v1"]
    assert "(served)" in lines[1] and "won 61 % (52 to 70)" in lines[1] and "84 judgements by 2 people" in lines[1]
    assert "10 min, 0.12 USD" in lines[1] and lines[2].endswith("敬語を直した") and "42 s" in lines[4]
    assert main(["log", "w", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["current"] == "v3" and [version["id"] for version in told["versions"]] == ["v1", "v2", "v3", "v4"]
    assert told["history"][1]["reason"] == "勝率 61 %" and told["versions"][2]["people"] == ["花子", "Bob"]
    assert main(["log", "w", "--moves"]) == 0
    assert "promote   v3  山田  勝率 61 %" in capsys.readouterr().out


def test_moves_are_told(family: Registry, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words, said in (
        (["promote", "w", "v4", "--reason", "試す"], "v3 -> v4"),
        (["promote", "w", "v4"], "v4 is served already"),
        (["rollback", "w"], "v4 -> v3"),
        (["rollback", "w"], "v3 -> v1"),
        (["promote", "w", str(model(tmp_path / "new", "新"))], "v1 -> v5"),
    ):
        assert main(words) == 0
        assert capsys.readouterr().out.strip() == said
    current = family.current()
    assert current is not None and current.id == "v5" and family.history()[2].reason == "試す"


def test_what_cannot_be_is_refused_with_what_could(family: Registry, capsys: pytest.CaptureFixture[str]) -> None:
    for words, said in (
        (["promote", "w", "v9"], "possible: v1, v2, v3, v4"),
        (["promote", "w", "nowhere"], "no model 'nowhere'"),
        (["promote", "nowhere", "v1"], "no workspace"),
        (["log", "nowhere"], "no workspace"),
        (["why", "w", "v9"], "no version 'v9'"),
        (["why", "w", "chatcmpl-1"], "no version and no answer"),
        (["why", "w"], "tomoni why --help"),
    ):
        assert main(words) == 2
        assert said in capsys.readouterr().err
    assert [move.version for move in family.history()] == ["v1", "v3"]


def test_a_damaged_pointer_is_set_aside_by_a_promotion_and_that_is_said(
    family: Registry, capsys: pytest.CaptureFixture[str]
) -> None:
    (family.workspace / "current.json").write_text("{", encoding="utf-8")
    assert main(["log", "w"]) == 2 and "current.json is damaged" in capsys.readouterr().err
    assert main(["promote", "w", "v3"]) == 0
    told = capsys.readouterr()
    assert "damaged-current.json" in told.err and told.out.strip() == "nothing -> v3"


def test_a_version_is_traced_to_the_first(family: Registry, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["why", "w", "v3"]) == 0
    told = capsys.readouterr().out
    assert [line.split()[0] for line in told.splitlines() if not line.startswith(" ")] == ["v3", "v2", "v1"]
    for said in (
        "dpo on v2",
        "84 judgements of 花子, Bob",
        "beta=0.1",
        "勝率 61 %",
        "(whole)",
        "f00df00df00d (not in this",
    ):
        assert said in told
    (family.workspace / "two" / "model.safetensors").unlink()
    assert main(["why", "w", "v3", "--json"]) == 0
    line = json.loads(capsys.readouterr().out)["line"]
    assert [version["state"] == "whole" for version in line] == [True, False, True]
    assert "model.safetensors is missing" in line[1]["state"]


@pytest.mark.parametrize("taken_in", [False, True])
def test_an_answer_is_traced_to_its_version(
    family: Registry, taken_in: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    hash = family.get("v3").hash
    inbox = Inbox(family.workspace)
    inbox.append([AnswerEvent("chatcmpl-ab-0", (Message("user", "首都は？"),), "v3", hash, "東京です。")])
    inbox.append([FeedbackEvent("chatcmpl-ab-0", "花子", up=True)])
    inbox.append([AnswerEvent("chatcmpl-cd-0", (Message("user", "x"),), "v3", "0" * 64, "y")])
    inbox.close()
    if taken_in:
        with Store.open(family.workspace) as store:
            store.take_in()
    for name in ("chatcmpl-ab", "chatcmpl-ab-0"):
        assert main(["why", "w", name]) == 0
        told = capsys.readouterr().out
        assert "首都は？" in told and "東京です。" in told and "v3  dpo on v2" in told and "v1  the beginning" in told
        assert ("judged   1 time" in told) is taken_in
    assert main(["why", "w", "chatcmpl-cd"]) == 2
    assert "another hash" in capsys.readouterr().err
