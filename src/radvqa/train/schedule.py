"""The learning rate as a pure function of the update."""

import math


def learning_rate_factor(update: int, *, updates: int, warmup: float) -> float:
    """Share of the peak learning rate at update 1…``updates``: linear over the warm-up share, then a falling cosine.

    Zero would come one update after the last, so that every update learns.
    """
    warm_updates = math.ceil(warmup * updates)
    if update <= warm_updates:
        return update / warm_updates
    progress = (update - warm_updates) / (updates - warm_updates + 1)
    return 0.5 * (1 + math.cos(math.pi * progress))
