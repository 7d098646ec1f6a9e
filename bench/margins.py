"""Where two greedy answers part, how near a tie the model was: the gap between the two tokens' logits there.

Rounding differs between ways of computing, so a gap within rounding is a tie and not a difference.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from bench.process import Clock, main
from bench.work import Prompts
from tomoni.engine import models
from tomoni.hub import locate


def measure(job: Mapping[str, Any], clock: Clock) -> dict[str, Any]:
    work = Prompts.load(Path(job["work"]))
    model: Any = models.load(locate(job["model"]))
    gaps = []
    with clock, torch.no_grad():
        for number, place in job["parted"]:
            ours, theirs = job["ours"][number], job["theirs"][number]
            tokens = torch.tensor([[*work.prompts[number].tolist(), *ours[:place]]])
            logits = model(input_ids=tokens, use_cache=False).logits[0, -1].double()
            gaps.append(float((logits[ours[place]] - logits[theirs[place]]).abs()))
    return {"gaps": gaps}


if __name__ == "__main__":
    main(measure)
