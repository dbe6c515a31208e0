"""The list that a case was opened from: its cases before and after, and the way back, all from the address."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from radvqa.serve.listing import Entry, Place, Wanted, entries_of, ordered
from radvqa.serve.series import Series

FAILURES = "failures"
"""``list=failures`` in an address: the case was opened from the queue of the failure finder."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trail:
    """A case's place in its list. Addresses are of this server; None at an end and for a case that is not listed.

    ``query`` goes with every address that keeps the list, ``place`` counts from 1.
    """

    query: str
    back: str
    previous: str | None
    next: str | None
    place: int | None
    found: int

    def facts(self) -> dict[str, Any]:
        """What the page knows of it."""
        return {
            "query": self.query,
            "back": self.back,
            "neighbours": {"previous": self.previous, "next": self.next},
            "place": self.place,
            "found": self.found,
        }


def list_query(wanted: Wanted) -> str:
    """What the addresses of cases carry in a list. The order is always told: without a query there is no list."""
    query = wanted.but()
    if wanted.sort != "order":
        return query
    return f"{query}&sort=order" if len(query) > 1 else "?sort=order"


def queue_query(series: Series, signature: str) -> str:
    """The same for the queue of the failure finder."""
    return f"{Wanted(series=series.id, signature=signature).but()}&list={FAILURES}"


def trail_of(query: Mapping[str, str], all_series: Sequence[Series], series: Series, key: str) -> Trail:
    """Where a case stands in the list of a query; without a query, among all of its series in their order."""
    found = _listed(query, all_series, series)
    # A case with several signs stands several times in the queue; it is passed once, at the first.
    once = list(dict.fromkeys(found.addresses))
    own = f"{series.id}/{key}"
    if own not in once:
        return Trail(query=found.query, back=found.page(1), previous=None, next=None, place=None, found=len(once))
    place = once.index(own)
    return Trail(
        query=found.query,
        back=found.page(Place.at(found.addresses.index(own))),
        previous=f"/case/{once[place - 1]}{found.query}" if place else None,
        next=f"/case/{once[place + 1]}{found.query}" if place + 1 < len(once) else None,
        place=place + 1,
        found=len(once),
    )


def pair_trail(
    query: Mapping[str, str], all_series: Sequence[Series], a: Series, b: Series, key: str
) -> dict[str, str | None]:
    """Addresses of the comparisons before and after: cases of the list that both series have, on one picture."""
    found = _listed(query, all_series, a)
    listed = (address.partition("/") for address in dict.fromkeys(found.addresses))
    keys = [name for of, _, name in listed if of == a.id and a.shares(b, name)]
    if a is b or key not in keys:
        return {"previous": None, "next": None}
    place, more = keys.index(key), found.query.replace("?", "&", 1)
    addresses = [f"/compare?a={a.id}/{one}&b={b.id}/{one}{more}" for one in keys]
    return {
        "previous": addresses[place - 1] if place else None,
        "next": addresses[place + 1] if place + 1 < len(keys) else None,
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class _Listed:
    """A list as the query of a case names it: its cases in order, its own page and filters."""

    addresses: tuple[str, ...]
    query: str
    path: str
    wanted: Wanted

    def page(self, number: int) -> str:
        query = self.wanted.but(page=number)
        return self.path if query == "?" else self.path + query


def _listed(query: Mapping[str, str], all_series: Sequence[Series], series: Series) -> _Listed:
    wanted = replace(Wanted.of(query), page=1)
    if query.get("list") == FAILURES:
        queue = next((one for one in all_series if one.id == wanted.series), series)
        failures = [one for one in queue.listing().failures if wanted.signature in ("", one.signature)]
        return _Listed(
            addresses=tuple(f"{queue.id}/{one.key}" for one in failures),
            query=queue_query(queue, wanted.signature),
            path="/failures",
            wanted=Wanted(series=queue.id, signature=wanted.signature),
        )
    if not any(name in query for name in Wanted.__slots__):
        return _Listed(addresses=_addresses(entries_of([series])), query="", path="/", wanted=wanted)
    kept = ordered(entries_of(all_series), wanted)
    return _Listed(addresses=_addresses(kept), query=list_query(wanted), path="/", wanted=wanted)


def _addresses(entries: Sequence[Entry]) -> tuple[str, ...]:
    return tuple(entry.address for entry in entries)
