"""The learning rate as a pure function of the update."""

import math
from typing import Literal

Schedule = Literal["cosine", "linear", "constant", "wsd"]


def learning_rate_factor(update: int, *, updates: int, warmup_updates: int, shape: Schedule, decay: float) -> float:
    """Share of the peak learning rate at update 1…``updates``; above 0 and at most 1.

    Linear over the warm-up, then of the ``shape``:

    - ``cosine`` and ``linear`` fall; zero would come one update after the last, so that every update learns.
    - ``constant`` stays at 1.
    - ``wsd``, warm-up, stable, decay (Hu et al., MiniCPM, COLM 2024, arXiv 2404.06395): 1, then falling over the last
      ``decay`` of all updates, rounded up. We fall linearly, and a decay that reaches into the warm-up begins after it.

    ``decay`` is above 0 and at most 1; the other shapes have no use for it.
    """
    if update <= warmup_updates:
        return update / warmup_updates
    if shape == "constant":
        return 1.0
    falls_after = warmup_updates
    if shape == "wsd":
        # 0.07 * 100 is 7.000000000000001, which is 7 updates.
        falls_after = max(warmup_updates, updates - math.ceil(round(decay * updates, 6)))
    if update <= falls_after:
        return 1.0
    progress = (update - falls_after) / (updates - falls_after + 1)
    return 0.5 * (1 + math.cos(math.pi * progress)) if shape == "cosine" else 1 - progress
