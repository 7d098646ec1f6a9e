"""`tomoni check` says what would be learnt and what is wrong, in its exit code too."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests import tiny
from tomoni.cli.app import main


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tiny.tokenizer().save_pretrained(tmp_path / "model")
    return tmp_path


def rows(folder: Path, *lines: object, name: str = "train.jsonl") -> str:
    path = folder / name
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines), encoding="utf-8")
    return str(path)


def check(folder: Path, train: str, *options: str) -> int:
    return main(["check", "--train_file", train, "--model_name_or_path", str(folder / "model"), *options])


def report(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def pair(prompt: str, completion: str) -> dict[str, str]:
    return {"prompt": prompt, "completion": completion}


def test_sound_data_is_counted_and_shown_with_what_is_learnt(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train = rows(folder, pair("猫は？", "います。"), pair("a", "b"))
    assert check(folder, train, "--strict") == 0  # not a terminal: brackets without being asked
    out = capsys.readouterr().out
    assert "form prompt_completion; 2 rows, 2 good, 0 bad" in out
    assert "<|im_start|>user\n猫は？<|im_end|>\n<|im_start|>assistant\n⟦います。<|im_end|>⟧" in out
    assert "rows that end with a learnt end token: 2 of 2" in out and "nothing stands in the way" in out


def test_the_model_may_be_an_earlier_runs_folder_as_in_training(folder: Path) -> None:
    (folder / "run").mkdir()
    (folder / "model").rename(folder / "run" / "model")
    (folder / "run" / "config.yaml").write_text("method: sft\n", encoding="utf-8")
    train = rows(folder, pair("a", "b"))
    assert main(["check", "--train_file", train, "--model_name_or_path", str(folder / "run")]) == 0


def test_the_json_report_has_the_numbers(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check(folder, rows(folder, pair("a", "b"), pair("a", "cd")), "--json") == 0
    found = report(capsys)["train"]
    # <|im_start|> user \n a <|im_end|> \n <|im_start|> assistant \n is 20 tokens, b <|im_end|> \n is 3
    assert found["lengths"]["shortest"] == 23 and found["tokens"] == 47 and found["learnt_tokens"] == 5
    assert found["form"] == "prompt_completion" and found["rows"] == 2 and found["rows_that_end"] == 2


def test_bad_rows_are_an_error_under_stop_and_a_warning_under_quarantine(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train = rows(folder, pair("a", "b"), "{", pair("a", ""))
    assert check(folder, train, "--json") == 2
    found = report(capsys)
    assert found["train"]["bad"] == {"broken_json": 1, "empty": 1} and found["train"]["bad_rows"][0]["line"] == 2
    assert check(folder, train, "--on_bad_rows", "quarantine") == 0
    assert check(folder, train, "--on_bad_rows", "quarantine", "--strict") == 1


def test_long_rows_are_named_with_their_length(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train = rows(folder, pair("a", "b"), pair("a", "b" * 100))
    assert check(folder, train, "--max_length", "64") == 2
    out = capsys.readouterr().out
    assert "train.jsonl:2" in out and "122 tokens" in out
    assert check(folder, train, "--max_length", "64", "--on_long_rows", "truncate") == 0
    assert check(folder, train, "--max_length", "122", "--strict") == 0


def test_repeated_rows_and_validation_rows_that_are_trained_on_are_warnings(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train = rows(folder, pair("a", "b"), pair("a", "b"), pair("c", "d"))
    held_out = rows(folder, pair("c", "d"), pair("e", "f"), name="held.jsonl")
    assert check(folder, train, "--validation_file", held_out, "--json") == 0
    found = report(capsys)
    assert found["train"]["duplicates"] == 1 and found["overlap"] == 1
    assert any("1 of 2 validation rows" in warning for warning in found["warnings"])
    assert check(folder, train, "--validation_file", held_out, "--strict") == 1


def test_a_config_and_plain_text_for_pretraining_from_scratch_work(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = rows(folder, "吾輩は猫である。" * 30, name="a.txt")
    config = folder / "pretrain.yaml"
    config.write_text(f"method: pretrain\ntrain_file: {text}\noutput_dir: out\nvocabulary:\n  vocab_size: 300\n")
    assert main(["check", str(config), "--json"]) == 0
    found = report(capsys)
    assert found["train"]["form"] == "text" and any("vocabulary tried out" in note for note in found["notes"])
    assert not (folder / "out").exists()


def test_a_template_that_refuses_the_data_is_an_error(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    template = folder / "t.jinja"
    template.write_text("{% for m in messages %}{{ m.content | upper }}{% endfor %}")
    assert check(folder, rows(folder, pair("a", "b")), "--chat_template", str(template)) == 2
    assert "changes the text of message 1" in capsys.readouterr().out


def test_check_does_not_load_torch(folder: Path) -> None:
    train = rows(folder, pair("a", "b"))
    code = (
        "import sys; from tomoni.cli.app import main; "
        f"code = main(['check', '--train_file', {train!r}, '--model_name_or_path', {str(folder / 'model')!r}]); "
        "sys.exit(code or 'torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, capture_output=True).returncode == 0


def test_help_and_a_wrong_option_of_checks_own_end_as_everywhere(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "--help"]) == 0
    assert main(["check", "--examples", "x"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("tomoni: argument --examples: invalid int value: 'x'")
    assert "usage:" not in error


def test_the_check_of_a_task_counts_classes_lengths_and_what_the_vocabulary_does_not_know(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from tests.data.japanese import wordpiece

    tiny.encoder_folder(tmp_path / "model")
    wordpiece(["晴れ", "雨", "です", "。"]).save_pretrained(tmp_path / "model")
    rows = [{"text": "晴れ 。" if n % 3 else "雨 𠮷", "label": "天気" if n % 3 else "雨"} for n in range(30)]
    rows += [{"text": "雨", "label": 3}, {"text": "𩸽", "label": "雨"}, {"text": "晴れ です", "label": "独り"}]
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    argv = ["--method", "classify", "--model_name_or_path", str(tmp_path / "model"), "--train_file", str(data)]
    assert main(["check", *argv, "--json"]) == 2
    found = json.loads(capsys.readouterr().out)
    assert found["train"]["classes"] == {"天気": 20, "雨": 10}
    assert found["train"]["bad"] == {"mixed_labels": 1, "unknown_characters": 1, "single_example": 1}
    assert found["train"]["lengths"]["longest"] == 4
    assert found["train"]["unknown_share"] == pytest.approx(10 / 60)
    assert any("unknown to the model's vocabulary" in line for line in found["warnings"])
    assert main(["check", *argv, "--on_bad_rows", "quarantine"]) == 0
    shown = capsys.readouterr().out
    assert "20 █" in shown and "天気" in shown
