"""Tasks of encoders through the common runner: learnt, resumed to the bit, invariant, saved for others, used."""

from __future__ import annotations

import hashlib
import json
import os
import signal
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
)

from tests import tiny
from tests.run import tasks
from tomoni.cli import evaluate, predict
from tomoni.cli.looking import looking_settings
from tomoni.data.stream import Stream
from tomoni.engine import features
from tomoni.errors import ConfigError, DataError
from tomoni.evaluate.predict import Predictor
from tomoni.losses import classes
from tomoni.report import State
from tomoni.run.events import Event, Notice, Stepped, Working
from tomoni.run.folder import RunFolder
from tomoni.run.job import Job
from tomoni.run.prepare import prepare

METHODS = tuple(tasks.ROWS)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("符号器")
    tiny.encoder_folder(folder / "bert", "bert")
    tiny.encoder_folder(folder / "dropout", "bert", dropout=0.2)
    for method, rows in tasks.ROWS.items():
        tasks.write(folder / f"{method}.jsonl", rows())
    tasks.write(folder / "several.jsonl", tasks.several())
    tasks.write(folder / "pairs.jsonl", tasks.pairs())
    return folder


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOMONI_CACHE", str(tmp_path_factory.mktemp("cache")))


def job_of(cfg: Any) -> Job:
    with RunFolder.hold(cfg.output_dir) as folder:
        return prepare(cfg, folder, lambda event: None)


def losses_of(folder: Path) -> list[float]:
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["loss"] for line in lines]


@pytest.mark.parametrize("method", METHODS)
def test_the_loss_on_what_is_trained_falls(place: Path, tmp_path: Path, method: str) -> None:
    changes: dict[str, Any] = {"max_steps": 40, "validation_share": 0.0, "learning_rate": 3e-3}
    if method in ("classify", "regress"):
        changes |= {"head_start": "new", "learning_rate": 1e-3}
    result = tasks.train(method, place / "bert", place / f"{method}.jsonl", tmp_path / "run", **changes)
    assert result.before is not None and result.after is not None
    assert result.after.loss < 0.6 * result.before.loss


# -- exactly resumed, the same however it is cut ------------------------------------------------------------------------


class Stopping:
    """Ends the process's patience after some steps, as a signal would."""

    def __init__(self, after: int) -> None:
        self.after = after

    def __call__(self, event: Event) -> None:
        if isinstance(event, Stepped) and event.step == self.after:
            raise KeyboardInterrupt


def digest(folder: Path, step: int) -> dict[str, str]:
    last = folder / "checkpoints" / f"step-{step:06d}"
    files = [folder / "ledger.jsonl", *(last / name for name in ("weights.safetensors", "optimizer.safetensors"))]
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.mark.parametrize(("method", "train"), [*((m, "all") for m in METHODS), ("classify", "top:1"), ("tag", "head")])
def test_a_run_that_was_killed_ends_with_the_bits_of_one_that_was_not(
    place: Path, tmp_path: Path, method: str, train: str
) -> None:
    data = place / f"{method}.jsonl"
    tasks.train(method, place / "dropout", data, tmp_path / "whole", train=train)
    with pytest.raises(KeyboardInterrupt):
        from tomoni.run import start

        start(tasks.settings(method, place / "dropout", data, tmp_path / "cut", train=train), on_event=Stopping(3))
    tasks.train(method, place / "dropout", data, tmp_path / "cut", train=train)
    assert digest(tmp_path / "cut", 6) == digest(tmp_path / "whole", 6)


def test_a_signal_while_the_head_is_solved_is_heard_at_once_and_the_next_run_ends_with_the_same_head(
    place: Path, tmp_path: Path
) -> None:
    from tomoni.run import start

    def settings(name: str) -> Any:
        return tasks.settings(
            "classify", place / "bert", place / "classify.jsonl", tmp_path / name, train="head", max_steps=None
        )

    heard: list[Working] = []

    def stop_in_the_middle(event: Event) -> None:
        if isinstance(event, Working):
            heard.append(event)
            if event.what == "solve" and event.done == 2:
                os.kill(os.getpid(), signal.SIGTERM)

    stopped = start(settings("cut"), on_event=stop_in_the_middle)
    assert (stopped.status, stopped.step, stopped.signal) == ("stopped", 0, signal.SIGTERM)
    assert heard[0].what == "read" and heard[0].done == heard[0].all and heard[-1] == Working("solve", 2, 0)
    assert start(settings("cut")).status == "finished"
    start(settings("whole"))
    whole, cut = (tmp_path / name / "model" / "model.safetensors" for name in ("whole", "cut"))
    assert whole.read_bytes() == cut.read_bytes()


LOSSES = {
    "classify": classes.softmax_classes,
    "regress": classes.squared_error,
    "tag": classes.softmax_tokens,
    "span": classes.span_ends,
}


@pytest.mark.parametrize("method", METHODS)
def test_loss_and_gradient_do_not_depend_on_the_micro_batch(place: Path, tmp_path: Path, method: str) -> None:
    found = []
    for budget in (1, 60, 100_000):
        changes: dict[str, Any] = {
            "tokens_per_microbatch": budget,
            "max_length": 32 if method in ("tag", "span") else 64,
        }
        changes |= {"head_start": "new"} if method in ("classify", "regress") else {}
        cfg = tasks.settings(method, place / "bert", place / f"{method}.jsonl", tmp_path / f"{budget}", **changes)
        job: Any = job_of(cfg)
        stats = job.engine.forward_backward(job.data.batch(0), LOSSES[method])
        gradients = {
            name: weight.grad.clone() for name, weight in job.engine.trained.items() if weight.grad is not None
        }
        found.append((stats["loss"].value, gradients))
    for loss, gradients in found[1:]:
        assert loss == pytest.approx(found[0][0], rel=1e-5)
        for name, gradient in gradients.items():
            torch.testing.assert_close(gradient, found[0][1][name], rtol=2e-3, atol=2e-6, msg=name)


@pytest.mark.parametrize("method", METHODS)
def test_the_curve_is_that_of_plain_transformers_trained_on_the_same_rows(
    place: Path, tmp_path: Path, method: str
) -> None:
    """Another route to the golden curve: the body of transformers, a linear layer, PyTorch's losses and AdamW."""
    cfg = tasks.settings(
        method, place / "bert", place / f"{method}.jsonl", tmp_path / "run", validation_share=0.0, weight_decay=0.0, max_grad_norm=0.0,
        **({"head_start": "new"} if method in ("classify", "regress") else {}),
    )  # fmt: skip
    job: Any = job_of(cfg)
    body, head = tiny.encoder("bert").bert, torch.nn.Linear(32, job.engine.score.out_features)
    head.load_state_dict(job.engine.score.state_dict())
    ours = []
    for step in range(5):
        batch = job.data.batch(step)
        stats = job.engine.forward_backward(batch, LOSSES[method]) | job.engine.optim_step(1e-3)
        ours.append(stats["loss"].value)
    theirs = plain_curve(method, body, head, job.data, rate=getattr(cfg, "head_learning_rate", 1.0))
    np.testing.assert_allclose(ours, theirs, rtol=2e-3)


def plain_curve(method: str, body: Any, head: torch.nn.Linear, data: Stream, *, rate: float) -> list[float]:
    groups = [{"params": list(body.parameters()), "lr": 1e-3}, {"params": list(head.parameters()), "lr": 1e-3 * rate}]
    optimizer = torch.optim.AdamW(groups, weight_decay=0.0)
    curve = []
    for step in range(5):
        total, count = torch.zeros(()), 0.0
        for item in data.batch(step):
            for row in item.rows:
                segments = torch.from_numpy(row.segments.astype(np.int64))[None]
                states = body(torch.from_numpy(row.tokens.astype(np.int64))[None], token_type_ids=segments)[0][0]
                loss, units = plain_loss(method, head, states, row, len(item.rows))
                total, count = total + loss, count + units
        (total / count).backward()
        optimizer.step()
        optimizer.zero_grad()
        curve.append(float((total / count).detach()))
    return curve


def plain_loss(
    method: str, head: torch.nn.Linear, states: torch.Tensor, row: Any, rows: int
) -> tuple[torch.Tensor, float]:
    entropy = partial(torch.nn.functional.cross_entropy, reduction="sum")
    where = torch.from_numpy(np.flatnonzero(row.weights))
    match method:
        case "classify":
            return entropy(head(states[0])[None], torch.tensor([row.label])), 1.0
        case "regress":
            return (head(states[0])[0] - row.label).square(), 1.0
        case "tag":
            return entropy(head(states[where]), torch.from_numpy(row.targets.astype(np.int64))[where]), float(
                len(where)
            )
    ends = torch.tensor([int((where == label).nonzero()[0, 0]) for label in row.label])
    scores = head(states[where]).T
    return entropy(scores, ends) / 2 / rows, 1.0 / rows


# -- a head alone --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pool", ["mean", "first"])
def test_the_solved_head_leaves_the_body_untouched_and_no_better_one_is_near(
    place: Path, tmp_path: Path, pool: str
) -> None:
    cfg = tasks.settings(
        "classify", place / "bert", place / "classify.jsonl", tmp_path / "run", train="head", pool=pool, max_steps=None
    )
    job: Any = job_of(cfg)
    before = {name: weight.clone() for name, weight in job.engine.model.named_parameters()}
    [report] = list(job.method.steps(job.engine, job.data, job.cfg, State()))
    assert len(report.item_ids) == job.items
    assert all(torch.equal(weight, before[name]) for name, weight in job.engine.model.named_parameters())
    items = [job.data.store[n] for n in range(job.items)]
    x = torch.from_numpy(features.features(job.engine, items)).double()
    y = torch.tensor([item.rows[0].label for item in items])
    head = job.engine.score
    scores = (x @ head.weight.double().T + head.bias.double()).detach()
    assert report.stats["loss"].value == pytest.approx(float(torch.nn.functional.cross_entropy(scores, y)), rel=1e-3)


def test_a_solved_head_is_found_again_after_a_kill_with_the_same_bits(place: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"train": "head", "max_steps": None, "save_steps": 1}
    tasks.train("classify", place / "dropout", place / "classify.jsonl", tmp_path / "whole", **options)
    with pytest.raises(KeyboardInterrupt):
        from tomoni.run import start

        start(
            tasks.settings("classify", place / "dropout", place / "classify.jsonl", tmp_path / "cut", **options),
            on_event=Stopping(1),
        )
    tasks.train("classify", place / "dropout", place / "classify.jsonl", tmp_path / "cut", **options)
    assert digest(tmp_path / "cut", 1) == digest(tmp_path / "whole", 1)


def test_more_than_the_head_begins_with_the_solved_head(place: Path, tmp_path: Path) -> None:
    head = tasks.train(
        "classify",
        place / "bert",
        place / "classify.jsonl",
        tmp_path / "head",
        train="head",
        pool="first",
        max_steps=None,
    )
    more = tasks.train("classify", place / "bert", place / "classify.jsonl", tmp_path / "all", max_steps=1)
    assert head.after is not None and more.before is not None
    assert more.before.loss == pytest.approx(head.after.loss, rel=1e-3, abs=1e-5)


def test_where_nobody_says_how_long_a_text_may_be_it_is_as_long_as_the_model_reads_and_that_is_said(
    place: Path, tmp_path: Path
) -> None:
    from tomoni.run import start

    short = tiny.encoder_folder(tmp_path / "short", "bert", max_position_embeddings=40)
    rows = [{**row, "text": row["text"] + "。" * 40} for row in tasks.classes()]
    data = tasks.write(tmp_path / "long.jsonl", rows)
    said: list[str] = []

    def settings(name: str, **changes: Any) -> Any:
        changes = {"on_long_rows": "truncate", "max_steps": 1} | changes
        return tasks.settings("classify", short, data, tmp_path / name, **changes)

    start(settings("run", max_length=None), on_event=lambda one: said.append(getattr(one, "text", "")))
    assert "max_length: 40, as many tokens as the model reads (the default is 512)" in said
    assert Predictor.open(tmp_path / "run", looking_settings("cpu", 1)).task.max_length == 40
    with pytest.raises(DataError, match="40 rows are longer than max_length"):  # never cut unasked
        start(settings("unasked", max_length=None, on_long_rows="stop"))
    with pytest.raises(DataError, match="the model has room for 40"):  # nor a number that somebody gave changed
        start(settings("given", max_length=64))


def test_auto_climbs_as_long_as_held_out_data_says_so_and_goes_on_where_it_was_stopped(
    place: Path, tmp_path: Path
) -> None:
    told: list[str] = []

    def listen(event: Event) -> None:
        if isinstance(event, Notice):
            told.append(event.text)

    from tomoni.run import start

    cfg = tasks.settings(
        "classify", place / "bert", place / "classify.jsonl", tmp_path / "run", train="auto", max_steps=2
    )
    result = start(cfg, on_event=listen)
    rungs = json.loads((tmp_path / "run" / "ladder.json").read_text(encoding="utf-8"))
    assert [rung["train"] for rung in rungs] == ["head", "all"]
    assert result.after is not None and result.after.loss == min(rung["loss"] for rung in rungs)
    assert Predictor.open(tmp_path / "run", looking_settings("cpu")).task.method == "classify"
    (tmp_path / "run" / "status.json").unlink()
    (tmp_path / "run" / "config.yaml").unlink()
    with pytest.raises(ConfigError, match="held-out"):
        start(cfg.model_copy(update={"validation_share": 0.0}))


# -- for others ----------------------------------------------------------------------------------------------------------

KINDS = {
    "classify": AutoModelForSequenceClassification,
    "regress": AutoModelForSequenceClassification,
    "tag": AutoModelForTokenClassification,
    "span": AutoModelForQuestionAnswering,
}


@pytest.mark.parametrize("architecture", tiny.ENCODERS)
@pytest.mark.parametrize("method", METHODS)
def test_plain_transformers_loads_the_result_and_gives_the_same_scores(
    tmp_path: Path, method: str, architecture: str
) -> None:
    model = tiny.encoder_folder(tmp_path / "model", architecture)
    data = tasks.write(tmp_path / "rows.jsonl", tasks.ROWS[method]())
    result = tasks.train(method, model, data, tmp_path / "run", learning_rate=1e-4, max_steps=2)
    assert result.model is not None
    kind: Any = KINDS[method]
    theirs, info = kind.from_pretrained(result.model, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    tokenizer = AutoTokenizer.from_pretrained(result.model)
    ours = Predictor.open(result.model, looking_settings("cpu"))
    asked = list(ours.read([str(data)], {}))[:6]
    for one in asked:
        item = ours._item("x", one.texts)
        encoded = tokenizer(*one.texts, return_tensors="pt")
        assert ("token_type_ids" in encoded) == (getattr(theirs.config, "type_vocab_size", 0) == 2)
        assert encoded["input_ids"][0].tolist() == item.rows[0].tokens.tolist()
        with torch.no_grad():
            out = theirs.eval()(**encoded)
        scores = ours.engine.scores([item])[0][0]
        if method in ("classify", "regress"):
            found = out.logits[0].numpy()
            expected = scores * ours.task.spread + ours.task.mean
        else:
            where = np.flatnonzero(item.rows[0].weights)
            both = out.logits[0] if method == "tag" else torch.stack([out.start_logits[0], out.end_logits[0]], -1)
            found, expected = both.numpy()[where], scores[where]
        np.testing.assert_allclose(found, expected, rtol=2e-3, atol=2e-3 * float(np.abs(expected).max()))
    if method == "tag":
        assert list(theirs.config.id2label.values()) == ["O", "B-人", "I-人", "B-地名", "I-地名"]
    if method == "classify":
        assert list(theirs.config.id2label.values()) == ["sport", "天気", "食べ物"]


def test_a_head_on_the_mean_is_read_by_sentence_transformers(place: Path, tmp_path: Path) -> None:
    sentence_transformers = pytest.importorskip("sentence_transformers")
    result = tasks.train(
        "classify", place / "bert", place / "classify.jsonl", tmp_path / "run", train="head", max_steps=None
    )
    assert result.model is not None
    theirs = sentence_transformers.SentenceTransformer(str(result.model), device="cpu")
    texts = ["晴れ0の話", "パン3の話"]
    ours = Predictor.open(result.model, looking_settings("cpu"))
    found = theirs.encode(texts)
    expected = np.stack(features.scores(ours.engine, [ours._item(str(n), (text,)) for n, text in enumerate(texts)]))
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3 * float(np.abs(expected).max()))


def test_a_decoder_classifies_by_its_last_token_and_is_saved_as_transformers_has_it(
    place: Path, tmp_path: Path
) -> None:
    model = tiny.folder(tmp_path / "llama")
    result = tasks.train("classify", model, place / "classify.jsonl", tmp_path / "run")
    assert result.model is not None
    theirs = AutoModelForSequenceClassification.from_pretrained(result.model).eval()
    ours = Predictor.open(result.model, looking_settings("cpu"))
    item = ours._item("x", ("晴れ0の話",))
    with torch.no_grad():
        found = theirs(torch.from_numpy(item.rows[0].tokens.astype(np.int64))[None]).logits[0]
    np.testing.assert_allclose(found.numpy(), ours.engine.scores([item])[0][0], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("train", "rate"), [("lora", 1e-3), ("ia3", 1e-3), ("names:layer\\.1\\.", 1e-3)])
def test_parts_and_adapters_of_an_encoder_are_trained_and_merged(
    place: Path, tmp_path: Path, train: str, rate: float
) -> None:
    result = tasks.train("tag", place / "bert", place / "tag.jsonl", tmp_path / "run", train=train, learning_rate=rate)
    assert result.model is not None and not (result.model / "adapter_config.json").exists()
    measured = Predictor.open(result.model, looking_settings("cpu"))
    assert result.after is not None and result.after.loss > 0
    assert measured.task.names == ("人", "地名")


# -- bad rows, imbalance, use --------------------------------------------------------------------------------------------


def test_training_goes_on_with_the_good_rows_under_quarantine(place: Path, tmp_path: Path) -> None:
    rows = [
        *tasks.classes(),
        {"text": "数", "label": 5},
        {"text": "独り", "label": "x"},
        {"text": "", "label": "sport"},
    ]
    data = tasks.write(tmp_path / "rows.jsonl", rows)
    with pytest.raises(DataError) as refused:
        tasks.train("classify", place / "bert", data, tmp_path / "stopped")
    for place_and_reason in (":49 ", ":50 ", ":51 ", "mixed_labels", "single_example", "empty"):
        assert place_and_reason in str(refused.value)
    result = tasks.train("classify", place / "bert", data, tmp_path / "run", on_bad_rows="quarantine")
    assert result.status == "finished"
    kept = (tmp_path / "run" / "quarantine.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["reason"] for line in kept] == ["mixed_labels", "single_example", "empty"]


def test_balanced_weights_make_each_class_count_alike(place: Path, tmp_path: Path) -> None:
    rows = [{"text": f"文{n}", "label": "rare" if n < 4 else "common"} for n in range(40)]
    data = tasks.write(tmp_path / "rows.jsonl", rows)
    cfg = tasks.settings(
        "classify", place / "bert", data, tmp_path / "run", class_weights="balanced", validation_share=0.0
    )
    job: Any = job_of(cfg)
    weights: dict[int, float] = {}
    for n in range(job.items):
        item = job.data.store[n]
        weights[item.rows[0].label] = weights.get(item.rows[0].label, 0) + item.weight
    assert weights[0] == pytest.approx(weights[1]) and sum(weights.values()) == pytest.approx(40)


def test_pairs_are_two_segments_and_predicted_as_pairs(place: Path, tmp_path: Path) -> None:
    result = tasks.train("classify", place / "bert", place / "pairs.jsonl", tmp_path / "run")
    predictor = Predictor.open(result.folder, looking_settings("cpu"))
    assert predictor.needs == ("sentence1", "sentence2")
    item = predictor._item("1", ("箱は1個", "数は1個"))
    assert item.rows[0].segments is not None and set(item.rows[0].segments.tolist()) == {0, 1}


def test_predict_keeps_every_row_in_its_line_and_says_what_is_wrong(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = tasks.train("classify", place / "bert", place / "classify.jsonl", tmp_path / "run")
    rows = tmp_path / "rows.jsonl"
    rows.write_text(
        '{"id": 7, "body": "晴れ"}\n{"body": ""}\nnot json\n{"other": "x"}\n{"body": "寿司"}\n', encoding="utf-8"
    )
    capsys.readouterr()
    assert predict.command([str(result.folder), "--file", str(rows), "--column", "text=body", "--top", "2"]) == 1
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["line"] for line in lines] == [1, 2, 3, 4, 5]
    assert [line.get("error") for line in lines] == [None, "empty", "broken_json", "missing_column", None]
    assert lines[0]["id"] == "7" and len(lines[0]["probabilities"]) == 2
    assert lines[0]["label"] in ("sport", "天気", "食べ物")


def test_the_report_says_how_sure_it_may_be_and_evaluate_measures_the_same(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"text": f"{'晴雨'[n % 2]}{n}", "label": "ab"[(n + (n % 5 == 0)) % 2]} for n in range(240)]
    data = tasks.write(tmp_path / "rows.jsonl", rows)
    result = tasks.train("classify", place / "bert", data, tmp_path / "run", validation_share=0.4)
    report = json.loads((tmp_path / "run" / "report.json").read_text(encoding="utf-8"))
    assert report["temperature"] > 0
    assert {"expected_calibration_error_before", "expected_calibration_error_after"} <= report.keys()
    task = json.loads((tmp_path / "run" / "model" / "task.json").read_text(encoding="utf-8"))
    assert task["temperature"] == report["temperature"]
    capsys.readouterr()
    assert evaluate.command([str(result.folder), "--json"]) == 0
    measured = json.loads(capsys.readouterr().out)
    assert result.after is not None
    assert measured["items"] == result.after.items
    assert measured["accuracy"] == pytest.approx(result.after.stats["accuracy"].value)
    assert sum(one["examples"] for one in measured["classes"]) == measured["items"]
