"""Public data through the benchmark's splits, a learning curve and a comparison, small enough for every check."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest

from bench import japanese, tasks
from tomoni.cli.app import main

pytestmark = pytest.mark.realdata


def test_the_splits_are_those_that_are_reported(realdata: Path, tmp_path: Path) -> None:
    assert tasks.write(tmp_path, tasks.banking77(realdata)) == {"train": 8988, "test": 1015}
    train, test = (list(japanese.livedoor_rows(realdata, part)) for part in ("train", "dev"))
    known = {text for text, _ in train}
    assert (len(train), len(test)) == (4421, 1473)
    assert sum(text in known for text, _ in test) == 2


def test_simple_methods_reach_what_they_reached(realdata: Path) -> None:
    similar = japanese.similarity(realdata)["found"]["cosine of TF-IDF characters"]["value"]
    assert 0.60 < similar < 0.70
    listed = japanese.entities(realdata)["found"]["list of known names"]["value"]
    assert 0.2 < listed < 0.3


def test_a_real_encoder_learns_intents_a_curve_is_drawn_and_it_is_compared(
    realdata: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOMONI_CACHE", str(tmp_path / "cache"))
    few = [row for row in tasks.banking77(realdata) if row["label"].startswith("card_")]  # 14 intents about cards
    tasks.write(tmp_path, itertools.islice(iter(few[::3]), 400))
    shared = ["--train", "head", "--train_file", str(tmp_path / "train.jsonl"), "--model_name_or_path", tasks.minilm()]
    shared += ["--validation_file", str(tmp_path / "test.jsonl"), "--threads", "1", "--device", "cpu"]
    argv = ["curve", "--method", "classify", *shared, "--output_dir", str(tmp_path / "curve"), "--points", "3"]
    assert main([*argv, "--repeats", "1", "--json"]) == 0
    points = json.loads(capsys.readouterr().out)["points"]
    assert [point["share"] for point in points] == ["1/4", "1/2", "1"]
    assert points[-1]["value"] > 0.8
    assert points[-1]["value"] >= points[0]["value"]
    argv = ["compare", str(tmp_path / "curve" / "runs" / "1of1-r0"), "tfidf", "--file", str(tmp_path / "test.jsonl")]
    argv += ["--train-file", str(tmp_path / "train.jsonl"), "--out", str(tmp_path / "out"), "--single", "5", "--json"]
    assert main(argv) == 0
    told = json.loads(capsys.readouterr().out)["contestants"]
    assert told[0]["accuracy"]["value"] == pytest.approx(points[-1]["value"])
    assert told[1]["peak_bytes"] < told[0]["peak_bytes"]
