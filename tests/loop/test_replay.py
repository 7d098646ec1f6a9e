"""What rounds and Learn replay: the rows that the served version was tuned on, wherever they are, and none that is held out."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from tests import tiny
from tests.loop.workspaces import LETTERS, asked, made, prefer
from tomoni import config
from tomoni.cli import learn as learn_verb
from tomoni.cli import round as round_verb
from tomoni.errors import DataError, UserError
from tomoni.feedback.entries import prompt_id
from tomoni.loop import learn as learning
from tomoni.loop import methods, practice, probes, words
from tomoni.loop import round as rounds_module
from tomoni.loop.learn import Plan
from tomoni.loop.replay import LARGEST, MOST, Replayed, gather, require_share
from tomoni.loop.round import Wanted, play
from tomoni.loop.taste import Expected
from tomoni.registry import Registry, Version
from tomoni.settings.sft import Config as Sft
from tomoni.world import safety_probes


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOMONI_CACHE", str(tmp_path_factory.mktemp("cache")))


def write(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def rows(names: str, answer: str = "はい。") -> list[dict[str, Any]]:
    return [{"id": f"r-{name}", "prompt": name, "completion": answer} for name in names]


def asked_and_said(row: dict[str, Any]) -> list[dict[str, str]]:
    return [{"role": "user", "content": row["prompt"]}, {"role": "assistant", "content": row["completion"]}]


def tuned(place: Path, name: str, file: str, start: str = "bundled:small", **changes: Any) -> Path:
    """The folder of an sft run that was started in `place`, with a result of its own."""
    run = place / name
    run.mkdir(parents=True)
    cfg = Sft(model_name_or_path=start, train_file=file, output_dir=name, **changes)
    (run / "config.yaml").write_text(config.dump(cfg), encoding="utf-8")
    tiny.folder(run / "model", seed=sum(name.encode()))
    return run


@pytest.fixture
def town(tmp_path: Path) -> tuple[Registry, Version, Path]:
    """A workspace whose v1 is an sft run that was started, in another folder, with relative paths."""
    write(tmp_path / "町" / "data" / "shops.jsonl", rows("abc"))
    run = tuned(tmp_path / "町", "runs/first", "data/shops.jsonl")
    workspace = tmp_path / "w"
    workspace.mkdir()
    registry = Registry.open(workspace)
    return registry, registry.register(run), tmp_path


def found(
    registry: Registry, base: Version, *, share: float = 0.2, held_out: frozenset[str] = frozenset()
) -> tuple[Replayed, list[dict[str, Any]]]:
    folder = registry.workspace / "here"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    replayed = gather(registry, base, share, folder, held_out)
    lines = [line for file in replayed.file for line in Path(file).read_text(encoding="utf-8").splitlines()]
    return replayed, [json.loads(line) for line in lines]


def ids(given: Sequence[dict[str, Any]]) -> list[str]:
    return sorted(one["id"] for one in given)


# -- which rows ------------------------------------------------------------------------------------------------------


def test_what_the_line_was_tuned_on_is_found_where_the_run_was_started(town: tuple[Registry, Version, Path]) -> None:
    registry, first, _ = town
    replayed, given = found(registry, first)
    assert (replayed.source, replayed.rows, replayed.files) == ("tuning", 3, ("data/shops.jsonl",))
    assert replayed.versions == (first.id,)
    assert ids(given) == ["r-a", "r-b", "r-c"]
    assert given[0]["messages"][-1] == {"role": "assistant", "content": "はい。"}


def test_learns_own_rows_are_passed_over_on_the_way_back(town: tuple[Registry, Version, Path]) -> None:
    registry, first, _ = town
    own = write(registry.workspace / "learn" / "0001" / "run.jsonl", rows("xyz"))
    run = tuned(registry.workspace / "learn" / "0001", "run", str(own), start=first.model)
    second = registry.register(run, base=first.id, method="learn")
    replayed, given = found(registry, second)
    assert ids(given) == ["r-a", "r-b", "r-c"]
    assert replayed.versions == (first.id,)


def test_a_run_that_began_with_another_run_brings_both_their_rows(town: tuple[Registry, Version, Path]) -> None:
    registry, _, place = town
    write(place / "町" / "data" / "more.jsonl", [{"q": "d", "a": "4"}, {"q": "e", "a": "5"}])
    columns = {"prompt": "q", "completion": "a"}
    run = tuned(place / "町", "runs/second", "data/more.jsonl", "runs/first", form="prompt_completion", columns=columns)
    replayed, given = found(registry, registry.register(run / "model"))  # named by its result, not by its run
    assert replayed.files == ("data/more.jsonl", "data/shops.jsonl")
    assert sorted(one["messages"][0]["content"] for one in given) == list("abcde")


def test_the_owners_own_file_goes_first(town: tuple[Registry, Version, Path]) -> None:
    registry, first, _ = town
    write(registry.workspace / "replay.jsonl", rows("pq"))
    replayed, given = found(registry, first)
    assert (replayed.source, replayed.rows, replayed.files, replayed.versions) == ("owner", 2, ("replay.jsonl",), ())
    assert ids(given) == ["r-p", "r-q"]


def test_an_owners_file_that_cannot_be_read_is_an_error_and_not_left_out(town: tuple[Registry, Version, Path]) -> None:
    registry, first, _ = town
    write(registry.workspace / "replay.jsonl", [{"prompt": "a", "chosen": "b", "rejected": "c"}])
    with pytest.raises(DataError, match=r"replay\.jsonl"):
        found(registry, first)
    write(registry.workspace / "replay.jsonl", [{"prompt": "a", "completion": 3}])
    with pytest.raises(DataError, match=r"replay\.jsonl:1") as caught:
        found(registry, first)
    assert "quarantine" not in caught.value.next_step  # which is a key of runs, and this is a file of the workspace


def test_prompts_that_are_held_out_are_not_replayed_at_any_turn(town: tuple[Registry, Version, Path]) -> None:
    registry, first, _ = town
    talk = [{"role": role, "content": text} for role, text in (("user", "a"), ("assistant", "b"), ("user", "c"))]
    later = {"id": "later", "messages": [*talk, {"role": "assistant", "content": "d"}]}
    said = [{"id": one["id"], "messages": asked_and_said(one)} for one in rows("ab")]
    write(registry.workspace / "replay.jsonl", [*said, later])
    _, given = found(registry, first, held_out=frozenset([prompt_id(asked("a"))]))
    assert ids(given) == ["r-b"]
    _, given = found(registry, first, held_out=frozenset([prompt_id(asked("c"))]))
    assert ids(given) == ["later", "r-a", "r-b"]  # c alone is another prompt than c after a and b


def test_what_the_run_itself_held_out_is_not_replayed(town: tuple[Registry, Version, Path]) -> None:
    registry, _, place = town
    write(place / "町" / "data" / "many.jsonl", [row for n in range(40) for row in rows(f"{n}x"[:1], str(n))])
    run = tuned(place / "町", "runs/half", "data/many.jsonl", validation_share=0.5)
    replayed, _ = found(registry, registry.register(run))
    assert 5 <= replayed.rows <= 35


def test_a_file_that_is_gone_is_told_and_nothing_is_replayed(town: tuple[Registry, Version, Path]) -> None:
    registry, first, place = town
    (place / "町" / "data" / "shops.jsonl").unlink()
    replayed, given = found(registry, first)
    assert (replayed.source, replayed.gone, given) == ("nothing", ("data/shops.jsonl",), [])
    assert replayed.settings() == {}
    english, japanese = words.replayed(replayed.as_json())
    assert "shops.jsonl is not there" in english and "replay.jsonl" in english
    assert "shops.jsonl" in japanese and "replay.jsonl" in japanese


def test_a_version_without_a_run_has_nothing_to_replay(tmp_path: Path) -> None:
    path, _ = made(tmp_path / "w")
    registry = Registry.open(path)
    current = registry.current()
    assert current is not None
    assert found(registry, current)[0] == Replayed(0.2, "nothing")
    assert found(registry, current, share=0)[0] == Replayed(0.0, "off")


def test_of_many_rows_the_same_thousand_are_taken_each_time(town: tuple[Registry, Version, Path]) -> None:
    registry, first, _ = town
    many = [{"id": f"n{n}", "prompt": str(n), "completion": "y"} for n in range(MOST + 200)]
    write(registry.workspace / "replay.jsonl", many)
    replayed, given = found(registry, first)
    write(registry.workspace / "replay.jsonl", many[::-1])
    assert replayed.rows == len(given) == MOST
    assert found(registry, first)[1] == given


def test_texts_are_replayed_beside_conversations(town: tuple[Registry, Version, Path]) -> None:
    registry, _, place = town
    write(place / "町" / "data" / "story.jsonl", [{"text": "むかしむかし。"}])
    run = tuned(place / "町", "runs/mixed", "data/story.jsonl", "runs/first")
    replayed, given = found(registry, registry.register(run))
    assert len(replayed.file) == 2
    assert sorted(next(iter({"text", "messages"} & one.keys())) for one in given) == ["messages"] * 3 + ["text"]


# -- how much of it --------------------------------------------------------------------------------------------------


@given(st.floats(0.001, LARGEST), st.floats(0.1, 10))
def test_the_replays_weight_is_the_share_of_both(share: float, scale: float) -> None:
    coef = Replayed(share, "owner", rows=1, file=("f",)).settings(scale)["replay_coef"]
    assert coef / (coef + scale) == pytest.approx(share)


@pytest.mark.parametrize("share", [-0.1, 0.95, float("nan")])
def test_a_share_that_leaves_nothing_to_learn_is_refused(share: float, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--replay"):
        require_share(share)
    for verb in (learn_verb, round_verb):
        with pytest.raises(UserError, match="--replay"):
            verb.command([str(tmp_path), "--replay", str(share)])


# -- presses and rounds ----------------------------------------------------------------------------------------------


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    path, person = made(tmp_path / "w", prompts=20, held_out=10)
    for number in range(12):
        prefer(path, person, f"{LETTERS[number]}?", "aaaa", "bbbb")
    write(path / "replay.jsonl", rows("pqrstu"))
    return path


def replayed_losses(run: Path) -> list[float]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return [line["replay/loss"] for line in lines if "replay/loss" in line]


def test_a_press_of_learn_replays_and_says_so(
    workspace: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(practice, "MAX_NEW_TOKENS", 12)
    learn_verb.command([str(workspace), "--prompts", "6", "--replay", "0.25"])
    folder = workspace / "learn" / "0001"
    result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    assert result["replayed"] == Replayed(0.25, "owner", 6, ("replay.jsonl",)).as_json() | {
        "files": ["replay.jsonl"], "versions": [], "gone": [],
    }  # fmt: skip
    body = yaml.safe_load((folder / "run" / "config.yaml").read_text(encoding="utf-8"))
    assert body["replay_coef"] == pytest.approx(1 / 3)
    assert replayed_losses(folder / "run")
    assert "6 rows of replay.jsonl: 25% of what was learnt" in capsys.readouterr().out


def test_a_press_without_a_share_trains_as_it_always_did(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(practice, "MAX_NEW_TOKENS", 12)
    folder = learning.learn(Plan(workspace, prompts=16, answers=3, replay=0.0))
    assert json.loads((folder / "result.json").read_text(encoding="utf-8"))["replayed"]["source"] == "off"
    assert not replayed_losses(folder / "run")
    assert not (folder / "replayed.jsonl").exists()


@pytest.mark.parametrize("method", ["learn", "dpo", pytest.param("grpo", marks=pytest.mark.slow)])
def test_a_round_replays_by_every_method_and_its_report_says_what(
    method: str, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probes, "safety_probes", lambda world: safety_probes(world)[::40])
    steps = {"batch_size": 4, "num_generations": 2, "max_steps": 2, "max_completion_length": 6, "max_length": 512}
    monkeypatch.setattr(practice, "MAX_NEW_TOKENS", 12)
    monkeypatch.setattr(methods, "STEPS", {**methods.STEPS, "grpo": steps})
    wanted = Wanted(workspace, method, pairs=8, prompts=16, answers=4, replay=0.3)  # type: ignore[arg-type]
    played = play(wanted)
    run = played.folder / "train" / method / "run"
    assert replayed_losses(run)
    body = json.loads((played.folder / "report.json").read_text(encoding="utf-8"))
    assert (body["replayed"]["source"], body["replayed"]["rows"], body["replayed"]["share"]) == ("owner", 6, 0.3)
    page = (played.folder / "report.html").read_text(encoding="utf-8")
    assert "6 rows of replay.jsonl: 30% of what was learnt" in page
    assert "replay.jsonl の6行：学びの30%" in page
    begun = json.loads((played.folder / "round.json").read_text(encoding="utf-8"))
    assert begun["replay"] == 0.3  # a round that goes on keeps the share that it began with


@pytest.mark.parametrize("pleases", [True, False])
def test_a_candidate_that_forgot_tasks_is_trained_again_with_replay_and_taken_where_it_still_pleases(
    pleases: bool, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probes, "safety_probes", lambda world: safety_probes(world)[::40])
    monkeypatch.setattr(practice, "MAX_NEW_TOKENS", 12)
    monkeypatch.setattr(rounds_module, "passed", lambda subject, some: [subject.weights < 0] * len(some))
    monkeypatch.setattr(rounds_module, "fewer", lambda new, old: True)
    expected = {"value": 0.7 if pleases else 0.4, "low": 0.3, "high": 0.8}
    first = learning.practise

    def practise(base: Version, material: Any, *rest: Any) -> Any:
        done = first(base, material, *rest)
        return replace(done, expected=Expected(**expected) if done.replayed.rows else done.expected)

    monkeypatch.setattr(learning, "practise", practise)
    write(workspace / "probes" / "capability.jsonl", [{"prompt": "a?", "answer": "はい"}] * 6)
    played = play(Wanted(workspace, "learn", pairs=8, prompts=16, answers=4))
    stage = json.loads((played.folder / "train" / "stage.json").read_text(encoding="utf-8"))["output"]
    assert [one["replayed"]["rows"] for one in stage["tried"]] == [0, 6]
    assert stage["taken"] == int(pleases)
    run = played.folder / stage["tried"][stage["taken"]]["run"]
    assert Path(str(played.candidate.run)).resolve() == run.resolve() and bool(replayed_losses(run)) == pleases
    page = (played.folder / "report.html").read_text(encoding="utf-8")
    assert ("and that is the candidate" in page) == pleases and "because it had forgotten tasks" in page
    body = json.loads((played.folder / "report.json").read_text(encoding="utf-8"))
    assert body["replayed"]["rows"] == (6 if pleases else 0)
