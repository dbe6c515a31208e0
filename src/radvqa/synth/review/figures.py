"""What the review found: how many pairs people accept, whether readers agree, and whether screens are too strict."""

import itertools
import math
import statistics
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from scipy import stats

from radvqa.evaluate.agreement import Coefficient, cohen_kappa
from radvqa.evaluate.agreement import two_reader_ac1 as gwet_ac1
from radvqa.evaluate.statistics import wilson
from radvqa.synth.review import Review
from radvqa.synth.review.decisions import FAULTS, JUDGEMENTS, Decision, standing
from radvqa.synth.review.queue import Stratum

LEVEL = 0.95

Scale = Literal["verdict", "usable"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """A share of pairs with its 95 % interval; None where there is none, and ``note`` then says why.

    ``value`` is an estimate for all pairs of its kind, not for the queue. ``decided`` counts judged items, ``hits``
    those of them that are counted in the share. ``covered`` is the share of the pairs whose stratum has a judged item:
    below 1 the estimate says nothing of the others. ``method`` names the interval.
    """

    value: float | None
    low: float | None
    high: float | None
    decided: int
    hits: int
    covered: float | None
    method: str = ""
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """The rates of one kind of pairs. ``size`` counts its pairs, ``drawn`` those in the queue.

    ``accepted``: accepted as they are; ``usable``: accepted, or with an edit. An item that several readers judged
    counts if all of them say so.
    """

    name: str
    size: int
    drawn: int
    accepted: Rate
    usable: Rate


@dataclass(frozen=True, slots=True, kw_only=True)
class ReaderFigures:
    """What one reader did. ``median_seconds`` per pair; the rates are over the kept pairs of the data set."""

    reader: str
    decided: int
    verdicts: Mapping[str, int]
    reasons: Mapping[str, int]
    median_seconds: float | None
    accepted: Rate
    usable: Rate


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """How far two readers agree about the items that both judged. They are counted alike, without weights.

    ``scale``: ``verdict`` compares accept, edit and reject; ``usable`` compares rejected with not rejected.
    ``table``: rows are the first reader's verdicts, columns the second's, both in the order of ``categories``.
    """

    readers: tuple[str, str]
    scale: Scale
    categories: tuple[str, ...]
    table: tuple[tuple[int, ...], ...]
    items: int
    percent: Coefficient
    kappa: Coefficient
    ac1: Coefficient


@dataclass(frozen=True, slots=True, kw_only=True)
class Disagreement:
    """One item that readers judged differently, with the verdict, reasons and note of each."""

    sample_id: str
    kept: bool
    screen: str
    question: str
    answer: str
    verdicts: Mapping[str, str]
    reasons: Mapping[str, tuple[str, ...]]
    notes: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReviewFigures:
    """All figures of a review.

    ``kept``: of the data set as it is. ``removed``: of what the screens removed; a high rate says they are too strict,
    and ``screens`` says which. ``everything``: of all that was generated. ``reasons``: items of which at least one
    reader gave the reason, among kept pairs. ``notes`` say what the figures do not cover.
    """

    queue: int
    decided: int
    seed: int
    readers: tuple[ReaderFigures, ...]
    kept: Group
    removed: Group
    everything: Group
    slots: tuple[Group, ...]
    bases: tuple[Group, ...]
    screens: tuple[Group, ...]
    reasons: Mapping[str, int]
    agreements: tuple[Agreement, ...]
    disagreements: tuple[Disagreement, ...]
    notes: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """The figures as plain values for JSON."""
        return asdict(self)


def figures(review: Review) -> ReviewFigures | None:
    """The figures of a review, or None before the first decision stands.

    Raises:
        DataError: a line of the decisions is not valid.
        RunError: the decisions cannot be read.
    """
    log = review.decisions.read()
    found = standing(log.decisions)
    verdicts = {
        item.sample_id: (item.stratum, found[item.sample_id]) for item in review.queue.items if item.sample_id in found
    }
    if not verdicts:
        return None
    strata = review.queue.strata
    readers = sorted({reader for _, given in verdicts.values() for reader in given})
    kept = {sample_id: given for sample_id, (place, given) in verdicts.items() if strata[place].kept}
    group = _Grouping(strata, list(verdicts.values()))
    return ReviewFigures(
        queue=len(review.queue.items),
        decided=len(verdicts),
        seed=review.queue.seed,
        readers=tuple(_reader(name, verdicts, strata) for name in readers),
        kept=group("kept", lambda one: one.kept),
        removed=group("removed", lambda one: not one.kept),
        everything=group("everything", lambda _: True),
        slots=group.by(lambda one: one.slot),
        bases=group.by(lambda one: one.basis),
        screens=group.by(lambda one: one.screen),
        reasons=_reasons(kept.values()),
        agreements=tuple(
            agreement
            for pair in itertools.combinations(readers, 2)
            for agreement in _agreements(pair, [given for _, given in verdicts.values()])
        ),
        disagreements=tuple(_disagreements(review, found)),
        notes=tuple(_notes(review, len(verdicts), readers, log.unfinished, set(found))),
    )


def stratified(sizes: Sequence[int], hits: Sequence[int], decided: Sequence[int]) -> tuple[float, float, float]:
    """A share over several strata, and its limits; NaN limits where there are no more items than strata.

    The share is sum(W p) with W = size / sum of sizes and p = hits / decided; its variance is
    sum(W^2 p (1 - p) / (decided - 1)) (Cochran, Sampling Techniques, 1977, chapter 5). No finite-population correction:
    the figures are about the way of making pairs as well. A stratum with one item takes p (1 - p) of the whole.

    The limits are those of Korn and Graubard, Survey Methodology 1998: Clopper and Pearson's with an effective size
    p (1 - p) / variance, times (t(n - 1) / t(n - strata))^2 for the degrees of freedom, and n at most. Where all or
    none are hits the variance is 0, and the effective size is Kish's (Survey Sampling, 1965), 1 / sum(W^2 / decided).

    Raises:
        ValueError: no stratum, or one without an item.
    """
    if not sizes or min(decided) < 1:
        raise ValueError("each stratum needs at least one judged item")
    size, count = np.asarray(sizes, dtype=np.float64), np.asarray(decided, dtype=np.float64)
    share, of_each = size / size.sum(), np.asarray(hits) / count
    value = float((size * of_each).sum() / size.sum())
    items, freedom = int(count.sum()), int(count.sum()) - len(sizes)
    if freedom < 1:
        return value, math.nan, math.nan
    spread = np.where(count > 1, of_each * (1 - of_each), value * (1 - value))
    variance = float((share**2 * spread / np.maximum(count - 1, 1)).sum())
    effective = value * (1 - value) / variance if variance > 0 else 1 / float((share**2 / count).sum())
    quantile = (1 + LEVEL) / 2
    factor = float(stats.t.ppf(quantile, items - 1) / stats.t.ppf(quantile, freedom)) ** 2
    effective = min(effective * factor, items)
    x = value * effective
    low = 0.0 if x <= 0 else float(stats.beta.ppf(1 - quantile, x, effective - x + 1))
    high = 1.0 if x >= effective else float(stats.beta.ppf(quantile, x + 1, effective - x))
    return value, low, high


_Given = Mapping[str, Decision]


class _Grouping:
    """Rates of the strata that belong together, from the verdicts about their items."""

    def __init__(self, strata: Sequence[Stratum], verdicts: Iterable[tuple[int, _Given]]) -> None:
        self._strata = strata
        self._by_stratum: dict[int, list[_Given]] = defaultdict(list)
        for place, given in verdicts:
            self._by_stratum[place].append(given)

    def __call__(self, name: str, belongs: Callable[[Stratum], bool]) -> Group:
        places = [place for place, one in enumerate(self._strata) if belongs(one)]
        return Group(
            name=name,
            size=sum(self._strata[place].size for place in places),
            drawn=sum(self._strata[place].drawn for place in places),
            accepted=self._rate(places, accepted),
            usable=self._rate(places, usable),
        )

    def by(self, key: Callable[[Stratum], str]) -> tuple[Group, ...]:
        """One group for each value, in the order of the alphabet; strata without one are left out."""
        names = sorted({key(one) for one in self._strata} - {""})
        return tuple(self(name, lambda one, name=name: key(one) == name) for name in names)  # type: ignore[misc]

    def _rate(self, places: Sequence[int], counts: Callable[[Decision], bool]) -> Rate:
        judged = [place for place in places if self._by_stratum.get(place)]
        sizes = [self._strata[place].size for place in judged]
        decided = [len(self._by_stratum[place]) for place in judged]
        hits = [sum(all(map(counts, given.values())) for given in self._by_stratum[place]) for place in judged]
        total = sum(self._strata[place].size for place in places)
        covered = sum(sizes) / total if total else None
        if not judged:
            note = "no such pair was judged yet" if total else "there is no such pair"
            return Rate(value=None, low=None, high=None, decided=0, hits=0, covered=covered, note=note)
        if len(judged) == 1:
            value, method = hits[0] / decided[0], "Wilson"
            low, high = wilson(hits[0], decided[0])
        else:
            (value, low, high), method = stratified(sizes, hits, decided), "stratified, Korn-Graubard"
        unknown = math.isnan(low)
        return Rate(
            value=value,
            low=None if unknown else low,
            high=None if unknown else high,
            decided=sum(decided),
            hits=sum(hits),
            covered=covered,
            method=method,
            note="too few judged items for an interval" if unknown else "",
        )


def accepted(decision: Decision) -> bool:
    """Whether the pair is good as it is."""
    return decision.verdict == "accept"


def usable(decision: Decision) -> bool:
    """Whether the pair is good as it is or with the reader's edit."""
    return decision.verdict in ("accept", "edit")


def _reader(name: str, verdicts: Mapping[str, tuple[int, _Given]], strata: Sequence[Stratum]) -> ReaderFigures:
    own = [(place, {name: given[name]}) for place, given in verdicts.values() if name in given]
    decisions = [given[name] for _, given in own]
    kept = _Grouping(strata, own)("kept", lambda one: one.kept)
    timed = [one.seconds for one in decisions if one.seconds > 0]
    return ReaderFigures(
        reader=name,
        decided=len(own),
        verdicts={verdict: sum(one.verdict == verdict for one in decisions) for verdict in JUDGEMENTS},
        reasons=_reasons(given for _, given in own),
        median_seconds=statistics.median(timed) if timed else None,
        accepted=kept.accepted,
        usable=kept.usable,
    )


def _reasons(items: Iterable[_Given]) -> dict[str, int]:
    counts = Counter(reason for given in items for reason in {one for d in given.values() for one in d.reasons})
    return {reason: counts[reason] for reason in FAULTS if counts[reason]}


def _agreements(readers: tuple[str, str], verdicts: Sequence[_Given]) -> Iterable[Agreement]:
    both = [(given[readers[0]].verdict, given[readers[1]].verdict) for given in verdicts if set(readers) <= set(given)]
    scales: tuple[tuple[Scale, tuple[str, ...], Mapping[str, str]], ...] = (
        ("verdict", JUDGEMENTS, {one: one for one in JUDGEMENTS}),
        ("usable", ("usable", "reject"), {"accept": "usable", "edit": "usable", "reject": "reject"}),
    )
    for scale, categories, names in scales:
        counts = Counter((names[first], names[second]) for first, second in both)
        table = tuple(tuple(counts[row, column] for column in categories) for row in categories)
        yield Agreement(
            readers=readers,
            scale=scale,
            categories=categories,
            table=table,
            items=len(both),
            percent=_percent(table),
            kappa=cohen_kappa(table),
            ac1=gwet_ac1(table),
        )


def _percent(table: Sequence[Sequence[int]]) -> Coefficient:
    items, agreed = sum(map(sum, table)), sum(row[place] for place, row in enumerate(table))
    if not items:
        return Coefficient(value=None, low=None, high=None, note="no item was judged by both readers")
    low, high = wilson(agreed, items)
    return Coefficient(value=agreed / items, low=low, high=high)


def _disagreements(review: Review, found: Mapping[str, _Given]) -> Iterable[Disagreement]:
    for item in review.queue.items:
        given = found.get(item.sample_id, {})
        if len({one.verdict for one in given.values()}) < 2:
            continue
        pair, ordered = review.pairs[item.sample_id], sorted(given.items())
        yield Disagreement(
            sample_id=item.sample_id,
            kept=not pair.reason,
            screen=pair.reason,
            question=pair.sample.question,
            answer=pair.sample.answers[0],
            verdicts={reader: one.verdict for reader, one in ordered},
            reasons={reader: one.reasons for reader, one in ordered},
            notes={reader: one.note for reader, one in ordered},
        )


def _notes(
    review: Review, decided: int, readers: Sequence[str], unfinished: int, judged_ids: set[str]
) -> Iterable[str]:
    queue = review.queue
    if decided < len(queue.items):
        yield f"{len(queue.items) - decided} of {len(queue.items)} items are not judged yet"
    if len(readers) < 2:
        yield "one reader only: agreement is unknown"
    if strangers := judged_ids - set(review.pairs):
        yield f"decisions about {len(strangers)} pairs that are not in the queue were left out"
    if unfinished:
        yield "the last decision was cut off while it was written and is left out"
    undrawn = sum(one.size for one in queue.strata if not one.drawn)
    if undrawn:
        yield f"nothing is known of {undrawn} pairs of kinds that the queue was not to hold"
