"""Load tokenizers, and turn text into tokens without ever reading a control token out of it. No torch to import.

A tokenizer with a tokenizer.json is read from that file alone: no code of the folder runs, and torch is not imported.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tomoni.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# the files whose content decides how text becomes tokens
FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "tokenizer.model",
    "spiece.model",
)
# of a BertJapaneseTokenizer: how it cuts words and parts of them
WORDS = (
    "do_lower_case", "word_tokenizer_type", "subword_tokenizer_type", "mecab_kwargs", "sudachi_kwargs", "jumanpp_kwargs",
    "do_word_tokenize", "do_subword_tokenize",
)  # fmt: skip


def load_tokenizer(folder: str | Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a model folder in Hugging Face form; raises ModelError, never runs the folder's code."""
    folder = Path(folder)
    if not folder.is_dir():
        raise ModelError(f"there is no folder {str(folder)!r} to read a tokenizer from", next_step="check the path")
    config = _config(folder)
    if "AutoTokenizer" in (config.get("auto_map") or {}):
        raise ModelError(
            f"the tokenizer in {str(folder)!r} needs code of its own (auto_map), which is never run",
            next_step="take a model whose tokenizer is a tokenizer.json",
        )
    if not any((folder / name).is_file() for name in FILES[:1] + FILES[5:]):
        raise ModelError(
            f"{str(folder)!r} holds no tokenizer",
            choices=["tokenizer.json", *FILES[5:]],
            next_step="copy the tokenizer's files beside the model's",
        )
    try:
        return _load(folder)
    except ModelError:
        raise
    except Exception as error:  # the libraries raise anything for a damaged file, even a bare Exception
        raise ModelError(
            f"the tokenizer in {str(folder)!r} cannot be read: {str(error)[:300]}",
            next_step="copy or download its files again",
        ) from error


def _config(folder: Path) -> dict[str, Any]:
    path = folder / "tokenizer_config.json"
    if not path.is_file():
        return {}
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(f"{str(path)!r} is not valid JSON: {error}", next_step="copy or download it again") from None
    return config if isinstance(config, dict) else {}


def _load(folder: Path) -> PreTrainedTokenizerBase:
    if (folder / "tokenizer.json").is_file():
        from transformers.tokenization_utils_tokenizers import TokenizersBackend

        return TokenizersBackend.from_pretrained(str(folder), local_files_only=True)
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)


def fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """SHA-256 over everything that decides tokens: the tokenizer's own serialisation and its special tokens."""
    made = hashlib.sha256()
    backend = getattr(tokenizer, "backend_tokenizer", None)
    made.update(backend.to_str().encode() if backend is not None else json.dumps(tokenizer.get_vocab()).encode())
    if backend is None:  # BertJapaneseTokenizer: how words are cut decides tokens as much as the vocabulary
        words = {name: getattr(tokenizer, name, None) for name in WORDS}
        made.update(json.dumps(words, sort_keys=True, default=str).encode())
    specials = {name: str(value) for name, value in tokenizer.special_tokens_map.items()}
    made.update(json.dumps(specials, sort_keys=True).encode())
    return made.hexdigest()


@dataclass(frozen=True, slots=True)
class Special:
    """A control token: its text, its id, and whether it swallows white space around it."""

    text: str
    id: int
    lstrip: bool = False
    rstrip: bool = False


class Encoder:
    """Text to tokens in two strict ways: `plain` (no control tokens, whatever the text says) and `special`."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        self._backend = _own_backend(tokenizer)
        self.specials = _specials(tokenizer)
        self._control = {special.id for special in self.specials} - {tokenizer.unk_token_id}
        self.by_text = {special.text: special for special in self.specials}
        self.eos: int | None = tokenizer.eos_token_id  # type: ignore[assignment]
        self.bos = self._added_in_front()

    @cached_property
    def pattern(self) -> re.Pattern[str] | None:
        """Any control token's text, the longest first."""
        texts = sorted(self.by_text, key=len, reverse=True)
        return re.compile("|".join(map(re.escape, texts))) if texts else None

    def plain(self, text: str, *, continues: bool = False) -> list[int]:
        """Tokens of a text; `continues` says that text stands before it, so that no word-start mark is put in front."""
        ids = self._continued(text, continues)
        if self.pattern and self.pattern.search(text) and not self._control.isdisjoint(ids):
            # a unigram or word-level model can hold control tokens as ordinary pieces; broken up, they are not found
            cuts = [0, *(match.start() + 1 for match in self.pattern.finditer(text)), len(text)]
            parts = [text[start:end] for start, end in itertools.pairwise(cuts)]
            ids = [id for index, part in enumerate(parts) for id in self._continued(part, continues or index > 0)]
        return ids

    def _continued(self, text: str, continues: bool) -> list[int]:
        if not text:
            return []
        if not continues or not self._anchor:
            return self._encode(text)
        lead = self._encode(self._anchor)
        both = self._encode(self._anchor + text)
        return both[len(lead) :] if both[: len(lead)] == lead else self._encode(text)

    def _encode(self, text: str) -> list[int]:
        if self._backend is not None:
            return list(self._backend.encode(text, add_special_tokens=False).ids)
        ids: Any = self.tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        return list(ids)

    @cached_property
    def _anchor(self) -> str:
        """A text to put before a continuing one; "" for tokenizers that mark no word start (byte-level ones)."""
        alone = self._encode("x")
        for anchor in ("\n", "a\n"):
            lead = self._encode(anchor)
            both = self._encode(anchor + "x")
            if both[: len(lead)] == lead:
                return "" if both[len(lead) :] == alone else anchor
        return ""

    @cached_property
    def marks_after_special(self) -> bool:
        """Whether text right after a control token gets the word-start mark too."""
        if not self.specials or not self._anchor:
            return True
        text = self.specials[0].text + "x"
        ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return list(ids[1:]) == self._encode("x")  # type: ignore[index]

    def _added_in_front(self) -> tuple[int, ...]:
        """What the tokenizer itself puts before a text (a beginning-of-text token), if anything."""
        bare = list(self.tokenizer("x", add_special_tokens=False)["input_ids"])  # type: ignore[arg-type]
        full = list(self.tokenizer("x")["input_ids"])  # type: ignore[arg-type]
        for start in range(len(full) - len(bare) + 1):
            if full[start : start + len(bare)] == bare:
                return tuple(full[:start])
        return ()


def _own_backend(tokenizer: PreTrainedTokenizerBase) -> Any:
    """A copy of the fast tokenizer that reads control tokens' text as text; None for slow tokenizers."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return None
    from tokenizers import Tokenizer

    own = Tokenizer.from_str(backend.to_str())
    own.no_truncation()
    own.no_padding()
    own.encode_special_tokens = True
    return own


def _specials(tokenizer: PreTrainedTokenizerBase) -> list[Special]:
    found = {}
    for index, token in tokenizer.added_tokens_decoder.items():
        if token.special and token.content:
            found[token.content] = Special(token.content, index, bool(token.lstrip), bool(token.rstrip))
    for text, index in zip(tokenizer.all_special_tokens, tokenizer.all_special_ids, strict=True):
        found.setdefault(text, Special(text, index))
    return list(found.values())
