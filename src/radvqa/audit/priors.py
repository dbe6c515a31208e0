"""What answers without the picture would score: the answer priors of a data set and its question-only floor."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from radvqa.audit.contents import Contents
from radvqa.audit.finding import Finding
from radvqa.data.answers import is_yes_no
from radvqa.data.splits import group_splits
from radvqa.evaluate.floors import majority, question_only
from radvqa.evaluate.metrics import exact_match
from radvqa.evaluate.normalise import normalise_answer
from radvqa.evaluate.scorable import is_scorable
from radvqa.sample import Prediction, VqaSample

HELD_OUT = 0.2
"""Share of the groups that are held out for the floors where a data set has no evaluation split."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Floor:
    """Exact match, 0 to 1, of answers that never look at a picture; None where there is no such question.

    ``held_out`` names what was answered from ``train``: an official split, or groups held out of it.
    """

    language: str
    held_out: str
    questions: int
    majority: float
    question_only: float
    question_only_open: float | None
    question_only_closed: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Priors:
    """The most frequent answers of a data set, and its floors. ``yes`` is the share of yes among yes/no answers."""

    dataset: str
    answers: tuple[tuple[str, int], ...]
    different_answers: int
    yes: float | None
    yes_no: int
    floors: tuple[Floor, ...]


def answer_priors(contents: Contents) -> Priors | None:
    """Priors and floors of one data set, over questions with an answer that can be compared; None without any."""
    samples = [one for one in contents.samples() if is_scorable(one)]
    if not samples:
        return None
    answers = Counter(normalise_answer(one.answers[0]) or one.answers[0] for one in samples)
    decided = [one.answers[0].strip().casefold() for one in samples if is_yes_no(one.answers[0])]
    english = [answer for answer in decided if answer.rstrip(".") in ("yes", "no")]
    return Priors(
        dataset=contents.label,
        answers=tuple(answers.most_common(12)),
        different_answers=len(answers),
        yes=sum(answer.startswith("yes") for answer in english) / len(english) if english else None,
        yes_no=len(english),
        floors=tuple(_floors(samples)),
    )


def prior_findings(priors: Priors) -> Iterator[Finding]:
    """A finding for every floor above a half."""
    for floor in priors.floors:
        if floor.question_only > 0.5:
            yield Finding(
                check="question_only_floor",
                severity="shortcut",
                dataset=priors.dataset,
                title=f"{floor.held_out} ({floor.language}): the question alone gives most answers",
                count=round(floor.question_only * floor.questions),
                unit="rows",
                advice="report this floor beside every score; a model is worth what it adds to it",
                facts={"question-only exact match": round(floor.question_only, 4), "rows in all": floor.questions},
            )


def _floors(samples: Sequence[VqaSample]) -> Iterator[Floor]:
    by_language: dict[str, list[VqaSample]] = defaultdict(list)
    for one in samples:
        by_language[one.language].append(one)
    for language, some in sorted(by_language.items()):
        train = [one for one in some if one.split == "train"]
        evaluated = {split: [one for one in some if one.split == split] for split in ("val", "test")}
        if train and any(evaluated.values()):
            for split, asked in evaluated.items():
                if asked:
                    yield _floor(train, asked, language=language, held_out=split)
        elif len({one.group_id for one in some}) > 1:
            split_of = group_splits(some, {"train": 1 - HELD_OUT, "val": HELD_OUT}, seed=0)
            kept = [one for one in some if split_of[one.group_id] == "train"]
            asked = [one for one in some if split_of[one.group_id] == "val"]
            if kept and asked:
                yield _floor(kept, asked, language=language, held_out=f"{HELD_OUT:.0%} of the groups, held out")


def _floor(train: Sequence[VqaSample], asked: Sequence[VqaSample], *, language: str, held_out: str) -> Floor:
    found = question_only(train, asked)
    return Floor(
        language=language,
        held_out=held_out,
        questions=len(asked),
        majority=_mean(majority(train, asked)) or 0.0,
        question_only=_mean(found) or 0.0,
        question_only_open=_mean([one for one in found if one.answer_type == "open"]),
        question_only_closed=_mean([one for one in found if one.answer_type == "closed"]),
    )


def _mean(predictions: Sequence[Prediction]) -> float | None:
    return sum(map(exact_match, predictions)) / len(predictions) if predictions else None
