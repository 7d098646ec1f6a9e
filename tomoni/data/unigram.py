"""A unigram vocabulary, the same on every run. No torch.

The unigram trainer of the tokenizers library sums in the order of a hash table and splits over threads, so that two
runs on one text differ. Here the pieces start from a larger BPE vocabulary, and hard expectation-maximisation (Kudo,
2018, "Subword Regularization", section 3.2, with the best segmentation instead of all of them) prunes them: every sum is
over whole numbers, every tie is broken by the piece itself. What was left out: the expectation over all segmentations.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

SEED_FACTOR = 3  # pieces to begin with, for each that is kept
KEPT_PER_ROUND = 0.75
NEVER = -1e6
LONGEST_WORD = 64  # bytes of a word that are looked at when pieces are chosen; encoding has no such limit


def train_unigram(documents: Iterable[str], *, splitter: Any, pieces: int, specials: Sequence[str]) -> Any:
    """A tokenizers.models.Unigram of at most `pieces` byte-level pieces behind the special tokens."""
    from tokenizers import models
    from tokenizers.pre_tokenizers import ByteLevel

    words = _counted_words(documents, splitter)
    letters = sorted(ByteLevel.alphabet())
    vocabulary = dict.fromkeys(letters, 0.0) | dict.fromkeys(_seed(words, pieces * SEED_FACTOR, letters), 0.0)
    # to begin with, a piece is worth its frequency under segmentation into as few pieces as possible
    scores = _learnt(words, dict.fromkeys(vocabulary, -1.0))
    while len(scores) > pieces:
        scores = _learnt(words, scores)
        scores = _pruned(words, scores, max(pieces, int(len(scores) * KEPT_PER_ROUND)), letters)
    scores = _learnt(words, scores)
    ordered = sorted(scores.items(), key=lambda pair: (-pair[1], pair[0]))
    # a text that spells a control token must not become one: no segmentation chooses a piece of this score
    return models.Unigram([(text, NEVER) for text in specials] + ordered, unk_id=None, byte_fallback=False)


def _counted_words(documents: Iterable[str], splitter: Any) -> Counter[str]:
    words: Counter[str] = Counter()
    for document in documents:
        for word, _ in splitter.pre_tokenize_str(document):
            words.update(word[start : start + LONGEST_WORD] for start in range(0, len(word), LONGEST_WORD))
    return words


def _seed(words: Counter[str], size: int, letters: Sequence[str]) -> list[str]:
    from tokenizers import Tokenizer, models, trainers

    backend = Tokenizer(models.BPE())
    trainer = trainers.BpeTrainer(vocab_size=size, initial_alphabet=letters, show_progress=False, max_token_length=48)
    repeated = (word for word, count in sorted(words.items()) for _ in range(min(count, 1000)))
    backend.train_from_iterator(repeated, trainer)
    return sorted(backend.get_vocab())


def _segmented(words: Sequence[str], scores: dict[str, float]) -> list[Any]:
    from tokenizers import Tokenizer, models

    return Tokenizer(models.Unigram(list(scores.items()), unk_id=None, byte_fallback=False)).encode_batch(list(words))


def _counts(words: Counter[str], scores: dict[str, float]) -> Counter[str]:
    """How often each piece stands in the best segmentation."""
    order = sorted(words)
    counts: Counter[str] = Counter()
    for word, encoding in zip(order, _segmented(order, scores), strict=True):
        for piece in encoding.tokens:
            counts[piece] += words[word]
    return counts


def _learnt(words: Counter[str], scores: dict[str, float]) -> dict[str, float]:
    """Scores as log frequencies; a piece that is never used counts half, so that every byte keeps a score."""
    counts = _counts(words, scores)
    total = math.log(sum(counts.values()) or 1)
    return {piece: math.log(counts[piece] or 0.5) - total for piece in sorted(scores)}


def _pruned(words: Counter[str], scores: dict[str, float], size: int, letters: Sequence[str]) -> dict[str, float]:
    """The `size` pieces whose absence would cost the most: count times what its best two parts lose against it."""
    counts = _counts(words, scores)
    always = set(letters)
    lowest = min(scores.values())

    def cost(piece: str) -> float:
        score = scores.get
        parts = (
            score(piece[:cut], lowest * cut) + score(piece[cut:], lowest * (len(piece) - cut))
            for cut in range(1, len(piece))
        )
        return counts[piece] * (scores[piece] - max(parts))

    ranked = sorted((piece for piece in scores if piece not in always), key=lambda piece: (-cost(piece), piece))
    kept = always.union(ranked[: max(0, size - len(always))])
    return {piece: scores[piece] for piece in sorted(kept)}
