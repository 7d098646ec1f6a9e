"""The best linear head on given features, exactly: a convex problem, solved and not trained.

    classes    - mean_i w_i log softmax(W x_i + b)[label_i]  +  l/2 |W|²      (several classes: sigmoids instead)
    numbers    mean_i w_i (w·x_i + b - label_i)²  +  l |w|²

Features are brought to mean 0 and, each, the spread 1/sqrt(D), so that a row has about the length 1 and one set of
strengths l suits every encoder. The strength is the one whose solution, found on nine tenths, has the least loss on the
last tenth; then all rows are used. By L-BFGS (Liu and Nocedal 1989) in float64, numbers by the normal equations. Where rows,
classes and features are very many (`LARGE`), the strength is chosen on some of the classes, and the solution is rougher.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from torch import Tensor

Kind = Literal["class", "classes", "number"]
STRENGTHS = (1e-2, 1e-3, 1e-4, 3e-5, 1e-5, 3e-6, 1e-6)
FEWEST = 50  # rows of which a tenth tells something about strengths; the middle strength otherwise
ROUNDS = 500
PRECISE = 3e-4  # the largest entry of a solution's gradient, in the evened space
ROUGH = 1e-3  # of one that only chooses a strength, or is much work
CURVE = 0.5
SCORES_AT_ONCE = 2**23  # numbers: 64 MiB of them in float64, and some three times that around them
LARGE = 2**33  # rows times classes times features: a pass over them takes a core some third of a second in float32
FAINT = 1e-3  # of the usual spread: a feature that moves less is not brought to the others' size


@dataclass(frozen=True)
class Solution:
    """`loss` is that of the rows it was found on, without the penalty; `gradient` the largest entry that is left."""

    weight_CD: NDArray[np.float32]
    bias_C: NDArray[np.float32]
    loss: float
    strength: float
    gradient: float
    rounds: int


def solve(
    features_ND: NDArray[np.float32],
    labels: NDArray[np.generic],
    *,
    kind: Kind,
    size: int,
    weights_N: NDArray[np.float64] | None = None,
    bias: bool = True,
    seed: int = 0,
    strength: float | None = None,
    told: Callable[[int], None] = lambda rounds: None,
) -> Solution:
    """labels: int [N], or float [N, C] of several classes, or float [N] of numbers. The same rows give the same solution.
    `told` hears the number of each round of L-BFGS; what it raises ends the search."""
    space = _Space.of(features_ND, centred=bias)
    x_ND = space.inside(features_ND)
    w_N = torch.ones(len(x_ND), dtype=torch.float64) if weights_N is None else torch.from_numpy(weights_N)
    y = torch.from_numpy(np.ascontiguousarray(labels)).to(torch.int64 if kind == "class" else torch.float64)
    rounds = itertools.count(1)  # of all searches, those for the strength included
    problem = _Problem(kind, size, bias, lambda _: told(next(rounds)))
    start = np.zeros(size * (x_ND.shape[1] + bias))
    large = kind != "number" and x_ND.numel() * size > LARGE
    if large:
        x_ND, y = x_ND.float(), y if kind == "class" else y.float()
    if strength is None and large:
        strength = _chosen_on_some(problem, x_ND, y, w_N, seed)
    elif strength is None:
        strength, start = _chosen(problem, x_ND, y, w_N, start, seed)
    precision = ROUGH if large else PRECISE
    found, gradient, needed = problem.solved(x_ND, y, w_N, strength, start, precision=precision)
    loss = problem.loss(found, x_ND, y, w_N)
    weight_CD, bias_C = problem.parts(found, x_ND.shape[1])
    weight_CD, bias_C = space.outside(weight_CD, bias_C)
    return Solution(
        weight_CD.astype(np.float32), bias_C.astype(np.float32), loss, strength, float(gradient), int(needed)
    )


@dataclass(frozen=True)
class _Space:
    mean_D: NDArray[np.float64]
    scale_D: NDArray[np.float64]

    @classmethod
    def of(cls, features_ND: NDArray[np.float32], *, centred: bool) -> _Space:
        """Without a bias nothing can take up the mean, so it stays."""
        exact = features_ND.astype(np.float64)
        mean_D = exact.mean(0) if centred else np.zeros(exact.shape[1])
        spread_D = np.sqrt(np.square(exact - mean_D).mean(0))
        # a feature that hardly moves (MiniLM has one, of a spread of 1e-6) would get a weight of millions, by which the first
        # step of a further training throws the model far away
        spread_D = np.maximum(spread_D, FAINT * np.median(spread_D))
        scale_D = np.where(spread_D > 1e-9, spread_D, 1.0) * np.sqrt(exact.shape[1])
        return cls(mean_D, scale_D)

    def inside(self, features_ND: NDArray[np.float32]) -> Tensor:
        return torch.from_numpy((features_ND.astype(np.float64) - self.mean_D) / self.scale_D)

    def outside(
        self, weight_CD: NDArray[np.float64], bias_C: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        weight_CD = weight_CD / self.scale_D
        return weight_CD, bias_C - weight_CD @ self.mean_D


@dataclass(frozen=True)
class _Problem:
    kind: Kind
    size: int
    bias: bool
    after_round: Callable[[object], None]

    def parts(self, flat: NDArray[np.float64], width: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        matrix = flat.reshape(self.size, width + self.bias)
        return matrix[:, :width], matrix[:, width] if self.bias else np.zeros(self.size)

    def scores(self, flat: NDArray[np.float64], x_ND: Tensor) -> Tensor:
        weight_CD, bias_C = self.parts(flat, x_ND.shape[1])
        weight = torch.from_numpy(np.ascontiguousarray(weight_CD)).to(x_ND.dtype)
        return x_ND @ weight.t() + torch.from_numpy(bias_C.copy()).to(x_ND.dtype)

    def loss(self, flat: NDArray[np.float64], x_ND: Tensor, y: Tensor, w_N: Tensor) -> float:
        losses = [self._losses(self.scores(flat, x_ND[part]), y[part])[0] for part in self._blocks(x_ND)]
        return float((torch.cat(losses).double() * w_N).sum() / w_N.sum())

    def _blocks(self, x_ND: Tensor) -> list[slice]:
        """Rows whose scores are held at once: ten thousand classes of many rows would not fit."""
        size = max(1, SCORES_AT_ONCE // self.size)
        return [slice(start, start + size) for start in range(0, len(x_ND), size)]

    def _losses(self, scores_NC: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Each row's loss, and its gradient by the scores."""
        if self.kind == "class":
            logp_NC = torch.log_softmax(scores_NC, 1)
            slope_NC = logp_NC.exp()
            slope_NC[torch.arange(len(y)), y] -= 1
            return -logp_NC[torch.arange(len(y)), y], slope_NC
        if self.kind == "classes":
            each_NC = torch.nn.functional.binary_cross_entropy_with_logits(scores_NC, y, reduction="none")
            return each_NC.mean(1), (torch.sigmoid(scores_NC) - y) / self.size
        gap_N = scores_NC[:, 0] - y
        return gap_N.square(), 2 * gap_N[:, None]

    def solved(
        self, x_ND: Tensor, y: Tensor, w_N: Tensor, strength: float, start: NDArray[np.float64], *, precision: float
    ) -> tuple[NDArray[np.float64], float, int]:
        if self.kind == "number":
            return self._ridge(x_ND, y, w_N, strength), 0.0, 1
        share_N = (w_N / w_N.sum()).to(x_ND.dtype)
        even_DD = _evening(x_ND, strength, self.size)
        blocks = self._blocks(x_ND)
        z_ND, double_DD = x_ND @ even_DD, (even_DD @ even_DD).double().numpy()

        def objective(flat: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
            v_CD, _ = self.parts(flat, x_ND.shape[1])
            pull_CD = strength * (v_CD @ double_DD)
            gradient_CD, bias_C, value = pull_CD, np.zeros(self.size), float((pull_CD * v_CD).sum()) / 2
            for part in blocks:
                loss_N, slope_NC = self._losses(self.scores(flat, z_ND[part]), y[part])
                slope_NC *= share_N[part, None]
                gradient_CD = gradient_CD + (slope_NC.t() @ z_ND[part]).double().numpy()
                bias_C = bias_C + slope_NC.sum(0).double().numpy()
                value += float(loss_N @ share_N[part])
            columns = [gradient_CD, bias_C[:, None]] if self.bias else [gradient_CD]
            return value, np.concatenate(columns, 1).ravel()

        options = {"maxiter": ROUNDS, "gtol": precision, "ftol": 0.0, "maxcor": 20}
        start = self._changed(start, torch.linalg.inv(even_DD))
        found = minimize(objective, start, jac=True, method="L-BFGS-B", options=options, callback=self.after_round)
        return self._changed(found.x, even_DD), float(np.abs(found.jac).max()), int(found.nit)

    def _changed(self, flat: NDArray[np.float64], by_DD: Tensor) -> NDArray[np.float64]:
        """The same head for features that are multiplied by the inverse."""
        weight_CD, bias_C = self.parts(flat, len(by_DD))
        moved_CD = weight_CD @ by_DD.double().numpy()
        return np.concatenate([moved_CD, bias_C[:, None]] if self.bias else [moved_CD], 1).ravel()

    def _ridge(self, x_ND: Tensor, y: Tensor, w_N: Tensor, strength: float) -> NDArray[np.float64]:
        columns = torch.cat([x_ND, torch.ones(len(x_ND), 1, dtype=torch.float64)], 1) if self.bias else x_ND
        weighted = columns * (w_N / w_N.sum())[:, None]
        penalty = torch.full((columns.shape[1],), strength, dtype=torch.float64)
        if self.bias:
            penalty[-1] = 0
        matrix = weighted.t() @ columns + torch.diag(penalty)
        solution: NDArray[np.float64] = torch.linalg.lstsq(matrix, weighted.t() @ y[:, None]).solution[:, 0].numpy()
        return solution


def _evening(x_ND: Tensor, strength: float, size: int) -> Tensor:
    """[D, D] by which the features are multiplied so that the problem curves about alike in all directions, which is
    what L-BFGS needs to be quick: (c X'X / n + l)^(-1/2), c being how much a softmax over `size` classes curves before it
    is sure."""
    spread_DD = (x_ND.t() @ x_ND).double() / len(x_ND)
    values_D, vectors_DD = torch.linalg.eigh(spread_DD * (CURVE / size) + strength * torch.eye(len(spread_DD)))
    made = vectors_DD @ torch.diag(values_D.clamp(min=1e-12).rsqrt()) @ vectors_DD.t()
    return made.to(x_ND.dtype)


def _chosen(
    problem: _Problem, x_ND: Tensor, y: Tensor, w_N: Tensor, start: NDArray[np.float64], seed: int
) -> tuple[float, NDArray[np.float64]]:
    """The strength, and its solution on nine tenths."""
    if len(x_ND) < FEWEST:
        return STRENGTHS[len(STRENGTHS) // 2], start
    apart = torch.from_numpy(np.asarray([_drawn(seed, index) for index in range(len(x_ND))]))
    if not bool(apart.any()):
        return STRENGTHS[len(STRENGTHS) // 2], start
    take: Callable[[Tensor], Tensor] = lambda values: values[~apart]  # noqa: E731
    best = (np.inf, STRENGTHS[0], start)
    rough_ND = x_ND if problem.kind == "number" else x_ND.float()  # twice as fast, and precise enough to choose by
    rough = y if problem.kind == "class" else y.to(rough_ND.dtype)
    for strength in STRENGTHS:
        start, _, _ = problem.solved(take(rough_ND), take(rough), take(w_N), strength, start, precision=ROUGH)
        loss = problem.loss(start, rough_ND[apart], rough[apart], w_N[apart])
        if loss >= best[0]:
            break  # weaker ones fit the nine tenths even closer
        best = (loss, strength, start)
    return best[1], best[2]


def _chosen_on_some(problem: _Problem, x_ND: Tensor, y: Tensor, w_N: Tensor, seed: int) -> float:
    """The strength that suits as many of the classes, drawn by seed, as are not too much work; of one class a row, with the
    rows of these alone."""
    share = LARGE / (x_ND.numel() * problem.size)
    if problem.kind == "class":
        share = np.sqrt(share)  # rows shrink as well
    drawn = np.random.default_rng(seed).permutation(problem.size)[: max(2, int(share * problem.size))]
    some = torch.from_numpy(np.sort(drawn))
    part = replace(problem, size=len(some))
    if problem.kind == "class":
        rows = torch.isin(y, some)
        x_ND, y, w_N = x_ND[rows], torch.searchsorted(some, y[rows]), w_N[rows]
    else:
        y = y[:, some]
    start = np.zeros(part.size * (x_ND.shape[1] + part.bias))
    return _chosen(part, x_ND, y, w_N, start, seed)[0]


def _drawn(seed: int, index: int) -> bool:
    return hashlib.blake2b(f"{seed} {index}".encode(), digest_size=2).digest()[0] < 26
