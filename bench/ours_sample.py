"""Our side of sampling: the engine's sampler, greedy, each answer ending after a given number of tokens."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import bench.ahead  # noqa: F401
from bench.process import Clock, main
from bench.work import Prompts
from tomoni.data.tokenize import load_tokenizer
from tomoni.engine import models
from tomoni.engine.sampler import Sampler, Sampling
from tomoni.hub import locate


def measure(job: Mapping[str, Any], clock: Clock) -> dict[str, Any]:
    work = Prompts.load(Path(job["work"]))
    model = models.load(locate(job["model"]))
    tokenizer: Any = load_tokenizer(job["model"])
    hows = [Sampling(max_new_tokens=count, temperature=0) for count in work.answers]
    with clock:
        sampler = Sampler(model, tokenizer, eos_ids=(), **job.get("ours", {}))
        found = sampler.sample(work.prompts, hows)
    answers = [completion.tokens.tolist() for completion in found]
    return {"answers": answers, "tokens": sum(map(len, answers))}


if __name__ == "__main__":
    main(measure)
