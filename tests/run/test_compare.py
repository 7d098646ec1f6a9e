"""Small against large: each in its own process, on the same rows, with the right tests and a page."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests import tiny
from tests.run import tasks
from tomoni.cli.app import main
from tomoni.errors import ConfigError, ModelError
from tomoni.evaluate.cases import Case, Cases
from tomoni.evaluate.contestant import Outcome
from tomoni.run import compare_report
from tomoni.run.compare import Comparison, Contestant, Terms, _against, _entries, _together, about_machine, holm


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("比較")
    tiny.encoder_folder(folder / "bert", "bert")
    tiny.folder(folder / "llama")
    tasks.write(folder / "train.jsonl", tasks.classes(96))
    tasks.write(folder / "held.jsonl", tasks.classes(24))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TOMONI_CACHE", str(folder / "cache"))
        tasks.train("classify", folder / "bert", folder / "train.jsonl", folder / "run", train="head", max_steps=None)
    return folder


def test_a_head_a_generative_model_and_a_classical_one_are_measured_on_the_same_rows(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["compare", f"head={place / 'run'}", f"gen={place / 'llama'}", "tfidf", "--file", str(place / "held.jsonl")]
    argv += [
        "--train-file",
        str(place / "train.jsonl"),
        "--single",
        "4",
        "--threads",
        "1",
        "--out",
        str(tmp_path / "out"),
    ]
    assert main([*argv, "--max-new-tokens", "4", "--device", "cpu", "--json"]) == 0
    body = json.loads(capsys.readouterr().out)
    told = {one["name"]: one for one in body["contestants"]}
    assert [told[name]["kind"] for name in ("head", "gen", "tfidf")] == ["head", "generates", "classical"]
    assert told["tfidf"]["accuracy"]["value"] == 1.0
    assert told["head"]["right"] > told["gen"]["right"] == 0  # random weights say no class
    assert told["tfidf"]["peak_bytes"] < told["head"]["peak_bytes"] / 1.5  # it never loads torch
    assert told["head"]["disk_bytes"] >= (place / "run" / "model" / "model.safetensors").stat().st_size
    assert told["gen"]["disk_bytes"] >= (place / "llama" / "model.safetensors").stat().st_size
    assert "most frequent answer of training" in told
    assert [one["name"] for one in body["against"]] == ["gen", "tfidf", "most frequent answer of training"]
    assert len(body["answers"]) == 24
    page = (tmp_path / "out" / "comparison.html").read_text(encoding="utf-8")
    assert "<script" not in page
    assert "http" not in page.replace("http://www.w3.org/2000/svg", "").replace("http-equiv", "")
    assert "天気" in page


def test_one_that_fails_is_named_and_the_others_go_on(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["compare", "tfidf", f"plain={place / 'bert'}", "--file", str(place / "held.jsonl"), "--train-file"]
    assert main([*argv, str(place / "train.jsonl"), "--out", str(tmp_path / "out")]) == 1
    said = capsys.readouterr()
    assert "plain could not be measured" in said.err and "an encoder that was not trained for a task" in said.err
    assert "tfidf" in said.out
    assert "24 held-out rows stand in the training file too" in said.err


def test_names_that_are_wrong_are_said_before_anything_is_measured(place: Path) -> None:
    with pytest.raises(ModelError):
        _entries(["nowhere-at-all"], None)
    with pytest.raises(ConfigError, match="two contestants"):
        _entries([str(place / "llama"), str(place / "llama")], None)
    with pytest.raises(ConfigError, match="tfidf learns"):
        _entries(["tfidf"], None)


def outcome(latency: float, memory: int = 1 << 30, answers: Sequence[str] = ()) -> Outcome:
    return Outcome("head", "an encoder", tuple(answers), (latency,) * 5, 2.0, 1.5, 0.1, memory, 1 << 20)


def made(**models: tuple[str, float]) -> Comparison:
    """Of contestants by name: marks as a text of 1 and 0, and the latency."""
    size = len(next(iter(models.values()))[0])
    data = Cases(tuple(Case(str(n), (f"文{n} <b>",), "yes") for n in range(size)), ("no", "yes"))
    found = tuple(
        Contestant(
            name,
            name,
            tuple(mark == "1" for mark in marks),
            tuple("yes" if mark == "1" else "no" for mark in marks),
            outcome(latency),
        )
        for name, (marks, latency) in models.items()
    )
    return Comparison(data, found, _against(found), Terms(price=3.6), about_machine(Terms()), {})


def test_the_front_is_those_that_none_beats_in_quality_and_speed() -> None:
    found = made(
        slow=("1111111111", 0.9), quick=("1111111000", 0.1), beaten=("1111110000", 0.2), twin=("1111111000", 0.1)
    )
    assert found.front == ["slow", "quick", "twin"]
    assert found.best.name == "slow"
    assert found.enough.name == "quick"  # 3 of 10 differ, all one way: p = .25


def test_what_is_surely_worse_is_never_called_enough() -> None:
    found = made(good=("1" * 40, 0.9), quick=("1" * 20 + "0" * 20, 0.1))
    assert found.enough.name == "good"
    assert found.against[0].p == pytest.approx(2 * 0.5**20)
    assert found.against[0].difference.value == pytest.approx(-0.5)


def test_cost_is_machine_time_by_its_price() -> None:
    found = made(one=("1111", 0.1))
    assert found.cost(found.contestants[0]) == pytest.approx(0.5)  # 2 s for 4, so 500 s for 1,000, at 3.6 an hour


def test_holm_multiplies_by_how_many_are_left_and_never_falls() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_turns_are_brought_together_by_medians() -> None:
    together = _together([outcome(0.1, 100), outcome(0.3, 300), outcome(0.2, 200)])
    assert together.peak_bytes == 300
    assert len(together.latencies) == 15


def test_texts_of_the_data_stay_text_on_the_page() -> None:
    found = made(good=("11", 0.9), other=("10", 0.1))
    page = compare_report.as_html(found, compare_report.chart(found))
    assert "文1 &lt;b&gt;" in page
    assert "<b>" not in page


def test_where_nobody_is_right_no_one_is_praised() -> None:
    found = made(one=("000", 0.9), other=("000", 0.1))
    assert compare_report.sentences(found) == [
        "No contestant is right on any of 3 items: look at their answers before their times."
    ]
    assert "What they say" in compare_report.as_html(found, "")


def test_one_contestant_alone_is_shown_too() -> None:
    found = made(alone=("1101", 0.25))
    assert "75.0 %" in compare_report.sentences(found)[0]
    svg = compare_report.chart(found)
    assert svg.startswith("<svg")
    assert re.search(r">[125]0* ms<", svg) and re.search(r">[125][,0]* MiB<", svg)  # times and sizes, no logarithms


@pytest.mark.parametrize(
    ("cost", "written"), [(3.7e-05, "0.000037"), (0.0012, "0.0012"), (0.5, "0.50"), (7.0, "7.0"), (1234.0, "1,234")]
)
def test_a_cost_is_written_out(cost: float, written: str) -> None:
    assert compare_report._money(cost) == written


def test_a_class_that_a_model_never_learnt_is_told(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of 24 rows 16 are of the two classes that the head knows; the others it cannot get right."""
    two = [row for row in tasks.classes(96) if row["label"] != "sport"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TOMONI_CACHE", str(tmp_path / "cache"))
        data = tasks.write(tmp_path / "two.jsonl", two)
        tasks.train("classify", place / "bert", data, tmp_path / "two", train="head", max_steps=None)
    argv = [
        "compare",
        f"two={tmp_path / 'two'}",
        "--file",
        str(place / "held.jsonl"),
        "--single",
        "1",
        "--threads",
        "1",
    ]
    assert main([*argv, "--device", "cpu", "--out", str(tmp_path / "out")]) == 0
    said = capsys.readouterr()
    assert "two: it never learnt 'sport': 8 rows it cannot get right" in said.err
    assert "peak memory" in said.out and "cost of" in said.out and " USD" in said.out  # in 80 columns


def test_rows_of_another_form_than_the_model_reads_are_refused(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A model of single texts would otherwise read the second text of a pair, and nothing of the first."""
    pairs = tasks.write(tmp_path / "pairs.jsonl", tasks.pairs(6))
    argv = ["compare", f"head={place / 'run'}", "tfidf", "--file", str(pairs), "--train-file", str(pairs)]
    assert main([*argv, "--single", "1", "--threads", "1", "--device", "cpu", "--out", str(tmp_path / "out")]) == 1
    assert "reads text, and the rows have 2 texts each" in capsys.readouterr().err


@pytest.mark.parametrize("price", [-1.0, float("nan"), float("inf")])
def test_a_price_that_is_none_is_refused(price: float) -> None:
    with pytest.raises(ConfigError, match="price"):
        Terms(price=price)


def test_conversations_are_asked_as_they_stand(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows: list[dict[str, Any]] = [{"prompt": f"{n}は?", "completion": f"{n % 2}です"} for n in range(20)]
    train, held = tasks.write(tmp_path / "t.jsonl", rows), tasks.write(tmp_path / "h.jsonl", rows[:6])
    argv = ["compare", "tfidf", "--file", str(held), "--train-file", str(train), "--out", str(tmp_path / "out")]
    assert main([*argv, "--json"]) == 0
    body = json.loads(capsys.readouterr().out)
    assert body["contestants"][0]["accuracy"]["value"] == 1.0
    assert body["classes"] == []
