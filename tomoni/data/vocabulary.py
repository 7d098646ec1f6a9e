"""Train a tokenizer on plain text: byte-level, so that every text comes back from its tokens unchanged. No torch.

Texts are not normalised (NFC and NFD stay what they are). BPE splits text with an expression that llama.cpp knows under
the name of the model it comes from, so that a model trained with it can be converted.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal

from tomoni.data.templates import CHATML
from tomoni.data.unigram import train_unigram
from tomoni.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|pad|>", "<|mask|>", "<|cls|>", "<|sep|>")
ROLES_OF_TOKENS = {
    "eos_token": "<|endoftext|>",
    "pad_token": "<|pad|>",
    "mask_token": "<|mask|>",
    "cls_token": "<|cls|>",
    "sep_token": "<|sep|>",
}
# Qwen2's own expression (its tokenizer.json; transformers' tokenization_qwen2.py): words with one character before
# them, digits one by one, runs of other signs, line ends, spaces
QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# runs of one Japanese script: hiragana, katakana with its long mark, kanji
SCRIPTS = r"[\u3041-\u309f]+|[\u30a0-\u30ff]+|[\u4e00-\u9fff\u3005\u30f6]+"
BYTES = 256


def train_tokenizer(
    documents: Iterable[str],
    *,
    kind: Literal["bpe", "unigram"] = "bpe",
    vocab_size: int = 8000,
    pre_tokenizer: Literal["gpt2", "qwen2"] = "qwen2",
    split_scripts: bool = False,
    special_tokens: Sequence[str] = SPECIAL_TOKENS,
    framed: bool = False,
) -> PreTrainedTokenizerBase:
    """A tokenizer of at most `vocab_size` tokens, special ones (ids from 0) and the 256 bytes included.

    With `split_scripts` no token is learnt that joins hiragana, katakana and kanji, so that a name keeps its tokens
    whatever particle follows it. This shapes what is learnt only: the tokenizer itself splits as `pre_tokenizer` says.
    `framed`: a text is given as an encoder reads it, with a token before and one behind.
    The same documents in the same order give the same tokenizer. `<|endoftext|>` ends documents and the chat template
    is ChatML. Raises ConfigError where the vocabulary cannot hold the bytes and special tokens, or no text comes.
    """
    from tokenizers import Tokenizer, decoders, models, trainers
    from tokenizers.pre_tokenizers import ByteLevel

    least = BYTES + len(special_tokens)
    if vocab_size < least:
        raise ConfigError(
            f"vocab_size {vocab_size} is too small: bytes and special tokens alone are {least}",
            next_step="set vocabulary.vocab_size to some thousands",
        )
    options: dict[str, Any] = {
        "vocab_size": vocab_size,
        "special_tokens": list(special_tokens),
        "initial_alphabet": sorted(ByteLevel.alphabet()),
        "show_progress": False,
    }
    counted = _Counted(documents)
    splitter = _splitter(pre_tokenizer)
    learning = _at_script_borders(splitter) if split_scripts else splitter
    if kind == "bpe":
        backend = Tokenizer(models.BPE())
        backend.pre_tokenizer = learning
        backend.train_from_iterator(counted, trainers.BpeTrainer(**options))
    else:
        pieces = vocab_size - len(special_tokens)
        backend = Tokenizer(train_unigram(counted, splitter=learning, pieces=pieces, specials=special_tokens))
        backend.add_special_tokens(list(special_tokens))
    backend.pre_tokenizer = splitter
    backend.decoder = decoders.ByteLevel()
    if not counted.characters:
        raise ConfigError("there is no text to train a tokenizer on", next_step="check train_file")
    if framed:
        _frame(backend)
    return _wrapped(backend, special_tokens)


def _frame(backend: Any) -> None:
    from tokenizers import processors

    first, last = ROLES_OF_TOKENS["cls_token"], ROLES_OF_TOKENS["sep_token"]
    backend.post_processor = processors.TemplateProcessing(
        single=f"{first} $A {last}",
        pair=f"{first} $A {last} $B:1 {last}:1",
        special_tokens=[(token, backend.token_to_id(token)) for token in (first, last)],
    )


class _Counted:
    def __init__(self, documents: Iterable[str]) -> None:
        self.documents = documents
        self.characters = 0

    def __iter__(self) -> Any:
        for document in self.documents:
            self.characters += len(document)
            yield document


def _splitter(name: str) -> Any:
    from tokenizers import Regex, pre_tokenizers

    if name == "gpt2":
        return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    if name == "qwen2":
        return pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(QWEN2), behavior="isolated", invert=False),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
    raise ConfigError(f"unknown pre_tokenizer {name!r}", choices=["gpt2", "qwen2"])


def _at_script_borders(splitter: Any) -> Any:
    from tokenizers import Regex, pre_tokenizers

    return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(SCRIPTS), behavior="isolated"), splitter])


def _wrapped(backend: Any, special_tokens: Sequence[str]) -> PreTrainedTokenizerBase:
    from transformers.tokenization_utils_tokenizers import TokenizersBackend

    named = {role: token for role, token in ROLES_OF_TOKENS.items() if token in special_tokens}
    made = TokenizersBackend(tokenizer_object=backend, clean_up_tokenization_spaces=False, **named)
    if {"<|im_start|>", "<|im_end|>"} <= set(special_tokens):
        made.chat_template = CHATML
    return made
