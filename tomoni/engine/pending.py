"""A step whose gradients stand in the weights, and which of its records are to blame where these are not finite."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tomoni.errors import Diverged


@dataclass(frozen=True, slots=True)
class Pending:
    """`finite`: whether all that is minimised is. `blame` computes the items one by one, and names those whose own loss
    or gradient is not finite."""

    ids: tuple[str, ...]
    finite: bool
    blame: Callable[[], list[str]]

    def __add__(self, other: Pending) -> Pending:
        blame = lambda: self.blame() + other.blame()  # noqa: E731
        return Pending(self.ids + other.ids, self.finite and other.finite, blame)

    def diverged(self, update: int) -> Diverged:
        ids = self.blame() or list(self.ids)
        return Diverged(
            f"the loss or gradient of step {update} is not finite; no weight was changed. "
            f"Records: {', '.join(ids[:10])}{' …' if len(ids) > 10 else ''}",
            record_ids=ids,
            next_step="look at these records, lower learning_rate, or set on_nonfinite: skip",
        )
