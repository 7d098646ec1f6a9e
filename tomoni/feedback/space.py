"""From the kept features of answers to what the head reads. Numpy only.

Principal components of the features, centred, then the log length and, where it is known, the mean log-probability, both
standardised. Three choices:

- Components keep their sizes relative to each other (all together have variance 1), and the other two columns count
  a third: with few labels the head should first believe in what answers differ in most. Whitened components (`whiten`,
  each with variance 1) win only .69 where these win .75 of the head's choices at 10 labels (LOG.md).

- Components are those of answers *to one prompt* around their mean, where prompts are told: the head reads differences
  between such answers only, and what sets prompts apart would take up the components.
- What a straight line in the log length predicts is taken out of the features first, so that the length's own
  coefficient holds all of the linear taste for length. Set to 0, it leaves scores that do not move with length.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tomoni.errors import DataError
from tomoni.feedback.arrays import Float, checked, decoded, encoded

SCHEMA = 2  # 2: beside
BESIDE = 0.3  # of the log length's and log-probability's columns, where the components are not whitened
FLOOR = 1e-4  # components whose share of the largest variance is smaller are noise, and are left out


@dataclass(frozen=True, slots=True)
class Space:
    """phi = [(f - centre - slope (l - mean l)) W, b (l - mean l) / sd l, b (p - mean p) / sd p], l the log length."""

    centre_F: Float
    slope_F: Float
    whitening_FK: Float
    length_2: Float  # mean and standard deviation of the log length
    logprob_2: Float | None  # of the mean log-probability a token; None where it is not known
    beside: float = BESIDE  # b

    @property
    def dimensions(self) -> int:
        return self.whitening_FK.shape[1] + 1 + (self.logprob_2 is not None)

    @property
    def length(self) -> int:
        """The column of the log length."""
        return self.whitening_FK.shape[1]

    @classmethod
    def fit(
        cls,
        features_NF: Float,
        lengths_N: Float,
        logprobs_N: Float | None = None,
        *,
        prompts: Sequence[object] | None = None,
        components: int = 32,
        whiten: bool = False,
    ) -> Space:
        """`lengths_N`: tokens or characters, at least 0. `logprobs_N`: mean a token. Raises DataError for bad arrays."""
        features_NF, log_N, logprobs_N = _read(features_NF, lengths_N, logprobs_N)
        if len(features_NF) < 2:
            raise DataError(
                f"{len(features_NF)} answers", next_step="a space needs the features of two answers or more"
            )
        inside_NF, inside_N = features_NF - features_NF.mean(0), log_N - log_N.mean()
        if prompts is not None and len(set(prompts)) < len(features_NF):
            group_N = np.unique([str(prompt) for prompt in prompts], return_inverse=True)[1]
            inside_NF, inside_N = _inside(features_NF, group_N), _inside(log_N[:, None], group_N)[:, 0]
        slope_F = inside_NF.T @ inside_N / max(float(inside_N @ inside_N), 1e-12)
        rest_NF = inside_NF - np.outer(inside_N, slope_F)
        _, size_K, components_KF = np.linalg.svd(rest_NF, full_matrices=False)
        keep = min(components, int((size_K**2 > FLOOR * max(size_K[0] ** 2, 1e-12)).sum()))
        deviation_K = np.maximum(size_K[:keep] / np.sqrt(len(features_NF)), 1e-12)
        if not whiten:
            deviation_K = np.full(keep, np.sqrt((deviation_K**2).sum()))
        return cls(
            features_NF.mean(0),
            slope_F,
            components_KF[:keep].T / deviation_K,
            _mean_and_sd(log_N, inside_N),
            None if logprobs_N is None else _mean_and_sd(logprobs_N, _known(logprobs_N) - _known(logprobs_N).mean()),
            1.0 if whiten else BESIDE,
        )

    def __call__(self, features_NF: Float, lengths_N: Float, logprobs_N: Float | None = None) -> Float:
        """phi_ND. A log-probability that is not known (NaN, or no array) counts as the mean."""
        features_NF, log_N, logprobs_N = _read(features_NF, lengths_N, logprobs_N)
        if features_NF.shape[1] != len(self.centre_F):
            found, wanted = features_NF.shape[1], len(self.centre_F)
            raise DataError(
                f"features of {found} numbers in a space of {wanted}",
                next_step="embed the answers again with the model that the space was fitted on",
            )
        from_mean_N = log_N - self.length_2[0]
        rest_NF = features_NF - self.centre_F - np.outer(from_mean_N, self.slope_F)
        parts = [rest_NF @ self.whitening_FK, self.beside * (from_mean_N / self.length_2[1])[:, None]]
        if self.logprob_2 is not None:
            known_N = np.full(len(log_N), self.logprob_2[0]) if logprobs_N is None else logprobs_N
            standard_N = (known_N - self.logprob_2[0]) / self.logprob_2[1]
            parts.append(self.beside * np.nan_to_num(standard_N, nan=0.0)[:, None])
        return np.concatenate(parts, axis=1)

    def to_json(self) -> dict[str, Any]:
        return {
            "kind": "space",
            "schema": SCHEMA,
            "centre": encoded(self.centre_F),
            "slope": encoded(self.slope_F),
            "whitening": encoded(self.whitening_FK),
            "length": encoded(self.length_2),
            "logprob": None if self.logprob_2 is None else encoded(self.logprob_2),
            "beside": self.beside,
        }

    @classmethod
    def from_json(cls, form: Mapping[str, Any]) -> Space:
        form = checked(form, kind="space", schema=SCHEMA)
        logprob = form.get("logprob")
        space = cls(
            decoded(form.get("centre"), name="centre", dimensions=1),
            decoded(form.get("slope"), name="slope", dimensions=1),
            decoded(form.get("whitening"), name="whitening", dimensions=2),
            decoded(form.get("length"), name="length", dimensions=1),
            None if logprob is None else decoded(logprob, name="logprob", dimensions=1),
            float(form["beside"]),
        )
        if len({len(space.centre_F), len(space.slope_F), len(space.whitening_FK)}) > 1 or len(space.length_2) != 2:
            raise DataError("a space whose parts do not fit each other", next_step="fit it again from the answers")
        return space


def _inside(values_NF: Float, group_N: Any) -> Float:
    """Less the mean of each group."""
    count_G = np.bincount(group_N)
    sum_GF = np.zeros((len(count_G), values_NF.shape[1]))
    np.add.at(sum_GF, group_N, values_NF)
    return values_NF - (sum_GF / count_G[:, None])[group_N]


def _known(values_N: Float) -> Float:
    known_N = values_N[np.isfinite(values_N)]
    return known_N if len(known_N) else np.zeros(1)


def _mean_and_sd(values_N: Float, spread_N: Float) -> Float:
    deviation = float(np.sqrt((spread_N**2).mean()))
    return np.array([_known(values_N).mean(), deviation if deviation > 1e-9 else 1.0])


def _read(features_NF: Float, lengths_N: Float, logprobs_N: Float | None) -> tuple[Float, Float, Float | None]:
    features_NF = np.asarray(features_NF, dtype=np.float64)
    lengths_N = np.asarray(lengths_N, dtype=np.float64)
    if features_NF.ndim != 2 or len(features_NF) != len(lengths_N):
        raise DataError(
            f"features of shape {features_NF.shape} and {len(lengths_N)} lengths", next_step="one row an answer"
        )
    if not np.isfinite(features_NF).all() or not (np.isfinite(lengths_N) & (lengths_N >= 0)).all():
        raise DataError("a feature or a length that is not a finite number", next_step="embed these answers again")
    known = None if logprobs_N is None else np.asarray(logprobs_N, dtype=np.float64)
    return features_NF, np.log1p(lengths_N), known
