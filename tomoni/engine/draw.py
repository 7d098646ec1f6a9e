"""Choosing the next token from logits: pure functions, and draws that are keyed instead of taken from a stream.

A draw depends on (seed, the prompt's id, the token's position) alone. So an answer does not depend on what else is in
the batch, and sampling moves no random state that training uses.

N rows, V vocabulary.
"""

from __future__ import annotations

import ctypes
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from tomoni.engine.calls import kernels_for, pointer, rows_and_width
from tomoni.errors import ConfigError

Likeliest = tuple[tuple[int, float], ...]

BLOCK = 128  # tokens whose weights are summed before one is looked for among them
SMALL, SMALLEST = 1e-2, 1e-30  # temperatures: from where on logits may overflow, and what float32 can divide by
LIKELIEST = 256  # tokens among which a nucleus nearly always lies; ordering them takes a tenth of ordering all


@dataclass(frozen=True, slots=True)
class Sampling:
    """How an answer is drawn; names and meanings of transformers and the OpenAI API.

    `temperature` 0 always takes the likeliest token. Penalties come first, then temperature, `top_k` (0: all),
    `top_p`, `min_p`. `repetition_penalty` looks at prompt and answer, `presence_penalty` at the answer. `logprobs`
    asks for each token's log-probability under the model itself, before penalties, temperature and cuts;
    `top_logprobs` for those of so many likeliest tokens beside it.
    """

    max_new_tokens: int = 256
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    stop: tuple[str, ...] = ()
    seed: int = 0
    logprobs: bool = False
    top_logprobs: int = 0

    def __post_init__(self) -> None:
        wrong = [
            f"{name} is {getattr(self, name)}, but must be {rule}"
            for name, rule, right in (
                ("max_new_tokens", "at least 1", self.max_new_tokens >= 1),
                ("temperature", "between 0 and 100", 0 <= self.temperature <= 100),
                ("top_p", "above 0, at most 1", 0 < self.top_p <= 1),
                ("top_k", "0 (all) or more", self.top_k >= 0),
                ("min_p", "from 0, below 1", 0 <= self.min_p < 1),
                ("repetition_penalty", "above 0", 0 < self.repetition_penalty < float("inf")),
                ("presence_penalty", "between -2 and 2", -2 <= self.presence_penalty <= 2),
                ("top_logprobs", "0 or more", self.top_logprobs >= 0),
                ("stop", "texts of at least one character", all(self.stop) and not isinstance(self.stop, str)),
            )
            if not right
        ]
        if wrong:
            raise ConfigError("\n".join(wrong), next_step="correct the sampling options")

    @property
    def greedy(self) -> bool:
        return self.temperature == 0

    @property
    def plain(self) -> bool:
        """Drawn from all tokens, as likely as the temperature makes them."""
        return self.temperature >= SMALL and self.top_p == 1 and not self.top_k and not self.min_p

    @property
    def shape(self) -> tuple[float, ...]:
        """What rows must share to be drawn together."""
        return (self.temperature, self.top_p, self.top_k, self.min_p, self.repetition_penalty, self.presence_penalty)


def key(seed: int, prompt_id: str) -> bytes:
    return hashlib.blake2b(f"{seed}\0{prompt_id}".encode(), digest_size=32).digest()


def uniform(key: bytes, position: int) -> float:
    """A draw from the open interval (0, 1), of 48 bits: a keyed hash of the position."""
    digest = hashlib.blake2b(position.to_bytes(8, "little"), key=key, digest_size=6).digest()
    return (int.from_bytes(digest, "little") + 0.5) / 2**48


def choose(
    logits_NV: Tensor,
    how: Sampling,
    draws: Sequence[float],
    *,
    prompts: Sequence[Sequence[int]],
    answers: Sequence[Sequence[int]],
) -> Tensor:
    """int64 [N]: the next token of rows that share `how.shape`. `prompts` and `answers` are the tokens so far."""
    logits_NV = _penalised(logits_NV, how, prompts, answers)
    if how.greedy:
        return logits_NV.argmax(-1)
    draws_N = torch.tensor(draws, dtype=torch.float64, device=logits_NV.device)
    built = kernels_for(logits_NV)
    if built is not None and how.plain:
        return _drawn_by(built, logits_NV, how.temperature, draws_N)
    return _drawn(distribution(logits_NV, how), draws_N[:, None])


def distribution(logits_NV: Tensor, how: Sampling) -> Tensor:
    """float [N, V]: probabilities after temperature and cuts, not yet summing to 1."""
    logits_NV = logits_NV.float()
    if how.temperature < SMALL:  # the largest becomes 0, so that none becomes infinite
        logits_NV = (logits_NV - logits_NV.max(-1, keepdim=True).values) / max(how.temperature, SMALLEST)
    else:
        logits_NV = logits_NV / how.temperature
    if 0 < how.top_k < logits_NV.shape[-1]:
        least_N1 = logits_NV.topk(how.top_k, dim=-1).values[:, -1:]
        logits_NV = logits_NV.masked_fill(logits_NV < least_N1, float("-inf"))
    probabilities_NV = logits_NV.softmax(-1)
    if how.top_p < 1:
        probabilities_NV = _nucleus(probabilities_NV, how.top_p)
    if how.min_p > 0:
        most_N1 = probabilities_NV.max(-1, keepdim=True).values
        probabilities_NV = probabilities_NV.masked_fill(probabilities_NV < how.min_p * most_N1, 0)
    return probabilities_NV


def logprobs(logits_NV: Tensor, tokens_N: Tensor) -> Tensor:
    """float32 [N]: log-probability of each row's token under the model itself."""
    logits_NV = logits_NV.float()
    built = kernels_for(logits_NV)
    if built is None:
        sums_N = logits_NV.logsumexp(-1)
    else:
        sums_N = logits_NV.new_empty(len(logits_NV))
        built.logsumexp(pointer(logits_NV), pointer(sums_N), *rows_and_width(logits_NV))
    return logits_NV.gather(-1, tokens_N[:, None]).squeeze(-1) - sums_N


def likeliest(logits_NV: Tensor, count: int) -> list[Likeliest]:
    """Per row the `count` likeliest tokens with their log-probabilities under the model itself, the likeliest first."""
    logits_NV = logits_NV.float()
    values_NK, tokens_NK = logits_NV.topk(min(count, logits_NV.shape[-1]), dim=-1)
    values_NK = values_NK - logits_NV.logsumexp(-1, keepdim=True)
    return [
        tuple(zip(tokens, values, strict=True))
        for tokens, values in zip(tokens_NK.tolist(), values_NK.tolist(), strict=True)
    ]


def _drawn(weights_NV: Tensor, draws_N1: Tensor) -> Tensor:
    """int64 [N]: the first token whose cumulated weight lies above its draw's share of the sum: never one of weight 0.

    Looked for among the sums of blocks, then in one block, since cumulating a whole vocabulary takes longer than all
    else here.
    """
    blocks_NKB = pad(weights_NV, (0, -weights_NV.shape[-1] % BLOCK)).unflatten(-1, (-1, BLOCK))
    cumulated_NK = blocks_NKB.sum(-1, dtype=torch.float64).cumsum(-1)
    aim_N1 = draws_N1 * cumulated_NK[:, -1:]
    block_N1 = torch.searchsorted(cumulated_NK, aim_N1, right=True)
    before_N1 = pad(cumulated_NK, (1, 0)).gather(-1, block_N1)
    inside_NB = blocks_NKB[torch.arange(len(weights_NV), device=weights_NV.device), block_N1[:, 0]].double().cumsum(-1)
    # the block's sum was rounded in another order
    below_N1 = torch.nextafter(inside_NB[:, -1:], torch.zeros_like(inside_NB[:, -1:]))
    within_N1 = torch.searchsorted(inside_NB, torch.minimum(aim_N1 - before_N1, below_N1), right=True)
    return (block_N1 * BLOCK + within_N1).squeeze(-1)


def _drawn_by(built: ctypes.CDLL, logits_NV: Tensor, temperature: float, draws_N: Tensor) -> Tensor:
    """What `_drawn` gives for softmax(logits / temperature), in one pass of C."""
    rows, width = logits_NV.shape
    tokens_N = torch.empty(rows, dtype=torch.long)
    room = torch.empty(width + 1 + 2 * (width // BLOCK + 1))  # a row's weights, then its blocks' sums, as doubles
    given = (pointer(logits_NV), ctypes.c_float(temperature), pointer(draws_N), pointer(room), pointer(tokens_N))
    built.draw_rows(*given, *rows_and_width(logits_NV))
    return tokens_N


def _nucleus(probabilities_NV: Tensor, top_p: float) -> Tensor:
    """The fewest likeliest tokens that reach `top_p` together (Holtzman et al. 2020); the likeliest always stays."""
    kept_NV = torch.zeros_like(probabilities_NV)
    width = min(LIKELIEST, probabilities_NV.shape[-1])
    ordered_NK, where_NK = probabilities_NV.topk(width, dim=-1)
    kept_NV.scatter_(-1, where_NK, _until(ordered_NK, top_p))
    more_M = (ordered_NK.sum(-1) < top_p).nonzero().squeeze(-1)  # rows whose likeliest do not reach that far
    if width < probabilities_NV.shape[-1] and len(more_M):
        ordered_MV, where_MV = probabilities_NV[more_M].sort(-1, descending=True)
        kept_NV[more_M] = torch.zeros_like(ordered_MV).scatter_(-1, where_MV, _until(ordered_MV, top_p))
    return kept_NV


def _until(ordered_NK: Tensor, top_p: float) -> Tensor:
    """Probabilities, the likeliest first: 0 behind those that reach `top_p` together."""
    before_NK = ordered_NK.cumsum(-1) - ordered_NK
    behind_NK = before_NK >= top_p
    behind_NK[..., 0] = False  # also where float32 takes `top_p` for 0
    return ordered_NK.masked_fill(behind_NK, 0)


def _penalised(
    logits_NV: Tensor, how: Sampling, prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]
) -> Tensor:
    if how.repetition_penalty == 1 and how.presence_penalty == 0:
        return logits_NV
    logits_NV = logits_NV.clone()
    for row_V, prompt, answer in zip(logits_NV, prompts, answers, strict=True):
        said = _indices([*answer], row_V)
        seen = _indices([*prompt, *answer], row_V)
        values = row_V[seen]
        # Keskar et al. 2019 divide; a negative logit has to be multiplied to become less likely
        row_V[seen] = torch.where(values > 0, values / how.repetition_penalty, values * how.repetition_penalty)
        row_V[said] -= how.presence_penalty
    return logits_NV


def _indices(tokens: Sequence[int], row_V: Tensor) -> Tensor:
    return torch.tensor(sorted(set(tokens)), dtype=torch.long, device=row_V.device)
