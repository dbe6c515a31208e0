"""Questions whose answers no metric can compare: they leave a run before anything is trained, not after."""

from dataclasses import replace

from radvqa.data.adapter import Reading
from radvqa.evaluate.normalise import answer_parts
from radvqa.sample import Reject, VqaSample


def is_scorable(sample: VqaSample) -> bool:
    """Whether an accepted answer has a letter or digit, so that a prediction can be right."""
    return any(answer_parts(answer) for answer in sample.answers)


def without_unscorable(reading: Reading, *, where: str) -> Reading:
    """The reading with a reject ``answer_without_word`` in place of each question that is not scorable."""
    kept = tuple(sample for sample in reading.samples if is_scorable(sample))
    left_out = tuple(
        Reject(
            sample_id=sample.sample_id,
            reason="answer_without_word",
            where=where,
            detail=f"no letter or digit in the answer {sample.answers[0]!r}, so nothing could be compared with it",
        )
        for sample in reading.samples
        if not is_scorable(sample)
    )
    return replace(reading, samples=kept, rejects=(*reading.rejects, *left_out)) if left_out else reading
