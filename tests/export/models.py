"""Small models and texts for the tests of export."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from tests import tiny
from tomoni.data.templates import CHATML
from tomoni.export import gguf
from tomoni.export.answers import Prompt
from tomoni.export.llamacpp import LlamaCpp
from tomoni.rows import Int32

# full-width and half-width forms, a combining mark, emoji with a joiner, runs of spaces and line ends, digits, code
TEXTS = (
    "吾輩は猫である。名前はまだ無い。",
    "ＡＢＣ１２３ ｶﾀｶﾅ カタカナ がぎぐ",
    "It's 2024, I'll pay 12345 yen; we've   got  spaces.\n\n\nAnd\tlines \r\n end ",
    "👩‍👩‍👧 🙂 e\u0301 \u3000全角の空白\u3000",
    "def f(x):\n    return x**2  # comment\n",
    "THEY'RE don't L'école ½ ② Ⅳ  ",
    "a",
    " leading and trailing ",
)


def written(
    path: Path,
    model: Any,
    tokenizer: Any,
    quantization: str = "f32",
    template: str = CHATML,
    chats: bool = True,
) -> gguf.Plan:
    plan = gguf.plan_of(model, tokenizer, template, quantization, chats=chats)
    gguf.write_gguf(plan, path)
    return plan


def logprobs_after(model: Any, tokens: list[int]) -> dict[int, float]:
    """By transformers' own forward pass, in float64 after the head."""
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([tokens]), use_cache=False).logits[0, -1]
    return dict(enumerate(torch.log_softmax(logits.double(), -1).tolist()))


def largest_difference(model: Any, path: Path, rows: list[list[int]], *, exact: bool = True) -> float:
    """Of any logprob after each row of tokens, between transformers and llama.cpp."""
    found = 0.0
    with LlamaCpp(path, exact=exact) as program:
        for tokens in rows:
            # a letter is forced, because nothing is told of a byte that begins a character
            said = program.complete(tokens, 1, n_probs=256, logit_bias=[[65, 1e6]])
            own = logprobs_after(model, tokens)
            told = {one["id"]: one["logprob"] for one in said["completion_probabilities"][0]["top_logprobs"]}
            assert len(told) > 100
            found = max(found, *(abs(own[token] - value) for token, value in told.items()))
    return found


def ids_in_llamacpp(path: Path, texts: tuple[str, ...]) -> list[Int32]:
    with LlamaCpp(path) as program:
        return [program.tokens(Prompt(text, text=text)) for text in texts]


def word(seed: int, length: int) -> list[int]:
    """Tokens of the byte alphabet only: each gives a whole character, so that llama.cpp tells every logprob."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(33, 90, (length,), generator=generator).tolist()


def model(architecture: str, **changes: Any) -> Any:
    """As tests.tiny's, with vectors that are not all zeros and ones: a bias that is lost would else not be seen."""
    made = tiny.model(architecture, **changes)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        for name, weight in made.named_parameters():
            if weight.dim() == 1:
                torch.nn.init.normal_(
                    weight, mean=0.0 if name.endswith("bias") or architecture.startswith("gemma") else 1.0, std=0.2
                )
    return made
