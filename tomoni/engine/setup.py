"""How an engine is set up: device, arithmetic, optimizer, heads, and the keys of its random draws."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import nn

from tomoni.engine.forward import Forward, ScoreHead
from tomoni.errors import ConfigError


class EngineSettings(Protocol):
    """What the engine reads of a method's config (`tomoni.settings.common`)."""

    @property
    def seed(self) -> int: ...
    @property
    def device(self) -> str: ...
    @property
    def dtype(self) -> str: ...
    @property
    def gradient_checkpointing(self) -> bool: ...
    @property
    def tokens_per_microbatch(self) -> int | None: ...
    @property
    def threads(self) -> int | None: ...
    @property
    def weight_decay(self) -> float: ...
    @property
    def adam_beta1(self) -> float: ...
    @property
    def adam_beta2(self) -> float: ...
    @property
    def adam_epsilon(self) -> float: ...
    @property
    def max_grad_norm(self) -> float: ...
    @property
    def on_nonfinite(self) -> str: ...


def pick_device(name: str) -> torch.device:
    """Raises ConfigError for a device that this machine or this build of PyTorch does not have."""
    if name != "auto":
        return _named_device(name)
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def _named_device(name: str) -> torch.device:
    here = ["auto", "cpu", *(f"cuda:{number}" for number in range(torch.cuda.device_count()))]
    here += ["mps"] * torch.backends.mps.is_available()
    if name not in here and not (name == "cuda" and torch.cuda.is_available()):
        raise ConfigError(
            f"device {name!r} is not here: PyTorch {torch.__version__} does not see it",
            choices=here,
            next_step="auto takes the fastest there is; `tomoni doctor` shows what PyTorch sees",
        )
    return torch.device(name)


def in_bfloat16(dtype: str, device: torch.device) -> bool:
    """Whether products run in bfloat16: on request, and by default where the accelerator has it."""
    if dtype == "auto":
        return device.type == "cuda" and torch.cuda.is_bf16_supported()
    return dtype == "bfloat16"


def keep_no_activations(model: nn.Module) -> None:
    enable: Any = getattr(model, "activation_checkpointing_enable", None)  # transformers before 5.2 knows the old name
    if enable is not None:
        enable()
    else:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})  # type: ignore[operator]


def adamw(
    trained: Mapping[str, nn.Parameter], cfg: EngineSettings, device: torch.device, *, head_rate: float = 1.0
) -> torch.optim.AdamW:
    """Decay on matrices only: not on biases, not on norms. `head_rate` is that of a score head as a multiple of the
    others', in the group's "times"."""
    body = [weight for name, weight in trained.items() if not name.startswith("score.")]
    head = [weight for name, weight in trained.items() if name.startswith("score.")]
    groups = [
        {"params": [weight for weight in part if (weight.dim() >= 2) == decays], "weight_decay": rate, "times": times}
        for part, times in ((body, 1.0), (head, head_rate))
        for decays, rate in ((True, cfg.weight_decay), (False, 0.0))
    ]
    filled = [group for group in groups if group["params"]]
    return torch.optim.AdamW(
        filled or [nn.Parameter(torch.zeros(0))],  # an engine that only looks
        lr=0.0,
        betas=(cfg.adam_beta1, cfg.adam_beta2),
        eps=cfg.adam_epsilon,
        fused=device.type in ("cpu", "cuda"),
    )


def new_score_head(forward: Forward, spec: ScoreHead, seed: int, device: torch.device) -> nn.Linear:
    width = forward.inner.config.get_text_config().hidden_size
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(draw_key(seed, 0, -1))
        head = nn.Linear(width, spec.size, bias=spec.bias)
        # a value that is wrong at random would be noise in the first advantages; a score has nothing to be wrong about
        nn.init.normal_(head.weight, std=0.0 if spec.per == "token" else 1 / (width + 1) ** 0.5)
        if head.bias is not None:
            nn.init.zeros_(head.bias)
    return head.to(device)


def draw_key(*parts: int) -> int:
    """A seed from numbers that name a draw; the same on every machine."""
    text = ",".join(map(str, parts)).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=7).digest(), "little")
