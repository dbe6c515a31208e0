"""What a published protocol is here: a named rule with its card, and what it makes of a file of predictions."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from radvqa.sample import Prediction


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """One number of a protocol.

    ``value``: as the peer's program would print it, in percent; None where it prints none.
    ``items``: the share of each prediction from 0 to 1, in the order of the predictions; None where the peer leaves the
    item out of this number. ``value`` is 100 times the mean of the others unless the protocol's card says otherwise.
    ``crashed``: items at which the peer's program would stop; they are None here.
    """

    value: float | None
    items: tuple[float | None, ...]
    crashed: int = 0

    @property
    def counted(self) -> int:
        """Items in the denominator."""
        return sum(item is not None for item in self.items)


@dataclass(frozen=True, slots=True, kw_only=True)
class Protocol:
    """A published way of scoring, rewritten from its rules, defects included.

    ``name`` is short and stable (``llava_med_run_eval``), ``source`` names repository, commit and paper. ``closed`` and
    ``open`` say in plain words how such answers are scored and which questions count as such; ``defects`` are its known
    misbehaviours, each one sentence. ``headline`` names the metrics that papers quote.
    """

    name: str
    title: str
    source: str
    closed: str
    open: str
    defects: tuple[str, ...]
    headline: tuple[str, ...]
    score: Callable[[Sequence[Prediction]], Mapping[str, Metric]] = field(repr=False)


def mean_metric(items: Sequence[float | None], *, crashed: int = 0) -> Metric:
    """The metric whose value is the mean of the counted items, in percent."""
    counted = [item for item in items if item is not None]
    value = 100.0 * sum(counted) / len(counted) if counted else None
    return Metric(value=value, items=tuple(items), crashed=crashed)
