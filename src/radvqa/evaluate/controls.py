"""What a model owes to the picture: its answers to the real one beside those to a blank or another one."""

from collections.abc import Sequence
from typing import TypedDict

from radvqa.errors import DataError
from radvqa.evaluate.floors import words
from radvqa.evaluate.metrics import HEADLINE, score_answer
from radvqa.evaluate.paired import paired_t
from radvqa.evaluate.statistics import Interval, score_interval
from radvqa.evaluate.summary import Estimate, estimate, rows_by
from radvqa.sample import Prediction


class PartReliance(TypedDict):
    """``score``: accuracy on the real picture minus accuracy on the control. ``changed``: share of other answers."""

    samples: int
    groups: int
    score: Estimate
    changed: Estimate


class Reliance(TypedDict):
    """How much the answers depend on the picture, over all samples and by answer type.

    The score is the visual reliance score (VRS) where the control is ``shuffled``, the share of changed answers the
    image sensitivity (IS). Intervals are clustered by group.
    """

    control: str
    metric: str
    overall: PartReliance
    by_answer_type: dict[str, PartReliance]


def reliance(real: Sequence[Prediction], control: Sequence[Prediction], *, name: str, level: float = 0.95) -> Reliance:
    """The reliance of the model's answers on the picture, from its answers under a control.

    An answer has changed when its words (lower case, without punctuation) have.

    Raises:
        DataError: the two answer other samples.
    """
    if [one.sample_id for one in real] != [one.sample_id for one in control]:
        raise DataError(
            "a control must answer the samples that the model answers, in their order",
            where=f"control {name!r}",
            expected=f"{len(real)} samples",
            got=f"{len(control)} samples, or others",
            fix="evaluate again",
        )

    def part(rows: Sequence[int]) -> PartReliance:
        groups = [real[row].group_id for row in rows]
        scores = [[score_answer(side[row]).scores[HEADLINE] for row in rows] for side in (real, control)]
        test = paired_t(scores[0], scores[1], groups, level=level)
        changed = [float(words(real[row].text) != words(control[row].text)) for row in rows]
        return PartReliance(
            samples=len(rows),
            groups=len(set(groups)),
            score=estimate(Interval(test.difference, test.low, test.high, test.groups, test.samples)),
            changed=estimate(score_interval(changed, groups, level=level)),
        )

    return Reliance(
        control=name,
        metric=HEADLINE,
        overall=part(range(len(real))),
        by_answer_type={name: part(rows) for name, rows in rows_by(real, lambda prediction: prediction.answer_type)},
    )
