"""A Japanese encoder from public text alone, continued on Livedoor's own train text or not, and what it reaches in tasks.

    python -m bench.japanese_encoder DATA FOLDER [STAGE ...]

FOLDER gets texts, runs and rows; every stage that has ended is not done again. Stages: text, base, continued, and one a task,
each by both encoders where it says so. Results are put into bench/results/japanese_encoder/TASK.json as they come. Only
train parts are read for pretraining: no test text of any task here is in it (JaQuAD's slice, its contexts included, is left
out whole).
"""

from __future__ import annotations

import argparse
import csv
import json
import resource
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from bench.japanese import JAQUAD_FILES, livedoor_rows
from bench.tasks import is_test
from tomoni.cli.app import main as tomoni
from tomoni.evaluate.classes import derived
from tomoni.evaluate.metrics import mcnemar, paired_bootstrap, wilson
from tomoni.report import Mean

RESULTS = Path(__file__).with_name("results") / "japanese_encoder"
LONGEST = 2_000  # characters of a document that are read in pretraining
SHAPE = {
    "hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 4, "max_position_embeddings": 512,
}  # fmt: skip
VOCABULARY = {"kind": "bpe", "vocab_size": 12_000, "pre_tokenizer": "qwen2", "split_scripts": True}
PRETRAINING = {
    "objective": "mlm", "packing": True, "max_length": 128, "batch_size": 8, "lr_scheduler_type": "linear",
    "warmup_ratio": 0.05, "weight_decay": 0.01, "adam_beta2": 0.98, "validation_share": 0.005, "threads": 1,
    "save_steps": 200, "seed": 1,
}  # fmt: skip
Row = dict[str, Any]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.japanese_encoder", description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("stages", nargs="*", help=f"default: {', '.join(STAGES)}")
    options = parser.parse_intermixed_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    for stage in options.stages or STAGES:
        STAGES[stage](options.data, options.folder)
    return 0


# -- text --------------------------------------------------------------------------------------------------------------


def text(data: Path, folder: Path) -> None:
    _write(folder / "base.jsonl", ({"text": one[:LONGEST]} for one in _shuffled(list(general(data)))))
    articles = [one for one, _ in livedoor_rows(data, "train")]
    _write(folder / "livedoor.jsonl", ({"text": one[:LONGEST]} for one in _shuffled(sorted(set(articles)))))


def general(data: Path) -> Iterator[str]:
    """Everything Japanese but Livedoor, train parts only."""
    for path in sorted((data / "jaquad" / "train").glob("*.json"))[JAQUAD_FILES:]:
        for article in json.loads(path.read_text(encoding="utf-8"))["data"]:
            yield "\n".join(dict.fromkeys(part["context"] for part in article["paragraphs"]))
    for path in sorted((data / "dolly_ja").glob("*.jsonl")):
        for row in map(json.loads, path.read_text(encoding="utf-8").splitlines()):
            yield "\n".join(part for part in (row["instruction"], row["input"], row["output"]) if part)
    for path in sorted((data / "aozora").glob("*.txt")):
        paragraphs = path.read_text(encoding="utf-8").splitlines()
        for start in range(0, len(paragraphs), 8):
            yield "\n".join(paragraphs[start : start + 8])
    for row in map(json.loads, (data / "jglue/jsts-v1.3/train-v1.3.json").read_text(encoding="utf-8").splitlines()):
        yield row["sentence1"] + row["sentence2"]
    (path,) = (data / "ner_wikipedia").glob("*.json")
    yield from (row["text"] for row in json.loads(path.read_text(encoding="utf-8")) if not is_test(row["text"]))
    with (data / "jcommonsensemorality" / "data_train.csv").open(encoding="utf-8", newline="") as file:
        sentences = [row["sent"] for row in csv.DictReader(file)]
    for start in range(0, len(sentences), 4):
        yield "。".join(sentences[start : start + 4])


def _shuffled(texts: list[str]) -> list[str]:
    kept = [one for one in texts if one.strip()]
    return [kept[index] for index in np.random.default_rng(1).permutation(len(kept))]


# -- pretraining -------------------------------------------------------------------------------------------------------


def base(data: Path, folder: Path) -> None:
    _run(
        folder / "base", "pretrain", train_file=str(folder / "base.jsonl"), shape=SHAPE, vocabulary=VOCABULARY,
        learning_rate=1e-3, max_steps=5000, **PRETRAINING,
    )  # fmt: skip


def continued(data: Path, folder: Path) -> None:
    _run(
        folder / "continued", "pretrain", train_file=str(folder / "livedoor.jsonl"), learning_rate=7e-4, max_steps=3000,
        model_name_or_path=str(folder / "base" / "model"), **PRETRAINING,
    )  # fmt: skip


def _run(run: Path, method: str, **settings: Any) -> Row:
    """A run, gone on with where it was stopped; its report, with the CPU seconds that this process took for it."""
    report = run / "report.json"
    if not report.is_file():
        run.parent.mkdir(parents=True, exist_ok=True)
        config = run.with_suffix(".json")
        config.write_text(json.dumps({"method": method, "output_dir": str(run), **settings}), encoding="utf-8")
        before = _cpu()
        if tomoni(["train", str(config)]) != 0 or not report.is_file():
            raise SystemExit(f"{run}: did not end; the same command goes on")
        run.with_suffix(".cpu").write_text(f"{_cpu() - before:.0f}\n", encoding="utf-8")
    found: Row = json.loads(report.read_text(encoding="utf-8"))
    seconds = run.with_suffix(".cpu")
    return found | {"cpu_seconds": float(seconds.read_text(encoding="utf-8")) if seconds.is_file() else None}


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _write(path: Path, rows: Iterator[Row]) -> None:
    if path.is_file():
        return
    staging = path.with_suffix(".part")
    with staging.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    staging.replace(path)


# -- tasks -------------------------------------------------------------------------------------------------------------

ENCODERS = {"pretrained": "base", "and continued on Livedoor": "continued"}
TUNING: Row = {
    "threads": 1, "on_long_rows": "truncate", "save_steps": 100_000, "keep_frozen": "none", "device": "cpu", "seed": 0,
}  # fmt: skip


def livedoor(data: Path, folder: Path) -> None:
    """Both encoders: the head alone, then all weights from it; paired by text."""
    place = folder / "livedoor"
    train = list(livedoor_rows(data, "train"))
    known = {text for text, _ in train}
    test = [row for row in livedoor_rows(data, "dev") if row[0] not in known]
    _parts(place, _labelled(train), _labelled(test))
    right: dict[str, list[bool]] = {"TF-IDF characters, linear SVM": _by_tfidf(train, test)}
    seconds: dict[str, float | None] = {}
    base, continued = ENCODERS
    whole = {"train": "all", "max_length": 192, "num_train_epochs": 2, "batch_size": 16, "learning_rate": 5e-4}
    for name, how, settings in (
        ("head", base, {"train": "head", "max_length": 192}),
        ("head", continued, {"train": "head", "max_length": 192}),
        ("all", continued, whole),
        ("all", base, whole),
    ):
        run = place / f"{ENCODERS[how]}-{name}"
        report = _tuned(run, "classify", folder / ENCODERS[how] / "model", place, pool="mean", **settings)
        right[f"{name}, {how}"] = _right(run, place / "test.jsonl")
        seconds[f"{name}, {how}"] = report["cpu_seconds"]
        _livedoor_found(right, seconds, len(train))


def _livedoor_found(right: dict[str, list[bool]], seconds: Row, train: int) -> None:
    found = {name: asdict(wilson(sum(marks), len(marks))) for name, marks in right.items()}
    paired = {}
    for name in ("head", "all"):
        one, other = (right.get(f"{name}, {how}") for how in ENCODERS)
        if one and other:
            paired[name] = asdict(paired_bootstrap(one, other)) | {"p": mcnemar(one, other)}
    _found(
        "livedoor",
        "Livedoor news, dev",
        "accuracy",
        train,
        len(right[next(iter(right))]),
        found,
        seconds,
        paired=paired,
    )


def morality(data: Path, folder: Path) -> None:
    place = folder / "morality"
    parts = []
    for part in ("train", "val"):
        with (data / "jcommonsensemorality" / f"data_{part}.csv").open(encoding="utf-8", newline="") as file:
            parts.append([(row["sent"], f"label {row['label']}") for row in csv.DictReader(file)])
    _parts(place, _labelled(parts[0]), _labelled(parts[1]))
    found: Row = {}
    seconds: Row = {}
    for name, settings in (
        ("head", {"train": "head"}),
        ("all", {"train": "all", "num_train_epochs": 2, "learning_rate": 4e-4}),
    ):
        report = _tuned(
            place / name, "classify", folder / "base" / "model", place, pool="mean", max_length=64, **settings
        )  # fmt: skip
        right, count = report["after"]["stats"]["accuracy"]
        found[name], seconds[name] = asdict(wilson(round(right), round(count))), report["cpu_seconds"]
    _found("morality", "JCommonsenseMorality, val", "accuracy", len(parts[0]), len(parts[1]), found, seconds)


def similarity(data: Path, folder: Path) -> None:
    place = folder / "similarity"
    train, test = (_lines(data / "jglue" / "jsts-v1.3" / f"{part}-v1.3.json") for part in ("train", "valid"))
    kept = ("sentence1", "sentence2", "label")
    _parts(place, *([{key: row[key] for key in kept} for row in part] for part in (train, test)))
    report = _tuned(
        place / "all", "regress", folder / "base" / "model", place, pool="mean", max_length=128, train="all",
        num_train_epochs=2, learning_rate=4e-4,
    )  # fmt: skip
    stats = {name: Mean(*parts) for name, parts in report["after"]["stats"].items()}
    value = {"value": derived(stats)["pearson"]}
    _found("similarity", "JSTS, valid", "correlation (Pearson)", len(train), len(test), {"all": value},
           {"all": report["cpu_seconds"]}, percent=False)  # fmt: skip


def names(data: Path, folder: Path) -> None:
    place = folder / "names"
    (path,) = (data / "ner_wikipedia").glob("*.json")
    rows = [
        {
            "text": row["text"],
            "spans": [{"start": e["span"][0], "end": e["span"][1], "type": e["type"]} for e in row["entities"]],
        }
        for row in json.loads(path.read_text(encoding="utf-8"))
    ]
    train, test = ([row for row in rows if is_test(row["text"]) == part] for part in (False, True))
    _parts(place, train, test)
    report = _tuned(
        place / "all", "tag", folder / "base" / "model", place, max_length=256, stride=32, train="all",
        num_train_epochs=3, batch_size=16, learning_rate=6e-4,
    )  # fmt: skip
    value = {"value": _value(report, "f1")}
    _found("names", "ner_wikipedia, every tenth text", "entity F1", len(train), len(test), {"all": value},
           {"all": report["cpu_seconds"]})  # fmt: skip


def questions(data: Path, folder: Path) -> None:
    """JaQuAD's slice, whose contexts pretraining has not seen."""
    place = folder / "questions"
    rows = [
        {"question": entry["question"], "context": paragraph["context"], "answers": _answers(entry)}
        for path in sorted((data / "jaquad" / "train").glob("*.json"))[:JAQUAD_FILES]
        for article in json.loads(path.read_text(encoding="utf-8"))["data"]
        for paragraph in article["paragraphs"]
        for entry in paragraph["qas"]
    ]
    train, test = ([row for row in rows if is_test(row["question"]) == part] for part in (False, True))
    _parts(place, train, test)
    report = _tuned(
        place / "all", "span", folder / "base" / "model", place, max_length=256, stride=64, train="all",
        num_train_epochs=2, batch_size=16, learning_rate=4e-4, on_bad_rows="quarantine",
    )  # fmt: skip
    found = {"all": {"value": _value(report, "answer_f1")}, "all, exact": {"value": _value(report, "exact_match")}}
    _found("questions", f"JaQuAD, {JAQUAD_FILES} files, every tenth question", "character F1", len(train), len(test),
           found, {"all": report["cpu_seconds"]})  # fmt: skip


def _answers(entry: Row) -> Row:
    given = entry["answers"]
    return {"text": [one["text"] for one in given], "answer_start": [one["answer_start"] for one in given]}


def _tuned(run: Path, method: str, model: Path, place: Path, **settings: Any) -> Row:
    given = TUNING | settings
    if method in ("tag", "span"):
        given = {key: value for key, value in given.items() if key != "on_long_rows"}
    return _run(
        run, method, model_name_or_path=str(model), train_file=str(place / "train.jsonl"),
        validation_file=str(place / "test.jsonl"), **given,
    )  # fmt: skip


def _value(report: Row, name: str) -> float:
    total, count = report["after"]["stats"][name]
    return float(total / count)


def _right(run: Path, test: Path) -> list[bool]:
    from tomoni.cli.looking import looking_settings
    from tomoni.engine.models import quiet
    from tomoni.evaluate.predict import Predictor

    with quiet():
        predictor = Predictor.open(run, looking_settings("cpu", 1))
    said = [one["label"] for one in predictor.predict(predictor.read([str(test)], {}))]
    return [one == row["label"] for one, row in zip(said, _lines(test), strict=True)]


def _by_tfidf(train: list[tuple[str, str]], test: list[tuple[str, str]]) -> list[bool]:
    from tomoni.evaluate.cases import Case, Cases
    from tomoni.evaluate.classical import fit

    cases = tuple(Case(str(n), (text,), label) for n, (text, label) in enumerate(train))
    said = fit(Cases(cases, tuple(sorted({label for _, label in train})))).answer([(text,) for text, _ in test])
    return [one == label for one, (_, label) in zip(said, test, strict=True)]


def _labelled(rows: list[tuple[str, str]]) -> list[Row]:
    return [{"text": text, "label": label} for text, label in rows]


def _lines(path: Path) -> list[Row]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _parts(place: Path, train: list[Row], test: list[Row]) -> None:
    place.mkdir(parents=True, exist_ok=True)
    _write(place / "train.jsonl", iter(train))
    _write(place / "test.jsonl", iter(test))


def _found(name: str, data: str, measure: str, train: int, test: int, found: Row, seconds: Row, *, percent: bool = True,
           **more: Any) -> None:  # fmt: skip
    rows = {"train": train, "test": test}
    result = {
        "data": data,
        "measure": measure,
        "rows": rows,
        "percent": percent,
        "found": found,
        "cpu_seconds": seconds,
    }
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / f"{name}.json").write_text(
        json.dumps(result | more, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    print(name, json.dumps(found | more, ensure_ascii=False), flush=True)


STAGES: dict[str, Callable[[Path, Path], None]] = {
    "text": text, "base": base, "morality": morality, "names": names, "similarity": similarity, "questions": questions,
    "continued": continued, "livedoor": livedoor,
}  # fmt: skip

if __name__ == "__main__":
    sys.exit(main())
