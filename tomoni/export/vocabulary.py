"""A tokenizer as GGUF holds it: tokens, their kinds, merges or scores, and the name of the split before them.

llama.cpp splits text by expressions built into it, each under the name of a model. A tokenizer that splits in another
way cannot be exported: the ids would differ now and then, which nobody would notice. What is equal by its description
is still tried out on texts in `tomoni.export.parity`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tomoni.data.tokenize import Encoder
from tomoni.data.vocabulary import QWEN2
from tomoni.engine.saving import end_tokens
from tomoni.errors import ModelError

NORMAL, CONTROL, USER_DEFINED, UNUSED, BYTE, UNKNOWN = 1, 3, 4, 5, 6, 2  # ggml's numbers of token kinds
LLAMA3 = QWEN2.replace(r"\p{N}", r"\p{N}{1,3}", 2).replace(r"[^\r\n\p{L}\p{N}{1,3}]", r"[^\r\n\p{L}\p{N}]")
DIGITS = "each digit alone"
# each was tried on texts in both programs; GPT-4o's is not here, because llama.cpp cuts combining marks off otherwise
# (expressions before the byte mapping, GPT-2's own split in it, whole words before merges) -> llama.cpp's name
SPLITS: dict[tuple[tuple[str, ...], bool, bool], str] = {
    ((), True, False): "gpt-2",
    ((DIGITS,), True, False): "smollm",
    ((QWEN2,), False, False): "qwen2",
    ((LLAMA3,), False, True): "llama-bpe",
    ((LLAMA3,), False, False): "dbrx",
}
# an empty list cannot be written, and llama.cpp wants one; nothing is ever spelt so, because words begin as single letters
NO_MERGES = ("<|never|> <|never|>",)
UNREACHED = -1e6  # the score of a token that no merge makes: all others come first
NEXT_STEP = "export the model with --to hf or --to onnx, which keep the tokenizer as it is"


@dataclass(frozen=True)
class Vocabulary:
    """`model` and `split` are GGUF's names ("gpt2" with "qwen2"; "llama" with "default"). `tokens`, `kinds` and
    `scores` have one entry for each row of the embeddings. `eot` ends an answer where that is not `eos`."""

    model: str
    split: str
    tokens: tuple[str, ...]
    kinds: tuple[int, ...]
    eos: int
    merges: tuple[str, ...] | None = None
    scores: tuple[float, ...] | None = None
    eot: int | None = None
    bos: int | None = None
    unknown: int | None = None
    pad: int | None = None
    adds_bos: bool = False
    adds_space: bool = False
    notes: tuple[str, ...] = ()


def vocabulary_of(tokenizer: Any, size: int, template: str | None = None) -> Vocabulary:
    """The tokenizer for a model with embeddings for `size` tokens. What stands at the begin of a text (a begin-of-text
    token, a space) is set as it is for chats by `template`, or for plain texts where that is None.

    Raises ModelError, naming what it is, where llama.cpp would turn the same text into other tokens."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise ModelError("this tokenizer has no tokenizer.json, from which GGUF export reads it", next_step=NEXT_STEP)
    own = json.loads(backend.to_str())
    eos, eot = _ends(tokenizer)
    encoder = Encoder(tokenizer)
    chat = None if template is None else _chat(tokenizer, encoder, template)
    if encoder.bos and encoder.bos != (tokenizer.bos_token_id,):
        raise ModelError(
            f"the tokenizer puts the tokens {list(encoder.bos)} before a text; GGUF can hold one begin-of-text token",
            next_step=NEXT_STEP,
        )
    if own["model"]["type"] != "BPE":
        raise ModelError(
            f"llama.cpp cannot be given this {own['model']['type']} tokenizer",
            choices=("byte-level BPE (GPT-2, Qwen, Llama 3)", "SentencePiece BPE with bytes (Llama 2, Mistral)"),
            next_step=NEXT_STEP,
        )
    steps = _steps(own.get("pre_tokenizer"))
    byte_level = any(step["type"] == "ByteLevel" for step in steps)
    notes: list[str] = []
    if byte_level:
        notes += _normalizer_notes(own)
        special: dict[str, Any] = {"model": "gpt2", "split": _split(steps, bool(own["model"].get("ignore_merges")))}
        special["merges"] = tuple(_merges(own)) or NO_MERGES
    else:
        special = _sentencepiece(own, steps, size, chat)
    adds_bos = bool(encoder.bos) if chat is None else chat.opening is not None and chat.opening == tokenizer.bos_token
    if encoder.bos and not adds_bos:
        notes.append("chats have no begin-of-text token, so llama.cpp puts none before plain texts either")
    tokens, kinds = _tokens(tokenizer, own, size, byte_level=byte_level)
    return Vocabulary(
        tokens=tokens,
        kinds=kinds,
        eos=eos,
        eot=eot,
        bos=tokenizer.bos_token_id,
        unknown=tokenizer.unk_token_id,
        pad=tokenizer.pad_token_id,
        adds_bos=adds_bos,
        notes=tuple(notes),
        **special,
    )


def write(writer: Any, vocabulary: Vocabulary, template: str) -> None:
    """Write it, and the chat template, into a `GGUFWriter`."""
    writer.add_tokenizer_model(vocabulary.model)
    writer.add_tokenizer_pre(vocabulary.split)
    writer.add_token_list(list(vocabulary.tokens))
    writer.add_token_types(list(vocabulary.kinds))
    if vocabulary.merges is not None:
        writer.add_token_merges(list(vocabulary.merges))
    if vocabulary.scores is not None:
        writer.add_token_scores(list(vocabulary.scores))
    # a reader takes ids of its own (11 for GPT-2's kind) for what is not said
    writer.add_bos_token_id(vocabulary.eos if vocabulary.bos is None else vocabulary.bos)
    writer.add_eos_token_id(vocabulary.eos)
    if vocabulary.eot is not None:
        writer.add_eot_token_id(vocabulary.eot)
    if vocabulary.unknown is not None:
        writer.add_unk_token_id(vocabulary.unknown)
    if vocabulary.pad is not None:
        writer.add_pad_token_id(vocabulary.pad)
    writer.add_add_bos_token(vocabulary.adds_bos)
    writer.add_add_eos_token(False)
    writer.add_add_space_prefix(vocabulary.adds_space)
    writer.add_chat_template(template)


def _ends(tokenizer: Any) -> tuple[int, int | None]:
    """EOS, the end of a turn where it is another token."""
    ends = end_tokens(tokenizer)
    if not ends:
        raise ModelError(
            "neither the tokenizer nor its chat template has a token that ends an answer",
            next_step="set eos_token in the model's tokenizer_config.json",
        )
    eos = tokenizer.eos_token_id if tokenizer.eos_token_id is not None else ends[0]
    others = [end for end in ends if end != eos]
    return eos, (others[0] if others else None)


@dataclass(frozen=True, slots=True)
class _Chat:
    """Whether a chat's text begins with a control token (`opening`, its text), and whether one comes `later`."""

    opening: str | None
    later: bool


def _chat(tokenizer: Any, encoder: Encoder, template: str) -> _Chat:
    turns = [{"role": "user", "content": "?"}]
    text = str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True, chat_template=template))
    found = list(encoder.pattern.finditer(text)) if encoder.pattern else []
    first = found[0].group() if found and found[0].start() == 0 else None
    return _Chat(first, any(match.start() > 0 for match in found))


def _steps(pre_tokenizer: Mapping[str, Any] | None) -> list[Mapping[str, Any]]:
    if pre_tokenizer is None:
        return []
    if pre_tokenizer["type"] == "Sequence":
        return [step for part in pre_tokenizer["pretokenizers"] for step in _steps(part)]
    return [pre_tokenizer]


def _split(steps: list[Mapping[str, Any]], ignores_merges: bool) -> str:
    """llama.cpp's name of the split; raises ModelError with the tokenizer's own where there is none."""
    expressions = tuple(_expression(step) for step in steps if step["type"] != "ByteLevel")
    last = steps[-1]
    name = None
    if last["type"] == "ByteLevel" and not last.get("add_prefix_space"):
        name = SPLITS.get((expressions, bool(last.get("use_regex", True)), ignores_merges))
    if name is None:
        raise ModelError(
            f"llama.cpp has no split like this tokenizer's: {json.dumps(steps, ensure_ascii=False)}",
            choices=sorted(SPLITS.values()),
            next_step=NEXT_STEP,
        )
    return name


def _expression(step: Mapping[str, Any]) -> str:
    """What a step splits by, in words that SPLITS knows."""
    if step["type"] == "Digits" and step.get("individual_digits"):
        return DIGITS
    if step["type"] == "Split" and not step.get("invert") and step.get("behavior") == "Isolated":
        return str(step["pattern"].get("Regex", ""))
    return json.dumps(step)


def _normalizer_notes(own: Mapping[str, Any]) -> list[str]:
    kinds = [step["type"] for step in _normalizers(own.get("normalizer"))]
    if not kinds:
        return []
    if set(kinds) <= {"NFC"}:
        return ["the tokenizer composes characters first (NFC), llama.cpp does not: decomposed text gets other tokens"]
    raise ModelError(
        f"the tokenizer changes text before it splits it ({', '.join(kinds)}), which llama.cpp does not",
        next_step=NEXT_STEP,
    )


def _normalizers(normalizer: Mapping[str, Any] | None) -> list[Mapping[str, Any]]:
    if normalizer is None:
        return []
    if normalizer["type"] == "Sequence":
        return [step for part in normalizer["normalizers"] for step in _normalizers(part)]
    return [normalizer]


def _merges(own: Mapping[str, Any]) -> list[str]:
    """`left right`, as GGUF has them; both spellings of tokenizer.json are read."""
    return [merge if isinstance(merge, str) else " ".join(merge) for merge in own["model"]["merges"]]


def _sentencepiece(
    own: Mapping[str, Any], steps: list[Mapping[str, Any]], size: int, chat: _Chat | None
) -> dict[str, Any]:
    """SentencePiece's BPE in GGUF joins the pair whose token has the highest score; the first merge gets the highest.

    Raises ModelError where spaces are treated in another way than Llama 2's tokenizer does, or bytes are missing.
    """
    model = own["model"]
    adds_space, known = _spaces(steps, _normalizers(own.get("normalizer")), chat)
    missing = [f"<0x{byte:02X}>" for byte in range(256) if f"<0x{byte:02X}>" not in model["vocab"]]
    if not known or missing or not model.get("byte_fallback"):
        raise ModelError(
            "llama.cpp reads SentencePiece's BPE only with a token for every byte, ▁ for spaces and one way of putting ▁ "
            f"in front of texts, as Llama 2's with its template; this one splits by {json.dumps(steps, ensure_ascii=False)} after {json.dumps(own.get('normalizer'))}",
            next_step=NEXT_STEP,
        )
    scores = [UNREACHED] * size
    for text, index in model["vocab"].items():
        scores[index] = 0.0 if len(text) == 1 else UNREACHED
    for rank, merge in reversed(list(enumerate(_merges(own)))):
        joined = model["vocab"].get("".join(merge.split(" ")))
        if joined is not None:
            scores[joined] = -float(rank + 1)
    return {"model": "llama", "split": "default", "scores": tuple(scores), "adds_space": adds_space}


def _spaces(
    steps: list[Mapping[str, Any]], normalizers: list[Mapping[str, Any]], chat: _Chat | None
) -> tuple[bool, bool]:
    """Whether a space is put before a text, and whether spaces are treated in a way that llama.cpp knows."""
    if [step["type"] for step in steps] == ["Metaspace"] and not normalizers:
        scheme, whole = steps[0].get("prepend_scheme"), steps[0].get("split") is False
        if scheme != "first" or chat is None:
            return scheme != "never", whole
        # at the begin of a text only, not behind control tokens; llama.cpp does it at both or at neither
        return chat.opening is None, whole and (chat.opening is not None or not chat.later)
    kinds = [step["type"] for step in normalizers]
    # Gemma's splits at spaces, of which none are left
    harmless = [step for step in steps if step["type"] == "Split" and step["pattern"] == {"String": " "}]
    return "Prepend" in kinds, steps == harmless and kinds in (["Prepend", "Replace"], ["Replace"])


def _tokens(
    tokenizer: Any, own: Mapping[str, Any], size: int, *, byte_level: bool
) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Text and kind of each row of the embeddings; rows without a token are unused."""
    tokens = [f"[PAD{index}]" for index in range(size)]
    kinds = [UNUSED] * size
    for text, index in own["model"]["vocab"].items():
        tokens[index] = text
        is_byte = not byte_level and len(text) == 6 and text.startswith("<0x") and text.endswith(">")
        kinds[index] = BYTE if is_byte else NORMAL
    for token in own.get("added_tokens") or ():
        tokens[token["id"]] = token["content"]
        kinds[token["id"]] = CONTROL if token["special"] else USER_DEFINED
    for index in tokenizer.all_special_ids:
        kinds[index] = CONTROL
    if not byte_level and tokenizer.unk_token_id is not None:
        kinds[tokenizer.unk_token_id] = UNKNOWN
    return tuple(tokens), tuple(kinds)
