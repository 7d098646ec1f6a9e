"""Ask a model many questions at once, in chat form or as plain text to continue, and account for time and tokens."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tomoni.engine.sampler import Sampling
from tomoni.evaluate.subject import Subject
from tomoni.records import Message
from tomoni.rows import Int32


@dataclass(frozen=True)
class Asked:
    """One answer per question, in order; `tokens` counts prompts and answers."""

    answers: list[str]
    seconds: float
    tokens: int


def ask_chats(subject: Subject, conversations: Sequence[Sequence[dict[str, Any]]], *, max_new_tokens: int) -> Asked:
    """Greedy answers to conversations that end with a user's turn, in the model's own chat template."""
    prompts = [
        subject.renderer.prompt([Message(turn["role"], turn["content"]) for turn in conversation])
        for conversation in conversations
    ]
    return _ask(subject, prompts, Sampling(max_new_tokens=max_new_tokens, temperature=0.0))


def ask_plainly(subject: Subject, texts: Sequence[str], *, max_new_tokens: int) -> Asked:
    """Greedy continuations of plain texts, until the end of the line."""
    prompts = [
        np.asarray(subject.tokenizer(text, add_special_tokens=False)["input_ids"], dtype=np.int32) for text in texts
    ]
    return _ask(subject, prompts, Sampling(max_new_tokens=max_new_tokens, temperature=0.0, stop=("\n",)))


def _ask(subject: Subject, prompts: Sequence[Int32], how: Sampling) -> Asked:
    begin = time.monotonic()
    completions = subject.sampler().sample(prompts, how)
    tokens = sum(map(len, prompts)) + sum(len(completion.tokens) for completion in completions)
    return Asked([completion.text for completion in completions], time.monotonic() - begin, tokens)
