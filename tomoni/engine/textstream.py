"""Tokens in, text out: never half a character, never a part of a stop string.

A character of Japanese or an emoji may take several tokens, and the first of them alone decodes to U+FFFD. And a
stop string may begin in one token and end three later. So what could still become either is held back until it is
decided; `finish` gives what is left.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from transformers import PreTrainedTokenizerFast

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
        self._plain = _plain_decoder(tokenizer)
        self._tokens = [int(token) for token in prompt[-CONTEXT:]]
        self._done = self._decode(self._tokens)  # the text of tokens[from:read]
        if self._done.endswith(UNDECIDED):
            self._tokens, self._done = [], ""
        self._from = 0  # tokens before are decoded and done with
        self._read = len(self._tokens)  # text of the tokens before has been taken into `_held` or given
        self._held = ""  # decoded, but perhaps the beginning of a stop string
        self.stopped = False

    def add(self, token: int) -> str:
        """The text that is certain now; may be empty."""
        self.keep(token)
        text = self._decode(self._tokens[self._from :])
        done = self._done
        if text.endswith(UNDECIDED) or len(text) <= len(done):
            return ""
        self._from, self._read = self._read, len(self._tokens)
        self._done = self._decode(self._tokens[self._from :])
        return self._past_stop(text[len(done) :])

    def keep(self, token: int) -> None:
        """For who wants no text before the end: `finish` gives all of it. Stop strings are then found only there."""
        self._tokens.append(token)

    def finish(self) -> str:
        """What was held back, at the end of the answer."""
        rest = self._decode(self._tokens[self._from :])[len(self._done) :]
        self._from = self._read = len(self._tokens)
        self._done = ""
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
        if self._plain is not None:
            return self._plain(tokens)
        text = self._tokenizer.decode(list(tokens), skip_special_tokens=True, clean_up_tokenization_spaces=False)
        assert isinstance(text, str)  # one sequence of tokens, one text
        return text


def _plain_decoder(tokenizer: PreTrainedTokenizerBase) -> Callable[[Sequence[int]], str] | None:
    """The tokenizer's inner decoder, where the class around it adds nothing but time."""
    kind = type(tokenizer)
    fast = PreTrainedTokenizerFast
    if not issubclass(kind, fast) or kind.decode is not fast.decode or kind._decode is not fast._decode:
        return None
    inner = tokenizer.backend_tokenizer
    return lambda tokens: inner.decode(tokens, skip_special_tokens=True)


def _overlap(text: str, stop: str) -> int:
    """How many characters at the end of `text` begin `stop`."""
    return next((size for size in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:size])), 0)
