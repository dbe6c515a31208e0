"""What a probe returns, and how its shares get their intervals."""

from collections.abc import Callable, Mapping, Sequence
from typing import TypedDict

from radvqa.evaluate.statistics import cluster_interval, score_interval
from radvqa.evaluate.summary import Estimate, estimate
from radvqa.sample import Prediction, VqaSample

Ask = Callable[[Sequence[VqaSample], bool], list[Prediction]]
"""Predictions of the model for samples, in their order; with True the pictures are mirrored left to right."""

EXAMPLES = 12


class Example(TypedDict):
    """One question of a probe beside the one it was made from. ``held``: the answers hang together."""

    sample_id: str
    question: str
    answer: str
    probe_question: str
    probe_answer: str
    wanted: str
    held: bool


def example(before: Prediction, after: Prediction, *, held: bool) -> Example:
    """The prediction for a question of the data set beside that for the probe made from it."""
    return Example(
        sample_id=before.sample_id,
        question=before.question,
        answer=before.text,
        probe_question=after.question,
        probe_answer=after.text,
        wanted=after.references[0],
        held=held,
    )


class ProbeResult(TypedDict):
    """What a probe found.

    ``tests``: in one sentence, what it tests. ``questions``: how many questions were asked in addition. ``left_out``:
    samples that the probe has no use for, by reason. ``metrics``: shares from 0 to 1 with cluster-robust limits;
    ``meanings`` says what each is, and whether higher is better. ``examples``: the first of each kind.
    """

    tests: str
    questions: int
    groups: int
    left_out: dict[str, int]
    metrics: dict[str, Estimate]
    meanings: dict[str, str]
    examples: list[Example]


def result(
    *,
    tests: str,
    questions: int,
    left_out: Mapping[str, int],
    shares: Mapping[str, tuple[Sequence[float], Sequence[str]]],
    meanings: Mapping[str, str],
    examples: Sequence[Example],
    differences: Sequence[str] = (),
) -> ProbeResult:
    """A result from scores and their group ids by metric; the limits of ``differences`` may lie below 0."""
    groups = {group for _, ids in shares.values() for group in ids}
    return ProbeResult(
        tests=tests,
        questions=questions,
        groups=len(groups),
        left_out={reason: count for reason, count in sorted(left_out.items()) if count},
        metrics={
            name: estimate((cluster_interval if name in differences else score_interval)(scores, ids))
            for name, (scores, ids) in shares.items()
        },
        meanings=dict(meanings),
        examples=spread(examples),
    )


def spread(examples: Sequence[Example]) -> list[Example]:
    """The first examples that did not hang together and the first that did, half of each where there are both."""
    broken = [one for one in examples if not one["held"]]
    held = [one for one in examples if one["held"]]
    few = min(len(held), max(EXAMPLES // 2, EXAMPLES - len(broken)))
    return broken[: EXAMPLES - few] + held[:few]
