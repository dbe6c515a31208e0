"""The page of an audit: one HTML file, findings from worst to mildest, with the pictures that show them."""

import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from radvqa.audit import AuditReport
from radvqa.audit.finding import SEVERITIES, Evidence, Finding
from radvqa.errors import RunError
from radvqa.html import Picture, page_environment, thumbnail
from radvqa.records import write_text

SHOWN = 5
"""Pieces of evidence of each finding on the page; the JSON has all."""

PICTURE_SIDE = 160
LONGEST_DETAIL = 400

_FILE_AND_ROW = re.compile(r"(.*?)(, (?:row|line|image|qid) .*)?", re.DOTALL)
OTHER_SPLIT = "other_split"
"""Reason of rows that are counted with another split; the audit reads all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownEvidence:
    """One piece of evidence as the page shows it."""

    subjects: str
    where: str
    detail: str
    pictures: tuple[Picture, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownFinding:
    """One finding with the first of its evidence."""

    finding: Finding
    evidence: tuple[ShownEvidence, ...]
    more: int


def make_room(folder: Path) -> None:
    """Make the folder that an audit is written to, before the audit, which takes minutes.

    Raises:
        RunError: it cannot be made or written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise RunError(
            "cannot write the audit here",
            where=str(folder),
            expected="a writable folder",
            got=error.strerror or str(error),
            fix="choose another one with --to DIR",
        ) from error


def write_audit(report: AuditReport, folder: Path) -> tuple[Path, Path]:
    """Write ``audit.json`` and ``audit.html`` into ``folder`` and return their paths.

    Raises:
        RunError: the folder is full or not writable.
    """
    data, page = folder / "audit.json", folder / "audit.html"
    write_text(data, report.as_json())
    write_text(page, _page(report))
    return data, page


def _page(report: AuditReport) -> str:
    environment = page_environment("audit")
    environment.filters.update(grouped=_grouped, share=_share)
    by_severity = {
        severity: [_shown(finding) for finding in report.findings if finding.severity == severity]
        for severity in SEVERITIES
    }
    return environment.get_template("audit.html").render(
        report=report,
        severities=SEVERITIES,
        by_severity=by_severity,
        totals=report.severities(),
        left_out=_left_out(report.rejects),
        shown=SHOWN,
    )


def _shown(finding: Finding) -> ShownFinding:
    return ShownFinding(
        finding=finding,
        evidence=tuple(_shown_evidence(one) for one in finding.evidence[:SHOWN]),
        more=max(0, len(finding.evidence) - SHOWN),
    )


def _shown_evidence(evidence: Evidence) -> ShownEvidence:
    names = ", ".join(evidence.subjects[:4]) + (
        f" and {len(evidence.subjects) - 4} more" * (len(evidence.subjects) > 4)
    )
    detail = evidence.detail
    return ShownEvidence(
        subjects=names,
        where=_place(evidence.where),
        detail=detail if len(detail) <= LONGEST_DETAIL else detail[:LONGEST_DETAIL] + " …",
        pictures=tuple(thumbnail(path, side=PICTURE_SIDE) for path in evidence.pictures),
    )


def _place(where: str) -> str:
    """File and row without the folders above: absolute paths are nobody's business on a page."""
    path, row = _FILE_AND_ROW.fullmatch(where).groups()  # type: ignore[union-attr]
    return PurePath(path).name + (row or "")


def _left_out(rejects: Mapping[str, Mapping[str, Mapping[str, int]]]) -> Sequence[tuple[str, str, str, int]]:
    return [
        (label, split, reason.replace("_", " "), count)
        for label, by_split in rejects.items()
        for split, reasons in by_split.items()
        for reason, count in reasons.items()
        if reason != OTHER_SPLIT
    ]


def _grouped(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int | float) else str(value)


def _share(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f} %"
