"""Findings about questions and answers: contradictions, answers given away, spelling, wrong types."""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from typing import TypeVar

from radvqa.audit.contents import Contents
from radvqa.audit.finding import Evidence, Finding, Severity
from radvqa.data.answers import is_yes_no
from radvqa.evaluate.normalise import answer_parts, normalise_answer
from radvqa.sample import VqaSample

PLACEHOLDER = re.compile(
    r"replace this|description of the image or findings|lorem ipsum|\b(?:no|without) caption\b|caption (?:goes )?here"
    r"|differential diagnosis not available|^(?:n/a|null|nan|todo|tbd|xxxx+|[\W_]*)$",
    re.IGNORECASE,
)
"""Text that stands in for a caption or an answer and says nothing."""

SOURCE_WORDS = re.compile(r"\bcaptions?\b|\bcase information\b|\bdisease discussion\b", re.IGNORECASE)
"""Words that name the text a generated question was made from, which nobody sees in the picture."""

LONGEST_MEMBER = 8
"""Words; a comma in an answer with longer parts belongs to a sentence."""

_OFFERED = re.compile(r"\bor\b|或|还是", re.IGNORECASE)

K = TypeVar("K", bound=Hashable)


def row_findings(contents: Contents) -> Iterator[Finding]:
    """Findings about the questions of one data set, all splits together."""
    samples = list(contents.samples())
    if not samples:
        return
    label = contents.label
    for check in (
        _repeated_rows,
        _contradictions,
        _linked_with_other_answers,
        _answer_in_question,
        _answer_in_tags,
        _placeholder_answers,
        _source_words,
        _closed_but_no_yes_no,
        _open_but_yes_no,
        _case_variants,
        _comma_lists,
    ):
        yield from check(label, samples)


def _repeated_rows(label: str, samples: list[VqaSample]) -> Iterator[Finding]:
    groups = _groups(samples, lambda one: (one.split, one.language, *same_row(one)))
    if repeated := [group for group in groups.values() if len(group) > 1]:
        yield Finding(
            check="repeated_row",
            severity="cosmetic",
            dataset=label,
            title="the same question about the same image with the same answer, several times in one split",
            count=sum(len(group) - 1 for group in repeated),
            unit="rows",
            advice="keep one of each; repeated rows weigh more in training and make intervals too narrow",
            evidence=tuple(_evidence(group, "the same question and answer") for group in repeated),
        )


def _contradictions(label: str, samples: list[VqaSample]) -> Iterator[Finding]:
    groups = _groups(samples, lambda one: (one.image_id, normalise_answer(one.question) or one.question, one.language))
    found = [group for group in groups.values() if _different_answers(group) > 1]
    if found:
        yield Finding(
            check="contradictory_answers",
            severity="label",
            dataset=label,
            title="the same question about the same image with different answers",
            count=len(found),
            unit="groups",
            advice="read them; keep the right one, or join what are answers to the same question",
            evidence=tuple(_evidence(group, "different answers") for group in found),
            facts={"rows": sum(map(len, found))},
        )


def _linked_with_other_answers(label: str, samples: list[VqaSample]) -> Iterator[Finding]:
    groups = _groups((one for one in samples if one.link_id), lambda one: one.link_id)
    found = [group for group in groups.values() if _different_answers(group) > 1]
    if found:
        yield Finding(
            check="linked_questions_differ",
            severity="label",
            dataset=label,
            title="linked paraphrases with different answers",
            count=len(found),
            unit="groups",
            advice="never copy an answer along the link: these questions were inverted or ask something else",
            evidence=tuple(_evidence(group, "linked, other answer") for group in found),
            facts={"groups in all": len(groups), "rows": sum(map(len, found))},
        )


def _answer_in_question(label: str, samples: list[VqaSample]) -> Iterator[Finding]:
    found = [
        one
        for one in samples
        if not one.choices
        and not is_yes_no(one.answers[0])
        and not _OFFERED.search(one.question)
        and (answer := normalise_answer(one.answers[0])) not in ("", "much", "many")
        and f" {answer} " in f" {normalise_answer(one.question)} "
    ]
    yield from _in_rows(
        "answer_in_question",
        "shortcut",
        label,
        found,
        title="the question holds its answer",
        advice="leave them out of the evaluation, and of training if they are generated; choices do not count here",
        what="the answer stands in the question",
    )


def _answer_in_tags(label: str, samples: list[VqaSample]) -> Iterator[Finding]:
    by_tag: dict[str, list[VqaSample]] = defaultdict(list)
    for one in samples:
        answer = normalise_answer(one.answers[0])
        if not answer or is_yes_no(one.answers[0]):
            continue
        for name, value in one.tags.items():
            if normalise_answer(value) == answer:
                by_tag[name].append(one)
    for name, found in sorted(by_tag.items()):
        yield from _in_rows(
            f"answer_in_field:{name}",
            "shortcut",
            label,
            found,
            title=f"the field {name} is the answer",
            advice=f"never show {name} to a model; radvqa keeps it for slices of the report only",
            what=f"the field {name}",
        )


def _placeholder_answers(label: str, samples: list[VqaSample]) -> Iterator[Finding]:
    found = [one for one in samples if PLACEHOLDER.search(one.answers[0]) and not is_yes_no(one.answers[0])]
    yield from _in_rows(
        "placeholder_answer",
        "label",
        label,
        found,
        title="answers that are placeholders",
        advice="leave them out: a model would learn to say this",
        what="a placeholder",
    )


def _source_words(label: str, samples: list[VqaSample]) -> Iterator[Finding]:
    found = [one for one in samples if SOURCE_WORDS.search(one.question) or SOURCE_WORDS.search(one.answers[0])]
    yield from _in_rows(
        "names_its_source",
        "label",
        label,
        found,
        title="questions or answers that speak of a caption, a case text or a discussion",
        advice="leave them out: the picture alone cannot answer them",
        what="speaks of its source",
    )


def _closed_but_no_yes_no(label: str, samples: list[VqaSample]) -> Iterator[Finding]:
    closed = [one for one in samples if one.answer_type == "closed" and one.answer_type_stated and not one.choices]
    found = [one for one in closed if not is_yes_no(one.answers[0])]
    yield from _in_rows(
        "closed_without_yes_no",
        "cosmetic",
        label,
        found,
        title="closed questions whose answer is neither yes nor no",
        advice="they are choices: never map closed answers to yes and no, and report yes/no as a class of its own",
        what="closed, a choice",
        facts={"closed rows": len(closed), **_per_split(found)},
    )


def _open_but_yes_no(label: str, samples: list[VqaSample]) -> Iterator[Finding]:
    found = [
        one for one in samples if one.answer_type == "open" and one.answer_type_stated and is_yes_no(one.answers[0])
    ]
    yield from _in_rows(
        "open_with_yes_no",
        "label",
        label,
        found,
        title="open questions answered by a bare yes or no",
        advice="check the answer type: scores of open and closed questions are not comparable",
        what="open, yes or no",
    )


def _case_variants(label: str, samples: list[VqaSample]) -> Iterator[Finding]:
    spellings: dict[str, Counter[str]] = defaultdict(Counter)
    for one in samples:
        spellings[" ".join(one.answers[0].casefold().split())][one.answers[0]] += 1
    variants = {folded: found for folded, found in spellings.items() if len(found) > 1}
    if variants:
        yield Finding(
            check="case_variants",
            severity="cosmetic",
            dataset=label,
            title="answers that differ only in upper and lower case",
            count=len(variants),
            unit="groups",
            advice="compare normalised answers only, as radvqa does; a classifier would count them as different labels",
            evidence=tuple(
                Evidence(
                    subjects=(),
                    detail=", ".join(f"{text!r} {number} times" for text, number in sorted(found.items())),
                )
                for _, found in sorted(variants.items(), key=lambda pair: -sum(pair[1].values()))
            ),
        )


def _comma_lists(label: str, samples: list[VqaSample]) -> Iterator[Finding]:
    lists = [one for one in samples if (parts := _list_members(one)) and max(map(len, parts)) <= LONGEST_MEMBER]
    yield from _in_rows(
        "comma_lists",
        "cosmetic",
        label,
        lists,
        title="answers that are lists, whose order means nothing",
        advice="compare them as sets; radvqa does",
        what="a list",
        facts=_per_split(lists),
    )


def _in_rows(
    check: str,
    severity: Severity,
    label: str,
    found: Sequence[VqaSample],
    *,
    title: str,
    advice: str,
    what: str,
    facts: Mapping[str, int] | None = None,
) -> Iterator[Finding]:
    """The finding of a check that looks at each row alone; nothing where no row was found."""
    if found:
        yield Finding(
            check=check,
            severity=severity,
            dataset=label,
            title=title,
            count=len(found),
            unit="rows",
            advice=advice,
            evidence=tuple(_evidence([one], what) for one in found),
            facts=facts or {},
        )


def same_row(sample: VqaSample) -> tuple[str, str, tuple[str, ...]]:
    """Image, question and answer as they are compared: two rows with the same are one."""
    answer = sample.answers[0]
    question = normalise_answer(sample.question) or sample.question
    return sample.image_id, question, answer_parts(answer) or (answer,)


def _list_members(sample: VqaSample) -> list[list[str]]:
    """The words of each member of a comma list; empty for an answer that is none."""
    parts = re.split("[,，]", sample.answers[0])
    return [part.split() for part in parts] if len(parts) > 1 else []


def _groups(samples: Iterable[VqaSample], key: Callable[[VqaSample], K]) -> dict[K, list[VqaSample]]:
    found: dict[K, list[VqaSample]] = defaultdict(list)
    for sample in samples:
        found[key(sample)].append(sample)
    return found


def _different_answers(group: list[VqaSample]) -> int:
    return len({answer_parts(one.answers[0]) or (one.answers[0],) for one in group})


def _per_split(samples: Iterable[VqaSample]) -> dict[str, int]:
    sides = Counter(f"{one.split} ({one.language})" for one in samples)
    return dict(sorted(sides.items()))


def _evidence(group: list[VqaSample], what: str) -> Evidence:
    shown = "; ".join(f"{one.question} → {one.answers[0]}" for one in group[:3])
    return Evidence(subjects=tuple(one.sample_id for one in group), where=group[0].image_id, detail=f"{what}: {shown}")
