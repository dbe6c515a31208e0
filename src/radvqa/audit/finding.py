"""What an audit reports: findings with severity, evidence and advice."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

Severity = Literal["leak", "shortcut", "label", "layout", "cosmetic"]

SEVERITIES: Mapping[Severity, str] = {
    "leak": "the same patient, picture or row on both sides of a split, or in two data sets: scores would be too good",
    "shortcut": "the answer can be had without looking at the picture",
    "label": "an answer or caption that is wrong, contradictory or says nothing",
    "layout": "a row, file or value that is not as the data set's layout promises",
    "cosmetic": "spelling and form that a comparison of texts would stumble over",
}
"""Severities from worst to mildest, with their meaning."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """One place where a finding holds: ids of samples, images or groups, a sentence, and pictures that show it."""

    subjects: tuple[str, ...]
    detail: str
    where: str = ""
    pictures: tuple[Path, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that is wrong, where, and what to do.

    ``check`` is a stable machine name, ``unit`` what ``count`` counts. ``facts`` are further numbers by name.
    ``evidence`` may be shorter than ``count`` only where one entry stands for several rows.
    """

    check: str
    severity: Severity
    dataset: str
    title: str
    count: int
    unit: str
    advice: str
    evidence: tuple[Evidence, ...] = ()
    facts: Mapping[str, float | int | str] = field(default_factory=dict)


def number_of_rows(number: int) -> str:
    """``1 row``, ``2 rows``."""
    return f"{number:,} row" + ("" if number == 1 else "s")
