"""What a test set of some size can show at all: power, smallest visible difference, questions needed."""

import math

from scipy import optimize, stats


def power(effect: float, standard_error: float, *, level: float = 0.95, df: float = math.inf) -> float:
    """Probability that a two-sided test at 1 - ``level`` sees a true difference of ``effect``.

    The test is t with ``df`` degrees of freedom (groups - 1), or normal.

    Raises:
        ValueError: a standard error that is not positive, or a level outside (0, 1).
    """
    if not standard_error > 0 or not 0 < level < 1:
        raise ValueError("power needs a positive standard error and a level between 0 and 1")
    shift = abs(effect) / standard_error
    if math.isinf(df):
        bound = float(stats.norm.ppf((1 + level) / 2))
        return float(stats.norm.sf(bound - shift) + stats.norm.cdf(-bound - shift))
    bound = float(stats.t.ppf((1 + level) / 2, df))
    # The wrong sign is taken by symmetry: scipy's lower tail, nct.cdf(-bound, df, shift), is NaN for some large shifts.
    return float(stats.nct.sf(bound, df, shift) + stats.nct.sf(bound, df, -shift))


def minimal_detectable_effect(
    standard_error: float, *, power: float = 0.8, level: float = 0.95, df: float = math.inf
) -> float:
    """The true difference that a two-sided test sees with probability ``power``.

    Take the standard error of the difference that was (or will be) tested: ``paired.paired_t`` gives it with the groups
    accounted for, ``difference_error`` from assumptions.

    Raises:
        ValueError: as ``power``, or a power that does not lie between 1 - ``level`` and 1.
    """
    if not 1 - level + 1e-6 < power < 1:
        raise ValueError(f"power must lie between {1 - level:g} and 1, not {power}")
    reached = _power_at
    # In units of the standard error no bound on t of interest is beyond this.
    most = 2.0
    while reached(most, standard_error, level, df) < power:
        most *= 2
    return standard_error * float(
        optimize.brentq(lambda shift: reached(shift, standard_error, level, df) - power, 0.0, most, xtol=1e-12)
    )


def difference_error(sd: float, n: int, *, correlation: float = 0.0, design_effect: float = 1.0) -> float:
    """Standard error of the difference of two means over ``n`` shared questions.

    sqrt(2 (1 - correlation) design_effect / n) sd, with ``sd`` the standard deviation of one side's scores.

    Raises:
        ValueError: an n, sd or design effect that is not positive, or a correlation outside -1 to 1.
    """
    if n < 1 or sd <= 0 or design_effect <= 0 or not -1 <= correlation < 1:
        raise ValueError("needs n >= 1, a positive sd and design effect, and a correlation from -1 to below 1")
    return sd * math.sqrt(2 * (1 - correlation) * design_effect / n)


def items_needed(
    effect: float,
    sd: float,
    *,
    correlation: float = 0.0,
    design_effect: float = 1.0,
    power: float = 0.8,
    level: float = 0.95,
) -> int:
    """Questions that both sides must answer to see a true difference of ``effect`` with probability ``power``.

    Normal test; arguments as ``difference_error``.

    Raises:
        ValueError: as ``difference_error`` and ``minimal_detectable_effect``, or an effect of 0.
    """
    if effect == 0:
        raise ValueError("no number of questions shows a difference of 0")
    one = difference_error(sd, 1, correlation=correlation, design_effect=design_effect)
    return math.ceil((minimal_detectable_effect(one, power=power, level=level) / abs(effect)) ** 2)


def _power_at(shift: float, standard_error: float, level: float, df: float) -> float:
    return power(shift * standard_error, standard_error, level=level, df=df)
