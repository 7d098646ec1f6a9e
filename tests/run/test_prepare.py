"""From a config and files to a finished model, through the real readers, tokenizers, models and the command line."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests import tiny
from tomoni.cli import answers, pretrain, sft, train
from tomoni.engine import checkpoint
from tomoni.errors import ConfigError, DataError, ModelError, RunError
from tomoni.records import Source, Text
from tomoni.run import start
from tomoni.run.datasets import held_out
from tomoni.run.events import Event, Notice, Stepped
from tomoni.settings.pretrain import Config as Pretrain
from tomoni.settings.sft import Config


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model with dropout, and two data files."""
    folder = tmp_path_factory.mktemp("材料")
    tiny.folder(folder / "model", attention_dropout=0.2)
    questions = [{"prompt": f"第{n}店は何時に開く?", "completion": f"{n % 12}時です。"} for n in range(40)]
    lines = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in questions)
    (folder / "questions.jsonl").write_text(lines, encoding="utf-8")
    (folder / "story.txt").write_text(
        "\f\n".join(f"第{n}話。むかしむかし、{n}人の子どもが。\n" for n in range(30)), encoding="utf-8"
    )
    return folder


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOMONI_CACHE", str(tmp_path_factory.mktemp("cache")))


def config(place: Path, output: Path, **changes: Any) -> Config:
    settings: dict[str, Any] = {
        "model_name_or_path": str(place / "model"), "train_file": str(place / "questions.jsonl"), "output_dir": str(output),
        "max_steps": 6, "batch_size": 4, "learning_rate": 1e-2, "sample_prompts": 2, "device": "cpu", "threads": 1,
        "save_steps": 2,
    }  # fmt: skip
    return Config(**settings | changes)


def loss_by_transformers(folder: Path, data: Path) -> float:
    """Mean negative log-probability of answer and end of turn, written out with plain transformers."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder).double(), AutoTokenizer.from_pretrained(folder)
    total, count = 0.0, 0
    for line in data.read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        text = tokenizer.apply_chat_template(
            [{"role": "user", "content": record["prompt"]}], tokenize=False, add_generation_prompt=True
        )
        prompt = tokenizer(text, add_special_tokens=False)["input_ids"]
        answer = [*tokenizer(record["completion"], add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
        with torch.no_grad():
            logprobs = model(torch.tensor([prompt + answer])).logits[0].log_softmax(-1)
        total -= sum(float(logprobs[len(prompt) - 1 + place, token]) for place, token in enumerate(answer))
        count += len(answer)
    return total / count


def test_before_and_after_are_what_plain_transformers_says_of_the_two_models(place: Path, tmp_path: Path) -> None:
    result = start(config(place, tmp_path / "run", max_steps=10))
    assert result.before is not None and result.after is not None and result.model is not None
    assert (result.before.on, result.before.items) == ("training", 40)
    assert result.before.loss == pytest.approx(
        loss_by_transformers(place / "model", place / "questions.jsonl"), rel=1e-5
    )
    assert result.after.loss == pytest.approx(loss_by_transformers(result.model, place / "questions.jsonl"), rel=1e-5)
    assert result.after.loss < result.before.loss - 1
    assert AutoTokenizer.from_pretrained(result.model).chat_template == tiny.CHATML
    assert len(result.answers) == 2 and result.answers[0].desired == "0時です。"


def test_an_adapter_is_saved_in_the_adapters_form(place: Path, tmp_path: Path) -> None:
    result = start(config(place, tmp_path / "run", train="lora", lora_dropout=0.1, max_steps=2))
    assert result.model == tmp_path / "run" / "adapter"
    assert (result.model / "adapter_config.json").exists() and not (tmp_path / "run" / "model").exists()


def stop_at(step: int) -> Any:
    def listen(event: Event) -> None:
        if isinstance(event, Stepped) and event.step == step:
            os.kill(os.getpid(), signal.SIGTERM)

    return listen


@pytest.mark.parametrize("part", [{}, {"train": "lora", "lora_dropout": 0.2}, {"train": "top:1"}])
def test_a_stopped_run_ends_with_the_bytes_of_one_that_was_not(
    place: Path, tmp_path: Path, part: dict[str, Any]
) -> None:
    whole = start(config(place, tmp_path / "whole", **part))
    assert start(config(place, tmp_path / "stopped", **part), on_event=stop_at(3)).status == "stopped"
    resumed = start(config(place, tmp_path / "stopped", eval_steps=2, **part))
    assert whole.model is not None and resumed.model is not None
    weights = sorted(path.name for path in whole.model.glob("*.safetensors"))
    assert weights
    for name in weights:
        assert (whole.model / name).read_bytes() == (resumed.model / name).read_bytes()
    for name in ("weights.safetensors", "optimizer.safetensors"):
        last = [run / "checkpoints" / "step-000006" / name for run in (tmp_path / "whole", tmp_path / "stopped")]
        assert last[0].read_bytes() == last[1].read_bytes()
    assert (tmp_path / "whole" / "ledger.jsonl").read_bytes() == (tmp_path / "stopped" / "ledger.jsonl").read_bytes()


def test_evaluating_and_sampling_change_no_byte_of_the_result(place: Path, tmp_path: Path) -> None:
    models = []
    for name, watching in (("unwatched", {"sample_prompts": 0}), ("watched", {"sample_prompts": 3, "eval_steps": 1})):
        result = start(config(place, tmp_path / name, validation_share=0.2, **watching))
        models.append((result.folder / "model" / "model.safetensors").read_bytes())
    assert models[0] == models[1]


def test_prompts_that_leave_no_room_for_an_answer_are_not_asked(place: Path, tmp_path: Path) -> None:
    data = tmp_path / "data.jsonl"
    long = json.dumps({"prompt": "長" * 150, "completion": "い"}, ensure_ascii=False) + "\n"
    data.write_text(long + (place / "questions.jsonl").read_text(encoding="utf-8"), encoding="utf-8")
    result = start(config(place, tmp_path / "run", train_file=str(data), max_steps=1))
    assert [answer.prompt for answer in result.answers] == ["第0店は何時に開く?", "第1店は何時に開く?"]


def test_what_a_model_says_cannot_steer_the_terminal() -> None:
    assert answers.harmless("青\x1b[31m赤\n\u3000二行\r\x9b2J") == "青\ufffd[31m赤\n\u3000二行\ufffd\ufffd2J"


def test_pretraining_goes_on_from_a_model(place: Path, tmp_path: Path) -> None:
    cfg = Pretrain(
        model_name_or_path=str(place / "model"), train_file=str(place / "story.txt"), output_dir=str(tmp_path / "run"),
        num_train_epochs=2, batch_size=2, max_length=128, threads=1, device="cpu", sample_prompts=1,
    )  # fmt: skip
    result = start(cfg)
    assert result.before is not None and result.after is not None and result.after.loss < result.before.loss
    assert result.answers[0].prompt and result.answers[0].desired
    ledger = [json.loads(line)["items"] for line in (tmp_path / "run" / "ledger.jsonl").read_text().splitlines()]
    seen = [name for items in ledger for name in items]
    assert sorted(seen) == sorted(2 * sorted(set(seen))), "every item exactly once an epoch"


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_pretraining_from_scratch_makes_a_tokenizer_and_a_model(place: Path, tmp_path: Path, kind: str) -> None:
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "max_position_embeddings": 128}
    cfg = Pretrain(
        train_file=str(place / "story.txt"), output_dir=str(tmp_path / "run"), max_steps=8, batch_size=4, max_length=64,
        threads=1, device="cpu", sample_prompts=1, shape=shape, vocabulary={"kind": kind, "vocab_size": 320},
        save_steps=3, learning_rate=1e-2,
    )  # fmt: skip
    assert start(cfg, on_event=stop_at(5)).status == "stopped"
    result = start(cfg)
    assert result.before is not None and result.after is not None and result.after.loss < result.before.loss
    model, tokenizer = AutoModelForCausalLM.from_pretrained(result.model), AutoTokenizer.from_pretrained(result.model)
    assert model.config.num_hidden_layers == 2 and model.config.vocab_size == len(tokenizer) <= 320
    text = "むかしむかし、🙂 e\u0301 ﾊﾟ"
    assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text
    whole = start(cfg.model_copy(update={"output_dir": str(tmp_path / "whole")}))
    assert whole.model is not None and result.model is not None
    assert (whole.model / "model.safetensors").read_bytes() == (result.model / "model.safetensors").read_bytes()


def test_epochs_count_the_steps(place: Path, tmp_path: Path) -> None:
    result = start(config(place, tmp_path / "run", max_steps=-1, num_train_epochs=1.0, batch_size=16, sample_prompts=0))
    assert result.steps == 3  # 40 items in batches of 16, 16 and 8
    sizes = [len(json.loads(line)["items"]) for line in (tmp_path / "run" / "ledger.jsonl").read_text().splitlines()]
    assert sizes == [16, 16, 8]


def test_the_held_out_records_are_the_same_in_every_run_and_near_their_share() -> None:
    def record(name: str) -> Text:
        return Text(name, Source("f", 1), "x")

    chosen = [n for n in range(4000) if held_out(record(f"id-{n}"), 0.1)]
    assert 320 < len(chosen) < 480  # 400 expected, 19 the standard deviation
    assert chosen == [n for n in range(4000) if held_out(record(f"id-{n}"), 0.1)]
    assert all(held_out(record("見本"), 0.5) == held_out(record(f"見本#{n}"), 0.5) for n in range(2, 6))


def test_held_out_records_are_never_trained_on(place: Path, tmp_path: Path) -> None:
    start(config(place, tmp_path / "run", validation_share=0.3, max_steps=20))
    lines = (tmp_path / "run" / "ledger.jsonl").read_text().splitlines()
    trained = {name for line in lines for name in json.loads(line)["items"]}
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert len(trained) + report["after"]["items"] == 40


def test_bad_rows_go_into_quarantine_and_are_said_again_on_the_next_run(place: Path, tmp_path: Path) -> None:
    data = tmp_path / "data.jsonl"
    good = (place / "questions.jsonl").read_text(encoding="utf-8")
    data.write_text(good + '{"prompt": "壊れた", \n', encoding="utf-8")
    with pytest.raises(DataError, match=r"data\.jsonl:41"):
        start(config(place, tmp_path / "strict", train_file=str(data)))
    assert not (tmp_path / "strict").exists()
    for run in ("first", "second"):
        notices: list[str] = []
        start(
            config(place, tmp_path / run, train_file=str(data), on_bad_rows="quarantine", max_steps=1),
            on_event=lambda event, notices=notices: notices.append(event.text) if isinstance(event, Notice) else None,
        )
        assert any("1 bad row left out" in text for text in notices)
        assert json.loads((tmp_path / run / "quarantine.jsonl").read_text(encoding="utf-8"))["line"] == 41


def test_a_bad_row_of_a_file_that_is_trained_on_and_held_out_is_quarantined_once(place: Path, tmp_path: Path) -> None:
    data = tmp_path / "data.jsonl"
    good = (place / "questions.jsonl").read_text(encoding="utf-8")
    data.write_text(good + '{"prompt": "壊れた", \n{"prompt": "二つ目", \n', encoding="utf-8")
    cfg = config(
        place, tmp_path / "run", train_file=str(data), on_bad_rows="quarantine", max_steps=1, validation_share=0.3
    )
    notices: list[str] = []
    start(cfg, on_event=lambda event: notices.append(event.text) if isinstance(event, Notice) else None)
    bad = (tmp_path / "run" / "quarantine.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["line"] for line in bad] == [41, 42]
    assert sum("bad rows left out" in text for text in notices) == 1


def test_changed_data_under_a_run_is_refused(place: Path, tmp_path: Path) -> None:
    data = tmp_path / "data.jsonl"
    good = (place / "questions.jsonl").read_text(encoding="utf-8")
    data.write_text(good, encoding="utf-8")
    start(config(place, tmp_path / "run", train_file=str(data)), on_event=stop_at(3))
    data.write_text(good.replace("何時", "いつ"), encoding="utf-8")
    with pytest.raises(RunError, match="have changed since it began: data was"):
        start(config(place, tmp_path / "run", train_file=str(data)))
    data.write_text(good, encoding="utf-8")
    assert start(config(place, tmp_path / "run", train_file=str(data))).status == "finished"


@pytest.mark.parametrize(
    ("changes", "error", "says"),
    [
        ({"train_file": "nowhere.jsonl"}, DataError, "nowhere.jsonl"),
        ({"model_name_or_path": "./no-model"}, ModelError, "no-model"),
        ({"max_length": 20}, DataError, "max_length"),
        ({"chat_template": "nowhere.jinja"}, ConfigError, "nowhere.jinja"),
        ({"max_steps": 0}, ConfigError, "max_steps"),
    ],
)
def test_what_cannot_begin_says_why_and_leaves_no_folder(
    place: Path, tmp_path: Path, changes: dict[str, Any], error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says) as caught:
        start(config(place, tmp_path / "run", **changes))
    assert getattr(caught.value, "next_step", "")
    assert not (tmp_path / "run").exists()


def test_rows_longer_than_the_models_context_are_refused(tmp_path: Path, place: Path) -> None:
    tiny.folder(tmp_path / "short", max_position_embeddings=32)
    with pytest.raises(DataError, match="room for 32"):
        start(config(place, tmp_path / "run", model_name_or_path=str(tmp_path / "short")))


def test_held_out_rows_longer_than_the_models_context_are_refused_too(tmp_path: Path, place: Path) -> None:
    tiny.folder(tmp_path / "short", max_position_embeddings=100)
    long = tmp_path / "long.jsonl"
    long.write_text(
        json.dumps({"prompt": "長い" * 30, "completion": "はい"}, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    settings = {"model_name_or_path": str(tmp_path / "short"), "max_steps": 1}
    start(config(place, tmp_path / "fits", **settings))
    with pytest.raises(DataError, match="room for 100"):
        start(config(place, tmp_path / "run", validation_file=str(long), **settings))


def test_virtual_tokens_take_their_places_in_the_context(tmp_path: Path, place: Path) -> None:
    tiny.folder(tmp_path / "short", max_position_embeddings=100)
    settings = {"model_name_or_path": str(tmp_path / "short"), "max_steps": 1, "train": "prompt_tuning"}
    start(config(place, tmp_path / "fits", **settings, num_virtual_tokens=2))
    with pytest.raises(DataError, match="room for 40"):
        start(config(place, tmp_path / "run", **settings, num_virtual_tokens=60))


def test_the_verb_sft_trains_and_shows_before_and_after(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = f"--model_name_or_path {place / 'model'} --train_file {place / 'questions.jsonl'} --output_dir {tmp_path / 'run'}"
    assert (
        sft.command(
            f"{words} --max_steps 3 --batch_size 4 --sample_prompts 1 --threads 1 --validation_share 0.2".split()
        )
        == 0
    )
    out = capsys.readouterr()
    assert "before" in out.out and "loss (nats a token)" in out.out and f"tomoni chat {tmp_path / 'run'}" in out.out
    assert "step 3/3" in out.err


def test_the_verb_train_takes_its_method_from_the_config(place: Path, tmp_path: Path) -> None:
    text = f"method: pretrain\nmodel_name_or_path: {place / 'model'}\ntrain_file: {place / 'story.txt'}\n"
    (tmp_path / "config.yaml").write_text(
        text + f"output_dir: {tmp_path / 'run'}\nmax_steps: 2\nthreads: 1\n", encoding="utf-8"
    )
    assert train.command([str(tmp_path / "config.yaml"), "--sample_prompts", "0"]) == 0
    checkpoint.verify(tmp_path / "run" / "checkpoints" / "step-000002")
    # the folder's own copy of the config starts the same run
    assert train.command([str(tmp_path / "run" / "config.yaml"), "--output_dir", str(tmp_path / "again")]) == 0
    models = [(tmp_path / name / "model" / "model.safetensors").read_bytes() for name in ("run", "again")]
    assert models[0] == models[1]


def test_a_stopped_verb_ends_with_the_signals_exit_code(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from tomoni.run import progress

    class Stopping(progress.Lines):
        def __call__(self, event: Event) -> None:
            stop_at(2)(event)

    monkeypatch.setattr(progress, "Lines", Stopping)
    words = f"--model_name_or_path {place / 'model'} --train_file {place / 'questions.jsonl'} --output_dir {tmp_path / 'run'}"
    assert sft.command(f"{words} --max_steps 5 --batch_size 4 --threads 1".split()) == 143
    assert "stopped after step 2 of 5" in capsys.readouterr().err


@pytest.mark.parametrize("verb", [sft, pretrain])
def test_the_help_of_a_verb_names_every_key_with_its_default(verb: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert verb.command(["--help"]) == 0
    out = capsys.readouterr().out
    for key in verb.Config.model_fields:
        assert key == "method" or f"--{key}" in out
    assert "Required" in out and "items per step, over all devices" in out
