"""Cases by their address, and what the page is told of them; opened ones stay in memory for a while."""

import gzip
import hashlib
import json
import math
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Any, final

from radvqa.explain.bundle import CaseLine, MapFacts
from radvqa.explain.bundle_files import MANIFEST_FILE, Bundle
from radvqa.explain.failures import Failure
from radvqa.explain.methods import METHODS
from radvqa.serve.case_bytes import Case, shape_of
from radvqa.serve.live import LONGEST_ANSWER, LONGEST_QUESTION, KeptCase, Live
from radvqa.serve.series import Series, shown_model
from radvqa.serve.trail import trail_of

CASES_OPEN = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """A case with where it was found. ``version`` changes whenever its files do."""

    series: Series
    case: Case
    version: str

    @property
    def key(self) -> str:
        """Its name in addresses."""
        return self.case.manifest.key


@final
class Cases:
    """All cases of all series, and those that were asked of the live model."""

    def __init__(self, series: Sequence[Series], live: Live) -> None:
        self.series = tuple(series)
        self.live = live
        self._by_id = {one.id: one for one in series}
        self._open: OrderedDict[tuple[str, str, str], Opened] = OrderedDict()
        self._lock = threading.Lock()
        self._all: tuple[str, Mapping[bool, bytes]] | None = None

    @property
    def names(self) -> dict[str, str]:
        """Run and stage of every series by its id."""
        return {one.id: one.name for one in self.series}

    def series_of(self, name: str) -> Series | None:
        """The series of that id."""
        return self._by_id.get(name)

    def open(self, series_id: str, key: str) -> Opened | None:
        """A case, or None if there is none. Only keys that a list names lead to the disk.

        Raises:
            RunError: the case is damaged.
        """
        series = self._by_id.get(series_id)
        if series is None:
            return None
        asked = self.live.case(series_id, key)
        if asked is not None:
            return Opened(series=series, case=asked, version=key)
        stamp = series.stamp(key)
        if not stamp:
            return None
        name = (series_id, key, stamp)
        with self._lock:
            found = self._open.get(name)
            if found is not None:
                self._open.move_to_end(name)
                return found
        bundle = series.bundle(key)
        found = Opened(series=series, case=bundle, version=_version(bundle))
        with self._lock:
            self._open[name] = found
            while len(self._open) > CASES_OPEN:
                self._open.popitem(last=False)
        return found

    def facts(self, opened: Opened, query: Mapping[str, str] = MappingProxyType({})) -> dict[str, Any]:
        """The manifest for the page, with all that the page wants to know beside it.

        ``query`` is that of the address: it names the list whose cases are the neighbours.
        """
        manifest = opened.case.manifest
        series, key = opened.series, manifest.key
        failures = series.listing().of_case.get(key, ())
        views = {name: {**asdict(view), "shape": shape_of(manifest, view)} for name, view in manifest.views.items()}
        methods = dict.fromkeys(record.method for view in manifest.views.values() for record in view.maps)
        facts = {
            **asdict(manifest),
            "model": shown_model(manifest.model),
            "views": views,
            "series": series.id,
            "version": opened.version,
            "signatures": [one.signature for one in failures],
            "reasons": {one.signature: one.reason for one in failures},
            "points_to": {one.signature: one.points_to for one in failures},
            "methods": [{"name": name, "line": METHODS.get(name, "")} for name in methods],
            **trail_of(query, self.series, series, key).facts(),
            "same_case": [
                {"series": one.id, "key": key} for one in self.series if one is not series and series.shares(one, key)
            ],
            "asked_of": None,
            "live": self.live.on and series.is_run,
            "longest": {"question": LONGEST_QUESTION, "answer": LONGEST_ANSWER},
        }
        if isinstance(opened.case, KeptCase):
            original = opened.case.asked_of
            facts |= {"asked_of": original, "back": f"/case/{series.id}/{original}{facts['query']}"}
        del facts["files"]
        told: dict[str, Any] = _finite(facts)
        return told

    def all_facts(self) -> tuple[Mapping[bool, bytes], str]:
        """The JSON of ``/api/cases``, plain and packed, and what it was made from."""
        stamp = " ".join(one.listing().stamp for one in self.series)
        if self._all is None or self._all[0] != stamp:
            value = {
                "series": [one.facts() for one in self.series],
                "cases": [
                    _line_facts(one, line, one.listing().of_case.get(line.key, ()))
                    for one in self.series
                    for line in one.listing().lines
                ],
            }
            text = json.dumps(_finite(value), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
            plain = text.encode("utf-8", errors="replace")
            self._all = (stamp, {False: plain, True: gzip.compress(plain, compresslevel=1, mtime=0)})
        return self._all[1], stamp


def _line_facts(series: Series, line: CaseLine, failures: Sequence[Failure]) -> dict[str, Any]:
    return {
        "series": series.id,
        "key": line.key,
        "sample_id": line.sample_id,
        "image_id": line.image_id,
        "question": line.question,
        "answer": line.answer,
        "references": line.references,
        "answer_type": line.answer_type,
        "correct": line.correct,
        "confidence": line.confidence,
        "reliance": line.reliance,
        "tags": dict(line.tags),
        "asked_regions": line.asked_regions,
        "signatures": [one.signature for one in failures],
        "reason": failures[0].reason if failures else None,
        "facts": {method: _known(facts) for method, facts in line.facts.items()},
    }


def _known(facts: MapFacts) -> dict[str, float]:
    # asdict would copy each of tens of thousands of numbers.
    values = {name: getattr(facts, name) for name in MapFacts.__slots__}
    return {name: value for name, value in values.items() if value is not None}


def _version(bundle: Bundle) -> str:
    """A digest of everything in the bundle."""
    manifest = (bundle.folder / MANIFEST_FILE).read_bytes()
    return hashlib.sha256(manifest).hexdigest()[:16]


def _finite(value: Any) -> Any:
    """The same value with None for numbers that JSON has not."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {_finite(name): _finite(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return value
