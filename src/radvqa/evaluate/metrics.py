"""One number per answer: the metrics every summary reports."""

from collections import Counter
from collections.abc import Callable, Mapping
from types import MappingProxyType

from radvqa.errors import DataError
from radvqa.evaluate.normalise import answer_parts, normalise_answer
from radvqa.sample import Prediction


def exact_match(prediction: Prediction) -> float:
    """1.0 if the normalised answer equals a reference, else 0.0.

    Comma lists are compared without order (see ``answer_parts``). An empty answer is wrong: 0.0.

    Raises:
        DataError: no reference has anything to compare with.
    """
    text, parts = normalise_answer(prediction.text), answer_parts(prediction.text)
    references = _references(prediction)
    if not text:
        return 0.0
    return float(
        any(text == normalise_answer(reference) or parts == answer_parts(reference) for reference in references)
    )


def token_f1(prediction: Prediction) -> float:
    """Harmonic mean of token precision and recall, from 0.0 to 1.0; the best over the references.

    Tokens are counted with multiplicity, so repeating a right word lowers the score. An empty answer, or one that
    shares no token with any reference, scores 0.0.

    Source: Rajpurkar et al., SQuAD, EMNLP 2016. We differ in the normalisation (``normalise_answer``) and in the empty
    answer, which SQuAD 2.0 accepts where the reference is empty; here a reference is never empty.

    Raises:
        DataError: no reference has anything to compare with.
    """
    answer = normalise_answer(prediction.text).split()
    return max(_f1(answer, normalise_answer(reference).split()) for reference in _references(prediction))


METRICS: Mapping[str, Callable[[Prediction], float]] = MappingProxyType(
    {"exact_match": exact_match, "token_f1": token_f1}
)


def _f1(answer: list[str], reference: list[str]) -> float:
    # 2PR / (P + R) with P = shared / answer and R = shared / reference, without the division by zero.
    shared = (Counter(answer) & Counter(reference)).total()
    return 2.0 * shared / (len(answer) + len(reference))


def _references(prediction: Prediction) -> list[str]:
    """The references that normalise to something; there is at least one."""
    usable = [reference for reference in prediction.references if normalise_answer(reference)]
    if not usable:
        raise DataError(
            "the reference answer is empty, so no answer could be right",
            where=f"sample {prediction.sample_id!r}, question {prediction.question!r}",
            expected="at least one reference with a letter or digit",
            got=repr(prediction.references),
            fix="correct the answer in the data set or leave the row out",
        )
    return usable
