"""Paraphrases: whoever understands a question gives the same answer to the same question in other words."""

from collections import defaultdict
from collections.abc import Hashable, Sequence
from typing import TypedDict

from radvqa.evaluate.metrics import HEADLINE, Scored
from radvqa.evaluate.statistics import score_interval
from radvqa.evaluate.summary import Estimate, estimate
from radvqa.evaluate.synonyms import canonical_parts
from radvqa.sample import Prediction


class Consistency(TypedDict):
    """Answers to questions that ask the same in other words (linked by ``link_id``), with cluster-robust limits.

    ``sets`` of linked questions with ``questions`` in all. ``left_out``: sets whose references differ, because their
    questions are inverted or ask for more. ``same_answer``: share of sets in which every question got the same
    answer, right or wrong; an answer in another state than ``answered`` is like no other. ``all_right`` and
    ``any_right``: share of sets with every answer right, with one at least; the distance between both is what the
    wording decides.
    """

    sets: int
    questions: int
    left_out: int
    same_answer: Estimate
    all_right: Estimate
    any_right: Estimate


def consistency(
    predictions: Sequence[Prediction], scored: Sequence[Scored], *, level: float = 0.95
) -> Consistency | None:
    """How answers to paraphrases agree; None where no two questions are linked.

    After the consistency measures of Shah et al., Cycle-Consistency for Robust VQA, CVPR 2019; we count sets, not
    pairs.
    """
    linked: dict[str, list[int]] = defaultdict(list)
    for row, prediction in enumerate(predictions):
        if prediction.link_id:
            linked[prediction.link_id].append(row)
    sets = [rows for rows in linked.values() if len(rows) > 1]
    if not sets:
        return None
    alike = [rows for rows in sets if len({_wanted(predictions[row]) for row in rows}) == 1]
    groups = [predictions[rows[0]].group_id for rows in alike]
    right = [[scored[row].scores[HEADLINE] for row in rows] for rows in alike]

    def share(values: Sequence[float]) -> Estimate:
        return estimate(score_interval(values, groups, level=level))

    return Consistency(
        sets=len(alike),
        questions=sum(map(len, alike)),
        left_out=len(sets) - len(alike),
        same_answer=share([float(len({_given(scored[row], row) for row in rows}) == 1) for rows in alike]),
        all_right=share([min(values) for values in right]),
        any_right=share([max(values) for values in right]),
    )


def _wanted(prediction: Prediction) -> Hashable:
    return frozenset(canonical_parts(reference) for reference in prediction.references)


def _given(scored: Scored, row: int) -> Hashable:
    """What was answered; where nothing was, something that equals no other."""
    return row if scored.state != "answered" else scored.verdict or canonical_parts(scored.answer) or row
