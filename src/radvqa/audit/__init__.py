"""The audit: what is wrong with data sets before anything is trained on them, each alone and together."""

import importlib.metadata
import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from radvqa.audit.captions import caption_findings
from radvqa.audit.contents import Contents, read_contents
from radvqa.audit.finding import SEVERITIES, Finding
from radvqa.audit.layout import layout_findings
from radvqa.audit.leaks import leak_findings, shared_id_findings
from radvqa.audit.pictures import Pictures, look_at_pictures, picture_findings
from radvqa.audit.priors import Priors, answer_priors, prior_findings
from radvqa.audit.rows import row_findings
from radvqa.data.adapter import DatasetAdapter
from radvqa.data.duplicates import ALIKE
from radvqa.run.engine import Engine, LocalEngine
from radvqa.run.progress import Progress
from radvqa.sample import CaptionedImage, VqaSample

LICENCE_TAG = "licence"
"""The tag under which adapters tell the licence of a single image."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Count:
    """One line of the table of contents: records of a data set by split, language and kind.

    ``with_image``: how many of ``rows`` have their image here.
    """

    dataset: str
    split: str
    language: str
    kind: str
    rows: int
    with_image: int
    images: int
    groups: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditReport:
    """Everything an audit found, findings from worst to mildest."""

    datasets: tuple[Contents, ...]
    counts: tuple[Count, ...]
    rejects: Mapping[str, Mapping[str, Mapping[str, int]]]
    priors: tuple[Priors, ...]
    findings: tuple[Finding, ...]
    images: Mapping[str, Mapping[str, Any]]
    licences: Mapping[str, Mapping[str, int]]

    def severities(self) -> dict[str, int]:
        """Number of findings per severity, worst first, zeros included."""
        found = Counter(finding.severity for finding in self.findings)
        return {severity: found[severity] for severity in SEVERITIES}

    def as_plain(self) -> dict[str, Any]:
        """The report as plain values for JSON; every row of every finding is in it."""
        return {
            "radvqa": importlib.metadata.version("radvqa"),
            "near_duplicate": {"thumbnail": "48 x 48 gray", "correlation_above": ALIKE},
            "datasets": [
                {
                    "label": one.label,
                    "adapter": one.adapter,
                    "licence": one.licence,
                    "citation": one.citation,
                    "homepage": one.homepage,
                }
                for one in self.datasets
            ],
            "severities": self.severities(),
            "counts": [asdict(count) for count in self.counts],
            "rows_left_out": {
                label: {split: dict(n) for split, n in one.items()} for label, one in self.rejects.items()
            },
            "rows_by_licence": {label: dict(found) for label, found in self.licences.items()},
            "images": {label: dict(facts) for label, facts in self.images.items()},
            "priors": [asdict(one) for one in self.priors],
            "findings": [asdict(finding) for finding in self.findings],
        }

    def as_json(self) -> str:
        """``as_plain`` as JSON text."""
        return json.dumps(self.as_plain(), ensure_ascii=False, indent=1, default=str)


def audit(
    datasets: Sequence[tuple[str, str, DatasetAdapter]], *, progress: Progress, engine: Engine | None = None
) -> AuditReport:
    """Read every data set whole, look at every picture once, and report what is wrong with each and between them.

    Args:
        datasets: label, adapter name and opened adapter of each; equal labels get a number.
        progress: told what goes on.
        engine: where pictures are decoded; worker processes on this machine unless given.

    Raises:
        RunError: the engine cannot work. What is wrong with the data is a finding, never an error.
    """
    contents = []
    for label, adapter_name, adapter in _with_own_labels(datasets):
        progress.say(f"reading {label}")
        contents.append(read_contents(label, adapter_name, adapter))
    number = len(
        {(one.label, record.image) for one in contents for record in one.records()}
        - {(one.label, path) for one in contents for path in one.missing}
    )
    with progress.track("looking at images", number, unit="images") as tick:
        pictures = look_at_pictures(contents, engine or LocalEngine(), done=tick)
    progress.say("comparing rows, splits and images")
    priors = tuple(found for one in contents if (found := answer_priors(one)) is not None)
    severity = list(SEVERITIES)
    return AuditReport(
        datasets=tuple(contents),
        counts=tuple(count for one in contents for count in _counts(one)),
        rejects={
            one.label: {
                split: dict(Counter(reject.reason for reject in reading.rejects))
                for split, reading in one.readings.items()
            }
            for one in contents
        },
        priors=priors,
        findings=tuple(
            sorted(_findings(contents, pictures, priors), key=lambda finding: severity.index(finding.severity))
        ),
        images={one.label: _image_facts(one.label, pictures) for one in contents},
        licences={one.label: _licences(one) for one in contents},
    )


def _with_own_labels(datasets: Sequence[tuple[str, str, DatasetAdapter]]) -> Iterator[tuple[str, str, DatasetAdapter]]:
    times: Counter[str] = Counter()
    for label, adapter_name, adapter in datasets:
        times[label] += 1
        yield label if times[label] == 1 else f"{label} ({times[label]})", adapter_name, adapter


def _findings(contents: Sequence[Contents], pictures: Pictures, priors: Sequence[Priors]) -> Iterator[Finding]:
    for one in contents:
        yield from leak_findings(one)
        yield from layout_findings(one)
        yield from row_findings(one)
        yield from caption_findings(one)
    for prior in priors:
        yield from prior_findings(prior)
    yield from shared_id_findings(contents)
    yield from picture_findings(pictures)


def _counts(contents: Contents) -> Iterator[Count]:
    records: dict[tuple[str, str, str], list[VqaSample | CaptionedImage]] = defaultdict(list)
    for record in contents.records():
        kind: str = record.answer_type if isinstance(record, VqaSample) else "caption"
        records[record.split, record.language, kind].append(record)
    for (split, language, kind), some in records.items():
        yield Count(
            dataset=contents.label,
            split=split,
            language=language,
            kind=kind,
            rows=len(some),
            with_image=sum(one.image not in contents.missing for one in some),
            images=len({one.image_id for one in some}),
            groups=len({one.group_id for one in some}),
        )


def _licences(contents: Contents) -> dict[str, int]:
    """Rows by the licence of their image, most first; empty where a data set has one licence for all."""
    found = Counter(record.tags.get(LICENCE_TAG, "") for record in contents.records())
    stated = {licence: number for licence, number in found.most_common() if licence}
    return {**stated, "none stated": found[""]} if stated and found[""] else stated


def _image_facts(label: str, pictures: Pictures) -> dict[str, Any]:
    seen = [one for one in pictures.seen if one.dataset == label]
    unreadable = sum(picture.dataset == label for picture, _ in pictures.unreadable)
    if not seen:
        return {"images": 0, "unreadable": unreadable}
    sizes = Counter(f"{one.width} × {one.height}" for one in seen)
    return {
        "images": len(seen),
        "unreadable": unreadable,
        "different by pixels": len({one.pixels_sha256 for one in seen}),
        "most common sizes": dict(sizes.most_common(5)),
        "modes": dict(Counter(one.mode for one in seen)),
    }
