"""stories260K, a real Llama of 260 thousand parameters trained on children's stories, from llama2.c's form.

The form: 7 int32 (width, MLP width, layers, heads, key-value heads, vocabulary, longest row), then float32 weights,
each kind for all layers together; the tokenizer: int32 longest token, then per token float32 score, int32 length, bytes.
`logits` computes the model in float64 numpy from these very weights, knowing nothing of what is tested.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

Float64 = NDArray[np.float64]
EPSILON = 1e-5
SPACE = "\u2581"  # how SentencePiece writes a space


def source() -> Path:
    """The folder tiny_weights of the real data, or the test is skipped."""
    root = os.environ.get("TOMONI_REALDATA")
    folder = Path(root or ".") / "tiny_weights"
    if not root or not (folder / "stories260K.bin").is_file():
        pytest.skip("TOMONI_REALDATA is not set to a folder with tiny_weights/stories260K.bin")
    return folder


@dataclass(frozen=True)
class Stories:
    width: int
    mlp: int
    layers: int
    heads: int
    kv_heads: int
    vocabulary: int
    longest: int
    weights: dict[str, NDArray[np.float32]]

    @property
    def head_width(self) -> int:
        return self.width // self.heads


def read(path: Path) -> Stories:
    raw = path.read_bytes()
    width, mlp, layers, heads, kv_heads, vocabulary, longest = struct.unpack("<7i", raw[:28])
    numbers = np.frombuffer(raw, dtype="<f4", offset=28)
    kv = width // heads * kv_heads
    shapes = {
        "embeddings": (vocabulary, width),
        "attention_norm": (layers, width),
        "q": (layers, width, width),
        "k": (layers, kv, width),
        "v": (layers, kv, width),
        "o": (layers, width, width),
        "mlp_norm": (layers, width),
        "gate": (layers, mlp, width),
        "down": (layers, width, mlp),
        "up": (layers, mlp, width),
        "norm": (width,),
    }
    weights, at = {}, 0
    for name, shape in shapes.items():
        size = int(np.prod(shape))
        weights[name] = numbers[at : at + size].reshape(shape)
        at += size
    return Stories(width, mlp, layers, heads, kv_heads, vocabulary, longest, weights)


def logits(stories: Stories, tokens: list[int]) -> Float64:
    """[T, V] in float64: rotary embeddings on neighbouring pairs, as llama2.c has them."""
    w = {name: weight.astype(np.float64) for name, weight in stories.weights.items()}
    hidden = w["embeddings"][tokens]
    for layer in range(stories.layers):
        normed = _normed(hidden, w["attention_norm"][layer])
        hidden = hidden + _attention(stories, w, layer, normed) @ w["o"][layer].T
        normed = _normed(hidden, w["mlp_norm"][layer])
        gate = normed @ w["gate"][layer].T
        hidden = hidden + (gate / (1 + np.exp(-gate)) * (normed @ w["up"][layer].T)) @ w["down"][layer].T
    return np.asarray(_normed(hidden, w["norm"]) @ w["embeddings"].T)


def _normed(hidden: Float64, weight: Float64) -> Float64:
    return np.asarray(hidden / np.sqrt((hidden**2).mean(-1, keepdims=True) + EPSILON) * weight)


def _attention(stories: Stories, w: dict[str, Float64], layer: int, normed: Float64) -> Float64:
    length, size = len(normed), stories.head_width
    q = _turned((normed @ w["q"][layer].T).reshape(length, stories.heads, size))
    k = _turned((normed @ w["k"][layer].T).reshape(length, stories.kv_heads, size))
    v = (normed @ w["v"][layer].T).reshape(length, stories.kv_heads, size)
    out = np.zeros((length, stories.heads, size))
    for head in range(stories.heads):
        shared = head * stories.kv_heads // stories.heads
        for at in range(length):
            scores = k[: at + 1, shared] @ q[at, head] / np.sqrt(size)
            chances = np.exp(scores - scores.max())
            out[at, head] = chances / chances.sum() @ v[: at + 1, shared]
    return out.reshape(length, stories.width)


def _turned(vectors_THD: Float64) -> Float64:
    """Each pair of neighbours turned by its position's angle, as one complex number."""
    length, _, size = vectors_THD.shape
    frequencies = 10_000.0 ** (-np.arange(0, size, 2) / size)
    turn = np.exp(1j * np.outer(np.arange(length), frequencies))[:, None]
    turned = (vectors_THD[..., 0::2] + 1j * vectors_THD[..., 1::2]) * turn
    return np.stack([turned.real, turned.imag], -1).reshape(vectors_THD.shape)


# -- to Hugging Face form ------------------------------------------------------------------------------------------


def convert(folder: Path) -> Path:
    """Write model and tokenizer in Hugging Face form into `folder`."""
    stories = read(source() / "stories260K.bin")
    config = LlamaConfig(
        vocab_size=stories.vocabulary,
        hidden_size=stories.width,
        intermediate_size=stories.mlp,
        num_hidden_layers=stories.layers,
        num_attention_heads=stories.heads,
        num_key_value_heads=stories.kv_heads,
        max_position_embeddings=stories.longest,
        rms_norm_eps=EPSILON,
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
    )
    model = LlamaForCausalLM(config)
    missing = model.load_state_dict(_state(stories), strict=False).missing_keys
    assert missing == ["lm_head.weight"]  # tied
    model.save_pretrained(folder)
    tokenizer(source() / "stories260K_tok512.bin").save_pretrained(folder)
    return folder


def _state(stories: Stories) -> dict[str, torch.Tensor]:
    w = stories.weights
    state = {"model.embed_tokens.weight": w["embeddings"], "model.norm.weight": w["norm"]}
    for layer in range(stories.layers):
        at = f"model.layers.{layer}."
        state[at + "input_layernorm.weight"] = w["attention_norm"][layer]
        state[at + "post_attention_layernorm.weight"] = w["mlp_norm"][layer]
        state[at + "self_attn.q_proj.weight"] = _halves(w["q"][layer], stories.heads)
        state[at + "self_attn.k_proj.weight"] = _halves(w["k"][layer], stories.kv_heads)
        state[at + "self_attn.v_proj.weight"] = w["v"][layer]
        state[at + "self_attn.o_proj.weight"] = w["o"][layer]
        for theirs, ours in (("gate", "gate_proj"), ("up", "up_proj"), ("down", "down_proj")):
            state[f"{at}mlp.{ours}.weight"] = w[theirs][layer]
    return {name: torch.tensor(weight) for name, weight in state.items()}


def _halves(weight: NDArray[np.float32], heads: int) -> NDArray[np.float32]:
    """Rows of each head from neighbouring pairs to first and second half, as transformers turns them."""
    size = weight.shape[0] // heads
    return weight.reshape(heads, size // 2, 2, -1).transpose(0, 2, 1, 3).reshape(weight.shape)


def pieces(path: Path) -> list[tuple[str, float]]:
    """Token and score by id; a space is written as SentencePiece does."""
    raw, found, at = path.read_bytes(), [], 4
    while at < len(raw):
        score, length = struct.unpack("<fi", raw[at : at + 8])
        text = raw[at + 8 : at + 8 + length].decode("utf-8")
        found.append((text.strip("\n") if text in ("\n<s>\n", "\n</s>\n") else text.replace(" ", SPACE), score))
        at += 8 + length
    return found


def tokenizer(path: Path) -> PreTrainedTokenizerFast:
    found = pieces(path)
    ids = {piece: index for index, (piece, _) in enumerate(found)}
    learnt = [piece for piece, _ in sorted(found[259:], key=lambda pair: -pair[1]) if len(piece) > 1]
    merges = [
        (piece[:cut], piece[cut:])
        for piece in learnt
        for cut in range(1, len(piece))
        if piece[:cut] in ids and piece[cut:] in ids
    ]
    backend = Tokenizer(models.BPE(vocab=ids, merges=merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), normalizers.Replace(" ", SPACE)])
    backend.decoder = decoders.Sequence(
        [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    backend.add_special_tokens([AddedToken(name, normalized=False) for name in ("<unk>", "<s>", "</s>")])
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", bos_token="<s>", eos_token="</s>")
