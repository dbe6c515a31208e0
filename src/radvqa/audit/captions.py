"""Findings about captions: placeholders, captions that describe no single image, answers beside them."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterator

from radvqa.audit.contents import Contents
from radvqa.audit.finding import Evidence, Finding, Severity
from radvqa.audit.rows import PLACEHOLDER
from radvqa.evaluate.normalise import normalise_answer
from radvqa.sample import CaptionedImage

FEW_WORDS = 3

_NAMES_FINDING = re.compile(r"^diagnosis$|title")
"""Fields beside a caption that name what is seen; others, such as the exam, share words with it by nature."""

_ARROW = re.compile(r"\barrow(?:s|ed|head|heads)?\b|\basterisks?\b|\bcircled?\b", re.IGNORECASE)


def caption_findings(contents: Contents) -> Iterator[Finding]:
    """Findings about the captions of one data set, all splits together."""
    captions = list(contents.captions())
    if not captions:
        return
    for check in (_placeholders, _shared_captions, _holds_withheld, _equal_withheld, _short, _marks, _not_ascii):
        yield from check(contents.label, captions)


def _placeholders(label: str, captions: list[CaptionedImage]) -> Iterator[Finding]:
    found = [one for one in captions if PLACEHOLDER.search(one.text)]
    if found:
        yield _finding(
            "placeholder_caption",
            "label",
            label,
            found,
            title="captions that are placeholders",
            advice="leave them out of synthesis and training: they say nothing about the image",
        )


def _shared_captions(label: str, captions: list[CaptionedImage]) -> Iterator[Finding]:
    groups: dict[str, list[CaptionedImage]] = defaultdict(list)
    for one in captions:
        groups[one.text].append(one)
    shared = [group for group in groups.values() if len({one.image_id for one in group}) > 1]
    if shared:
        crossing = [group for group in shared if len({one.group_id for one in group}) > 1]
        yield Finding(
            check="shared_caption",
            severity="label",
            dataset=label,
            title="images that share their caption with others",
            count=sum(map(len, shared)),
            unit="images",
            advice="one caption does not describe every slice: expect wrong pairs among these",
            evidence=tuple(
                Evidence(subjects=tuple(one.sample_id for one in group), detail=group[0].text[:200]) for group in shared
            ),
            facts={"different captions in all": len(groups), "captions shared across groups": len(crossing)},
        )


def _holds_withheld(label: str, captions: list[CaptionedImage]) -> Iterator[Finding]:
    for name in sorted({name for one in captions for name in one.withheld if _NAMES_FINDING.search(name)}):
        found = [one for one in captions if _holds(one.text, one.withheld.get(name, ""))]
        if found:
            yield _finding(
                f"caption_holds:{name}",
                "shortcut",
                label,
                found,
                title=f"captions that hold the case's {name}",
                advice=f"a question about the {name} written from such a caption tests reading, not seeing",
            )


def _equal_withheld(label: str, captions: list[CaptionedImage]) -> Iterator[Finding]:
    cases = {one.group_id: one.withheld for one in captions}
    names = sorted({name for withheld in cases.values() for name in withheld})
    for name in names:
        if name == "diagnosis" or not _NAMES_FINDING.search(name):
            continue
        found = [
            group
            for group, withheld in cases.items()
            if withheld.get(name)
            and normalise_answer(withheld[name]) == normalise_answer(withheld.get("diagnosis", ""))
        ]
        if found:
            yield Finding(
                check=f"diagnosis_is:{name}",
                severity="shortcut",
                dataset=label,
                title=f"cases whose {name} is the diagnosis",
                count=len(found),
                unit="groups",
                advice=f"never give the {name} as an input",
                evidence=tuple(Evidence(subjects=(group,), detail=cases[group][name][:200]) for group in found),
                facts={
                    "cases in all": len(cases),
                    "letter for letter": sum(cases[group][name] == cases[group].get("diagnosis") for group in found),
                },
            )


def _short(label: str, captions: list[CaptionedImage]) -> Iterator[Finding]:
    found = [one for one in captions if len(one.text.split()) <= FEW_WORDS]
    if found:
        yield _finding(
            "short_caption",
            "label",
            label,
            found,
            title=f"captions of at most {FEW_WORDS} words",
            advice="leave them out of synthesis: there is nothing to ask about",
        )


def _marks(label: str, captions: list[CaptionedImage]) -> Iterator[Finding]:
    found = [one for one in captions if _ARROW.search(one.text)]
    if found:
        yield _finding(
            "marks_in_image",
            "shortcut",
            label,
            found,
            title="captions that speak of arrows or marks drawn into the image",
            advice="the mark shows where to look: expect a model to learn marks instead of findings",
        )


def _not_ascii(label: str, captions: list[CaptionedImage]) -> Iterator[Finding]:
    found = [one for one in captions if not one.text.isascii()]
    if found:
        marks = Counter(mark for one in found for mark in one.text if not mark.isascii())
        common = ", ".join(f"{mark!r} {number} times" for mark, number in marks.most_common(5))
        yield _finding(
            "not_ascii",
            "cosmetic",
            label,
            found,
            title="captions with characters outside ASCII",
            advice=f"check for other languages and broken encodings; most common: {common}",
        )


def _holds(text: str, part: str) -> bool:
    """Whether the words of ``part``, if it has any, stand together in ``text``."""
    words = normalise_answer(part)
    return bool(words) and f" {words} " in f" {normalise_answer(text)} "


def _finding(
    check: str, severity: Severity, label: str, found: list[CaptionedImage], *, title: str, advice: str
) -> Finding:
    return Finding(
        check=check,
        severity=severity,
        dataset=label,
        title=title,
        count=len(found),
        unit="captions",
        advice=advice,
        evidence=tuple(Evidence(subjects=(one.sample_id,), where=one.image_id, detail=one.text[:200]) for one in found),
        facts={str(split): number for split, number in Counter(one.split for one in found).items()},
    )
