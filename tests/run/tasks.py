"""Small data for the tasks of encoders, and runs on them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tomoni.config import load_by
from tomoni.run import start
from tomoni.run.methods import config_class
from tomoni.run.outcome import Result

CITIES = ("東京", "京都", "大阪", "Paris", "Osaka", "札幌")
PEOPLE = ("山田さん", "ジョン", "Mary", "鈴木さん")


def classes(count: int = 48) -> list[dict[str, Any]]:
    words = {"天気": ("晴れ", "雨", "雪"), "食べ物": ("寿司", "パン", "うどん"), "sport": ("ball", "run", "swim")}
    return [
        {"text": f"{texts[number % 3]}{number // 3 % 5}の話", "label": label}
        for number in range(count)
        for label, texts in [list(words.items())[number % 3]]
    ]


def several(count: int = 48) -> list[dict[str, Any]]:
    return [
        {"text": f"{'赤' * (n % 2)}{'青' * (n // 2 % 2)}の箱{n}", "label": ["赤"] * (n % 2) + ["青"] * (n // 2 % 2)}
        for n in range(count)
    ]


def pairs(count: int = 48) -> list[dict[str, Any]]:
    return [
        {
            "sentence1": f"箱は{n % 4}個",
            "sentence2": f"数は{(n + n % 3) % 4}個",
            "label": "same" if n % 3 == 0 else "other",
        }
        for n in range(count)
    ]


def numbers(count: int = 48) -> list[dict[str, Any]]:
    return [{"text": "あ" * (n % 7 + 1) + f" {n}", "label": 100.0 + 10 * (n % 7)} for n in range(count)]


def spans(count: int = 48) -> list[dict[str, Any]]:
    rows = []
    for n in range(count):
        who, where = PEOPLE[n % len(PEOPLE)], CITIES[n % len(CITIES)]
        text = f"{who}は{where}に{n}時に行く。"
        at = len(who) + 1
        rows.append(
            {
                "text": text,
                "spans": [
                    {"start": 0, "end": len(who), "type": "人"},
                    {"start": at, "end": at + len(where), "type": "地名"},
                ],
            }
        )
    return rows


def questions(count: int = 48, *, unanswerable: bool = True) -> list[dict[str, Any]]:
    rows = []
    for n in range(count):
        who, where = PEOPLE[n % len(PEOPLE)], CITIES[n % len(CITIES)]
        context = f"{who}は{where}に住んでいる。"
        none = unanswerable and n % 4 == 3
        answers = {"text": [] if none else [where], "answer_start": [] if none else [len(who) + 1]}
        rows.append({"question": "何歳か" if none else "どこか", "context": context, "answers": answers})
    return rows


ROWS = {"classify": classes, "regress": numbers, "tag": spans, "span": questions}


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    lines = [json.dumps({"id": str(number), **row}, ensure_ascii=False) + "\n" for number, row in enumerate(rows)]
    path.write_text("".join(lines), encoding="utf-8")
    return path


def settings(method: str, model: Path, data: Path, output: Path, **changes: Any) -> Any:
    given: dict[str, Any] = {
        "method": method, "model_name_or_path": str(model), "train_file": str(data), "output_dir": str(output),
        "max_length": 64, "batch_size": 8, "max_steps": 6, "learning_rate": 1e-3, "device": "cpu", "threads": 1,
        "save_steps": 2, "validation_share": 0.25,
    }  # fmt: skip
    if method in ("tag", "span"):
        given["stride"] = 8
    merged = {key: value for key, value in (given | changes).items() if value is not None}
    return load_by({name: config_class(name) for name in ROWS}, None, merged)


def train(method: str, model: Path, data: Path, output: Path, **changes: Any) -> Result:
    return start(settings(method, model, data, output, **changes))
