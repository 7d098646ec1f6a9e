"""The card says what the run's files say, "unknown" where nothing is known, and keeps every name a piece of text."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from markdown_it import MarkdownIt

from tests import tiny
from tomoni import hub
from tomoni.evaluate.subject import find
from tomoni.export import card
from tomoni.run import start
from tomoni.settings.sft import Config

HOSTILE = (
    "</code><script>alert(1)</script> [x](javascript:alert(1)) ![i](http://e.x/i.png) `a` ``b`` | c | \n# H1\n---\n"
    "license: mit\n<img src=x onerror=alert(1)> *b* https://e.x {{ 7*7 }} \"q\" 'q' \\| \u202egnp.exe \u2028# H \x00\x1b[31m"
)
PARITY = {
    "passed": True, "program": "onnxruntime", "prompts": 32, "prompts_are": "from /home/who/secret/prompts.txt",
    "text_equal": 32, "tokens_equal": 31, "answers_equal": 30, "logprob": 0.00123, "divergence": 4e-6,
    "bound": {"logprob": 0.002, "divergence": 1e-4},
}  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of six LoRA steps on a tiny base that has a card, with a quarter held out."""
    place = tmp_path_factory.mktemp("材料")
    base = tiny.folder(place / "もとの模型")
    (base / "README.md").write_text("---\nlicense: apache-2.0\nlanguage: [ja, en]\n---\n# base\n", encoding="utf-8")
    lines = [{"prompt": f"第{n}店は何時に開く?", "completion": f"{n % 12}時です。"} for n in range(40)]
    (place / "質問.jsonl").write_text(
        "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8"
    )
    os.environ["TOMONI_CACHE"] = str(place / "cache")
    try:
        start(
            Config(
                model_name_or_path=str(base),
                train_file=(str(place / "質問.jsonl"),),
                validation_share=0.25,
                output_dir=str(place / "はじめの学習"),
                train="lora",
                lora_r=4,
                max_steps=6,
                batch_size=4,
                learning_rate=1e-2,
                sample_prompts=0,
                device="cpu",
                threads=1,
            )
        )
    finally:
        del os.environ["TOMONI_CACHE"]
    return place / "はじめの学習"


def written(folder: Path, located: hub.Located, **more: Any) -> tuple[dict[str, Any], str]:
    """The front matter as YAML reads it, and the text after it."""
    text = card.write_card(folder, located=located, **({"to": "onnx", "quantization": "f32"} | more)).read_text("utf-8")
    start_, front, body = text.split("---\n", 2)
    assert start_ == ""
    return yaml.safe_load(front), body


def cells(body: str) -> dict[str, list[str]]:
    """Of every table row: its first cell, and the others; as a reader of the rendered card sees them."""
    found: dict[str, list[str]] = {}
    row: list[str] = []
    for token in MarkdownIt("commonmark").enable("table").parse(body):
        if token.type == "tr_open":
            row = []
        if token.type == "inline":
            row.append("".join(child.content for child in token.children or ()))
        if token.type == "tr_close" and row:
            found[row[0]] = row[1:]
    return found


def test_a_card_of_a_run_tells_what_its_files_tell(run: Path, tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"12345678")
    (tmp_path / "parity.json").write_text(json.dumps(PARITY), encoding="utf-8")
    front, body = written(tmp_path, find(run))
    assert front == {
        "license": "apache-2.0",
        "language": ["ja", "en"],
        "library_name": "onnx",
        "pipeline_tag": "text-generation",
        "tags": ["tomoni", "sft", "onnx"],
    }
    told = cells(body)
    report, inputs = (json.loads((run / name).read_text("utf-8")) for name in ("report.json", "inputs.json"))
    data = run.parent / "質問.jsonl"
    assert told["質問.jsonl"] == ["training", hashlib.sha256(data.read_bytes()).hexdigest()]
    held = report["before"]["items"]
    assert 0 < held < 40 and told["training items"] == [str(40 - held)]
    assert told["content that was trained on (SHA-256 of files, tokenizer and settings)"] == [inputs["data"]]
    assert told["share held out of the training files"] == ["0.25"]
    assert (told["method"], told["train"], told["lora_r"], told["learning_rate"]) == (
        ["sft"],
        ["lora"],
        ["4"],
        ["0.01"],
    )
    before, after = (float(number) for number in told["loss (nats a token)"])
    assert before == pytest.approx(report["before"]["loss"], rel=1e-3)
    assert after == pytest.approx(report["after"]["loss"], rel=1e-3)
    assert f"Measured by the run on {held} held-out items." in body
    assert told["steps"] == ["6"] and told["tokens"] == [f"{report['num_tokens']:,}"]
    assert told["energy"] == told["money"] == ["unknown"]
    assert told["base model"] == ["もとの模型"] and told["SHA-256 of its files"] == [inputs["model"]["sha256"]]
    assert told["run"] == ["はじめの学習"]
    adapter = hashlib.sha256((run / "adapter" / "adapter_model.safetensors").read_bytes()).hexdigest()
    assert told["exported from adapter_model.safetensors, SHA-256"] == [adapter]
    assert told["model.onnx"] == ["8"]


def test_a_card_of_a_reward_says_reward_and_shows_what_the_report_shows(run: Path, tmp_path: Path) -> None:
    copied = tmp_path / "run"
    shutil.copytree(run, copied)
    report = json.loads((copied / "report.json").read_text("utf-8"))
    for part, value in (("before", 0.25), ("after", 0.75)):
        report[part] = {"on": "validation", "items": 8, "reward": value, "loss": -value}
    report["figures"] = [{"what": "reward (95 % interval)", "before": "0.250", "after": "0.750 (0.5 to 1.0)"}]
    (copied / "report.json").write_text(json.dumps(report), encoding="utf-8")
    (tmp_path / "out").mkdir()
    _, body = written(tmp_path / "out", find(copied))
    assert cells(body)["reward (95 % interval)"] == ["0.250", "0.750 (0.5 to 1.0)"]
    assert "perplexity" not in body
    assert "報酬：0.25 から 0.75（取り分けたデータ）" in body


def test_the_parity_result_is_on_the_card(run: Path, tmp_path: Path) -> None:
    for passed, word, japanese in ((True, "yes", "合格"), (False, "NO", "不合格")):
        (tmp_path / "parity.json").write_text(json.dumps(PARITY | {"passed": passed}), encoding="utf-8")
        _, body = written(tmp_path, find(run))
        told = cells(body)
        assert told["passed"] == [word] and f"一致試験：{japanese}" in body
        assert told["tokens equal"] == ["31 of 32"] and told["greedy answers equal"] == ["30 of 32"]
        assert told["largest difference of a logprob"] == ["0.00123 (bound 0.002)"]


def test_a_card_tells_nothing_of_the_machine(run: Path, tmp_path: Path) -> None:
    (tmp_path / "parity.json").write_text(json.dumps(PARITY), encoding="utf-8")
    text = card.write_card(tmp_path, located=find(run), to="hf", quantization="f32").read_text("utf-8")
    status = json.loads((run / "status.json").read_text("utf-8"))
    for private in (str(run.parent), str(tmp_path), "/home/who", status["host"]):
        assert private not in text
    assert "from prompts.txt" in text


def test_the_japanese_summary_has_the_runs_numbers(run: Path, tmp_path: Path) -> None:
    _, body = written(tmp_path, find(run), to="gguf", quantization="q8_0")
    summary = body.split("## 概要")[1].split("## Data")[0]
    report = json.loads((run / "report.json").read_text("utf-8"))
    assert f"{report['before']['loss']:.4g} から {report['after']['loss']:.4g}（取り分けたデータ）" in summary
    assert "形式：gguf（q8_0）" in summary and "一致試験：未実施" in summary and "`もとの模型`" in summary


def test_an_evaluation_brings_its_interval_onto_the_card(run: Path, tmp_path: Path) -> None:
    exact = {"value": 0.75, "low": 0.6012, "high": 0.8588}
    model = {
        "name": "runs/first",
        "loss": 0.512,
        "perplexity": 1.669,
        "mean_token_accuracy": 0.81,
        "right": 30,
        "asked": 40,
    }
    evaluation = tmp_path / "evaluation.json"
    evaluation.write_text(json.dumps({"records": 41, "models": [model | {"exact_match": exact}]}), encoding="utf-8")
    (tmp_path / "out").mkdir()
    _, body = written(tmp_path / "out", find(run), evaluation=evaluation)
    told = cells(body)
    assert told["greedy answers exactly right"] == ["30 of 40"]
    assert told["as a share, with its 95 % interval"] == ["75.0% (60.1% to 85.9%)"]
    assert told["held-out records"] == ["41"]


def test_a_model_without_a_run_has_a_card_that_says_unknown(tmp_path: Path) -> None:
    folder = tiny.folder(tmp_path / "model")
    (tmp_path / "out").mkdir()
    front, body = written(tmp_path / "out", hub.locate(folder))
    assert "license" not in front and "base_model" not in front
    told = cells(body)
    assert "Unknown: the model was not exported from a run's folder." in body
    assert told["base model"] == ["model"] and told["run"] == told["training time"] == told["tokens"] == ["unknown"]
    assert "Parity with the original: not tested." in body and "Of the base model: unknown." in body
    weights = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    assert told["exported from model.safetensors, SHA-256"] == [weights]
    assert "None" not in body and "nan" not in body.lower()


def test_a_hub_base_stands_in_the_front_matter_with_its_commit_in_the_text(tmp_path: Path) -> None:
    folder, commit = tiny.folder(tmp_path / "model"), "0123456789abcdef" * 2 + "01234567"
    base = hub.Located(f"some-org/a.model@{commit}", folder, commit, hub.hashes(folder))
    (tmp_path / "out").mkdir()
    front, body = written(tmp_path / "out", hub.Located("adapter", folder, None, {}, base))
    assert front["base_model"] == "some-org/a.model"
    assert cells(body)["its revision"] == [commit]


@pytest.mark.parametrize(
    "name", [HOSTILE, "`", "``` `` `", "|", "a|b", "---", "yes", "~nobody-of-this-name/x", "モデル名\u3000名", "", " "]
)
def test_a_hostile_name_stays_a_piece_of_text(name: str, run: Path, tmp_path: Path) -> None:
    """In every place: the run's config, its report and its inputs, the parity report, the base's own card."""
    copied, base = tmp_path / "run", tmp_path / "base"
    copied.mkdir()
    config = yaml.safe_load((run / "config.yaml").read_text("utf-8"))
    config |= {"model_name_or_path": name, "train_file": [name], "method": name, "train": name, "seed": name}
    (copied / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    (copied / "inputs.json").write_text(json.dumps({"items": name, "data": name, "model": {"revision": name}}))
    (copied / "report.json").write_text(
        json.dumps(
            {
                "seconds": name,
                "after": {"loss": name, "on": name, "items": [name]},
                "figures": [{"what": name, "before": name, "after": [name]}, name],
            }
        )
    )
    (copied / "status.json").write_text(json.dumps({"start": name}))
    (tmp_path / "parity.json").write_text(
        json.dumps({"passed": name, "program": name, "prompts_are": name, "bound": name})
    )
    folder = tiny.folder(base)
    (folder / "README.md").write_text(
        "---\n" + yaml.safe_dump({"license": name, "language": [name]}) + "---\n", "utf-8"
    )
    located = hub.Located(name, folder, None, {f"{name}.safetensors": name}, hub.Located(name, folder, name, {}))
    front, body = written(tmp_path, located, run=copied)
    assert set(front) <= {"library_name", "pipeline_tag", "tags", "license", "language"}
    assert front["tags"] == ["tomoni", "onnx"] and front.get("license") in (None, name)
    page = MarkdownIt("commonmark", {"html": True}).enable("table").parse(body)
    headings = [page[at + 1].content for at, token in enumerate(page) if token.type == "heading_open"]
    assert headings[1:] == [
        "概要", "Data", "Method", "Evaluation", "Cost", "Lineage", "Licence", "Form and parity",
    ]  # fmt: skip
    inner = [child for token in page for child in token.children or ()]
    kinds = {token.type for token in [*page, *inner]}
    assert not kinds & {"html_inline", "html_block", "link_open", "image", "em_open", "strong_open", "hr", "fence"}
    rows = [token for token in page if token.type == "tr_open"]
    lines = [line for line in body.splitlines() if line.startswith("|")]
    assert len(rows) == len(lines) - sum(line.startswith("| ---") for line in lines)
    assert "\u202e" not in body and "\x1b" not in body and "\x00" not in body


def test_names_keep_their_letters(tmp_path: Path) -> None:
    for name in ("ＡＢＣ模型", "ﾓﾃﾞﾙ", "か\u3099", "👨\u200d👩\u200d👧", "a_b*c", "x|y"):
        page = MarkdownIt("commonmark").enable("table").parse(card.table((card.code(name), "b"), []))
        cell = next(token for token in page if token.type == "inline")
        assert [(child.type, child.content) for child in cell.children or ()] == [("code_inline", name)]


def test_a_model_that_began_with_random_weights_has_no_base(run: Path, tmp_path: Path) -> None:
    copied, out = tmp_path / "run", tmp_path / "out"
    copied.mkdir(), out.mkdir()  # type: ignore[func-returns-value]
    (copied / "config.yaml").write_text("method: pretrain\ntrain_file: [text.txt]\n", encoding="utf-8")
    front, body = written(out, hub.locate("bundled:small"), run=copied)
    assert "license" not in front and "pretrain" in front["tags"]
    assert cells(body)["base model"] == ["none: it began with random weights"] and "乱数の重み" in body
    assert cells(body)["text.txt"] == ["training", "unknown"]  # it is not there any more


def test_what_was_replayed_stands_among_the_data(run: Path, tmp_path: Path) -> None:
    copied, out = tmp_path / "run", tmp_path / "out"
    shutil.copytree(run, copied)
    out.mkdir()
    (tmp_path / "以前.jsonl").write_text("{}\n", encoding="utf-8")
    config = yaml.safe_load((copied / "config.yaml").read_text(encoding="utf-8"))
    config["replay_file"] = [str(tmp_path / "以前.jsonl")]
    (copied / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    _, body = written(out, hub.locate(copied / "adapter"))
    sha256 = hashlib.sha256(b"{}\n").hexdigest()
    assert cells(body)["以前.jsonl"] == ["replayed", sha256]


def test_a_run_whose_config_is_damaged_tells_no_base(tmp_path: Path) -> None:
    copied, out = tmp_path / "run", tmp_path / "out"
    copied.mkdir(), out.mkdir()  # type: ignore[func-returns-value]
    (copied / "config.yaml").write_text("method: [sft", encoding="utf-8")
    front, body = written(out, hub.locate("bundled:small"), run=copied)
    assert "license" not in front and cells(body)["base model"] == ["unknown"]
    assert "`config.yaml` could not be read" in body


def test_a_damaged_file_of_a_run_is_said_and_its_facts_are_unknown(run: Path, tmp_path: Path) -> None:
    copied, out = tmp_path / "run", tmp_path / "out"
    copied.mkdir(), out.mkdir()  # type: ignore[func-returns-value]
    for name in ("config.yaml", "inputs.json", "status.json"):
        (copied / name).write_bytes((run / name).read_bytes())
    (copied / "report.json").write_text('{"state": "fini', encoding="utf-8")
    _, body = written(out, find(run), run=copied)
    assert "`report.json` could not be read" in body
    assert cells(body)["training time"] == ["unknown"] and cells(body)["method"] == ["sft"]
