"""Japanese tokenizers of the usual layouts with small vocabularies, built in process."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

MARKS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
TEXT = (
    "山田さんは東京都の大学でガスとパンについて学ぶ。ＡＢＣのバス停は札幌にあるデータ。Mary went to New York in 2024!"
)


def named(backend: Tokenizer) -> PreTrainedTokenizerFast:
    ids = {mark: backend.token_to_id(mark) for mark in MARKS}
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", ids["[CLS]"]), ("[SEP]", ids["[SEP]"])],
    )
    roles = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), MARKS, strict=True))
    return PreTrainedTokenizerFast(tokenizer_object=backend, **roles)


def wordpiece(words: Iterable[str], *, strip_accents: bool = False, lowercase: bool = False) -> PreTrainedTokenizerFast:
    """BERT's own: NFD and stripped accents where asked for."""
    vocabulary = {word: number for number, word in enumerate(dict.fromkeys([*MARKS, *words]))}
    backend = Tokenizer(models.WordPiece(vocab=vocabulary, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(
        lowercase=lowercase, strip_accents=strip_accents, handle_chinese_chars=False
    )
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return named(backend)


def unigram(pieces: Sequence[str]) -> PreTrainedTokenizerFast:
    """SentencePiece's layout (Laboro BERT): NFKC, spaces as ▁, a unigram model."""
    scored = [(mark, 0.0) for mark in MARKS] + [(piece, -1.0 - number / 100) for number, piece in enumerate(pieces)]
    backend = Tokenizer(models.Unigram(scored, unk_id=1, byte_fallback=False))
    backend.normalizer = normalizers.NFKC()
    backend.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    backend.decoder = decoders.Metaspace()
    return named(backend)


def letters(text: str = TEXT) -> list[str]:
    return list(dict.fromkeys(text.replace(" ", "")))


def tohoku(folder: Path, *, words: str = "mecab", parts: str = "wordpiece", lower: bool = False) -> Any:
    """BertJapaneseTokenizer with unidic-lite: the tohoku-nlp layout (wordpiece, or character for the char models)."""
    from transformers import BertJapaneseTokenizer

    known = [*MARKS, *letters(), "東京", "大学", "ガス", "パン", "バス", "学ぶ", "データ"]
    known += [f"##{letter}" for letter in letters()]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(dict.fromkeys(known)) + "\n", encoding="utf-8")
    options: dict[str, Any] = {"mecab_kwargs": {"mecab_dic": "unidic_lite"}}
    if words == "sudachi":
        options = {"sudachi_kwargs": {"sudachi_dict_type": "core", "sudachi_split_mode": "A"}}
    return BertJapaneseTokenizer(
        str(folder / "vocab.txt"),
        do_lower_case=lower,
        word_tokenizer_type=words,
        subword_tokenizer_type=parts,
        **options,
    )
