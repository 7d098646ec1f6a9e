"""Ask a model many questions at once, in chat form or as plain text to continue, and account for time and tokens."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tomoni.data.render import Renderer
from tomoni.data.tokenize import load_tokenizer
from tomoni.engine.hub import locate
from tomoni.engine.models import load
from tomoni.engine.sampler import Sampler, Sampling
from tomoni.records import Message
from tomoni.rows import Int32


@dataclass(frozen=True)
class Asked:
    """One answer per question, in order; `tokens` counts prompts and answers."""

    answers: list[str]
    seconds: float
    tokens: int


class Asker:
    """A model, by any name that `locate` takes, that answers greedily."""

    def __init__(self, name: str) -> None:
        located = locate(name)
        self.model = load(located)
        self.tokenizer = load_tokenizer(located.folder)
        self.renderer = Renderer(self.tokenizer)

    def ask_chats(self, conversations: Sequence[Sequence[dict[str, Any]]], max_new_tokens: int) -> Asked:
        """Conversations that end with a user's turn, in the model's own chat template."""
        prompts = [
            self.renderer.prompt([Message(turn["role"], turn["content"]) for turn in conversation])
            for conversation in conversations
        ]
        return self._ask(prompts, Sampling(max_new_tokens=max_new_tokens, temperature=0.0))

    def ask_plainly(self, texts: Sequence[str], max_new_tokens: int) -> Asked:
        """Plain texts to continue until the end of the line."""
        prompts = [np.asarray(self.tokenizer(text, add_special_tokens=False)["input_ids"], dtype=np.int32) for text in texts]
        return self._ask(prompts, Sampling(max_new_tokens=max_new_tokens, temperature=0.0, stop=("\n",)))

    def _ask(self, prompts: Sequence[Int32], how: Sampling) -> Asked:
        begin = time.monotonic()
        completions = Sampler(self.model, self.tokenizer).sample(prompts, how)
        tokens = sum(map(len, prompts)) + sum(len(completion.tokens) for completion in completions)
        return Asked([completion.text for completion in completions], time.monotonic() - begin, tokens)
