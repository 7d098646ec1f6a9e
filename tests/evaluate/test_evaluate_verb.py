"""`tomoni evaluate` from the outside, on tiny models."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from tests import tiny
from tomoni.cli.app import main
from tomoni.cli.evaluate import command

HELD = [("あさは?", "パン"), ("Hi", "yes"), ("Bye", "yes"), ("More?", "no, thanks")]
TRAIN = [("A", "no"), ("B", "yes"), ("C", "yes")]


def write(path: Path, pairs: list[tuple[str, str]]) -> str:
    lines = (json.dumps({"prompt": prompt, "completion": answer}, ensure_ascii=False) for prompt, answer in pairs)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(path)


def evaluated(capsys: pytest.CaptureFixture[str], *argv: str) -> Any:
    assert command([*argv, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.fixture
def model(tmp_path: Path) -> str:
    return str(tiny.folder(tmp_path / "model"))


def test_numbers_baselines_and_answers_are_reported(
    tmp_path: Path, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    base = str(tiny.folder(tmp_path / "base", seed=1))
    files = ("--file", write(tmp_path / "held.jsonl", HELD), "--train-file", write(tmp_path / "train.jsonl", TRAIN))
    report = evaluated(capsys, model, *files, "--against", base)
    ours, other = report["models"]
    assert report["records"] == 4
    # bytes of the answers and one end token each: 6 + 3 + 3 + 10 + 4
    assert ours["tokens_measured"] == other["tokens_measured"] == 26
    assert ours["perplexity"] == pytest.approx(math.exp(ours["loss"]))
    assert ours["exact_match"]["low"] == 0
    assert 0.4 < ours["exact_match"]["high"] < 0.6  # 0 of 4 by Wilson: .49
    assert report["comparison"]["loss_difference"]["value"] == pytest.approx(ours["loss"] - other["loss"], abs=1e-6)
    assert report["comparison"]["mcnemar_p"] == 1
    unigram, frequent = report["baselines"]
    assert unigram["loss"] < math.log(260)  # y, e, s and the end are commoner than others
    assert (frequent["right"], frequent["asked"]) == (2, 4)
    assert len(ours["answers"]) == 4


def test_a_table_is_shown_for_people(tmp_path: Path, model: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert command([model, "--file", write(tmp_path / "held.jsonl", HELD), "--samples", "1"]) == 0
    shown = capsys.readouterr().out
    assert "4 held-out records, 26 tokens" in shown
    assert "パン" in shown
    assert "frequent" in shown


def test_plain_text_is_measured_without_questions(
    tmp_path: Path, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "held.jsonl"
    path.write_text(json.dumps({"text": "むかしむかし"}) + "\n", encoding="utf-8")
    (ours,) = evaluated(capsys, model, "--file", str(path))["models"]
    assert ours["tokens_measured"] == 6 * 3 - 1 + 1  # nothing predicts the first byte; the end is predicted
    assert ours["exact_match"] is None


def test_a_run_folder_stands_for_its_result_and_its_own_data(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    tiny.folder(run / "model")
    held, train = write(tmp_path / "held.jsonl", HELD), write(tmp_path / "train.jsonl", TRAIN)
    config = {
        "method": "sft",
        "model_name_or_path": "x",
        "train_file": [train],
        "validation_file": [held],
        "output_dir": str(run),
    }
    (run / "config.yaml").write_text(json.dumps(config), encoding="utf-8")
    report = evaluated(capsys, str(run), "--answers", "0")
    assert report["records"] == 4
    assert [line["name"] for line in report["baselines"]] == ["unigram model"]


def test_what_is_missing_is_said_and_ends_with_2(
    tmp_path: Path, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", model]) == 2
    assert "--file" in capsys.readouterr().err
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.yaml").write_text(
        "method: sft\nmodel_name_or_path: x\ntrain_file: a\noutput_dir: b\n", encoding="utf-8"
    )
    held = write(tmp_path / "held.jsonl", HELD)
    assert main(["evaluate", str(run), "--file", held]) == 2
    assert "no result yet" in capsys.readouterr().err
