"""What a clumsy or hostile user of the encoders' tasks meets: the row, the value and the next step; never a traceback,
never a number that means nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests import tiny
from tests.data.japanese import wordpiece
from tests.run import tasks
from tomoni.cli.app import main
from tomoni.cli.looking import looking_settings
from tomoni.evaluate.predict import Predictor

CONTEXT = 32  # tokens that the model reads; a config's max_length is longer


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A masked language model that knows few characters, and reads few of them."""
    folder = tmp_path_factory.mktemp("built") / "model"
    tokenizer = wordpiece(["晴", "れ", "雨", "雪", "の", "日", "人", "##れ", "##の", "##日"])
    tiny.encoder("bert", max_position_embeddings=CONTEXT, vocab_size=len(tokenizer), pad_token_id=0).save_pretrained(
        folder
    )
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TOMONI_CACHE", str(tmp_path / "cache"))
    return tmp_path


def weather(count: int = 24) -> list[dict[str, Any]]:
    return [{"text": "晴雨雪"[n % 3] + "の日" * (n // 3 % 4 + 1), "label": "晴雨雪"[n % 3]} for n in range(count)]


def people(count: int = 24) -> list[dict[str, Any]]:
    return [{"text": "人の日" + "の" * n, "spans": [{"start": 0, "end": 1, "type": "人"}]} for n in range(count)]


def train(method: str, model: Path, rows: list[dict[str, Any]], *words: str) -> int:
    tasks.write(Path("rows.jsonl"), rows)
    return main([method, "--model_name_or_path", str(model), "--train_file", "rows.jsonl", "--validation_share", "0.25",
                 "--output_dir", "run", "--threads", "1", "--device", "cpu", *words])  # fmt: skip


def predicted(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, list[dict[str, Any]]]:
    capsys.readouterr()
    code = main(["predict", "run", "--device", "cpu", *words])
    return code, [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_a_text_longer_than_the_models_context_is_cut_though_max_length_is_longer(
    built: Path, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train("classify", built, weather(), "--train", "head", "--max_length", "512") == 0
    assert json.loads(Path("run/model/task.json").read_text())["max_length"] == CONTEXT
    code, [said] = predicted(capsys, "--text", "晴の日 " * 200)
    assert code == 0
    assert said["truncated"] is True


def test_a_model_that_says_it_reads_more_than_it_does_still_reads_in_windows(built: Path, place: Path) -> None:
    """As models that were trained before the context was heeded."""
    assert train("tag", built, people(), "--max_steps", "1") == 0
    path = Path("run/model/task.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"max_length": 512}))
    predictor = Predictor.open("run", looking_settings("cpu"))
    [said] = predictor.predict(predictor.typed(["人の日 " * 100]))
    assert said["tokens"] == 300


def test_empty_and_unknown_texts_are_named_however_they_are_given(
    built: Path, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train("classify", built, weather(), "--train", "head") == 0
    texts = ["晴の日", "", " \u3000", "𠮷𩸽"]
    wanted = [None, "empty", "empty", "unknown_characters"]
    typed = predicted(capsys, *(word for text in texts for word in ("--text", text)))
    Path("none.csv").write_text("text\n")
    capsys.readouterr()
    assert main(["predict", "run", "--file", "none.csv", "--device", "cpu"]) == 0
    assert capsys.readouterr() == ("", "no rows in none.csv\n")
    Path("new.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    for code, said in (typed, predicted(capsys, "--file", "new.jsonl")):
        assert code == 1
        assert [line.get("error") for line in said] == wanted
        assert "label" in said[0] and not any("label" in line for line in said[1:])


def test_data_of_another_task_is_told_by_its_form_and_not_row_by_row(
    built: Path, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for method, wanted in (
        ("tag", "texts with marked spans are needed"),
        ("span", "questions about a text are needed"),
    ):
        assert train(method, built, weather()) == 2
        said = capsys.readouterr().err
        assert wanted in said and "a number is needed" not in said
        assert f"form: {'spans' if method == 'tag' else 'squad'}" in said


def test_a_masked_model_is_no_model_to_chat_with(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("text.txt").write_text("晴の日。雨の日。雪の日。" * 20)
    words = ["pretrain", "--objective", "mlm", "--train_file", "text.txt", "--output_dir", "run", "--max_steps", "1"]
    assert main([*words, "--threads", "1", "--device", "cpu"]) == 0
    said = capsys.readouterr().out
    assert "next: tomoni classify" in said and "--model_name_or_path run" in said
    assert "tomoni chat" not in said


def test_embed_takes_a_column_as_predict_does_and_names_an_empty_text(
    built: Path, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("new.jsonl").write_text(json.dumps({"body": "晴の日"}) + "\n")
    found = []
    for column in ("body", "text=body"):
        assert main(["embed", str(built), "--file", "new.jsonl", "--column", column, "--device", "cpu"]) == 0
        found.append(capsys.readouterr().out)
    assert found[0] == found[1] != ""
    assert main(["embed", str(built), "--text", "晴", "--text", " ", "--device", "cpu"]) == 2
    assert "text 2 is ' '" in capsys.readouterr().err


def test_a_single_step_of_a_warmup_is_told_to_teach_nothing(
    built: Path, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first step's learning rate is 0, as in transformers' schedules."""
    assert train("tag", built, people(), "--batch_size", "64") == 0
    said = capsys.readouterr().err
    assert "nothing will be learnt" in said and "in the only 1 step (" in said and "batch_size 64 is more" in said
    assert main(["tag", "--model_name_or_path", str(built),
                 "--train_file", "rows.jsonl", "--output_dir", "two", "--max_steps", "2", "--device", "cpu"]) == 0  # fmt: skip
    assert "nothing will be learnt" not in capsys.readouterr().err


def test_a_class_named_like_markup_is_shown_as_it_is(
    built: Path, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [row | {"label": {"晴": "[red]", "雨": "[/]", "雪": "雪"}[row["label"]]} for row in weather()]
    assert train("classify", built, rows, "--train", "head") == 0
    capsys.readouterr()
    assert main(["evaluate", "run", "--file", "rows.jsonl", "--device", "cpu"]) == 0
    said = capsys.readouterr().out
    assert "\n[red]" in said and "\n[/]" in said


def test_rows_with_one_and_the_same_answer_are_no_training_data(
    built: Path, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """They would be learnt at once and measured as perfect."""
    cases = {
        "classify": ([row | {"label": "雨"} for row in weather()], "every usable row is of the class '雨'"),
        "regress": ([row | {"label": 2} for row in weather()], "every label is 2"),
        "tag": ([row | {"spans": []} for row in people()], "no row has a span"),
    }
    for method, (rows, said) in cases.items():
        assert train(method, built, rows) == 2
        assert f"rows.jsonl: {said}: there is nothing to learn\n  next: " in capsys.readouterr().err
    assert not Path("run/model").exists()


def test_classes_that_look_alike_are_told(built: Path, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [row | {"label": {"晴": "Ａ", "雨": " a", "雪": "雪"}[row["label"]]} for row in weather()]
    assert train("classify", built, rows, "--train", "head", "--class_weights", "balanced") == 0
    assert "learnt as different ones: ' a', 'Ａ'" in capsys.readouterr().err


def test_a_folder_that_is_not_there_is_not_only_sought_on_a_hub(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["evaluate", "runs/nothing"]) == 2
    assert "there is no such folder here" in capsys.readouterr().err


def test_a_file_in_shift_jis_is_told_to_be_converted(
    built: Path, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = ["text,label", *(f"晴の日{n},雨" for n in range(6))]
    Path("rows.csv").write_bytes("\r\n".join(lines).encode("cp932"))
    words = ["classify", "--model_name_or_path", str(built), "--train_file", "rows.csv", "--output_dir", "run"]
    assert main([*words, "--validation_share", "0.5", "--device", "cpu"]) == 2
    said = capsys.readouterr().err
    assert "it can be read as Shift_JIS" in said and "next: convert the file to UTF-8, e.g. iconv" in said


def test_check_tells_a_text_of_which_two_things_are_said(
    built: Path, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """24 texts of which 12 are different; one of the repeated says another class, and one text is new with its class."""
    rows = [*weather(12), *weather(11), weather(12)[11] | {"label": "晴"}, {"text": "人", "label": " 晴"}]
    tasks.write(Path("rows.jsonl"), [*rows, {"text": "人の日", "label": " 晴"}])
    words = ["check", "--method", "classify", "--train_file", "rows.jsonl", "--model_name_or_path", str(built)]
    assert main(words) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "12 texts repeat an earlier one exactly" in said
    assert "1 of them say something else of it than the first did" in said
    assert "learnt as different ones: ' 晴', '晴'" in said


def test_questions_of_which_none_has_an_answer_are_refused_before_any_work(
    built: Path, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"id": str(n), "context": "雨の日" + "の" * n, "question": "雪", "answers": []} for n in range(12)]
    assert train("span", built, rows) == 2
    said = capsys.readouterr().err
    assert "none of the 12 questions has an answer" in said
    assert "answer_start" in said


def test_a_type_that_stands_once_is_told(built: Path, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [*people(), {"text": "雪の日", "spans": [{"start": 0, "end": 1, "type": "雪"}]}]
    assert train("tag", built, rows, "--max_steps", "1") == 0
    assert "types with one example, of which little can be learnt and nothing measured: 雪" in "".join(
        capsys.readouterr()
    )
