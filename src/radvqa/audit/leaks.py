"""Findings about splits: groups, questions and rows on both sides, and pictures that two data sets know by one id."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import NamedTuple

from radvqa.audit.contents import Contents
from radvqa.audit.finding import Evidence, Finding, number_of_rows
from radvqa.audit.rows import same_row
from radvqa.data.seen import PUBLIC_ID
from radvqa.evaluate.normalise import normalise_answer
from radvqa.sample import CaptionedImage, Split, VqaSample


class _Side(NamedTuple):
    split: Split
    language: str


def leak_findings(contents: Contents) -> Iterator[Finding]:
    """What the splits of one data set share."""
    yield from _crossing_groups(contents)
    samples: dict[_Side, list[VqaSample]] = defaultdict(list)
    for one in contents.samples():
        samples[_Side(one.split, one.language)].append(one)
    yield from _shared_rows(contents.label, samples)
    yield from _seen_questions(contents.label, samples)


def shared_id_findings(all_contents: Sequence[Contents]) -> Iterator[Finding]:
    """Pictures that two data sets carry under one public id, such as the same MedPix picture."""
    by_id = {one.label: _public_ids(one) for one in all_contents}
    for first, second in combinations(all_contents, 2):
        shared = sorted(by_id[first.label].keys() & by_id[second.label].keys())
        if not shared:
            continue
        rows = {one.label: sum(len(by_id[one.label][name]) for name in shared) for one in (first, second)}
        yield Finding(
            check="shared_public_id",
            severity="leak",
            dataset=f"{first.label} × {second.label}",
            title="the same published picture or article in two data sets",
            count=len(shared),
            unit="pictures",
            advice="train on one and evaluate on the other only without these: evaluate.seen_pictures: drop",
            evidence=tuple(
                Evidence(
                    subjects=tuple(record.sample_id for record in by_id[first.label][name][:5]),
                    where=name,
                    detail=f"{_places(first.label, by_id[first.label][name])}; "
                    f"{_places(second.label, by_id[second.label][name])}",
                )
                for name in shared
            ),
            facts={f"rows of {label}": number for label, number in rows.items()},
        )


def _crossing_groups(contents: Contents) -> Iterator[Finding]:
    rows: dict[str, Counter[_Side]] = defaultdict(Counter)
    for record in contents.records():
        rows[record.group_id][_Side(record.split, record.language)] += 1
    crossing = {group: sides for group, sides in rows.items() if len({side.split for side in sides}) > 1}
    if not crossing:
        return
    languages = sorted({side.language for sides in rows.values() for side in sides})
    facts: dict[str, int | float | str] = {}
    for first, second in combinations(sorted({side for sides in rows.values() for side in sides}), 2):
        if first.split == second.split:
            continue
        shared = [sides for sides in crossing.values() if first in sides and second in sides]
        if shared or first.language == second.language:
            name = f"{_side(first, languages)} and {_side(second, languages)}"
            facts[f"groups in {name}"] = len(shared)
        if shared:
            facts[f"rows of {_side(first, languages)} on them"] = sum(sides[first] for sides in shared)
            facts[f"rows of {_side(second, languages)} on them"] = sum(sides[second] for sides in shared)
    mixed = len(languages) > 1 and not any(
        len({side.split for side in sides if side.language == language}) > 1
        for sides in crossing.values()
        for language in languages
    )
    yield Finding(
        check="group_in_several_splits",
        severity="leak",
        dataset=contents.label,
        title="groups (patients, cases or images) in more than one split",
        count=len(crossing),
        unit="groups",
        advice="read one language at a time: each is disjoint in itself, merged they leak"
        if mixed
        else "make splits by group, with splits under the data set in a recipe",
        evidence=tuple(
            Evidence(
                subjects=(group,),
                detail=", ".join(
                    f"{number_of_rows(number)} in {_side(side, languages)}" for side, number in sorted(sides.items())
                ),
            )
            for group, sides in sorted(crossing.items())
        ),
        facts={"groups in all": len(rows), **facts},
    )


def _shared_rows(label: str, samples: dict[_Side, list[VqaSample]]) -> Iterator[Finding]:
    seen: dict[tuple[str, str, tuple[str, ...]], VqaSample] = {}
    shared: list[tuple[VqaSample, VqaSample]] = []
    for side in sorted(samples, key=lambda one: ("train", "val", "test").index(one.split)):
        for one in samples[side]:
            key = same_row(one)
            if key in seen and seen[key].split != one.split:
                shared.append((seen[key], one))
            seen.setdefault(key, one)
    if shared:
        yield Finding(
            check="row_in_several_splits",
            severity="leak",
            dataset=label,
            title="the same image, question and answer in more than one split",
            count=len(shared),
            unit="rows",
            advice="take them out of training",
            evidence=tuple(
                Evidence(
                    subjects=(first.sample_id, second.sample_id),
                    where=second.image_id,
                    detail=f"{first.split} and {second.split}: {second.question} → {second.answers[0]}",
                )
                for first, second in shared
            ),
        )


def _seen_questions(label: str, samples: dict[_Side, list[VqaSample]]) -> Iterator[Finding]:
    for side, asked in sorted(samples.items()):
        train = samples.get(_Side("train", side.language), [])
        if side.split == "train" or not train:
            continue
        known = {normalise_answer(one.question) for one in train}
        answers = {normalise_answer(one.answers[0]) for one in train}
        seen = [one for one in asked if normalise_answer(one.question) in known]
        open_unseen = [
            one for one in asked if one.answer_type == "open" and normalise_answer(one.answers[0]) not in answers
        ]
        if seen:
            yield Finding(
                check="seen_questions",
                severity="shortcut",
                dataset=label,
                title=f"{_side(side, [side.language, ''])} rows whose question was asked in training",
                count=len(seen),
                unit="rows",
                advice="compare every score with the question-only floor",
                evidence=tuple(
                    Evidence(subjects=(), detail=f"{text} ({number} rows)")
                    for text, number in Counter(one.question for one in seen).most_common(50)
                ),
                facts={
                    "share of rows": round(len(seen) / len(asked), 4),
                    "different questions": len({normalise_answer(one.question) for one in asked}),
                    "of these unseen": len({normalise_answer(one.question) for one in asked} - known),
                    "open rows whose answer no training row has": len(open_unseen),
                },
            )


def _public_ids(contents: Contents) -> dict[str, list[VqaSample | CaptionedImage]]:
    found: dict[str, list[VqaSample | CaptionedImage]] = defaultdict(list)
    for record in contents.records():
        for name in set(PUBLIC_ID.findall(record.image_id)):
            found[name].append(record)
    return found


def _places(label: str, records: Sequence[VqaSample | CaptionedImage]) -> str:
    splits = Counter(record.split for record in records)
    return f"{label}: " + ", ".join(f"{number_of_rows(number)} in {split}" for split, number in splits.items())


def _side(side: _Side, languages: Sequence[str]) -> str:
    return f"{side.split} ({side.language})" if len(languages) > 1 else side.split
