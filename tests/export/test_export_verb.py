"""`tomoni export` from the outside: three forms of a run's result, each proven; what is refused, and how failing looks."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests import tiny
from tests.export import models
from tomoni.cli.app import main
from tomoni.data.templates import CHATML
from tomoni.engine import checkpoint
from tomoni.evaluate.subject import open_subject
from tomoni.export import architectures, convert, llamacpp, prompts
from tomoni.export.answers import Prompt
from tomoni.export.llamacpp import LlamaCpp

WRITING = """
import time
from pathlib import Path
from tomoni.export.aside import Aside
with Aside(Path("other")) as aside:
    (aside.files / "model.gguf").write_bytes(bytes(1000))
    print("writing", flush=True)
    time.sleep(600)
"""
PROMPTS = "こんにちは、元気ですか\nTell me more\nｶﾀｶﾅ 🙂\n"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to stand in, with a model and prompts. Blocks of 32 fit its rows."""
    monkeypatch.chdir(tmp_path)
    model = models.model("llama", hidden_size=64, intermediate_size=128)
    model.save_pretrained("model")
    tiny.tokenizer().save_pretrained("model")
    Path("prompts.txt").write_text(PROMPTS, encoding="utf-8")
    return tmp_path


def exported(to: str, form: str, out: str = "out", *, model: str = "model") -> int:
    return main(["export", model, "--to", to, "--quantization", form, "--output", out, "--prompts", "prompts.txt"])


def report(folder: str = "out") -> dict[str, Any]:
    return dict(json.loads(Path(folder, "parity.json").read_text(encoding="utf-8")))


def _adapter(place: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained("model")
    with torch.random.fork_rng():
        torch.manual_seed(2)
        made = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False))
    made.peft_config["default"].base_model_name_or_path = str(place / "model")
    made.save_pretrained("adapter")


@pytest.mark.parametrize(("to", "form"), [("hf", "bf16"), ("gguf", "q8_0"), ("onnx", "f32")])
def test_an_adapter_is_merged_exported_and_proven(
    place: Path, capsys: pytest.CaptureFixture[str], to: str, form: str
) -> None:
    _adapter(place)
    assert exported(to, form, model="adapter") == 0
    found = report()
    assert found["passed"] and found["prompts"] == found["text_equal"] == found["tokens_equal"] == 3
    assert found["places"] >= 3 and 0 < found["logprob"] < found["bound"]["logprob"]
    assert found["form"] == f"{to} {form}" and found["prompts_are"] == "from prompts.txt"
    said = capsys.readouterr().out
    assert "greedy answers equal" in said and "tokens equal" in said and "3 / 3" in said and "bound" in said
    checkpoint.verify(Path("out"))
    assert Path("out", "README.md").is_file()
    assert not [path for path in place.iterdir() if path.name.startswith(".")]


def test_an_hf_export_is_what_plain_transformers_reads_with_template_and_ends(place: Path) -> None:
    assert exported("hf", "f32") == 0
    model, tokenizer = AutoModelForCausalLM.from_pretrained("out"), AutoTokenizer.from_pretrained("out")
    before = AutoModelForCausalLM.from_pretrained("model")
    tokens = torch.tensor([models.word(1, 20)])
    assert torch.equal(model(tokens).logits, before(tokens).logits)
    assert tokenizer.chat_template == tiny.CHATML
    assert 258 in model.generation_config.eos_token_id


def test_a_gguf_export_has_a_modelfile_that_names_it(place: Path) -> None:
    assert exported("gguf", "f16") == 0
    text = Path("out/Modelfile").read_text(encoding="utf-8")
    assert "FROM ./model-f16.gguf\n" in text and 'PARAMETER stop "<|im_end|>"' in text
    assert "PARAMETER num_ctx 512" in text and "PARAMETER temperature 0" in text
    with LlamaCpp(Path("out/model-f16.gguf")) as program:
        assert program.ends_at(258, np.asarray(models.word(1, 5), dtype=np.int32))


def test_a_template_that_ollama_cannot_hold_is_said_and_the_gguf_is_written(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    counting = tiny.CHATML + "{% if messages | length > 3 %}{{ '<|pad|>' }}{% endif %}"
    tiny.tokenizer(template=counting).save_pretrained("model")
    assert exported("gguf", "f16") == 0
    assert not Path("out/Modelfile").exists()
    assert "no Modelfile for Ollama was written" in capsys.readouterr().err


def test_a_model_that_became_another_fails_loudly_and_is_put_aside(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rows of q and k are left as they are: what an exporter does that forgets how llama.cpp rotates them."""
    monkeypatch.setattr(architectures, "_neighbours", lambda weight, heads: weight)
    assert exported("gguf", "f16") == 1
    assert not Path("out").exists()
    said = capsys.readouterr()
    assert "is not the one that was trained" in said.err and "logprobs differ by more than 0.1" in said.err
    assert "do not use it. out-failed says what differs" in said.err
    assert not report("out-failed")["passed"]
    assert "logprobs differ" in Path("out-failed/WHAT-DIFFERS.md").read_text(encoding="utf-8")
    capsys.readouterr()
    assert exported("gguf", "f16") == 2  # the failed one is not written over
    assert "out-failed exists and is not empty" in capsys.readouterr().err


def test_json_on_stdout_is_the_report_alone(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["export", "model", "--to", "hf", "--output", "out", "--json"])
    assert code == 0 and json.loads(capsys.readouterr().out) == report()
    assert report()["prompts_are"] == "built in"


# -- said before work starts -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--to", "gguuf"], "--to 'gguuf' is not known"),
        (["--to", "gguf", "--quantization", "q3_k"], "--quantization 'q3_k' is not known for --to gguf"),
        (["--to", "hf", "--quantization", "int8"], "possible: f32, f16, bf16"),
        (["--to", "gguf", "--prompts", "none.txt"], "cannot read the prompts in none.txt"),
        (["--to", "gguf", "--output", "model"], "model exists and is not empty"),
        (["--to", "gguf", "--output", "prompts.txt"], "prompts.txt exists and is not empty"),
        ([], "Missing option '--to'"),
    ],
)
def test_a_wrong_option_is_refused_at_once(
    place: Path, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    before = set(place.iterdir())
    assert main(["export", "model", *words]) == 2
    assert said in capsys.readouterr().err and set(place.iterdir()) == before


def test_an_architecture_that_the_form_cannot_hold_is_refused_before_work(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny.folder(place / "gemma", "gemma3_text")
    monkeypatch.setattr(convert.parity, "answers_of", _not_reached)
    assert exported("gguf", "f16", model="gemma") == 2
    assert "its layers with a sliding window are not five of every 6" in capsys.readouterr().err
    assert not list(place.glob("out*")) and not list(place.glob(".exp*"))


def test_a_full_disk_is_refused_before_work_with_the_size(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(convert.parity, "answers_of", _not_reached)
    monkeypatch.setattr(convert, "_bytes", lambda subject, order: 10**18)
    assert exported("gguf", "f16") == 2
    assert "1,000,000,000,000,000,000 bytes are needed" in capsys.readouterr().err


def test_a_missing_package_is_said_with_the_way_to_install_it(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import importlib.util

    known = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *more: None if name == "xllamacpp" else known(name, *more)
    )
    assert exported("gguf", "f16") == 2
    said = capsys.readouterr().err
    assert "the package xllamacpp is missing" in said and 'pip install "tomoni[export]"' in said


def test_a_disk_that_fills_while_writing_leaves_nothing(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*anything: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(convert.gguf, "write_gguf", full)
    before = set(place.iterdir())
    assert exported("gguf", "f16") == 2
    assert "no space" in capsys.readouterr().err.lower() and set(place.iterdir()) == before


def test_llamacpp_that_dies_while_it_is_asked_is_said(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def dying(self: LlamaCpp, *anything: object) -> Any:
        self._process.kill()
        self._process.wait()
        return known(self, *anything)  # type: ignore[arg-type]

    known = llamacpp.LlamaCpp.answers
    monkeypatch.setattr(llamacpp.LlamaCpp, "answers", dying)
    before = set(place.iterdir())
    assert exported("gguf", "f16") == 2
    assert "llama.cpp ended while it was asked" in capsys.readouterr().err and set(place.iterdir()) == before


@pytest.mark.parametrize(
    ("to", "named"), [("hf", "model.layers.0.mlp.up_proj.weight"), ("gguf", "blk.0.ffn_up.weight")]
)
@pytest.mark.parametrize("where", ["in the base", "by the adapter"])
def test_weights_too_large_for_f16_are_refused_before_work_and_named(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, to: str, named: str, where: str
) -> None:
    model = AutoModelForCausalLM.from_pretrained("model")
    weight = model.model.layers[0].mlp.up_proj.weight
    with torch.no_grad():
        weight[3, 5] = -65_536.0 if where == "in the base" else -65_500.0
    model.save_pretrained("model")
    if where == "by the adapter":
        made = get_peft_model(model, LoraConfig(r=1, lora_alpha=1, target_modules=["up_proj"]))
        with torch.no_grad():
            layer = made.base_model.model.model.layers[0].mlp.up_proj
            layer.lora_A["default"].weight.zero_()[0, 5] = 6.0
            layer.lora_B["default"].weight.zero_()[3, 0] = -6.0
        made.peft_config["default"].base_model_name_or_path = str(place / "model")
        made.save_pretrained("adapter")
    monkeypatch.setattr(convert.parity, "answers_of", _not_reached)
    before = set(place.iterdir())
    assert exported(to, "f16", model="model" if where == "in the base" else "adapter") == 2
    said = capsys.readouterr().err
    assert f"the weight {named} has numbers that F16 cannot hold (6.55e+04): at most 65504" in said
    assert "--quantization bf16" in said and set(place.iterdir()) == before
    exported(to, "bf16", model="model" if where == "in the base" else "adapter")
    assert "work began" in capsys.readouterr().err


def test_a_form_that_no_matrix_can_take_is_refused_before_work(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shape = {"hidden_size": 40, "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 80}
    models.model("llama", **shape).save_pretrained("model")
    monkeypatch.setattr(convert.parity, "answers_of", _not_reached)
    before = set(place.iterdir())
    assert exported("gguf", "q8_0") == 2
    assert "rows are no multiple of 32 numbers (hidden_size 40)" in capsys.readouterr().err
    assert set(place.iterdir()) == before


def test_a_tokenizer_that_llamacpp_does_not_know_is_refused_before_work(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    body = json.loads(Path("model/tokenizer.json").read_text(encoding="utf-8"))
    split = {"type": "Split", "pattern": {"Regex": "[ぁ-ん]+"}, "behavior": "Isolated", "invert": False}
    body["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [split, body["pre_tokenizer"]]}
    Path("model/tokenizer.json").write_text(json.dumps(body, ensure_ascii=False), encoding="utf-8")
    monkeypatch.setattr(convert.parity, "answers_of", _not_reached)
    before = set(place.iterdir())
    assert exported("gguf", "f16") == 2
    said = capsys.readouterr().err
    assert "[ぁ-ん]+" in said and "--to hf or --to onnx" in said and set(place.iterdir()) == before


def test_a_place_that_a_rename_cannot_reach_is_refused_before_work(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder mounted from the same file system looks like any other; the rename says it."""

    def busy(source: object, target: object) -> None:
        raise OSError(errno.EBUSY, "Device or resource busy")

    monkeypatch.setattr(os, "rename", busy)
    monkeypatch.setattr(convert.parity, "answers_of", _not_reached)
    before = set(place.iterdir())
    assert exported("hf", "f32") == 2
    assert "out could not be put in place by a rename when it is finished" in capsys.readouterr().err
    assert set(place.iterdir()) == before


def _not_reached(*anything: object, **more: object) -> None:
    raise AssertionError("work began")


# -- what is compared, and what is needed ----------------------------------------------------------------------------


def test_prompts_that_cannot_be_compared_are_left_out_and_counted(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = ["やあ", "what does <|im_end|> mean?", "長" * 400]
    Path("prompts.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    assert exported("gguf", "f16") == 0
    assert report()["prompts"] == 1
    said = capsys.readouterr().err
    assert "1 prompt not compared: a control token spelt out" in said
    assert "1 prompt too long for the context of 512 tokens, not compared" in said


def test_prompts_of_which_none_can_be_compared_are_refused_before_anything_is_written(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("prompts.txt").write_text("長" * 400 + "\n", encoding="utf-8")
    before = sorted(place.iterdir())
    assert exported("hf", "f32") == 2
    said = capsys.readouterr().err
    assert "can be compared: each is too long for the context of 512 tokens" in said and "--prompts FILE" in said
    assert sorted(place.iterdir()) == before


def test_outputs_that_could_not_be_put_in_place_are_refused_first(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("real").mkdir()
    Path("link").symlink_to("real")
    Path("file").write_text("")
    Path("nowhere").symlink_to("gone")
    Path("round").symlink_to("round")
    for output, said in (
        (".", "the working directory cannot be the output"),
        ("link", "link is a link or a mount point"),
        ("file/out", "file is not a folder that can be written to"),
        ("nowhere/out", "nowhere is a link to nowhere"),
        ("nowhere", "nowhere is a link or a mount point"),
        ("round", "round is a link or a mount point"),
        ("/proc", "/proc is a link or a mount point"),
        ("長" * 84, "is too long for a folder"),
        ("長" * 86 + "/out", "is no folder that could be made: File name too long"),
    ):
        assert main(["export", "model", "--to", "hf", "--output", output]) == 2
        assert said in capsys.readouterr().err


def test_a_model_card_that_cannot_be_written_is_said_and_the_export_stays(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(facts: object, *anything: object) -> str:
        raise KeyError("しらない")

    monkeypatch.setattr(convert.card, "body", failing)
    assert exported("hf", "f32") == 0
    assert "the model card (README.md) could not be written, all else was: 'しらない'" in capsys.readouterr().err
    assert "could not be written" in report()["notes"][0] and not Path("out/README.md").exists()
    checkpoint.verify(Path("out"))
    AutoModelForCausalLM.from_pretrained("out")


def test_a_prompt_files_name_that_is_no_text_loses_nothing(place: Path) -> None:
    name = os.fsdecode(b"\xff\xfe.txt")
    Path("prompts.txt").rename(name)
    assert main(["export", "model", "--to", "hf", "--output", "out", "--prompts", name]) == 0
    assert report()["prompts_are"] == f"from {name}" and Path("out/README.md").is_file()


def test_what_a_killed_export_left_is_swept_by_the_next(place: Path) -> None:
    """Really killed, by SIGKILL, while it writes; another one that still runs keeps its folder."""
    mine = place / ".exporting-of-somebody"
    mine.mkdir()
    (mine / "file").write_text("私のもの")
    with _writing() as running:
        with _writing() as killed:
            left = set(place.glob(".exporting-*")) - {mine}
            killed.kill()
        assert len(left) == 2
        assert exported("hf", "f32") == 0
        assert len(left & set(place.glob(".exporting-*"))) == 1 and (mine / "file").is_file()
        running.kill()
    assert exported("hf", "f32", "second") == 0
    assert set(place.glob(".exporting-*")) == {mine}


@contextlib.contextmanager
def _writing() -> Iterator[subprocess.Popen[str]]:
    """A process that exports and has got as far as writing."""
    with subprocess.Popen([sys.executable, "-c", WRITING], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout and process.stdout.readline() == "writing\n"
            yield process
        finally:
            process.kill()


def test_a_penalty_in_the_generation_config_is_no_difference_of_the_model(place: Path) -> None:
    path = Path("model/generation_config.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), "repetition_penalty": 1.3}))
    assert exported("hf", "f32") == 0


def test_a_report_that_is_given_away_holds_no_prompt_and_no_path(place: Path) -> None:
    assert main(["export", str(place / "model"), "--to", "gguf", "--quantization", "q8_0", "--output", "out"]) == 0
    text = json.dumps(report())
    assert report()["model"] == "model" and str(place) not in text
    assert all(one.keys() <= {"kind", "at", "margin", "passed"} for one in report()["differences"])


def test_hf_needs_no_package_of_the_other_forms(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("gguf", "xllamacpp", "onnx", "onnxruntime", "onnxscript"):
        monkeypatch.setitem(sys.modules, name, None)
    assert exported("hf", "f32") == 0


def test_a_model_without_a_template_of_its_own_continues_plain_texts(place: Path) -> None:
    tiny.tokenizer(template=None).save_pretrained("model")
    Path("model/chat_template.jinja").unlink()
    assert main(["export", "model", "--to", "gguf", "--output", "out"]) == 0
    assert report()["prompts"] == report()["tokens_equal"] == len(prompts.BEGINNINGS)


@pytest.mark.parametrize("to", ["hf", "gguf"])
def test_a_template_that_was_damaged_is_found_though_all_prompts_are_plain_texts(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, to: str
) -> None:
    """Plain texts stand as they are in every program: what the template writes is asked with built-in conversations."""
    tiny.tokenizer(template=None).save_pretrained("model")
    Path("model/chat_template.jinja").unlink()
    words = ["export", "model", "--to", to, "--quantization", "f32", "--output"]
    assert main([*words, "good"]) == 0
    talks = len(prompts.built_in(chats=True))
    assert (report("good")["text_equal"], report("good")["texts"]) == (talks, talks)
    assert report("good")["prompts"] == len(prompts.BEGINNINGS)
    assert f"{talks} / {talks}" in (said := capsys.readouterr().out) and "on built-in conversations" in said
    assert f"| template text equal | {talks} of {talks} built-in conversations |" in Path("good/README.md").read_text()
    module, name = (convert.merged, "write_hf") if to == "hf" else (convert.gguf, "plan_of")
    known = getattr(module, name)
    other = CHATML.replace("<|im_start|>", "<|im_start|> ")

    def damaging(*given: Any, **more: Any) -> Any:
        return known(*given[:2], other, *given[3:], **more)

    monkeypatch.setattr(module, name, damaging)
    assert main([*words, "out"]) == 1
    assert f"the chat template writes another text (on {talks} of {talks} prompts)" in capsys.readouterr().err


def test_a_template_that_writes_no_conversation_is_said_not_to_be_compared(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("model/chat_template.jinja").write_text("{{ raise_exception('no') }}", encoding="utf-8")
    subject = open_subject("model", device="cpu")
    order = convert.Order("hf", "f32", Path("out"), (Prompt("one", text="昔々、"),), "given")
    assert convert.export(subject, order).parity.texts == 0
    assert "not compared: no prompt was a conversation" in Path("out/README.md").read_text(encoding="utf-8")


def test_a_run_is_compared_on_what_it_held_out_or_else_on_what_it_was_trained_on(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOMONI_CACHE", str(place / "cache"))
    rows = [{"prompt": f"質問{number}は？", "completion": f"答え{number}です。"} for number in range(12)]
    Path("d.jsonl").write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    for name, share, wanted in (("a", "0.5", "of the run's held-out data"), ("b", "0", "of the run's training data")):
        words = ["--model_name_or_path", "model", "--train_file", "d.jsonl", "--output_dir", name, "--max_steps", "1"]
        assert main(["sft", *words, "--validation_share", share, "--threads", "1", "--sample_prompts", "0"]) == 0
        assert main(["export", name, "--to", "hf", "--output", f"{name}-out"]) == 0
        assert report(f"{name}-out")["prompts_are"] == wanted
        assert 0 < report(f"{name}-out")["prompts"] < 12 or name == "b"
