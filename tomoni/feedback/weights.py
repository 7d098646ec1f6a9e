"""How much one person's comparisons count in training. No torch."""

from __future__ import annotations

from dataclasses import dataclass

MOST_NOISE = 0.35  # beyond it a target smoothed by the flip rate says next to nothing (SCIENCE: cap of rDPO and cDPO)


@dataclass(frozen=True, slots=True)
class Weight:
    """`weight`: 0 to 1, how much an item counts; `noise`: 0 to .35, the share of its labels taken to be flipped.

    At a gap of 0 the gradient of a smoothed comparison is weight (1 - 2 noise): what `of` keeps equal to A - F.
    """

    weight: float = 1.0
    noise: float = 0.0

    @classmethod
    def of(cls, reliability: float) -> Weight:
        """From A - F, how much more often a person attends than reverses: -1 to 1.

        Noise as far as the cap goes, then less weight; one who is more often reversed than not counts nothing here
        (the head, which models reversal, still learns from such answers).
        """
        noise = min(max((1 - reliability) / 2, 0.0), MOST_NOISE)
        return cls(weight=min(1.0, max(reliability, 0.0) / (1 - 2 * noise)), noise=noise)
