"""Makes what both sides begin with: the model's folder, and the untrained adapter that both train on."""

from __future__ import annotations

import json
import math
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from bench.ours_train import config
from bench.process import Clock, main
from bench.shapes import Shape, save
from bench.work import Prompts
from tomoni.cli.demo import TUNING
from tomoni.data.stream import Stream
from tomoni.data.tokenize import load_tokenizer
from tomoni.engine import models
from tomoni.engine.saving import save_adapter
from tomoni.engine.trained import choose
from tomoni.evaluate.subject import open_subject
from tomoni.hub import locate
from tomoni.records import Message
from tomoni.run import start
from tomoni.settings.sft import Config
from tomoni.world import bundled_world, tuning_questions

END = "<|im_end|>"  # of a turn, in the bundled model's template


def measure(job: Mapping[str, Any], clock: Clock) -> dict[str, Any]:
    with clock:
        if "questions" in job:
            _command(Path(job["folder"]), job)
        elif "count" in job:
            _tuned(Path(job["model"]), Path(job["prompts"]), job["count"])
        else:
            _model(Path(job["model"]), job)
    return {}


def _model(folder: Path, job: Mapping[str, Any]) -> None:
    if not (folder / "config.json").exists():
        save(Shape(**job["shape"]), folder, lively=job.get("lively", False))
    if job.get("adapter"):
        _adapter(folder, Path(job["adapter"]), config(job, 1))


def _adapter(model: Path, folder: Path, cfg: Config) -> None:
    """The adapter that training begins with, as our seed draws it."""
    trained = choose(models.load(locate(model)), cfg, seed=cfg.seed)
    folder.mkdir(parents=True, exist_ok=True)
    save_adapter(trained.model, load_tokenizer(model), folder)


def _command(folder: Path, job: Mapping[str, Any]) -> None:
    """Questions for `tomoni sft`, and the same ones for a script: rendered, in the order in which ours takes them."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "model").exists():
        shutil.copytree(locate("bundled:small").folder, folder / "model")
    batch_size = job["shared"]["batch_size"]
    records = list(tuning_questions(bundled_world(), job["questions"], 0, conversations=0.0))
    _write(folder / "train.jsonl", [{"messages": record["messages"]} for record in records])
    settings = {
        "method": "sft",
        "model_name_or_path": str(folder / "model"),
        "train_file": str(folder / "train.jsonl"),
        "output_dir": "given",
        "train": "lora",
        "num_train_epochs": 1,
        "sample_prompts": 0,
        "device": "cpu",
        "dtype": "float32",
        **job["shared"],
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    cfg = Config(**settings)
    _adapter(folder / "model", folder / "adapter", cfg)
    steps = math.ceil(len(records) / batch_size)
    stream = Stream(records, batch_size=batch_size, seed=cfg.seed, steps=steps, epochs=1)  # type: ignore[arg-type]
    tokenizer: Any = load_tokenizer(folder / "model")
    order = [index for step in range(steps) for index in stream.positions(step)]
    _write(folder / "theirs.jsonl", [_rendered(tokenizer, records[index]["messages"]) for index in order])


def _tuned(model: Path, prompts: Path, count: int) -> None:
    """The bundled small model after the demo's tuning, and questions about other things as tokens."""
    with tempfile.TemporaryDirectory() as folder:
        train, run = Path(folder) / "train.jsonl", Path(folder) / "run"
        _write(train, tuning_questions(bundled_world(), 600, 0))
        start(Config(model_name_or_path="bundled:small", train_file=(str(train),), output_dir=str(run), **TUNING))
        subject = open_subject(run)
        shutil.copytree(subject.located.folder, model)
    asked = list(tuning_questions(bundled_world(), count, 1, conversations=0))
    rendered = [subject.renderer.prompt([Message("user", one["messages"][0]["content"])]) for one in asked]
    Prompts(rendered, [0] * len(rendered)).save(prompts)


def _rendered(tokenizer: Any, messages: Any) -> dict[str, str]:
    *asked, answer = messages
    prompt = tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
    return {"prompt": prompt, "completion": answer["content"] + END}


def _write(path: Path, lines: Iterable[Mapping[str, Any]]) -> None:
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")


if __name__ == "__main__":
    main(measure)
