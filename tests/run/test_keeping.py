"""Runs that train the upper layers only: what they keep of the lower ones, what they say of it, and that it is the same."""

from __future__ import annotations

import json
import shutil
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest

from tests import tiny
from tomoni.engine.frozen import Below
from tomoni.errors import RunError
from tomoni.run import start
from tomoni.run.events import Event, Notice, Stepped
from tomoni.run.outcome import Result
from tomoni.settings.sft import Config

RECORDS = 12


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("材料")
    tiny.folder(folder / "model", num_hidden_layers=3)
    questions = [{"prompt": f"第{n}店は何時に開く?", "completion": f"{n}時です。"} for n in range(RECORDS)]
    lines = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in questions)
    (folder / "questions.jsonl").write_text(lines, encoding="utf-8")
    return folder


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TOMONI_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "kept"


def config(place: Path, output: Path, **changes: Any) -> Config:
    settings: dict[str, Any] = {
        "model_name_or_path": str(place / "model"), "train_file": str(place / "questions.jsonl"), "output_dir": str(output),
        "train": "top:1", "num_train_epochs": 2, "batch_size": 4, "learning_rate": 1e-2, "sample_prompts": 0,
        "device": "cpu", "threads": 1, "save_steps": 2,
    }  # fmt: skip
    return Config(**settings | changes)


def run(cfg: Config) -> tuple[Result, list[str]]:
    """And what it said of kept outputs."""
    said: list[str] = []

    def listen(event: Event) -> None:
        if isinstance(event, Notice) and "frozen" in event.text:
            said.append(event.text)

    return start(cfg, on_event=listen), said


def weights(result: Result) -> bytes:
    assert result.model is not None
    return (result.model / "model.safetensors").read_bytes()


def kept_bytes(cache: Path) -> int:
    return sum(path.stat().st_size for path in cache.glob("*/*.states"))


def test_a_run_says_before_it_begins_how_much_it_keeps_and_keeps_that_much(
    place: Path, tmp_path: Path, cache: Path
) -> None:
    result, said = run(config(place, tmp_path / "run"))
    # tokens of an epoch, times 32 float32 numbers of a hidden state
    expected = result.tokens // 2 * 32 * 4
    assert kept_bytes(cache) == expected
    assert len(said) == 1 and f"{expected / 1e6:.1f} MB" in said[0] and "2 frozen layers" in said[0]
    assert str(cache) in said[0]


def test_the_loss_is_that_of_a_run_that_keeps_nothing(place: Path, tmp_path: Path, cache: Path) -> None:
    kept, _ = run(config(place, tmp_path / "kept"))
    held = kept_bytes(cache)
    plain, said = run(config(place, tmp_path / "plain", keep_frozen="none"))
    assert said == [] and kept_bytes(cache) == held > 0
    assert kept.after is not None and plain.after is not None
    assert kept.after.loss == pytest.approx(plain.after.loss, rel=1e-4)


@pytest.mark.parametrize("changes", [{"num_train_epochs": 1}, {"train": "all"}, {"train": "lora"}, {"max_steps": 3}])
def test_nothing_is_kept_where_no_row_is_seen_again_or_no_layer_is_frozen(
    changes: dict[str, Any], place: Path, tmp_path: Path, cache: Path
) -> None:
    _, said = run(config(place, tmp_path / "run", **changes))
    assert said == [] and not cache.exists()


def test_a_second_run_and_a_validation_find_what_was_kept(
    place: Path, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, _ = run(config(place, tmp_path / "one", validation_share=0.3))
    held = kept_bytes(cache)
    # the same rows with another split, seed and rate: not one of them is computed again
    monkeypatch.setattr(Below, "_of_rectangles", lambda *_: pytest.fail("a row was computed again"))
    second, _ = run(config(place, tmp_path / "two", validation_share=0.2, seed=9, learning_rate=1e-3))
    assert kept_bytes(cache) == held and first.model is not None and second.model is not None


class Crash(Exception):
    pass


def test_a_run_that_died_and_goes_on_ends_with_the_bytes_of_one_that_did_not_also_where_the_store_is_gone(
    place: Path, tmp_path: Path, cache: Path
) -> None:
    def crash(event: Event) -> None:
        if isinstance(event, Stepped) and event.step == 3:
            raise Crash

    whole, _ = run(config(place, tmp_path / "whole"))
    for name, lost in (("kept", False), ("lost", True)):
        with pytest.raises(Crash):
            start(config(place, tmp_path / name), on_event=crash)
        if lost:
            shutil.rmtree(cache)
        resumed, _ = run(config(place, tmp_path / name, eval_steps=1))
        assert weights(resumed) == weights(whole)


Disk = namedtuple("Disk", "total used free")


def test_without_room_on_the_disk_the_layers_are_computed_again_and_that_is_said(
    place: Path, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plenty, _ = run(config(place, tmp_path / "plenty"))
    shutil.rmtree(cache)
    real = shutil.disk_usage
    monkeypatch.setattr(
        "tomoni.engine.kept.shutil.disk_usage",
        lambda path: Disk(*real(path)[:2], free=plenty.tokens // 2 * 32 * 4 * 4 - 1),
    )
    monkeypatch.setattr("tomoni.engine.checkpoint.require_space", lambda *_: None)
    scarce, said = run(config(place, tmp_path / "scarce"))
    assert not cache.exists() and len(said) == 1
    assert "more than a quarter" in said[0] and "float16" in said[0] and "TOMONI_CACHE" in said[0]
    assert plenty.after is not None and scarce.after is not None
    assert scarce.after.loss == pytest.approx(plenty.after.loss, rel=1e-4)
    _, said = run(config(place, tmp_path / "half", keep_frozen="float16"))
    assert kept_bytes(cache) == plenty.tokens // 2 * 32 * 2 and "kept" in said[0]


def test_a_run_does_not_go_on_with_another_way_of_keeping(place: Path, tmp_path: Path) -> None:
    def crash(event: Event) -> None:
        if isinstance(event, Stepped) and event.step == 3:
            raise Crash

    with pytest.raises(Crash):
        start(config(place, tmp_path / "run"), on_event=crash)
    with pytest.raises(RunError, match="keep_frozen"):
        start(config(place, tmp_path / "run", keep_frozen="float16"))
