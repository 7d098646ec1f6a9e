"""What a demo's model answers to single questions: drawn as people would see it, or greedily, as facts are checked."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tomoni.cli.demo import MAX_NEW_TOKENS, Record

if TYPE_CHECKING:
    from tomoni.engine.sampler import Sampling
    from tomoni.evaluate.subject import Subject


def drawn(model: Subject, records: Sequence[Record], count: int, *, seed: int = 0) -> list[list[str]]:
    """`count` answers to each question, at temperature 1."""
    from tomoni.engine.sampler import Sampling

    how = Sampling(max_new_tokens=MAX_NEW_TOKENS, temperature=1.0, seed=seed)
    texts = _asked(model, [record for record in records for _ in range(count)], how, number=count)
    return [texts[start : start + count] for start in range(0, len(texts), count)]


def greedy(model: Subject, records: Sequence[Record]) -> list[str]:
    from tomoni.engine.sampler import Sampling

    return _asked(model, records, Sampling(max_new_tokens=MAX_NEW_TOKENS, temperature=0.0))


def write(path: str | Path, records: Iterable[Record]) -> None:
    lines = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    Path(path).write_text(lines, encoding="utf-8")


def _asked(model: Subject, records: Sequence[Record], how: Sampling, *, number: int = 1) -> list[str]:
    from tomoni.records import Message

    prompts = [model.renderer.prompt([Message("user", record["messages"][0]["content"])]) for record in records]
    ids = [f"{record['id']}/{place % number}" for place, record in enumerate(records)]
    return [completion.text.strip() for completion in model.sampler().sample(prompts, how, ids=ids)]
