"""What a clumsy or hostile user meets: an error that names the thing, its value and the next step, exit code 2, and
nothing half-written."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import tiny
from tomoni import durable
from tomoni.cli.app import main

ROWS = [{"prompt": f"質問{number}は？", "completion": f"答え{number}です。"} for number in range(6)]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.folder(tmp_path_factory.mktemp("built") / "model")


@pytest.fixture
def place(tmp_path: Path, built: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to stand in, with a model and six rows."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TOMONI_CACHE", str(tmp_path / "cache"))
    shutil.copytree(built, tmp_path / "model")
    lines("d.jsonl", *ROWS)
    return tmp_path


def lines(name: str, *rows: object) -> str:
    text = "".join((row if isinstance(row, str) else json.dumps(row, ensure_ascii=False)) + "\n" for row in rows)
    Path(name).write_text(text, encoding="utf-8")
    return name


def sft(*words: str, model: str = "model", data: str = "d.jsonl", out: str = "run", steps: int = 1) -> int:
    options = {"model_name_or_path": model, "train_file": data, "output_dir": out, "max_steps": str(steps)}
    return main(["sft", *(word for key, value in options.items() for word in (f"--{key}", value)), *words,
                 "--threads", "1", "--sample_prompts", "0"])  # fmt: skip


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs sft, expects a refusal that leaves nothing behind, and gives what was said."""

    def run(*words: str, **changes: str) -> str:
        before = set(os.listdir())
        assert sft(*words, **changes) == 2  # type: ignore[arg-type]
        assert set(os.listdir()) - before <= {"cache"}
        said = capsys.readouterr().err
        assert "Traceback" not in said
        assert "\n  next: " in said
        return said

    return run


def test_a_device_that_is_not_here_is_said_before_anything_is_read(
    place: Path, refused: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    for device in ("cuda:77", "mps:1", "gpu"):
        assert "reading" not in refused("--device", device)
    assert main(["chat", "model", "--once", "x", "--device", "cuda:77"]) == 2
    assert "device 'cuda:77' is not here" in capsys.readouterr().err


def test_a_model_without_config_or_weights_is_refused_before_the_data_is_read(
    place: Path, refused: Callable[..., str]
) -> None:
    lines("bad.jsonl", "no row at all")
    for name, said in (("config.json", "has no config.json"), ("model.safetensors", "has no weights")):
        shutil.copytree("model", name)
        (place / name / name).unlink()
        assert said in refused(model=name, data="bad.jsonl")


def test_a_broken_chat_template_is_not_blamed_on_a_record(place: Path, refused: Callable[..., str]) -> None:
    Path("model/chat_template.jinja").write_text("{% for m in messages %}\n{{ m.content }", encoding="utf-8")
    said = refused()
    assert "the chat template is not Jinja: line 2" in said
    assert "d.jsonl" not in said


def test_preferences_are_refused_with_the_way_to_learn_the_chosen_answers(
    place: Path, refused: Callable[..., str]
) -> None:
    lines("pref.jsonl", {"prompt": "a", "chosen": "b", "rejected": "c"})
    said = refused(data="pref.jsonl")
    assert "pref.jsonl:1: sft learns from conversations and texts, not from preferences (chosen and rejected)" in said
    assert "columns: {completion: chosen}" in said
    assert sft("--form", "prompt_completion", "--columns.completion", "chosen", data="pref.jsonl") == 0  # as it says


def test_pretraining_on_conversations_is_refused_with_the_form_it_found(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["pretrain", "--train_file", "d.jsonl", "--output_dir", "run"]) == 2
    said = capsys.readouterr().err
    assert "d.jsonl has none (form: prompt_completion)" in said
    assert "tomoni sft" in said
    assert not Path("run").exists()


def test_misspelt_columns_are_answered_with_the_nearest(place: Path, refused: Callable[..., str]) -> None:
    lines("q.jsonl", {"question": "a", "answer": "b"})
    theirs = refused("--columns.prompt", "questoin", "--columns.completion", "answer", data="q.jsonl")
    assert 'questoin (for prompt) (did you mean "question"?)' in theirs
    ours = refused("--columns.promt", "question", data="q.jsonl")
    assert "columns: 'promt' is no column of any form (did you mean \"prompt\"?)" in ours


def test_data_of_which_nothing_is_left_says_why(place: Path, refused: Callable[..., str]) -> None:
    lines("long.jsonl", {"prompt": "長い" * 100, "completion": "b"})
    said = refused("--max_length", "64", "--on_long_rows", "drop", data="long.jsonl")
    assert "every row is left out: 1 row: longer than max_length" in said


@pytest.mark.parametrize("out", ["d.jsonl", "d.jsonl/sub", "/proc/nothing", ""])
def test_an_output_dir_that_cannot_be_a_folder_is_refused(place: Path, refused: Callable[..., str], out: str) -> None:
    refused(out=out)
    assert len(Path("d.jsonl").read_text(encoding="utf-8").splitlines()) == len(ROWS)


def test_a_disk_without_room_for_a_checkpoint_leaves_no_run_behind(
    place: Path, refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(durable, "MARGIN", 1 << 60)
    assert "no space in run" in refused()


def test_a_finished_run_asked_for_with_another_config_names_what_differs(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sft() == 0
    assert sft() == 2
    assert "the run in run is finished\n" in capsys.readouterr().err
    assert sft(steps=3) == 2
    said = capsys.readouterr().err
    assert "finished, and was of another config: max_steps was 1 and is 3" in said
    assert "choose another output_dir" in said


def test_a_run_of_quarantined_data_can_be_evaluated_on_its_own_data(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines("half.jsonl", *ROWS, "no row")
    assert sft("--on_bad_rows", "quarantine", "--validation_share", "0.5", data="half.jsonl") == 0
    assert main(["evaluate", "run", "--json", "--max-new-tokens", "2"]) == 0
    out = capsys.readouterr().out
    assert json.loads(out[out.index("\n{") :])["records"] > 0


def test_the_other_model_is_looked_for_before_the_first_is_measured(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tomoni.evaluate.appraise.appraise", lambda *a, **k: pytest.fail("measured first"))
    assert main(["evaluate", "model", "--file", "d.jsonl", "--against", "nowhere"]) == 2
    assert "no model 'nowhere'" in capsys.readouterr().err


def test_check_finds_what_would_stop_the_training(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def check(data: str, *words: str) -> str:
        assert main(["check", "--train_file", data, "--model_name_or_path", "model", *words]) == 2
        return capsys.readouterr().out

    lines("pref.jsonl", {"prompt": "a", "chosen": "b", "rejected": "c"})
    assert "error: train: this method does not learn from the form preference" in check("pref.jsonl")
    lines("long.jsonl", {"prompt": "長い" * 100, "completion": "b"})  # 600 bytes; the model's context is 512
    assert "the model's context is 512: set max_length to 512 or less" in check("long.jsonl")
    assert main(["check", "--train_file", "long.jsonl", "--model_name_or_path", "model", "--max_length", "512"]) == 2
    cut = ["--max_length", "512", "--on_long_rows", "truncate"]
    lines("end.jsonl", {"prompt": "a", "completion": "長い" * 100})
    assert main(["check", "--train_file", "end.jsonl", "--model_name_or_path", "model", *cut]) == 0
    lines("empty.jsonl")
    capsys.readouterr()
    assert json.loads(check("empty.jsonl", "--json"))["errors"][0].startswith("no rows in empty.jsonl")


def test_check_shows_the_beginning_of_a_long_example(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines("text.jsonl", {"text": "むかしむかし。" * 1000})
    main(["check", "--train_file", "text.jsonl", "--model_name_or_path", "model", "--max_length", "4000", "--no-color"])
    out = capsys.readouterr().out
    assert re.search(r"… \([\d,]+ more characters\)", out)
    assert out.count("むかしむかし。") < 600


def test_when_no_row_is_good_quarantine_is_not_the_advice(place: Path, refused: Callable[..., str]) -> None:
    lines("pretty.jsonl", *json.dumps(ROWS[0], indent=2).splitlines())
    said = refused(data="pretty.jsonl")
    assert "one JSON value over several lines is a .json file" in said
    assert "quarantine" not in said
    lines("half.jsonl", *ROWS, "nope")
    assert "quarantine" in refused(data="half.jsonl")


def test_what_is_no_text_and_a_list_wrapped_in_an_object_are_told_as_such(
    place: Path, refused: Callable[..., str]
) -> None:
    lines("null.jsonl", {"prompt": "a", "completion": None})
    assert "not_text: completion is null" in refused(data="null.jsonl")
    lines("wrapped.json", {"data": ROWS})
    assert "write the objects in 'data' as rows of their own" in refused(data="wrapped.json")


def test_training_says_when_it_measures_on_what_it_trains_on_or_repeats_items_in_a_step(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sft("--validation_file", "./d.jsonl", "--batch_size", "8") == 0
    said = capsys.readouterr().err
    assert "d.jsonl is both trained on and held out" in said
    assert "batch_size 8 is more than there is (6 items)" in said
    assert sft("--batch_size", "6", out="other", steps=2) == 0
    assert "note:" not in capsys.readouterr().err
    assert sft("--batch_size", "6", out="third") == 0
    assert "note: nothing will be learnt: the learning rate is 0 in the only 1 step" in capsys.readouterr().err


def test_damaged_files_of_a_run_are_named(place: Path, refused: Callable[..., str]) -> None:
    def stopped() -> int:
        """A run with a checkpoint that is not its last."""
        assert sft("--save_steps", "1", steps=2) == 0
        status = json.loads(Path("run/status.json").read_text(encoding="utf-8"))
        Path("run/status.json").write_text(json.dumps(status | {"state": "stopped"}), encoding="utf-8")
        return sft("--save_steps", "1", steps=2)

    assert stopped() == 0
    Path("run/status.json").write_text("{", encoding="utf-8")  # says nothing that the run needs
    whole = Path("run/inputs.json").read_bytes()
    Path("run/inputs.json").write_text("{", encoding="utf-8")
    assert "run/inputs.json is damaged" in refused("--save_steps", "1", steps=2)
    Path("run/inputs.json").write_bytes(whole)
    assert sft("--save_steps", "1", steps=2) == 0


def test_evaluate_says_why_a_runs_own_data_is_not_there(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert sft("--validation_share", "0.5") == 0
    Path("d.jsonl").unlink()
    assert main(["evaluate", "run"]) == 2
    assert "no held-out data for run (the run's training data is not here any more (d.jsonl)" in capsys.readouterr().err


def test_ctrl_c_before_the_first_step_says_how_to_go_on_and_leaves_nothing(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*args: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("tomoni.run.datasets.build", interrupt)
    assert sft() == 130
    assert "the same command begins again" in capsys.readouterr().err
    assert not Path("run").exists()


def test_virtual_tokens_count_against_the_context(place: Path, refused: Callable[..., str]) -> None:
    tuned = ("--train", "prompt_tuning", "--num_virtual_tokens")
    assert "num_virtual_tokens leaves no room" in refused(*tuned, "512")
    assert "the model has room for 12" in refused(*tuned, "500")


def test_a_key_by_another_tools_name_is_answered_with_the_name_here(refused: Callable[..., str]) -> None:
    said = refused(
        "--lr", "1e-4", "--epocs", "2", "--per-device-train-batch-size", "4", "--cutoff_len", "64", "--bf16", "true"
    )
    for theirs, ours in {
        "lr": "learning_rate",
        "epocs": "num_train_epochs",
        "per_device_train_batch_size": "batch_size",
        "cutoff_len": "max_length",
        "bf16": "dtype",
    }.items():
        assert f'unknown key "{theirs}" (here: "{ours}")' in said


def test_every_hint_names_a_key_that_some_method_has() -> None:
    from tomoni.run.methods import METHODS, config_class
    from tomoni.settings.elsewhere import CALLED_ELSEWHERE

    keys = {key for method in METHODS for key in config_class(method).model_fields}
    assert set(CALLED_ELSEWHERE.values()) <= keys
    assert not set(CALLED_ELSEWHERE) & keys


def test_a_model_where_a_config_belongs_is_told_so(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sft", "bundled:small"]) == 2
    said = capsys.readouterr().err
    assert "bundled:small cannot be read" in said
    assert "a config is a YAML file, and all else is named by its --key" in said
