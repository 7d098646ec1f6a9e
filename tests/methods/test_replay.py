"""Runs that replay what a model was tuned on before: what they keep, how they go on, what they refuse."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests import tiny
from tests.methods import every, runs
from tests.methods.test_resume import interrupted_at
from tomoni import losses
from tomoni.engine.engine import Engine
from tomoni.engine.replay import Replay
from tomoni.errors import ConfigError, DataError, RunError
from tomoni.records import Chat, Message, Source
from tomoni.rows import Item
from tomoni.run import start
from tomoni.run.events import Notice
from tomoni.run.holding import models_held
from tomoni.run.methods import METHODS, config_class, method_module
from tomoni.settings.replay import ReplaySettings

REPLAYING = ("pretrain", "sft", "dpo", "orpo", "simpo", "kto", "bestofn", "grpo", "rloo", "ppo")
KNOWN = [
    {"prompt": "夏の次は何ですか。", "completion": "秋です。"},
    {"prompt": "What comes after summer?", "completion": "Autumn comes."},
    {"messages": [{"role": "user", "content": "冬の次は?"}, {"role": "assistant", "content": "春です。"}]},
]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("材料")
    runs.write(folder)
    write(folder / "known.jsonl", KNOWN[:2])
    write(folder / "talks.jsonl", KNOWN[2:])
    return folder


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOMONI_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


def write(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def config(method: str, place: Path, output: Path, **changes: Any) -> Any:
    files = (str(place / "known.jsonl"), str(place / "talks.jsonl"))
    settings = {"replay_file": files, "replay_batch_size": 2, "replay_coef": 0.5} | changes
    return runs.config(method, place, output, **settings)


# -- what is kept ----------------------------------------------------------------------------------------------------


def known_items() -> list[Item]:
    """Facts that the model is taught first, and is then tuned away from."""
    from tomoni.data.render import Renderer

    render = Renderer(tiny.tokenizer(), max_length=512)
    chats = [
        Chat(
            f"f{n}",
            Source("facts.jsonl", n + 1),
            (Message("user", f"第{n}店は?"), Message("assistant", f"{n * 7}時。")),
        )
        for n in range(6)
    ]
    return [item for chat in chats for item in method_module("sft").items(chat, render)]


def tuned(replay: bool) -> tuple[float, float, float]:
    """dpo after an sft: nats a token on the facts before and after it, and the preferences' accuracy."""
    facts, pairs = known_items(), every.items("dpo")
    cfg = every.config("dpo", max_steps=40, batch_size=8, learning_rate=3e-3, reference="start", beta=0.1)
    model = every.policy()
    teacher = Engine(model, trained=dict(model.named_parameters()), cfg=cfg)
    for _ in range(60):
        teacher.forward_backward(facts, losses.nll)
        teacher.optim_step(5e-3)
    built = Engine(model, trained=dict(model.named_parameters()), cfg=cfg, keep_reference=True)
    if replay:
        built.replay = Replay(facts, batch_size=4, coef=1.0, seed=0)
    before = built.evaluate(facts, losses.nll)["loss"].value
    list(every.steps(cfg, built, pairs))
    after = built.evaluate(facts, losses.nll)["loss"].value
    found = method_module("dpo").evaluate(built, pairs, cfg)
    return before, after, found["rewards/accuracies"].value


def test_dpo_forgets_what_it_knew_and_with_replay_it_does_not() -> None:
    before, forgot, learnt = tuned(replay=False)
    _, kept, learnt_too = tuned(replay=True)
    assert before < 0.2
    assert forgot > before + 0.5
    assert kept < before + 0.1
    assert learnt == learnt_too == 1.0


# -- runs ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["dpo", "ppo"])
def test_interrupted_it_ends_with_the_same_bits(method: str, place: Path, tmp_path: Path) -> None:
    start(config(method, place, tmp_path / "whole"))
    cfg = config(method, place, tmp_path / "run")
    interrupted_at(runs.UPDATES.get(method, 1) + 1, cfg)
    start(cfg)
    assert runs.traces(tmp_path / "run") == runs.traces(tmp_path / "whole")


@pytest.mark.parametrize("method", [name for name in REPLAYING if name not in ("pretrain", "sft")])
def test_every_method_tells_the_replayed_loss_and_writes_down_the_rows(
    method: str, place: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    start(config(method, place, folder, max_steps=2))
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    told = [line["replay/loss"] for line in lines if "replay/loss" in line]
    assert len(told) == 2 and all(math.isfinite(value) and value > 0 for value in told)
    ledger = [json.loads(line) for line in (folder / "ledger.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [len(line["replayed"]) for line in ledger] == [2, 2]
    assert not {id for line in ledger for id in line["replayed"]} & {id for line in ledger for id in line["items"]}


def test_another_replay_file_is_another_run(place: Path, tmp_path: Path) -> None:
    file = tmp_path / "known.jsonl"
    write(file, KNOWN[:2])
    cfg = config("dpo", place, tmp_path / "run", replay_file=str(file))
    interrupted_at(2, cfg)
    write(file, KNOWN[1:2])
    with pytest.raises(RunError, match="replay"):
        start(cfg)


# -- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", REPLAYING)
def test_every_language_models_method_replays_and_says_so_to_a_planner(method: str) -> None:
    plain = settings(method)
    module = __import__(type(plain).__module__, fromlist=["phases"])
    assert isinstance(plain, ReplaySettings)
    assert not plain.replay_file and "replay" not in [phase.name for phase in module.phases(plain)]
    given = settings(method, replay_file="known.jsonl", **({"model_name_or_path": "m"} if method == "pretrain" else {}))
    (replay,) = [phase for phase in module.phases(given) if phase.name == "replay"]
    assert replay.units.startswith("replay_batch_size")
    assert models_held(given) == models_held(plain)


def settings(method: str, **changes: Any) -> Any:
    needed: dict[str, Any] = {"train_file": "t", "output_dir": "o"}
    needed |= {} if method == "pretrain" else {"model_name_or_path": "m"}
    needed |= {"reward_funcs": "given"} if method in every.SAMPLED else {}
    return config_class(method)(**needed | changes)


@pytest.mark.parametrize("method", sorted(set(METHODS) - set(REPLAYING)))
def test_what_only_scores_has_no_text_to_replay(method: str) -> None:
    with pytest.raises(ValueError, match="replay_file"):
        settings(method, replay_file="known.jsonl")


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"replay_coef": 0.5}, "replay_coef is for replay_file, and none is named"),
        ({"replay_batch_size": 3}, "replay_batch_size is for replay_file"),
        ({"replay_file": "f", "replay_coef": 0}, "greater than 0"),
        ({"replay_file": "f", "replay_coef": float("nan")}, "finite|greater"),
        ({"replay_file": "f", "replay_batch_size": 0}, "greater than or equal to 1"),
        ({"replay_file": ""}, "at least 1 character"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(given: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        settings("dpo", **given)


@pytest.mark.parametrize("given", [{"objective": "mlm", "model_name_or_path": "m"}, {}])
def test_pretraining_replays_only_where_a_decoder_knows_something(given: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="replay_file is for a decoder"):
        settings("pretrain", replay_file="f", **given)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("", "no rows in"),
        ('{"prompt": "a", "chosen": "b", "rejected": "c"}\n', "not from preferences"),
        ('{"prompt": "a", "completion": "b"}\n{"prompt": 3}\n', "1 bad row"),
    ],
)
def test_files_that_hold_nothing_to_replay_are_named(content: str, told: str, place: Path, tmp_path: Path) -> None:
    file = tmp_path / "replay.jsonl"
    file.write_text(content, encoding="utf-8")
    with pytest.raises(DataError) as caught:
        start(config("dpo", place, tmp_path / "run", replay_file=str(file)))
    assert caught.value.what.startswith("replay_file: ") and told in caught.value.what
    assert "conversations" in caught.value.next_step
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_a_file_that_is_not_there_and_rows_that_are_too_long_are_said(place: Path, tmp_path: Path) -> None:
    with pytest.raises((ConfigError, DataError), match=r"nowhere\.jsonl"):
        start(config("dpo", place, tmp_path / "run", replay_file=str(tmp_path / "nowhere.jsonl")))
    file = tmp_path / "long.jsonl"
    write(file, [*KNOWN[:1], {"id": "long", "prompt": "a", "completion": "あ" * 200}])
    with pytest.raises(DataError, match="long"):
        start(config("dpo", place, tmp_path / "run", replay_file=str(file), max_length=256))
    told: list[str] = []
    cfg = config(
        "dpo", place, tmp_path / "run", replay_file=str(file), max_length=256, on_long_rows="drop", max_steps=1
    )
    start(cfg, on_event=lambda event: told.append(event.text) if isinstance(event, Notice) else None)
    assert any(text.startswith("replay_file: 1 row left out") for text in told)


def test_bad_rows_can_be_left_out_and_the_run_begins_when_the_file_is_mended(place: Path, tmp_path: Path) -> None:
    file, run = tmp_path / "replay.jsonl", tmp_path / "run"
    file.write_text('{"prompt": "a", "completion": 3}\n', encoding="utf-8")
    told = {"replay_file": str(file), "on_bad_rows": "quarantine", "max_steps": 1}
    with pytest.raises(DataError, match="replay_file"):
        start(config("dpo", place, run, **told))
    file.write_text('{"prompt": "a", "completion": 3}\n{"prompt": "a", "completion": "b"}\n', encoding="utf-8")
    start(config("dpo", place, run, **told))
    (line,) = (run / "quarantine-replay.jsonl").read_text(encoding="utf-8").splitlines()
    assert json.loads(line)["line"] == 1
