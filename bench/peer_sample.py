"""A peer's side of sampling: transformers' `generate` in batches, or its continuous batching, greedy.

An answer ends after its given number of tokens as it would at its end token: a stopping criterion says so row by row.
Prompts go in order of length, so that little is padded. Runs in the peers' environment and imports nothing of tomoni.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM, GenerationConfig, StoppingCriteria, StoppingCriteriaList

from bench.process import Clock, main
from bench.work import Prompts


def measure(job: Mapping[str, Any], clock: Clock) -> dict[str, Any]:
    transformers.logging.set_verbosity_error()
    work = Prompts.load(Path(job["work"]))
    how = job.get("theirs", {})
    model = AutoModelForCausalLM.from_pretrained(job["model"], dtype="float32").eval()
    model.generation_config.eos_token_id = model.config.eos_token_id = None
    if how.get("continuous"):
        with clock:
            answers = continuous(model, work)
    else:
        with clock, torch.inference_mode():
            answers = in_batches(model, work, how.get("batch_size", 16))
    return {"answers": answers, "tokens": sum(map(len, answers))}


class Ends(StoppingCriteria):
    """A row is done when its answer has its length."""

    def __init__(self, prompt: int, answers: Sequence[int]) -> None:
        self.ends = prompt + torch.tensor(answers)

    def __call__(self, input_ids: Any, scores: Any, **_: Any) -> Any:
        return input_ids.shape[1] >= self.ends


def in_batches(model: Any, work: Prompts, size: int) -> list[list[int]]:
    order = sorted(range(len(work.prompts)), key=lambda index: len(work.prompts[index]))
    pad = model.config.pad_token_id
    answers: dict[int, list[int]] = {}
    for start in range(0, len(order), size):
        batch = order[start : start + size]
        width = max(len(work.prompts[index]) for index in batch)
        tokens = torch.full((len(batch), width), pad)
        mask = torch.zeros_like(tokens)
        for line, index in enumerate(batch):  # padded on the left
            tokens[line, width - len(work.prompts[index]) :] = torch.from_numpy(work.prompts[index])
            mask[line, width - len(work.prompts[index]) :] = 1
        most = [work.answers[index] for index in batch]
        cfg = GenerationConfig(max_new_tokens=max(most), do_sample=False, pad_token_id=pad)
        given = model.generate(
            input_ids=tokens,
            attention_mask=mask,
            generation_config=cfg,
            stopping_criteria=StoppingCriteriaList([Ends(width, most)]),
        )
        for line, index in enumerate(batch):
            answers[index] = given[line, width : width + work.answers[index]].tolist()
    return [answers[index] for index in range(len(order))]


def continuous(model: Any, work: Prompts) -> list[list[int]]:
    cfg = GenerationConfig(max_new_tokens=max(work.answers), do_sample=False, eos_token_id=-1, pad_token_id=0)
    found: dict[str, list[int]] = {}
    with model.continuous_batching_context_manager(generation_config=cfg) as manager:
        names = [
            manager.add_request(prompt.tolist(), max_new_tokens=count)
            for prompt, count in zip(work.prompts, work.answers, strict=True)
        ]
        while len(found) < len(names):
            result = manager.get_result(timeout=1)
            if result is None and not manager.is_running():
                raise RuntimeError("continuous batching ended early")
            if result is not None and result.is_finished():
                found[result.request_id] = list(result.generated_tokens)
    return [found[name] for name in names]


if __name__ == "__main__":
    main(measure)
