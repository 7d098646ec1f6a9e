"""Numbers that a form cannot hold: a half-precision number ends at 65,504, and beyond it is infinity."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from torch import Tensor

from tomoni.errors import ModelError

LARGEST_F16: Final = 65504.0
# the largest number of a weight, by GGUF's name of its form. Blocks have a scale in half precision (and Q5_1 its least
# number): Q8_0's is the largest number divided by 127, Q4_0's divided by 8.
LARGEST: Final = {"F16": LARGEST_F16, "Q8_0": 127 * LARGEST_F16, "Q5_1": LARGEST_F16, "Q4_0": 8 * LARGEST_F16}


def refuse_too_large(weights: Iterable[tuple[str, Tensor]], form_of: Callable[[str], str]) -> None:
    """Raises ModelError for the first weight with a number that its form cannot hold, naming both."""
    for name, weight in weights:
        form = form_of(name)
        if form not in LARGEST or not weight.is_floating_point() or not weight.numel():
            continue
        low, high = weight.aminmax()
        largest = max(-float(low), float(high))
        if largest > LARGEST[form]:
            raise ModelError(
                f"the weight {name} has numbers that {form} cannot hold ({largest:.3g}): at most {LARGEST[form]:g}",
                next_step="export with --quantization bf16",
            )
