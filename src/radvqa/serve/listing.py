"""Which cases a list shows: filters, order and pages, all from the address, so that they work without script."""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar
from urllib.parse import urlencode

from radvqa.explain.bundle import CaseLine
from radvqa.explain.failures import SIGNATURES, Failure, value_of
from radvqa.serve.series import Series

T = TypeVar("T")

PAGE_SIZE = 50
LONGEST_SEARCH = 200

GROUPS: Mapping[str, str] = {"modality": "Modality", "organ": "Organ", "content_type": "Question type"}
"""Properties of a case that lists are filtered and grouped by, with their names on the page."""

SORTS: Mapping[str, str] = {
    "order": "as explained",
    "suspicious": "most suspicious first",
    "confident": "most confident first",
    "unsure": "least confident first",
    "blind": "least use of the image first",
    "question": "by question",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A case in a list."""

    series: Series
    line: CaseLine
    failures: tuple[Failure, ...]

    @property
    def address(self) -> str:
        """``s0/0123456789abcdef``."""
        return f"{self.series.id}/{self.line.key}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What a list is asked for; ``""`` is no filter."""

    series: str = ""
    correct: str = ""
    signature: str = ""
    modality: str = ""
    organ: str = ""
    content_type: str = ""
    q: str = ""
    sort: str = "order"
    page: int = 1

    @staticmethod
    def of(query: Mapping[str, str]) -> "Wanted":
        """From the address; what is not understood is left out, as an old bookmark may hold it."""
        number = query.get("page", "")
        sort = query.get("sort", "")
        return Wanted(
            series=query.get("series", ""),
            correct=query.get("correct", ""),
            signature=query.get("signature", ""),
            modality=query.get("modality", ""),
            organ=query.get("organ", ""),
            content_type=query.get("content_type", ""),
            q=query.get("q", "").strip()[:LONGEST_SEARCH],
            sort=sort if sort in SORTS else "order",
            page=int(number) if number.isdecimal() and len(number) < 7 else 1,
        )

    def but(self, **changes: Any) -> str:
        """The query of the same list with changes; page 1 unless it is changed."""
        changed = replace(self, **{"page": 1, **changes})
        values = {name: getattr(changed, name) for name in Wanted.__slots__}
        given = {name: value for name, value in values.items() if value and (name, value) not in _DEFAULTS}
        return "?" + urlencode(given, errors="replace")

    @property
    def filters(self) -> bool:
        """Whether anything is left out."""
        names = ("series", "correct", "signature", *GROUPS, "q")
        return any(getattr(self, name) for name in names)


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Which page of a list is shown: the last one where there are fewer than asked for."""

    page: int
    pages: int

    @staticmethod
    def of(page: int, count: int) -> "Place":
        """The place in a list of ``count``."""
        pages = max(1, math.ceil(count / PAGE_SIZE))
        return Place(page=min(max(page, 1), pages), pages=pages)

    @staticmethod
    def at(index: int) -> int:
        """The page on which an item of a list stands, from its index."""
        return index // PAGE_SIZE + 1

    def of_list(self, items: Sequence[T]) -> Sequence[T]:
        """What stands on the page."""
        return items[(self.page - 1) * PAGE_SIZE : self.page * PAGE_SIZE]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """One page of a list. ``choices``: value and number of cases for every filter, of the chosen series or of all."""

    entries: tuple[Entry, ...]
    found: int
    total: int
    page: int
    pages: int
    choices: Mapping[str, Mapping[str, int]]


def correctness(line: CaseLine) -> str:
    """``right`` or ``wrong``, or that there is no reference to tell by."""
    return "no reference" if line.correct is None else "right" if line.correct else "wrong"


def times(reliance: float) -> str:
    """How many times as probable the answer is with the image, from the difference of log-probabilities in nats."""
    if not math.isfinite(reliance):
        return "not defined"
    if not math.log(0.01) <= reliance < math.log(1000):
        return "over 1000 times" if reliance > 0 else "under 0.01 times"
    factor = math.exp(reliance)
    return f"{float(f'{factor:.2g}'):g} times"


def entries_of(series: Iterable[Series]) -> list[Entry]:
    """All cases, series by series."""
    found = []
    for one in series:
        listing = one.listing()
        found += [Entry(series=one, line=line, failures=listing.of_case.get(line.key, ())) for line in listing.lines]
    return found


def ordered(entries: Sequence[Entry], wanted: Wanted) -> list[Entry]:
    """All cases that the filters leave, in the order that is asked for."""
    kept = [entry for entry in entries if _fits(entry, wanted)]
    key = _SORT_KEYS.get(wanted.sort)
    if key is not None:
        kept.sort(key=key)
    return kept


def shown(entries: Sequence[Entry], wanted: Wanted) -> Shown:
    """The page that is asked for; the last one where there are fewer."""
    kept = ordered(entries, wanted)
    place = Place.of(wanted.page, len(kept))
    return Shown(
        entries=tuple(place.of_list(kept)),
        found=len(kept),
        total=len(entries),
        page=place.page,
        pages=place.pages,
        choices=_choices(entries, wanted.series),
    )


def counts(entries: Sequence[Entry], group: str) -> list[dict[str, Any]]:
    """Per value of a group: cases, wrong ones, and how many show each signature; the largest first."""
    cases: Counter[str] = Counter()
    wrong: Counter[str] = Counter()
    signatures: dict[str, Counter[str]] = {}
    for entry in entries:
        value = value_of(entry.line, group)
        cases[value] += 1
        wrong[value] += entry.line.correct is False
        signatures.setdefault(value, Counter()).update(failure.signature for failure in entry.failures)
    order = sorted(cases, key=lambda value: (-cases[value], value))
    return [
        {"value": value, "cases": cases[value], "wrong": wrong[value], "signatures": signatures[value]}
        for value in order
    ]


def _fits(entry: Entry, wanted: Wanted) -> bool:
    line = entry.line
    if wanted.series and entry.series.id != wanted.series:
        return False
    if wanted.correct and wanted.correct != correctness(line):
        return False
    signs = {failure.signature for failure in entry.failures}
    if wanted.signature and not (wanted.signature in signs or (wanted.signature == "any" and signs)):
        return False
    if any(getattr(wanted, group) not in ("", value_of(line, group)) for group in GROUPS):
        return False
    return not wanted.q or wanted.q.casefold() in _searched(line)


def _searched(line: CaseLine) -> str:
    return "\n".join((line.question, line.answer, *line.references, line.sample_id, *line.asked_regions)).casefold()


def _suspicion(entry: Entry) -> tuple[Any, ...]:
    """Cases with most signatures first; the order of ``SIGNATURES`` and the score tell equals apart."""
    ranks = [(order, -one.score) for one in entry.failures if (order := _ORDER[one.signature]) is not None]
    return (-len(entry.failures), min(ranks, default=(len(_ORDER), 0.0)))


_ORDER: Mapping[str, int] = {name: place for place, name in enumerate(SIGNATURES)}
_DEFAULTS = {("sort", "order"), ("page", 1)}
_SORT_KEYS: Mapping[str, Callable[[Entry], Any]] = {
    "suspicious": _suspicion,
    "confident": lambda entry: -entry.line.confidence,
    "unsure": lambda entry: entry.line.confidence,
    "blind": lambda entry: entry.line.reliance,
    "question": lambda entry: (entry.line.question.casefold(), entry.line.sample_id),
}


def _choices(entries: Sequence[Entry], series: str) -> dict[str, dict[str, int]]:
    found: dict[str, Counter[str]] = {name: Counter() for name in ("series", "correct", "signature", *GROUPS)}
    for entry in entries:
        found["series"][entry.series.id] += 1
        counted = int(series in ("", entry.series.id))  # a filter that leaves nothing stays in its list, with 0
        found["correct"][correctness(entry.line)] += counted
        signs = {failure.signature for failure in entry.failures}
        found["signature"].update(dict.fromkeys(signs | {"any"} if signs else (), counted))
        for group in GROUPS:
            found[group][value_of(entry.line, group)] += counted
    return {
        name: dict(sorted(counter.items(), key=lambda item: (-item[1], item[0]))) for name, counter in found.items()
    }
