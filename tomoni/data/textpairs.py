"""What an encoder reads of a preference: the prompt and an answer as two segments, [CLS] prompt [SEP] answer [SEP]."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tomoni.data.render import OnLongRows, TooLong
from tomoni.records import Comparison, Message
from tomoni.rows import Row

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

WAY = "text pair: prompt, answer"


class PairRenderer:
    """Stands where a `Renderer` does, for `data.pairs.pair_item`. A prompt too long for `max_length` loses its beginning
    under "truncate": the end of a conversation and the answer say most."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, *, max_length: int = 512, on_long_rows: OnLongRows = "stop"
    ) -> None:
        self.tokenizer = tokenizer
        tokenizer.truncation_side = "left"
        self.max_length = max_length
        self.on_long_rows = on_long_rows
        self.notes: list[str] = []
        self.template = getattr(tokenizer, "chat_template", None)
        self.template_sha256 = hashlib.sha256(WAY.encode()).hexdigest()
        self.left_out: Counter[str] = Counter()
        self.seen: set[bytes] = set()
        self.truncated = self.contradictions = 0

    def begin_part(self) -> None:
        self.left_out.clear()
        self.seen.clear()
        self.truncated = self.contradictions = 0

    def comparison(self, record: Comparison) -> tuple[Row, Row] | None:
        name = f"{record.source} (record {record.id})"
        first = self.completion(record.prompt, record.first, name=name)
        if first is None:  # a pair is left out once
            return None
        second = self.completion(record.prompt, record.second, name=name)
        return None if second is None else (first, second)

    def completion(self, prompt: Sequence[Message], completion: Sequence[Message], *, name: str) -> Row | None:
        before, answer = _text(prompt), _text(completion)
        row = self._row(before, answer)
        if len(row) <= self.max_length:
            return row
        if self.on_long_rows == "stop":
            raise TooLong(name, len(row), self.max_length)
        answer_alone = len(self._row("", answer))
        if self.on_long_rows == "drop" or answer_alone >= self.max_length:
            self.left_out["longer than max_length"] += 1
            return None
        self.truncated += 1
        return self._row(before, answer, truncation="only_first", max_length=self.max_length)

    def _row(self, before: str, answer: str, **options: Any) -> Row:
        made: Any = self.tokenizer(before, answer, return_token_type_ids=True, **options)
        tokens = np.asarray(made["input_ids"], dtype=np.int32)
        segments = np.asarray(made["token_type_ids"], dtype=np.int8)
        return Row(tokens, np.zeros(len(tokens), dtype=np.float32), segments=segments)


def _text(messages: Sequence[Message]) -> str:
    if len(messages) == 1:
        return messages[0].content
    return "\n".join(f"{message.role}: {message.content}" for message in messages)
