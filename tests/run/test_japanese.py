"""Models with Japanese tokenizers all the way: trained, saved, opened again, their spans in the text's own characters."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from tests import tiny
from tests.data import japanese
from tests.run import tasks
from tomoni.cli.looking import looking_settings
from tomoni.data.tokenize import fingerprint, load_tokenizer
from tomoni.evaluate.predict import Predictor


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOMONI_CACHE", str(tmp_path_factory.mktemp("cache")))


def folder(path: Path, layout: str) -> Path:
    tokenizer: Any
    match layout:
        case "mecab":
            tokenizer = japanese.tohoku(path)
        case "characters":
            tokenizer = japanese.tohoku(path, parts="character")
        case "sudachi":
            tokenizer = japanese.tohoku(path, words="sudachi")
        case _:
            tokenizer = japanese.unigram(["▁", *japanese.letters(), "東京", "ガス", "パン"])
    tiny.encoder("bert", vocab_size=len(tokenizer), pad_token_id=0).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


WIDE = "ﾊﾞｽは東京のﾊﾞｽ停へ。ガスとＡＢＣ"


@pytest.mark.parametrize("layout", ["mecab", "characters", "sudachi", "sentencepiece"])
def test_spans_are_learnt_and_found_in_the_texts_own_characters(tmp_path: Path, layout: str) -> None:
    model = folder(tmp_path / "model", layout)
    rows = [
        {"text": f"{'ああ' * (n % 3)}{WIDE}", "spans": [[2 * (n % 3) + 4, 2 * (n % 3) + 6, "地名"]]} for n in range(30)
    ]
    data = tasks.write(tmp_path / "rows.jsonl", rows)
    result = tasks.train("tag", model, data, tmp_path / "run", max_steps=60, learning_rate=3e-3, validation_share=0.2)
    predictor = Predictor.open(result.folder, looking_settings("cpu"))
    [said] = predictor._said([(WIDE,)], 1)
    assert said["spans"] == [{"start": 4, "end": 6, "type": "地名", "text": "東京"}]
    assert WIDE[4:6] == "東京"


@pytest.mark.parametrize("layout", ["mecab", "characters", "sudachi"])
def test_a_saved_result_has_the_tokenizer_that_it_was_trained_with(tmp_path: Path, layout: str) -> None:
    model = folder(tmp_path / "model", layout)
    result = tasks.train("classify", model, tasks.write(tmp_path / "rows.jsonl", tasks.classes()), tmp_path / "run")
    assert result.model is not None
    before, after = load_tokenizer(model), load_tokenizer(result.model)
    assert fingerprint(before) == fingerprint(after)
    theirs = AutoTokenizer.from_pretrained(result.model)
    assert theirs(WIDE)["input_ids"] == before(WIDE)["input_ids"]
    kept = json.loads((result.model / "tokenizer_config.json").read_text(encoding="utf-8"))
    assert kept["subword_tokenizer_type"] == ("character" if layout == "characters" else "wordpiece")


def test_tokenizers_that_cut_words_otherwise_are_not_the_same(tmp_path: Path) -> None:
    made = [
        fingerprint(load_tokenizer(folder(tmp_path / layout, layout))) for layout in ("mecab", "characters", "sudachi")
    ]
    assert len(set(made)) == 3


def test_a_tokenizer_that_strips_accents_is_said_to(tmp_path: Path) -> None:
    model = tiny.encoder_folder(tmp_path / "model")
    words = ["ハ", "ス", "か", "ハス", "東京", "##ス"]
    japanese.wordpiece(words, strip_accents=True, lowercase=True).save_pretrained(model)
    data = tasks.write(
        tmp_path / "rows.jsonl",
        [{"text": "東京 ハ" if n % 2 else "ハス 東京", "label": "ab"[n % 2]} for n in range(20)],
    )
    told: list[str] = []
    from tomoni.run import start

    start(
        tasks.settings("classify", model, data, tmp_path / "run"),
        on_event=lambda event: told.append(getattr(event, "text", "")),
    )
    assert any("バ becomes ハ" in text for text in told)
