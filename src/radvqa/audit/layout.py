"""Findings that the adapters made: tables and rows that cannot be used, and values that were mended."""

from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from radvqa.audit.contents import Contents
from radvqa.audit.finding import Evidence, Finding, Severity
from radvqa.sample import CaptionedImage, Defect, Reject, VqaSample


class _Known(NamedTuple):
    severity: Severity
    title: str
    unit: str
    advice: str


_REJECTS = {
    "empty_answer": _Known("label", "rows published without an answer", "rows", "nothing: they are left out"),
    "repeated_id": _Known(
        "layout", "ids used twice", "rows", "give every row an id of its own; later rows are left out"
    ),
}
_QUIET_REJECTS = frozenset({"other_language", "other_split"})
_DEFECTS = {
    "mask_is_no_mask": _Known(
        "shortcut",
        "masks that are pictures with the answer printed on them",
        "images",
        "never show them to a model and do not measure localisation on them; the adapter gives no region for them",
    ),
    "no_mask": _Known("layout", "images without a mask", "images", "leave them out where localisation is measured"),
    "no_boxes": _Known("layout", "images without boxes", "images", "leave them out where localisation is measured"),
    "box_outside": _Known("label", "boxes that are empty or leave the image", "images", "correct or remove the boxes"),
    "image_only_in_chinese": _Known(
        "leak",
        "images that only Chinese rows of training or validation show",
        "images",
        "read one language; English test questions may ask about these images",
    ),
    "white_space_in_answer": _Known(
        "cosmetic", "answers with double spaces, tabs or outer blanks", "rows", "nothing: white space is collapsed"
    ),
}


def layout_findings(contents: Contents) -> Iterator[Finding]:
    """Unreadable tables, rejects and defects of one data set, one finding per reason."""
    for split, error in contents.unreadable.items():
        yield Finding(
            check="unreadable_table",
            severity="layout",
            dataset=contents.label,
            title=f"the table of the split {split} cannot be read",
            count=1,
            unit="tables",
            advice=error.fix or "fetch the file again",
            evidence=(Evidence(subjects=(), where=error.where or "", detail=f"{error.what}: {error.got}"),),
        )
    yield from _missing_images(contents)
    rejects: dict[str, list[Reject]] = defaultdict(list)
    defects: dict[str, list[Defect]] = defaultdict(list)
    for reading in contents.readings.values():
        for reject in reading.rejects:
            rejects[reject.reason].append(reject)
        for defect in reading.defects:
            defects[defect.reason].append(defect)
    for defect in contents.defects:
        defects[defect.reason].append(defect)
    for reason, found in rejects.items():
        if reason not in _QUIET_REJECTS:
            yield _reject_finding(contents.label, reason, found)
    for reason, mended in defects.items():
        yield _defect_finding(contents.label, reason, mended)


def _missing_images(contents: Contents) -> Iterator[Finding]:
    rows: dict[Path, list[VqaSample | CaptionedImage]] = defaultdict(list)
    for record in contents.records():
        if record.image in contents.missing:
            rows[record.image].append(record)
    if rows:
        sides = Counter(f"rows of {one.split} ({one.language})" for found in rows.values() for one in found)
        yield Finding(
            check="missing_image",
            severity="layout",
            dataset=contents.label,
            title="images that are not there",
            count=len(rows),
            unit="images",
            advice="fetch them; a run leaves their rows out and counts them",
            evidence=tuple(
                Evidence(
                    subjects=(found[0].image_id, *(one.sample_id for one in found)),
                    where=str(path),
                    detail=f"{len(found)} rows",
                )
                for path, found in rows.items()
            ),
            facts={"rows": sum(sides.values()), **dict(sorted(sides.items()))},
        )


def _reject_finding(dataset: str, reason: str, rejects: list[Reject]) -> Finding:
    known = _REJECTS.get(reason) or _Known(
        "layout",
        f"rows left out: {_words(reason)}",
        "rows",
        "correct these rows, or leave them out" if rejects[0].malformed else "nothing, if this is what you want",
    )
    return Finding(
        check=f"reject:{reason}",
        severity=known.severity,
        dataset=dataset,
        title=known.title,
        count=len(rejects),
        unit=known.unit,
        advice=known.advice,
        evidence=tuple(Evidence(subjects=(one.sample_id,), where=one.where, detail=one.detail) for one in rejects),
    )


def _defect_finding(dataset: str, reason: str, defects: list[Defect]) -> Finding:
    known = _DEFECTS.get(reason) or _Known(
        "layout", _words(reason), "places", "see each place; values were mended as its sentence says"
    )
    return Finding(
        check=f"defect:{reason}",
        severity=known.severity,
        dataset=dataset,
        title=known.title,
        count=len(defects),
        unit=known.unit,
        advice=known.advice,
        evidence=tuple(Evidence(subjects=(one.subject,), where=one.where, detail=one.detail) for one in defects),
    )


def _words(reason: str) -> str:
    return reason.replace("_", " ")
