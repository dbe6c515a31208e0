"""Balance of the set: as many yes as no, and no question that its words alone answer."""

import hashlib
import heapq
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from radvqa.data.answers import is_yes_no
from radvqa.evaluate.floors import question_only
from radvqa.evaluate.metrics import exact_match
from radvqa.evaluate.normalise import answer_parts, normalise_answer
from radvqa.sample import Prediction, VqaSample
from radvqa.synth.near_duplicates import SetPair
from radvqa.synth.vocabulary import find_terms

FOLDS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class FloorFigures:
    """Exact match, 0 to 1, of answers that hang on the question alone; None where there is nothing to score.

    Each group was answered from the groups of the other folds. ``yes_no`` and ``open`` are over yes/no answers and over
    all others.
    """

    questions: int
    groups: int
    exact_match: float | None
    yes_no: float | None
    open: float | None


def question_only_floor(samples: Sequence[VqaSample], *, seed: int) -> FloorFigures:
    """What the question-only floor scores on the set itself, by cross-fitting over groups; see ``FloorFigures``.

    With fewer than two groups nothing can be fitted.
    """
    fold_of = folds((one.group_id for one in samples), seed=seed)
    predictions: list[Prediction] = []
    for fold in sorted(set(fold_of.values())):
        train = [one for one in samples if fold_of[one.group_id] != fold]
        if train:
            predictions += question_only(train, [one for one in samples if fold_of[one.group_id] == fold])
    return FloorFigures(
        questions=len(samples),
        groups=len(fold_of),
        exact_match=_mean(predictions),
        yes_no=_mean([one for one in predictions if is_yes_no(one.references[0])]),
        open=_mean([one for one in predictions if not is_yes_no(one.references[0])]),
    )


def answerable_without_image(pairs: Sequence[SetPair], *, least_groups: int, share: float, seed: int) -> dict[str, str]:
    """Why a pair needs no image: in the other folds its question has this answer nearly always.

    The question must be asked in at least ``least_groups`` groups of the other folds, and ``share`` of those must give
    its most frequent answer. Of a question that says yes in every image all pairs go.
    """
    fold_of = folds((one.group_id for one in pairs), seed=seed)
    by_question: dict[str, list[SetPair]] = defaultdict(list)
    for one in pairs:
        by_question[normalise_answer(one.question) or one.question].append(one)
    found: dict[str, str] = {}
    for group in by_question.values():
        for fold in {fold_of[one.group_id] for one in group}:
            others = [one for one in group if fold_of[one.group_id] != fold]
            prior = _prior(others, least_groups=least_groups, share=share)
            if prior is not None:
                detail = f"{prior[1]} of {prior[2]} other groups answer this question so"
                here = (one for one in group if fold_of[one.group_id] == fold)
                found |= {one.sample_id: detail for one in here if answer_parts(one.answer) == prior[0]}
    return found


def _prior(pairs: Iterable[SetPair], *, least_groups: int, share: float) -> tuple[tuple[str, ...], int, int] | None:
    """The answer that nearly all groups give, how many do, and how many there are."""
    said: dict[tuple[str, ...], set[str]] = defaultdict(set)
    for one in pairs:
        said[answer_parts(one.answer)].add(one.group_id)
    groups = len(set().union(*said.values())) if said else 0
    if groups < least_groups:
        return None
    best = min(said, key=lambda answer: (-len(said[answer]), answer))
    return (best, len(said[best]), groups) if len(said[best]) >= share * groups else None


def yes_no_balance(pairs: Iterable[SetPair], *, target: float, tolerance: float, seed: int) -> dict[str, str]:
    """Why a yes/no pair is dropped, so that the share of yes comes within ``tolerance`` of ``target``.

    First for each subject that is asked with both answers, then over all; there the subjects with the greatest surplus
    give first, those of a single answer before others. Where rounding alone keeps a small set out of the tolerance,
    half a pair is allowed. Which pairs of a subject go hangs on seed and sample id alone.
    """
    surplus_of: dict[str, _Answers] = defaultdict(_Answers)
    for one in sorted((one for one in pairs if is_yes_no(one.answer)), key=lambda one: _hash(seed, one.sample_id)):
        surplus_of[_subject(one)].add(one)
    subjects = dict(sorted(surplus_of.items()))
    dropped: dict[str, str] = {}
    for subject, answers in subjects.items():
        while answers.yes and answers.no and (surplus := _surplus(answers.counts(), target, tolerance)):
            dropped[answers.drop(surplus)] = f"{subject!r} is answered {surplus} too often"
    dropped |= _balanced_over_all(subjects, target, tolerance)
    return dropped


class _Answers:
    """The pairs of one subject that are still kept, by answer; the last are dropped first."""

    def __init__(self) -> None:
        self.yes: list[str] = []
        self.no: list[str] = []

    def add(self, pair: SetPair) -> None:
        (self.yes if normalise_answer(pair.answer) == "yes" else self.no).append(pair.sample_id)

    def drop(self, answer: str) -> str:
        return (self.yes if answer == "yes" else self.no).pop()

    def counts(self) -> tuple[int, int]:
        return len(self.yes), len(self.no)


def _surplus(counts: tuple[int, int], target: float, tolerance: float) -> str:
    """The answer of which there are too many; ``""`` if the share is near enough to the target."""
    total = sum(counts)
    difference = counts[0] - target * total
    if abs(difference) <= max(tolerance * total, 0.5) + 1e-9:
        return ""
    return "yes" if difference > 0 else "no"


def _balanced_over_all(subjects: Mapping[str, _Answers], target: float, tolerance: float) -> dict[str, str]:
    dropped: dict[str, str] = {}
    yes = sum(len(one.yes) for one in subjects.values())
    no = sum(len(one.no) for one in subjects.values())
    surplus = _surplus((yes, no), target, tolerance)
    queue = [_priority(name, one, surplus, target) for name, one in subjects.items()] if surplus else []
    heapq.heapify(queue)
    while surplus and _surplus((yes, no), target, tolerance) == surplus:
        name = heapq.heappop(queue)[-1]
        answers = subjects[name]
        if not (answers.yes if surplus == "yes" else answers.no):
            continue
        dropped[answers.drop(surplus)] = f"the set is answered {surplus} too often"
        yes, no = (yes - 1, no) if surplus == "yes" else (yes, no - 1)
        heapq.heappush(queue, _priority(name, answers, surplus, target))
    return dropped


def _priority(name: str, answers: _Answers, surplus: str, target: float) -> tuple[bool, float, str]:
    """What gives first comes first: subjects of a single answer, then the greatest surplus, then the alphabet."""
    yes, no = answers.counts()
    excess = yes - target * (yes + no)
    return (yes > 0 and no > 0, -excess if surplus == "yes" else excess, name)


def _subject(pair: SetPair) -> str:
    """The finding asked for; else the question itself."""
    if pair.subject:
        return pair.subject
    names = [one.term.name for one in find_terms(pair.question) if one.term.category == "finding"]
    return names[0] if names else normalise_answer(pair.question)


def folds(groups: Iterable[str], *, seed: int) -> dict[str, int]:
    """The fold of each group, 0 to ``FOLDS`` - 1: they are dealt in turn in the order of their hash with the seed."""
    ordered = sorted(set(groups), key=lambda group: _hash(seed, group))
    return {group: place % FOLDS for place, group in enumerate(ordered)}


def _mean(predictions: Sequence[Prediction]) -> float | None:
    return sum(map(exact_match, predictions)) / len(predictions) if predictions else None


def _hash(seed: int, name: str) -> bytes:
    return hashlib.sha256(f"{seed}\0{name}".encode(errors="backslashreplace")).digest()
