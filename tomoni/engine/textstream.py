"""Tokens in, text out: never half a character, never a part of a stop string.

A character of Japanese or an emoji may take several tokens, and the first of them alone decodes to U+FFFD. And a
stop string may begin in one token and end three later. So what could still become either is held back until it is
decided; `finish` gives what is left.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

UNDECIDED = "\ufffd"
# the end of the prompt is decoded along with the first tokens: some tokenizers drop the space before a text's first
# word, and only then is it seen that this word is not the text's first
CONTEXT = 6


class TextStream:
    """The text of one answer, token by token. `stopped` turns True when a stop string is complete; its text, and all
    after it, is never given."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, *, prompt: Sequence[int] = (), stop: Sequence[str] = ()
    ) -> None:
        self._tokenizer = tokenizer
        self._stop = tuple(stop)
        self._tokens = [int(token) for token in prompt[-CONTEXT:]]
        if self._decode(self._tokens).endswith(UNDECIDED):
            self._tokens = []
        self._from = 0  # tokens before are decoded and done with
        self._read = len(self._tokens)  # text of the tokens before has been taken into `_held` or given
        self._held = ""  # decoded, but perhaps the beginning of a stop string
        self.stopped = False

    def add(self, token: int) -> str:
        """The text that is certain now; may be empty."""
        self._tokens.append(token)
        done = self._decode(self._tokens[self._from : self._read])
        text = self._decode(self._tokens[self._from :])
        if text.endswith(UNDECIDED) or len(text) <= len(done):
            return ""
        self._from, self._read = self._read, len(self._tokens)
        return self._past_stop(text[len(done) :])

    def finish(self) -> str:
        """What was held back, at the end of the answer."""
        done = self._decode(self._tokens[self._from : self._read])
        rest = self._decode(self._tokens[self._from :])[len(done) :]
        self._from = self._read = len(self._tokens)
        text = self._past_stop(rest) + self._held
        self._held = ""
        return text

    def _past_stop(self, text: str) -> str:
        if self.stopped:
            return ""
        text = self._held + text
        ends = [at for at in (text.find(stop) for stop in self._stop) if at >= 0]
        if ends:
            self.stopped, self._held = True, ""
            return text[: min(ends)]
        keep = max((_overlap(text, stop) for stop in self._stop), default=0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def _decode(self, tokens: Sequence[int]) -> str:
        text = self._tokenizer.decode(list(tokens), skip_special_tokens=True, clean_up_tokenization_spaces=False)
        assert isinstance(text, str)  # one sequence of tokens, one text
        return text


def _overlap(text: str, stop: str) -> int:
    """How many characters at the end of `text` begin `stop`."""
    return next((size for size in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:size])), 0)
