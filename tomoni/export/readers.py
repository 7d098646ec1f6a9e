"""The programs that run a model before and after it changed its form: tomoni itself, and plain transformers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from tomoni.engine.plain import generate, logits_after, open_plain
from tomoni.engine.sampler import Sampling
from tomoni.evaluate.subject import Subject
from tomoni.export.answers import Answer, Prompt, likeliest
from tomoni.rows import Int32


class Tomoni:
    """The model as the user knows it, an adapter still on its base: what every other form is compared with."""

    name = "tomoni"

    def __init__(self, subject: Subject) -> None:
        self.subject = subject

    def text(self, prompt: Prompt) -> str:
        return written(self.subject.tokenizer, self.subject.renderer.template, prompt)

    def tokens(self, prompt: Prompt) -> Int32:
        renderer = self.subject.renderer
        if prompt.text is not None:
            return np.asarray([*renderer.encoder.bos, *renderer.encoder.plain(prompt.text)], dtype=np.int32)
        return renderer.prompt(prompt.messages)

    def answers(self, prompts: Sequence[Int32], most: int) -> list[Answer]:
        found = self.subject.sampler().sample(prompts, Sampling(max_new_tokens=most, temperature=0.0))
        return [
            _looked_at(self.subject.model, tokens, one.tokens, "stop" if one.finish == "stop" else "length")
            for tokens, one in zip(prompts, found, strict=True)
        ]

    def ends_at(self, token: int, tokens: Int32) -> bool:
        return token in self.subject.stop_tokens


class Plain:
    """A folder in Hugging Face's form, loaded afresh by transformers without tomoni."""

    name = "transformers"

    def __init__(self, folder: Path) -> None:
        self.model, self.tokenizer = open_plain(folder)
        ends = self.model.generation_config.eos_token_id
        self.ends = frozenset(ends if isinstance(ends, list) else [] if ends is None else [ends])

    def text(self, prompt: Prompt) -> str:
        return written(self.tokenizer, None, prompt)

    def tokens(self, prompt: Prompt) -> Int32:
        if prompt.text is not None:
            return np.asarray(self.tokenizer(prompt.text)["input_ids"], dtype=np.int32)
        found = self.tokenizer(self.text(prompt), add_special_tokens=False)["input_ids"]
        return np.asarray(found, dtype=np.int32)

    def answers(self, prompts: Sequence[Int32], most: int) -> list[Answer]:
        return [self._answer(tokens, most) for tokens in prompts]

    def _answer(self, tokens: Int32, most: int) -> Answer:
        made = generate(self.model, tokens.tolist(), most)
        ended = bool(made) and made[-1] in self.ends
        return _looked_at(self.model, tokens, np.asarray(made, dtype=np.int32), "stop" if ended else "length")

    def ends_at(self, token: int, tokens: Int32) -> bool:
        return token in self.ends


def written(tokenizer: Any, template: str | None, prompt: Prompt) -> str:
    """The prompt's text by the chat template (`template`, else the tokenizer's own), up to where the answer begins."""
    if prompt.text is not None:
        return prompt.text
    turns = [{"role": turn.role, "content": turn.content} for turn in prompt.messages]
    more = {} if template is None else {"chat_template": template}
    return str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True, **more))


def _looked_at(model: Any, tokens: Int32, made: Int32, finish: Literal["stop", "length"]) -> Answer:
    logits_TV = logits_after(model, tokens.tolist(), made.tolist())
    found = [likeliest(logits_V) for logits_V in logits_TV]
    return Answer(made, finish, np.stack([ids for ids, _ in found]), np.stack([values for _, values in found]))
