"""Rows as no data set promises them, for property tests: one row with one or two things wrong."""

import dataclasses
import json
from collections.abc import Iterable, Mapping
from typing import Any

from hypothesis import strategies as st

JSON_SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(min_value=-(2**70), max_value=2**70),
    st.floats(allow_nan=True, allow_infinity=True),
    st.text(max_size=12),
    st.sampled_from(
        ["", " ", "\t", "\ud800", "a\udfffb", "\0", "NULL", "x" * 100_001, "..", "../x", "/x", "C:\\x", "x|y"]
    ),
)
JSON_VALUES = st.one_of(
    JSON_SCALARS,
    st.lists(JSON_SCALARS, max_size=3),
    st.dictionaries(st.text(max_size=5), JSON_SCALARS, max_size=3),
)


@st.composite
def mutations(draw: st.DrawFn, row: Mapping[str, Any]) -> Any:
    """The row with one or two keys dropped, added or given another value; or something that is no row at all."""
    kinds = draw(st.lists(st.sampled_from(["value", "value", "value", "drop", "add"]), min_size=1, max_size=2))
    if draw(st.integers(0, 15)) == 15:
        return draw(JSON_VALUES)
    broken = dict(row)
    for kind in kinds:
        key = draw(st.text(max_size=8) if kind == "add" else st.sampled_from(sorted(row)))
        if kind == "drop":
            broken.pop(key, None)
        else:
            broken[key] = draw(JSON_VALUES)
    return broken


def assert_writable(records: Iterable[Any]) -> None:
    """Every record can be a line of a records file: no lone surrogate, no value that JSON does not know."""
    for record in records:
        json.dumps(dataclasses.asdict(record), ensure_ascii=False, default=str).encode("utf-8")
