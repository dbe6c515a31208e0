"""Many comparisons at once: p values adjusted so that luck among many is not read as a finding."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy import stats

PValues = Sequence[float] | npt.NDArray[np.float64]


def holm(p_values: PValues) -> list[float]:
    """Adjusted p values of Holm, Scand. J. Statistics 1979, in the order given.

    Calling those below 0.05 differences errs at all with probability 0.05 at most, however the tests depend on each
    other. For a few comparisons that each will be read as a claim.

    Raises:
        ValueError: a value outside 0 to 1, or NaN.
    """
    p = _checked(p_values)
    order = np.argsort(p, kind="stable")
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(np.maximum.accumulate(p[order] * np.arange(p.size, 0, -1)), 1.0)
    return [float(value) for value in adjusted]


def benjamini_hochberg(p_values: PValues) -> list[float]:
    """Adjusted p values of Benjamini and Hochberg, JRSS B 1995, in the order given.

    Among those below 0.05 the expected share of errors is 0.05 at most, for independent or positively dependent tests.
    For screening many slices, where some false alarms are no harm.

    Raises:
        ValueError: a value outside 0 to 1, or NaN.
    """
    p = _checked(p_values)
    return [float(value) for value in stats.false_discovery_control(p)] if p.size else []


def _checked(p_values: PValues) -> npt.NDArray[np.float64]:
    p = np.asarray(p_values, dtype=np.float64)
    if p.ndim != 1 or not ((p >= 0) & (p <= 1)).all():
        raise ValueError("p values must lie between 0 and 1; leave undefined ones out")
    return p
