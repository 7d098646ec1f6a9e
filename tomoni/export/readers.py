"""The programs that run a model before and after it changed its form: tomoni itself, transformers and onnxruntime."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from tomoni.engine.plain import generate, logits_after, open_plain, open_plain_tokenizer
from tomoni.engine.sampler import Sampling
from tomoni.evaluate.subject import Subject
from tomoni.export.answers import Answer, Prompt, likeliest
from tomoni.hub import read_json
from tomoni.rows import Float32, Int32


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


class _Folder:
    """A program that runs an exported folder: its own tokenizer, and the tokens that its generation config says end an
    answer."""

    def __init__(self, tokenizer: Any, ends: Any) -> None:
        self.tokenizer = tokenizer
        self.ends = tuple(ends if isinstance(ends, list) else [] if ends is None else [ends])

    def text(self, prompt: Prompt) -> str:
        return written(self.tokenizer, None, prompt)

    def tokens(self, prompt: Prompt) -> Int32:
        return _tokenized(self.tokenizer, prompt)

    def answers(self, prompts: Sequence[Int32], most: int) -> list[Answer]:
        return [self._answer(tokens, most) for tokens in prompts]

    def _answer(self, tokens: Int32, most: int) -> Answer:
        raise NotImplementedError

    def ends_at(self, token: int, tokens: Int32) -> bool:
        return token in self.ends


class Plain(_Folder):
    """A folder in Hugging Face's form, loaded afresh by transformers without tomoni."""

    name = "transformers"

    def __init__(self, folder: Path) -> None:
        self.model, tokenizer = open_plain(folder)
        super().__init__(tokenizer, self.model.generation_config.eos_token_id)

    def _answer(self, tokens: Int32, most: int) -> Answer:
        made = np.asarray(generate(self.model, tokens.tolist(), most), dtype=np.int32)
        return _looked_at(self.model, tokens, made, _finish(made, self.ends))


class OnnxRuntime(_Folder):
    """A folder with an ONNX file, its tokenizer and its generation config, run by onnxruntime."""

    name = "onnxruntime"

    def __init__(self, folder: Path) -> None:
        from tomoni.export.onnx import OnnxReader

        self.reader = OnnxReader(folder)
        super().__init__(open_plain_tokenizer(folder), read_json(folder / "generation_config.json").get("eos_token_id"))

    def _answer(self, tokens: Int32, most: int) -> Answer:
        made = np.asarray(self.reader.greedy(tokens, ends=self.ends, most=most), dtype=np.int32)
        logits_TV = self.reader.logits(np.concatenate([tokens, made[:-1]]))[-len(made) :]
        return _told(made, _finish(made, self.ends), logits_TV)


def written(tokenizer: Any, template: str | None, prompt: Prompt) -> str:
    """The prompt's text by the chat template (`template`, else the tokenizer's own), up to where the answer begins."""
    if prompt.text is not None:
        return prompt.text
    turns = [{"role": turn.role, "content": turn.content} for turn in prompt.messages]
    more = {} if template is None else {"chat_template": template}
    return str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True, **more))


def _tokenized(tokenizer: Any, prompt: Prompt) -> Int32:
    """As somebody without tomoni does it: a text with what the tokenizer puts in front, a template's text without."""
    text = written(tokenizer, None, prompt)
    return np.asarray(tokenizer(text, add_special_tokens=prompt.text is not None)["input_ids"], dtype=np.int32)


def _finish(made: Int32, ends: Collection[int]) -> Literal["stop", "length"]:
    return "stop" if len(made) and int(made[-1]) in ends else "length"


def _looked_at(model: Any, tokens: Int32, made: Int32, finish: Literal["stop", "length"]) -> Answer:
    return _told(made, finish, logits_after(model, tokens.tolist(), made.tolist()))


def _told(made: Int32, finish: Literal["stop", "length"], logits_TV: Float32) -> Answer:
    found = [likeliest(logits_V) for logits_V in logits_TV]
    return Answer(made, finish, np.stack([ids for ids, _ in found]), np.stack([values for _, values in found]))
