"""Learning curves: shares that nest, points that are reused, reports that say what is known."""

from __future__ import annotations

import json
import re
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from tests import tiny
from tests.run import tasks
from tomoni.cli import curve as verb
from tomoni.cli.app import main
from tomoni.errors import ConfigError, RunError
from tomoni.evaluate.powerlaw import Law, NoLaw
from tomoni.records import Source, Text
from tomoni.run import curve_report
from tomoni.run.curve import Plan, Trained, curve_of, draw
from tomoni.run.datasets import held_out, trained_on
from tomoni.run.events import Event, Started

ROWS = 192


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("曲線")
    tiny.encoder_folder(folder / "bert", "bert")
    tiny.folder(folder / "llama")
    tasks.write(folder / "classify.jsonl", tasks.classes(ROWS))
    chats = [{"prompt": f"{n}の次は?", "completion": str(n + 1)} for n in range(ROWS)]
    tasks.write(folder / "sft.jsonl", chats)
    return folder


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOMONI_CACHE", str(tmp_path_factory.mktemp("cache")))


def settings(place: Path, output: Path, **changes: Any) -> Any:
    changes = {"max_steps": None, "train": "head", "save_steps": None, **changes}
    return tasks.settings("classify", place / "bert", place / "classify.jsonl", output, **changes)


def record(number: int) -> Text:
    return Text(f"記録{number}", Source("x", number), "")


def test_a_smaller_share_is_a_part_of_a_larger_one_and_another_seed_draws_others(place: Path, tmp_path: Path) -> None:
    def drawn(share: float, seed: int) -> set[int]:
        cfg = settings(place, tmp_path, train_share=share, train_share_seed=seed)
        return {n for n in range(2000) if trained_on(record(n), cfg)}

    quarter, half = drawn(0.25, 0), drawn(0.5, 0)
    assert quarter < half
    assert 430 < len(quarter) < 570  # 500 by chance of 1/4; three standard deviations are 58
    other = drawn(0.25, 1)
    assert 80 < len(quarter & other) < 170  # two independent quarters share a sixteenth
    assert len(drawn(1.0, 0)) == 2000


def test_what_is_trained_on_and_what_is_held_out_are_drawn_apart(place: Path, tmp_path: Path) -> None:
    cfg = settings(place, tmp_path, train_share=0.5)
    both = [trained_on(record(n), cfg) for n in range(4000) if held_out(record(n), 0.25)]
    assert 0.42 < sum(both) / len(both) < 0.58  # else a smaller share would be other records than a larger one


def test_a_curve_of_an_encoder_is_drawn_reported_and_reused(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "curve"
    cfg, plan = settings(place, root), Plan(points=3, repeats=2)
    starts: list[Event] = []
    curve = draw(cfg, plan, on_event=lambda event: starts.append(event) if isinstance(event, Started) else None)
    assert curve is not None
    assert curve.finished
    assert (curve.metric, len(curve.trained), len(starts)) == ("accuracy", 6, 6)
    items = {one.share: one.items for one in curve.trained if one.repeat == 0}
    assert items[Fraction(1, 4)] < items[Fraction(1, 2)] < items[Fraction(1)]
    body = json.loads((root / "report.json").read_text(encoding="utf-8"))
    assert body["finished"]
    assert len(body["points"]) == 6
    page = (root / "report.html").read_text(encoding="utf-8")
    assert "<svg" in page
    assert "<script" not in page
    assert "twice all" in (root / "report.md").read_text(encoding="utf-8")

    again = draw(
        cfg,
        Plan(points=3, repeats=3),
        on_event=lambda event: starts.append(event) if isinstance(event, Started) else None,
    )
    assert again is not None
    assert len(starts) == 9  # the third repeat alone
    assert again.trained[:6] == curve.trained

    argv = ["--method", "classify", "--train", "head", "--model_name_or_path", str(place / "bert"), "--train_file"]
    argv += [str(place / "classify.jsonl"), "--max_length", "64", "--batch_size", "8", "--learning_rate", "1e-3"]
    argv += ["--validation_share", "0.25", "--output_dir", str(root), "--device", "cpu", "--threads", "1"]
    capsys.readouterr()
    assert verb.command([*argv, "--points=3", "--repeats", "2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["points"] == body["points"]
    with pytest.raises(RunError, match="another config"):
        verb.command([*argv, "--class_weights", "balanced"])


def test_equal_steps_train_small_shares_as_long_as_all(place: Path, tmp_path: Path) -> None:
    cfg = settings(place, tmp_path / "curve", train="all", num_train_epochs=1, batch_size=32)
    curve = draw(cfg, Plan(points=2, repeats=1, equal_steps=True))
    assert curve is not None
    assert len({one.steps for one in curve.trained}) == 1
    fewer = draw(cfg.model_copy(update={"output_dir": str(tmp_path / "epochs")}), Plan(points=2, repeats=1))
    assert fewer is not None
    assert fewer.trained[0].steps < fewer.trained[1].steps == curve.trained[0].steps


def test_a_stopped_curve_goes_on_where_it_was(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A point that stops ends the drawing; the next call goes on from its checkpoint with the points that are there."""
    import signal

    from tomoni.run.events import Stepped

    cfg = settings(place, tmp_path / "stopped", train="all", num_train_epochs=1, save_steps=1)
    plan = Plan(points=2, repeats=1)
    seen = 0

    def stop(event: Event) -> None:
        nonlocal seen
        seen += isinstance(event, Stepped)
        if isinstance(event, Stepped) and seen == 10:  # in the second point
            signal.raise_signal(signal.SIGTERM)

    assert draw(cfg, plan, on_event=stop) is None
    resumed = []
    curve = draw(cfg, plan, on_event=lambda e: resumed.append(e.resumed_from) if isinstance(e, Started) else None)
    assert curve is not None
    assert len(resumed) == 1
    assert resumed[0] is not None
    whole = draw(cfg.model_copy(update={"output_dir": str(tmp_path / "whole")}), plan)
    assert whole is not None
    assert [one.value for one in curve.trained] == [one.value for one in whole.trained]


def test_a_curve_of_answers_draws_the_held_out_loss(place: Path, tmp_path: Path) -> None:
    from tomoni.settings.sft import Config

    cfg = Config(
        model_name_or_path=str(place / "llama"), train_file=str(place / "sft.jsonl"), validation_share=0.25,
        output_dir=str(tmp_path / "sft"), max_steps=2, batch_size=4, device="cpu", threads=1, sample_prompts=0,
    )  # fmt: skip
    curve = draw(cfg, Plan(points=2, repeats=1))
    assert curve is not None
    assert (curve.metric, curve.lower_is_better, curve.is_share) == ("loss", True, False)
    assert isinstance(curve.law, NoLaw)
    assert "there are 2" in curve_report.sentences(curve)[0]


def made(values: dict[int, list[float]], *, metric: str = "accuracy") -> Any:
    """A curve of these values by the denominator of their shares."""
    trained = [
        Trained(Fraction(1, part), repeat, 1600 // part, 500, value, 1, 1.0, "")
        for part, each in values.items()
        for repeat, value in enumerate(each)
    ]
    import tomoni.run.curve as module

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_metric_name", lambda folder, asked: metric)
        return curve_of(object(), Plan(), trained, of=len(trained))  # type: ignore[arg-type]


def test_the_report_says_whether_more_data_helps() -> None:
    rising = made(
        {
            16: [0.70, 0.71, 0.69],
            8: [0.78, 0.77, 0.79],
            4: [0.84, 0.85, 0.84],
            2: [0.885, 0.89, 0.88],
            1: [0.92, 0.92, 0.921],
        }
    )
    assert isinstance(rising.law, Law)
    said = curve_report.sentences(rising)
    assert "3,200 items" in said[0]
    assert said[0].endswith("more data like this helps.")
    flat = made({16: [0.90, 0.91], 8: [0.91, 0.90], 4: [0.902, 0.908], 2: [0.905, 0.906], 1: [0.906, 0.904]})
    assert curve_report.sentences(flat)[0].endswith("it may bring nothing.")
    loss = made({16: [2.0, 2.01], 8: [1.7, 1.71], 4: [1.45, 1.46], 2: [1.25, 1.26], 1: [1.08, 1.09]}, metric="loss")
    assert curve_report.sentences(loss)[0].endswith("more data like this helps.")
    assert "-0." in curve_report.sentences(loss)[0]


def test_no_forecast_leaves_the_range_of_a_share() -> None:
    steep = made({16: [0.2], 8: [0.4], 4: [0.6], 2: [0.8], 1: [0.99]})
    body = curve_report.as_json(steep)
    assert body["law"]["value_at_double"]["high"] <= 1
    assert body["law"]["gain_of_doubling"]["high"] <= 1 - body["law"]["value"] + 1e-12
    assert "100.0 %" in curve_report.as_markdown("x", steep)


def test_without_held_out_data_or_in_a_foreign_folder_nothing_begins(place: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="held-out"):
        draw(settings(place, tmp_path / "x", validation_share=None), Plan())
    (tmp_path / "note.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(RunError, match="no curve's"):
        draw(settings(place, tmp_path), Plan())


@pytest.mark.parametrize("words", [["--points", "0"], ["--repeats", "many"], ["--points", "13"], ["--repeats"]])
def test_numbers_out_of_range_are_named(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["curve", "config.yaml", *words]) == 2
    assert words[0] in capsys.readouterr().err


def test_shares_of_too_few_records_are_left_out(place: Path, tmp_path: Path) -> None:
    rows = tasks.write(tmp_path / "few.jsonl", tasks.classes(60))
    cfg = settings(place, tmp_path / "curve").model_copy(update={"train_file": (str(rows),)})
    curve = draw(cfg, Plan(points=5, repeats=1))
    assert curve is not None
    assert curve.shares[0] == Fraction(1, 2)
    assert "begins at 1/2" in curve.notes[0]
    assert "5 sizes need 256 records" in curve.notes[0]  # 16 at the smallest, doubled four times
    assert "a law needs 3 sizes, and there are 2" in curve_report.sentences(curve)[0]


def test_no_axis_of_shares_goes_on_beyond_all_of_them() -> None:
    svg = curve_report.chart(made({2: [1.0, 1.0], 1: [1.0, 1.0]}))
    ticks = [float(text) for text in re.findall(r'text-anchor="end">([\d.]+)<', svg)]
    assert ticks and max(ticks) <= 104
