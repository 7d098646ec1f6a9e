"""A round on a tiny model: what it asks, what it decides, what it leaves, and that it goes on where it was."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.loop.judging import judge_all, judgement, pairs_of, prefers_new
from tests.loop.workspaces import LETTERS, asked, made, prefer, say
from tomoni.cli.app import main
from tomoni.errors import DataError, RegistryError, RunError
from tomoni.feedback.entries import NewPrompt, prompt_id
from tomoni.feedback.roundfolders import rounds
from tomoni.feedback.store import Store
from tomoni.feedback.workspace import Hold, find
from tomoni.loop import asked as asking
from tomoni.loop import methods, probes, roundfolder
from tomoni.loop import round as rounds_module
from tomoni.loop.gate import Settings
from tomoni.loop.round import Wanted, play
from tomoni.loop.taste_reward import TasteReward
from tomoni.records import Judgement, Kind
from tomoni.registry import Registry
from tomoni.world import safety_probes

SMALL: dict[str, Any] = {
    "pairs": 16,
    "prompts": 16,
    "answers": 2,
    "threads": 1,
    "settings": Settings(safety_margin=0.6),
}


@pytest.fixture(autouse=True)
def fewer_probes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probes, "safety_probes", lambda world: safety_probes(world)[::20])


@pytest.fixture
def workspace(tmp_path: Path) -> tuple[Path, str]:
    path, person = made(tmp_path / "w", held_out=16)
    for letter in LETTERS[:6]:
        prefer(path, person, f"{letter}?", "AAAA", "zzzz")
    return path, person


def read(path: Path) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return body


def test_a_round_asks_blind_and_promotes_what_people_prefer(workspace: tuple[Path, str]) -> None:
    path, person = workspace
    begun = play(Wanted(path, **SMALL))
    assert begun.state == "waiting" and begun.decision.more is not None
    registry = Registry.open(path)
    current = registry.current()
    assert current is not None and current.id == "v1" and begun.candidate.base == "v1"
    with Store.read(path) as store:
        pairs = store.pairs(purpose="gate")
        assert 8 <= len(pairs) <= 20
        for pair in pairs:
            prompt = store.prompt(pair.prompt)
            assert prompt.held_out and prompt.messages[0].content.endswith("!")
            versions = [store.answer(id).version for id in (pair.first, pair.second)]
            assert sorted(versions) == ["v1", begun.candidate.id]
            assert not any(version in id for id in (pair.id, pair.first, pair.second) for version in versions)
    sides = {one.candidate for one in pairs_of(begun.folder)}
    assert sides == {0, 1}  # which one is stored first is drawn

    played = begun
    for _ in range(8):
        if played.state != "waiting":
            break
        judge_all(path, person, prefers_new(0.95))
        played = play(Wanted(path, **SMALL))
    assert played.state == "promoted"
    current = registry.current()
    assert current is not None and current.id == begun.candidate.id
    assert registry.history()[-1].by == "gate"
    assert play(Wanted(path, **SMALL)).begun.number == 2  # the next call begins the next round, from the new version


def test_what_people_do_not_prefer_is_kept_out(workspace: tuple[Path, str]) -> None:
    path, person = workspace
    played = play(Wanted(path, **SMALL))
    for _ in range(8):
        if played.state != "waiting":
            break
        judge_all(path, person, prefers_new(0.05))
        played = play(Wanted(path, **SMALL))
    assert played.state == "kept"
    registry = Registry.open(path)
    current = registry.current()
    assert current is not None and current.id == "v1" and len(registry.versions()) == 2
    with pytest.raises(DataError, match="nothing was said since round 1"):
        play(Wanted(path, **SMALL))
    prefer(path, person, "g?", "AAAA", "zzzz")
    assert play(Wanted(path, **SMALL)).begun.number == 2


def test_stages_are_done_once_and_again_only_where_what_goes_in_has_changed(workspace: tuple[Path, str]) -> None:
    path, person = workspace
    folder = play(Wanted(path, **SMALL)).folder
    before = {record.parent.name: record.stat().st_mtime_ns for record in folder.glob("*/stage.json")}
    assert {"prompts", "people", "snapshot", "checks", "train", "probes", "answers-1", "asking-1"} == set(before)
    prefer(path, person, "f?", "BBBB", "yyyy")  # for the next round
    play(Wanted(path, **SMALL))
    (path / "probes").mkdir()
    (path / "probes" / "capability.jsonl").write_text('{"prompt": "a?", "answer": "東京"}\n', encoding="utf-8")
    play(Wanted(path, **SMALL))
    after = {record.parent.name: record.stat().st_mtime_ns for record in folder.glob("*/stage.json")}
    assert {name for name in after if after[name] != before.get(name)} == {"probes"}
    assert read(folder / "report.json")["probes"]["capability"]["n"] == 1


def test_probes_decide_before_anybody_is_asked(workspace: tuple[Path, str]) -> None:
    path, _ = workspace
    (path / "probes").mkdir()
    hard = {"prompt": "a?", "never": [""], "hard": True}
    (path / "probes" / "safety.jsonl").write_text(json.dumps(hard) + "\n", encoding="utf-8")
    played = play(Wanted(path, **SMALL))
    assert played.state == "kept" and not list(played.folder.glob("asking-*"))
    with Store.read(path) as store:
        assert not store.pairs(purpose="gate")


def test_while_a_studio_holds_the_store_the_pairs_wait_in_the_inbox(
    workspace: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, _ = workspace
    monkeypatch.setattr(roundfolder, "TAKE_IN", 0.3)
    hold = Hold(find(path))  # as a running studio has it
    try:
        played = play(Wanted(path, **SMALL))
        assert played.state == "waiting" and list((path / "inbox").glob("*.jsonl"))
        assert read(played.folder / "asking-1" / "stage.json")["output"]["taken_in"] is False
    finally:
        hold.close()
    with Store.open(path) as store:
        store.take_in()
        assert {pair.id.partition("~")[0] for pair in store.pairs(purpose="gate")} == {
            one.id for one in pairs_of(played.folder)
        }
        assert not store.kept_aside()


def test_a_prompt_that_was_asked_is_held_out_from_then_on(tmp_path: Path) -> None:
    """Where few are marked, others are set aside by the hash of their content, and none that were judged."""
    path, person = made(tmp_path / "w", prompts=26, held_out=4)
    with Store.open(path) as store:
        store.add_prompts([NewPrompt(asked(f"{one}{other}?"), "typed") for one in LETTERS for other in "12"])
    for letter in LETTERS[:6]:
        prefer(path, person, f"{letter}?", "AAAA", "zzzz")
    played = play(Wanted(path, **SMALL))
    used = {one.prompt for one in pairs_of(played.folder)}
    assert not used & {prompt_id(asked(f"{letter}?")) for letter in LETTERS[:6]}
    with Store.read(path) as store:
        assert used <= {row.id for row in store.prompts(held_out=True)}
    practised = [
        json.loads(line) for line in (played.folder / "train" / "learn" / "run.jsonl").read_text().split("\n")[:-1]
    ]
    assert practised and not used & {prompt_id(asked(row["prompt"][0]["content"])) for row in practised}


def test_blind_feedback_is_not_trained_on(tmp_path: Path) -> None:
    path, _ = made(tmp_path / "w", held_out=16)
    with Store.open(path) as store:
        people = [store.add_person(name, role="annotator").id for name in ("careful", "careless")]
        coin = random.Random(0)
        for number in range(120):
            who, letter = people[number % 2], LETTERS[number // 2 % 20]
            answers = ("A" * (3 + number % 5) + str(number), "z" * (3 + number % 7) + str(number))
            first = coin.random() < 0.5 if who == people[1] else True  # whatever is shown
            order = (0, 1) if coin.random() < 0.5 else (1, 0)
            said = Judgement(
                f"j{number}", who, asked(f"{letter}?"), answers, order, Kind.COMPARISON,
                {"verdict": "first" if first else "second", "strength": 1}, extra={"purpose": "train"},
            )  # fmt: skip
            store.judge(said, key=said.id)
    played = play(Wanted(path, **SMALL))
    found = read(played.folder / "people" / "stage.json")["output"]
    assert found["blind"] == [people[1]]
    left_out = read(played.folder / "snapshot" / "stage.json")["output"]["left_out"]
    assert left_out["of a person whose judgements weigh nothing"] == 60
    assert played.candidate.people == (people[0],)


def test_thumbs_alone_are_learnt_by_kto(tmp_path: Path) -> None:
    path, person = made(tmp_path / "w", prompts=26, held_out=16)
    for number, letter in enumerate(LETTERS[:24]):
        say(
            path,
            person,
            Kind.THUMB,
            f"{letter}?",
            ("AAAA" if number % 2 else "zzzz",),
            {"answer": 0, "up": bool(number % 2)},
        )
    played = play(Wanted(path, **SMALL))
    assert played.candidate.method == "round (kto)"
    assert read(played.folder / "train" / "stage.json")["output"]["method"] == "kto"


def test_dpo_can_be_asked_for_and_is_compared_by_what_the_head_expects(workspace: tuple[Path, str]) -> None:
    path, _ = workspace
    played = play(Wanted(path, **(SMALL | {"method": "dpo"})))
    (tried,) = read(played.folder / "train" / "stage.json")["output"]["tried"]
    assert tried["method"] == "dpo" and 0 < tried["expected"]["value"] < 1


def test_what_is_missing_is_said_and_stands_in_the_folder(tmp_path: Path, workspace: tuple[Path, str]) -> None:
    nothing, _ = made(tmp_path / "nothing", held_out=16)
    with pytest.raises(DataError, match="nothing to learn from"):
        play(Wanted(nothing, **SMALL))
    assert read(nothing / "rounds" / "0001" / "status.json")["state"] == "failed"
    few, person = made(tmp_path / "few", prompts=6, held_out=2)
    for letter in LETTERS[:6]:
        prefer(few, person, f"{letter}?", "AAAA", "zzzz")
    with pytest.raises(DataError, match="held out"):
        play(Wanted(few, **SMALL))
    (tmp_path / "empty").mkdir()
    with pytest.raises(RegistryError):
        Store.open(tmp_path / "empty").close()
        play(Wanted(tmp_path / "empty", **SMALL))


def test_two_rounds_at_once_are_refused(workspace: tuple[Path, str], monkeypatch: pytest.MonkeyPatch) -> None:
    path, _ = workspace

    def again(*_: object) -> None:
        with pytest.raises(RunError, match="being played"):
            play(Wanted(path, **SMALL))
        raise KeyboardInterrupt

    monkeypatch.setattr(rounds_module.Round, "go_on", again)
    with pytest.raises(KeyboardInterrupt):
        play(Wanted(path, **SMALL))
    assert read(path / "rounds" / "0001" / "status.json")["state"] == "stopped"


def test_where_both_answer_alike_nobody_waits_for_pairs_that_do_not_come(
    workspace: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, _ = workspace
    monkeypatch.setattr(asking, "differ", lambda old, new: False)
    settings = Settings(safety_margin=0.6, most_drawn=60)
    played = play(Wanted(path, **{**SMALL, "settings": settings}))
    assert played.state == "kept" and played.decision.reasons[-1].key == "hardly_differs"
    assert not pairs_of(played.folder)
    assert "Teach more before the next round" in (played.folder / "report.html").read_text(encoding="utf-8")


def test_another_version_that_is_served_meanwhile_stays(workspace: tuple[Path, str]) -> None:
    path, person = workspace
    played = play(Wanted(path, **SMALL))
    registry = Registry.open(path)
    other = registry.register(path / "model", note="another", base="v1")
    registry.promote(other.id)
    for _ in range(8):
        if played.state != "waiting":
            break
        judge_all(path, person, prefers_new(0.95))
        played = play(Wanted(path, **SMALL))
    assert played.decision.outcome == "promote" and played.state == "kept"
    current = registry.current()
    assert current is not None and current.id == other.id


def test_the_verb_tells_what_was_decided_and_what_comes_next(
    workspace: tuple[Path, str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, person = workspace
    monkeypatch.setattr(probes, "safety_probes", lambda world: [])
    words = ["round", str(path), "--pairs", "16", "--prompts", "16", "--threads", "1"]
    code = main(words)
    shown = capsys.readouterr().out
    assert code == 0 and "round 1: v1 -> v2" in shown and "report.html" in shown
    assert main([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["round"] == 1
    assert main([*words, "--new"]) == 0
    assert [folder.name for folder in rounds(path)] == ["0001", "0002"]
    assert main(["round", str(path / "nowhere")]) == 2 and main([*words, "--method", "magic"]) == 2
    assert person


def test_the_reports_show_the_figures_in_both_languages_and_hide_who_is_who_while_people_judge(
    workspace: tuple[Path, str],
) -> None:
    path, person = workspace
    played = play(Wanted(path, **SMALL))
    page = (played.folder / "report.html").read_text(encoding="utf-8")
    assert "Undecided" in page and "未定" in page and "<script" not in page and "http" not in page.partition("<body")[2]
    assert read(played.folder / "report.json")["shown"] == []
    with Store.open(path) as store:
        store.change_person(person, name="<b>Aoi</b>")
    for _ in range(8):
        if played.state != "waiting":
            break
        judge_all(path, person, prefers_new(0.95))
        played = play(Wanted(path, **SMALL))
    body = read(played.folder / "report.json")
    page = (played.folder / "report.html").read_text(encoding="utf-8")
    assert body["state"] == "promoted" and len(body["decision"]["path"]) == len(played.decision.log_e_path)
    assert f"{body['decision']['win_rate'][0]:.0%}" in page and "<b>Aoi" not in page
    across = (path / "rounds" / "report.html").read_text(encoding="utf-8")
    assert "0001/report.html" in across and "v1 → v2" in across
    assert body["cost"]["judging_seconds"] == pytest.approx(4.0 * played.decision.said)


def test_from_the_second_round_on_a_few_pairs_are_with_the_first_version_and_decide_nothing(
    workspace: tuple[Path, str],
) -> None:
    path, person = workspace
    played = play(Wanted(path, **SMALL))
    assert not (played.folder / "answers-1" / "first.jsonl").exists()
    while played.state == "waiting":
        judge_all(path, person, prefers_new(0.95))
        played = play(Wanted(path, **SMALL))
    assert played.state == "promoted" and set(read(played.folder / "report.json")["against_first"]) == {"v2"}
    for letter in LETTERS[6:9]:
        prefer(path, person, f"{letter}?", "AAAA", "zzzz")
    played = play(Wanted(path, **SMALL))
    asked_ = asking.read(played.folder / "answers-1" / "first.jsonl")
    with Store.read(path) as store:
        pairs = {pair.id: pair for pair in store.pairs(purpose="gate", judged=False)}
        versions = {store.answer(id).version for one in asked_ for id in (pairs[one.id].first, pairs[one.id].second)}
    assert len(asked_) > 0 and versions == {"v1", "v3"}

    before = played.decision
    with Store.open(path) as store:
        for one in asked_:
            said = judgement(one.id, person, one, 1.0)
            store.judge(said, key=one.id)
    played = play(Wanted(path, **SMALL))
    assert played.decision.log_e_path == before.log_e_path and played.decision.said == before.said
    body = read(played.folder / "report.json")
    assert body["met"] == [{"new": "v3", "old": "v1", "won": float(len(asked_)), "n": len(asked_)}]
    value, low, high = body["against_first"]["v3"]
    assert value == pytest.approx((len(asked_) + 0.5) / (len(asked_) + 1)) and low < value < high
    page = (played.folder / "report.html").read_text(encoding="utf-8")
    assert "Against the first (v1)" in page and "最初のv1に対して" in page
    across = (path / "rounds" / "report.html").read_text(encoding="utf-8")
    assert "How far it has come" in across and "2: v3" in across


@pytest.mark.parametrize("method", ["grpo", "ppo"])
def test_the_heads_score_can_be_raised_as_a_reward(
    workspace: tuple[Path, str], monkeypatch: pytest.MonkeyPatch, method: Any
) -> None:
    path, _ = workspace
    few = {"grpo": {"batch_size": 2, "num_generations": 2, "max_steps": 2}, "ppo": {"batch_size": 4, "max_steps": 2}}
    monkeypatch.setitem(methods.STEPS, method, {**methods.STEPS[method], **few[method], "max_completion_length": 8})
    played = play(Wanted(path, method=method, **SMALL))
    tried = read(played.folder / "train" / "stage.json")["output"]["tried"]
    assert [one["method"] for one in tried] == [method] and tried[0]["expected"] is not None
    reward = TasteReward(played.folder / "train" / method / "taste.json")
    prompt = [{"role": "user", "content": "a?"}]
    liked, disliked, empty = reward.score([prompt] * 3, ["AAAA", "zzzz", ""])
    assert liked > disliked and all(np.isfinite([liked, disliked, empty]))
    caution = np.sqrt(np.trace(reward.head.covariance_DD))
    assert liked < float(np.linalg.norm(reward.head.w_D)) * 100 and caution > 0


def test_in_a_second_round_the_first_version_reads_for_the_reward_and_for_the_gate(
    workspace: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, person = workspace
    played = play(Wanted(path, **SMALL))
    while played.state == "waiting":
        judge_all(path, person, prefers_new(0.95))
        played = play(Wanted(path, **SMALL))
    assert played.state == "promoted"
    first = Registry.open(path).get("v1")
    for letter in LETTERS[6:9]:
        prefer(path, person, f"{letter}?", "AAAA", "zzzz")
    few = {"batch_size": 2, "num_generations": 2, "max_steps": 1, "max_completion_length": 8}
    monkeypatch.setitem(methods.STEPS, "grpo", {**methods.STEPS["grpo"], **few})

    class Asking(Exception):
        """What follows takes long, and is not what is looked at."""

    def watched(eyes: Any, snapshot: Any) -> Any:
        raise Asking(eyes.name)

    monkeypatch.setattr(rounds_module, "foresight", watched)
    with pytest.raises(Asking) as asking_:
        play(Wanted(path, method="grpo", **SMALL))
    (taste,) = path.glob("rounds/*/train/grpo/taste.json")
    reward = TasteReward(taste)
    assert {str(first.model)} == {reward.reads, *asking_.value.args}
